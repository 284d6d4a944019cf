"""Views sharded over devices, and weights where one device cannot hold them."""

import re
from collections.abc import Mapping, Sequence
from typing import Any, TypeGuard

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding, PartitionSpec

from jaxrecon.errors import InputError
from jaxrecon.pytree import leaf_path
from jaxrecon.runtime.collectives import VIEW_AXIS

type WeightRules = Sequence[tuple[str, int]]
"""Patterns of leaf names, each with the axis to split over the devices; the first found counts."""

MATRICES: WeightRules = ((r"\.kernel$", -1),)
"""The matrices by what they put out; norms, biases and tokens whole on every device."""


def make_mesh(
    devices: int | Sequence[jax.Device] | None = None,  # pyright: ignore[reportInvalidTypeForm]
) -> Mesh:
    """A mesh whose one axis, "views", runs over devices of one kind.

    Args:
      devices: so many, or these; all devices of all processes if not given.

    Raises:
      InputError: there are not so many, none are given, one is given twice, or they are of
        different kinds.
    """
    there = jax.devices()
    if isinstance(devices, int):
        if not 1 <= devices <= len(there):
            raise InputError(_too_many(devices, there))
        devices = there[:devices]
    if isinstance(devices, str):
        raise InputError(f"{devices=}: give a number, a list of devices, or nothing for all")
    chosen = there if devices is None else list(devices)
    _check_devices("devices", chosen)
    return jax.make_mesh((len(chosen),), (VIEW_AXIS,), (AxisType.Auto,), devices=chosen)


def _too_many(devices: int, there: Sequence[Any]) -> str:
    count, kind = len(there), there[0].device_kind
    way_out = f"give 1 to {count}"
    if devices > 1 and there[0].platform == "cpu":
        way_out += f", or set JAX_NUM_CPU_DEVICES={devices} to part the CPU into so many"
    return f"{devices=}: there are {count} ({kind}); {way_out}"


def _check_devices(name: str, devices: Sequence[Any]) -> None:
    """Refuses devices (`jax.Device`) that cannot work together."""
    if not devices:
        raise InputError(f"{name}: there are no devices; give at least one")
    kinds = sorted({device.device_kind for device in devices})
    if len(kinds) > 1:
        raise InputError(
            f"{name}: the devices are of different kinds ({', '.join(kinds)}); give devices of one "
            "kind"
        )
    twice = [device for place, device in enumerate(devices) if device in devices[:place]]
    if twice:
        raise InputError(f"{name}: {twice[0]} is given twice; give each device once")


def check_mesh(mesh: Mesh | None) -> None:
    """Refuses a mesh over which views cannot be sharded; None is one device.

    Raises:
      InputError: it is no mesh, has no axis "views", has an axis that JAX does not shard over by
        itself, or its devices are of different kinds or not all different.
    """
    if mesh is None:
        return
    if not isinstance(mesh, Mesh):
        raise InputError(f"mesh: found {type(mesh).__name__}; make one with `make_mesh`")
    if VIEW_AXIS not in mesh.axis_names:
        found = ", ".join(map(repr, mesh.axis_names)) or "none"
        raise InputError(
            f"mesh: its axes are {found}; name the one to shard views over {VIEW_AXIS!r}, or use "
            "`make_mesh`"
        )
    for axis, kind in zip(mesh.axis_names, mesh.axis_types, strict=True):
        if kind != AxisType.Auto:
            raise InputError(
                f"mesh: the axis {axis!r} is {kind.name}; give jax.make_mesh the axis_types "
                f"(AxisType.Auto,) * {len(mesh.axis_names)}, or use `make_mesh`"
            )
    _check_devices("mesh", list(mesh.devices.flat))


def replicated(mesh: Mesh) -> NamedSharding:
    """The whole array on every device: for weights."""
    return NamedSharding(mesh, PartitionSpec())


