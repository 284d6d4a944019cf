"""Which kind of device the code being traced is meant for."""

from typing import Any

import jax

HOPPER_GPUS = ("H100", "H200", "H800", "H20", "GH200")

FIRST_WITH_FLOAT8 = (8, 9)
"""The first compute capability of NVIDIA GPUs whose matrix units take float8."""


def target_platform() -> str:
    """The platform that a computation traced now will run on: "cpu", "gpu" or "tpu".

    An abstract device (ahead-of-time lowering for a machine that is not here) comes first, then
    `jax.default_device`, then JAX's default backend.
    """
    abstract = jax.sharding.get_abstract_mesh().abstract_device
    if abstract is not None:
        return _canonical(abstract.platform)
    device = jax.config.jax_default_device
    if device is not None:
        return _canonical(device if isinstance(device, str) else device.platform)
    return _canonical(jax.default_backend())


def check_gpu(backend: str) -> None:
    """Refuses, for a backend of that name, any target but an NVIDIA GPU.

    Raises:
      NotImplementedError: see above.
    """
    if target_platform() != "gpu":
        raise NotImplementedError(f"{backend}: needs an NVIDIA GPU, found {target_platform()}")


def target_is_hopper() -> bool:
    """Whether the target is an NVIDIA GPU of the Hopper generation (compute capability 9.0)."""
    abstract = jax.sharding.get_abstract_mesh().abstract_device
    if target_platform() != "gpu":
        return False
    kind = jax.local_devices()[0].device_kind if abstract is None else abstract.device_kind
    return any(name in kind for name in HOPPER_GPUS)


def computes_float8(device: Any) -> bool:
    """Whether a `jax.Device` has matrix units for float8, or is a CPU, which has none for anything.

    NVIDIA's have them from compute capability 8.9 on (Ada, Hopper).
    """
    if device.platform == "cpu":
        return True
    numbers = str(getattr(device, "compute_capability", "")).split(".")
    if _canonical(device.platform) != "gpu" or not all(number.isdigit() for number in numbers):
        return False
    return tuple(map(int, numbers)) >= FIRST_WITH_FLOAT8


def _canonical(platform: str) -> str:
    return "gpu" if platform in ("cuda", "rocm") else platform
