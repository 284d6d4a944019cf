"""Views spread over devices."""

from collections.abc import Sequence

import jax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array

from jaxrecon.errors import InputError
from jaxrecon.nn.attention import AttentionFn, TokenLayout

VIEW_AXIS = "views"


def make_mesh(
    devices: Sequence[jax.Device] | None = None,  # pyright: ignore[reportInvalidTypeForm]
) -> Mesh:
    """A mesh whose one axis, "views", runs over `devices` (all local devices if not given)."""
    devices = jax.local_devices() if devices is None else devices
    return jax.make_mesh((len(devices),), (VIEW_AXIS,), (AxisType.Auto,), devices=devices)


def replicated(mesh: Mesh) -> NamedSharding:
    """The whole array on every device: for weights."""
    return NamedSharding(mesh, PartitionSpec())


def by_view(mesh: Mesh) -> NamedSharding:
    """Arrays (B, V, ...) with their views spread over the mesh."""
    return NamedSharding(mesh, PartitionSpec(None, VIEW_AXIS))


def spread_attention(attention: AttentionFn, mesh: Mesh) -> AttentionFn:
    """The same attention with its work spread over the mesh, each device on whole sequences.

    Frame attention stays with the device that has the view. For global attention the tokens,
    which lie spread by view, are exchanged (all-to-all) so that each device has all tokens of some
    of the heads; kernels therefore run unchanged.

    Raises:
      InputError: when called, if the mesh does not divide the number of heads.
    """

    def attend(q: Array, k: Array, v: Array, layout: TokenLayout) -> Array:
        by_group, by_head = PartitionSpec(VIEW_AXIS), PartitionSpec(None, None, VIEW_AXIS)
        spec = by_group if layout.views == 1 else by_head
        if spec is by_head:
            _check_heads(q.shape[2], mesh)
        local = jax.shard_map(
            lambda q, k, v: attention(q, k, v, layout),
            mesh=mesh,
            in_specs=(spec, spec, spec),
            out_specs=spec,
            check_vma=False,
        )
        return local(q, k, v)

    return attend


def _check_heads(heads: int, mesh: Mesh) -> None:
    if heads % mesh.size:
        raise InputError(
            f"mesh: its {mesh.size} devices do not divide the model's {heads} attention heads; "
            f"give a mesh of a number of devices that divides {heads}"
        )


def check_views(views: int, mesh: Mesh) -> None:
    """Refuses a number of views that the mesh does not divide.

    Raises:
      InputError: naming both numbers.
    """
    if views % mesh.size:
        raise InputError(
            f"images: {views} views cannot be spread evenly over the mesh's {mesh.size} devices; "
            f"give a multiple of {mesh.size} views, or a mesh of fewer devices"
        )
