"""Views spread over devices."""

from collections.abc import Sequence

import jax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from jaxrecon.errors import InputError

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
