"""Frozen dataclasses that JAX can look into."""

from dataclasses import dataclass, fields
from typing import Any, dataclass_transform

import jax


@dataclass_transform(frozen_default=True)
def pytree_dataclass[C](cls: type[C]) -> type[C]:
    """Makes a class a frozen dataclass whose fields are all children of a pytree.

    JAX rebuilds such objects with placeholders for arrays (shapes, shardings, axis numbers), so
    rebuilding goes around the constructor and its checks.
    """
    made = dataclass(frozen=True)(cls)
    names = tuple(field.name for field in fields(made))  # pyright: ignore[reportArgumentType]

    def flatten(value: C) -> tuple[tuple[Any, ...], None]:
        return tuple(getattr(value, name) for name in names), None

    def flatten_with_keys(value: C) -> tuple[tuple[Any, ...], None]:
        keyed = ((jax.tree_util.GetAttrKey(name), getattr(value, name)) for name in names)
        return tuple(keyed), None

    def unflatten(_: None, children: Any) -> C:
        value = object.__new__(made)
        for name, child in zip(names, children, strict=True):
            object.__setattr__(value, name, child)
        return value

    jax.tree_util.register_pytree_with_keys(made, flatten_with_keys, unflatten, flatten)
    return made


def leaf_path(keys: tuple[Any, ...]) -> str:
    """How a checkpoint names a leaf of a module, such as `encoder.blocks.mlp.fc1.kernel`."""
    return jax.tree_util.keystr(keys, simple=True, separator=".").removesuffix(".value")
