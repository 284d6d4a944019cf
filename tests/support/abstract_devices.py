"""Devices that are not here, to lower programs for."""

from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Any

from jax.sharding import AbstractDevice, AbstractMesh, AxisType, use_abstract_mesh

H100 = AbstractDevice(device_kind="NVIDIA H100 80GB HBM3", num_cores=132, platform="gpu")


def mesh_of(axes: Mapping[str, int], device: AbstractDevice = H100) -> AbstractMesh:
    """So many of the device along each axis; without axes one."""
    types = (AxisType.Auto,) * len(axes)
    return AbstractMesh(tuple(axes.values()), tuple(axes), axis_types=types, abstract_device=device)


def here_is(device: AbstractDevice = H100) -> AbstractContextManager[Any]:
    """Within it programs are traced and lowered for the device."""
    return use_abstract_mesh(mesh_of({}, device))
