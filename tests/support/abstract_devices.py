"""Devices that are not here, to lower programs for."""

from jax.sharding import AbstractDevice

H100 = AbstractDevice(device_kind="NVIDIA H100 80GB HBM3", num_cores=132, platform="gpu")
