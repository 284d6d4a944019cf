"""Parameters by path: the names of the attributes that lead to one, joined by dots."""

from collections.abc import Mapping
from typing import Any

import jax
from flax import nnx

from jaxrecon.pytree import leaf_path


def flatten(module: nnx.Module) -> dict[str, Any]:
    """The leaves of a module by path: arrays, or shapes and dtypes if it is abstract."""
    leaves = jax.tree_util.tree_leaves_with_path(module)
    return {leaf_path(keys): leaf for keys, leaf in leaves}


def unflatten[M: nnx.Module](module: M, leaves: Mapping[str, Any]) -> M:
    """`module` with other leaves; `leaves` has exactly the paths that `flatten` gives."""
    return jax.tree_util.tree_map_with_path(lambda keys, _: leaves[leaf_path(keys)], module)


def shapes(module: nnx.Module) -> dict[str, tuple[int, ...]]:
    """Shape of every parameter by path."""
    return {path: tuple(leaf.shape) for path, leaf in flatten(module).items()}
