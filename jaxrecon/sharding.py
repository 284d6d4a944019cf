"""Views spread over devices, and weights where one device cannot hold them."""

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import multihost_utils
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array

from jaxrecon.errors import InputError
from jaxrecon.nn.attention import AttentionFn, TokenLayout, attends_densely
from jaxrecon.nn.views import VIEW_AXIS
from jaxrecon.pytree import leaf_path

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
      InputError: there are not so many, none are given, or they are of different kinds.
    """
    there = jax.devices()
    if isinstance(devices, int):
        if not 1 <= devices <= len(there):
            raise InputError(
                f"{devices=}: there are {len(there)} ({there[0].device_kind}); give 1 to "
                f"{len(there)}"
            )
        devices = there[:devices]
    if isinstance(devices, str):
        raise InputError(f"{devices=}: give a number, a list of devices, or nothing for all")
    chosen = there if devices is None else list(devices)
    kinds = sorted({device.device_kind for device in chosen})
    if len(kinds) != 1:
        found = f"are of different kinds ({', '.join(kinds)})" if kinds else "is empty"
        raise InputError(f"devices: the list {found}; give devices of one kind")
    return jax.make_mesh((len(chosen),), (VIEW_AXIS,), (AxisType.Auto,), devices=chosen)


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


def by_view(mesh: Mesh) -> NamedSharding:
    """Arrays (B, V, ...) with their views spread over the mesh."""
    return NamedSharding(mesh, PartitionSpec(None, VIEW_AXIS))


def spread_attention(attention: AttentionFn, mesh: Mesh) -> AttentionFn:
    """The same attention with its work spread over the mesh, each device on whole sequences.

    Frame attention stays with the device that has the view. For global attention the tokens,
    which lie spread by view, are exchanged (all-to-all) so that each device has all tokens of some
    of the heads; kernels therefore run unchanged. With more devices than heads, and dense
    attention, each device keeps its queries and gets the keys and values of all.

    Args:
      mesh: with an axis "views"; other axes hold copies.
    """

    def attend(q: Array, k: Array, v: Array, layout: TokenLayout) -> Array:
        if layout.views == 1:
            spread = _spread_by_view
        elif mesh.shape[VIEW_AXIS] > q.shape[2] and attends_densely(attention):
            spread = _spread_by_query
        else:
            spread = _spread_by_head
        return spread(attention, mesh, (q, k, v), layout)

    return attend


def view_devices(mesh: Mesh | None) -> int:
    """Over how many devices views are spread."""
    return 1 if mesh is None else mesh.shape[VIEW_AXIS]


def _spread_by_view(
    attention: AttentionFn, mesh: Mesh, inputs: tuple[Array, ...], layout: TokenLayout
) -> Array:
    spec = PartitionSpec(VIEW_AXIS)
    local = jax.shard_map(
        lambda q, k, v: attention(q, k, v, layout),
        mesh=mesh,
        in_specs=(spec, spec, spec),
        out_specs=spec,
        check_vma=False,
    )
    return local(*inputs)


def _spread_by_query(
    attention: AttentionFn, mesh: Mesh, inputs: tuple[Array, ...], layout: TokenLayout
) -> Array:
    """Queries that the devices cannot share evenly are filled up with zeros."""
    q, k, v = inputs
    tokens, devices = q.shape[1], mesh.shape[VIEW_AXIS]
    by_token, whole = PartitionSpec(None, VIEW_AXIS), PartitionSpec()
    local = jax.shard_map(
        lambda q, k, v: attention(q, k, v, layout),
        mesh=mesh,
        in_specs=(by_token, whole, whole),
        out_specs=by_token,
        check_vma=False,
    )
    even = jnp.pad(q, ((0, 0), (0, -tokens % devices), (0, 0), (0, 0)))
    return local(even, k, v)[:, :tokens]


def _spread_by_head(
    attention: AttentionFn, mesh: Mesh, inputs: tuple[Array, ...], layout: TokenLayout
) -> Array:
    """Heads that the devices cannot share evenly are filled up with copies of the last one."""
    devices, heads = mesh.shape[VIEW_AXIS], inputs[0].shape[2]
    share = -(-heads // devices)
    spare = ((0, 0), (0, 0), (0, share * devices - heads), (0, 0))
    by_head, notes_by_head = PartitionSpec(None, None, VIEW_AXIS), PartitionSpec(None, VIEW_AXIS)

    def attend(q: Array, k: Array, v: Array) -> tuple[Array, list[Array]]:
        first = jax.lax.axis_index(VIEW_AXIS) * share
        own = replace(layout, heads=heads, first_head=first, notes=[])
        return attention(q, k, v, own), own.notes

    local = jax.shard_map(
        attend,
        mesh=mesh,
        in_specs=(by_head, by_head, by_head),
        out_specs=(by_head, notes_by_head),
        check_vma=False,
    )
    even = (jnp.pad(x, spare, mode="edge") if heads % devices else x for x in inputs)
    out, notes = local(*even)
    layout.notes.extend(note[:, :heads] for note in notes)
    return out[:, :, :heads]