def weight_shardings[M](weights: M, mesh: Mesh | AbstractMesh, rules: WeightRules = MATRICES) -> M:
    """Shapes of the weights with where they are to lie: each device has a part of what rules name.

    A matrix is whole only while it is used: a layer's are gathered when its turn comes, those of
    what runs view by view as a whole (the encoder, the heads) when that begins. Leaves that no rule
    names, or whose axis the devices cannot share evenly, lie whole on every device.

    Args:
      weights: a module of arrays, or of their shapes.
      mesh: with an axis "views".
      rules: see `WeightRules`.

    Raises:
      InputError: a rule's pattern is no regular expression, or a leaf lacks the axis.
    """
    compiled = [(_pattern(pattern), axis) for pattern, axis in rules]

    def place(keys: tuple[Any, ...], leaf: Any) -> jax.ShapeDtypeStruct:
        name = leaf_path(keys)
        axis = next((axis for pattern, axis in compiled if pattern.search(name)), None)
        spec = PartitionSpec() if axis is None else _split(name, leaf.shape, axis, mesh)
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=NamedSharding(mesh, spec))

    return jax.tree_util.tree_map_with_path(place, weights)


def _pattern(pattern: str) -> re.Pattern[str]:
    try:
        return re.compile(pattern)
    except re.error as error:
        raise InputError(f"rules: {pattern!r} is no regular expression: {error}") from error


def _split(
    name: str, shape: tuple[int, ...], axis: int, mesh: Mesh | AbstractMesh
) -> PartitionSpec:
    if not -len(shape) <= axis < len(shape):
        raise InputError(f"rules: {name} {shape} has no axis {axis}")
    place = axis % len(shape)
    if shape[place] % mesh.shape[VIEW_AXIS]:
        return PartitionSpec()
    return PartitionSpec(*[None] * place, VIEW_AXIS)


def put(arrays: Any, sharding: NamedSharding | None) -> Any:
    """Host arrays, which every process has, on the devices; the default device if None.

    Each process gives its own devices their share.
    """
    if sharding is None:
        return jax.device_put(arrays)
    return jax.tree.map(
        lambda x: jax.make_array_from_callback(x.shape, sharding, lambda part: x[part]), arrays
    )


def gathered[X](arrays: X) -> X:
    """Arrays that every process has the whole of; as they are where this process has all of it."""
    if all(leaf.is_fully_addressable for leaf in jax.tree.leaves(arrays)):
        return arrays
    return multihost_utils.process_allgather(arrays, tiled=True)


def check_one_process(mesh: Mesh | None, doing: str) -> None:
    """Refuses a mesh over the devices of several processes.

    Raises:
      InputError: naming what was asked for.
    """
    processes = {device.process_index for device in mesh.devices.flat} if mesh else ()
    if len(processes) > 1:
        raise InputError(
            f"mesh: {doing} runs on the devices of one process, found {len(processes)} processes; "
            "give make_mesh(jax.local_devices())"
        )


def in_many_processes(mesh: Mesh | None) -> TypeGuard[Mesh]:
    """Whether the mesh has devices of several processes."""
    return mesh is not None and mesh.is_multi_process


def check_alike(mesh: Mesh | None, digests: Mapping[str, bytes]) -> None:
    """Refuses to go on where the processes of a mesh were not given the same.

    Every process of the mesh must call it; all raise, or none.

    Args:
      digests: of what each was given, by the name of the argument; all of one length.

    Raises:
      InputError: naming the first argument that differs, and in which processes.
    """
    if not in_many_processes(mesh):
        return
    own = np.frombuffer(b"".join(digests.values()), np.uint8)[None]
    one_each = NamedSharding(mesh, PartitionSpec(mesh.axis_names))
    everyone = jax.make_array_from_callback((mesh.size, own.size), one_each, lambda _: own)
    rows = np.asarray(gathered(everyone)).reshape(mesh.size, len(digests), -1)
    processes = np.array([device.process_index for device in mesh.devices.flat])
    for name, differs in zip(digests, (rows != rows[:1]).any(axis=2).T, strict=True):
        if differs.any():
            others = ", ".join(map(str, np.unique(processes[differs])))
            raise InputError(
                f"{name}: process {processes[0]} was given others than process {others}; give "
                "every process the same"
            )


def by_view(mesh: Mesh) -> NamedSharding:
    """Arrays (B, V, ...) with their views sharded over the mesh."""
    return NamedSharding(mesh, PartitionSpec(None, VIEW_AXIS))


def view_devices(mesh: Mesh | None) -> int:
    """Over how many devices views are sharded."""
    return 1 if mesh is None else mesh.shape[VIEW_AXIS]
