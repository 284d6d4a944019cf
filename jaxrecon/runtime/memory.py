"""What a compiled program needs of a device's memory, and what the device has."""

import os
from dataclasses import dataclass, replace
from typing import Any

import jax

from jaxrecon.errors import InputError
from jaxrecon.machine import machine_memory


@dataclass(frozen=True)
class MemoryNeeds:
    """Bytes that a program needs on each of its devices.

    Attributes:
      arguments: weights, images and numbers; they lie there before the program runs.
      outputs: what it returns.
      temporaries: what it works with, at the worst moment.
      shared: of the outputs, what is written over arguments and so needs no room of its own.
      host: what lies in the host's memory meanwhile, in no device's.
    """

    arguments: int
    outputs: int
    temporaries: int
    shared: int = 0
    host: int = 0

    @property
    def total(self) -> int:
        """All together that lies on the device."""
        return self.arguments + self.outputs + self.temporaries - self.shared

    def keeping(self, runs: int) -> "MemoryNeeds":
        """With what so many runs of the program return together."""
        return replace(self, outputs=runs * self.outputs)


def needs_of(compiled: Any) -> MemoryNeeds | None:
    """What the compiler says of a program (`jax.stages.Compiled`); None if it does not tell."""
    analysis = compiled.memory_analysis()
    if analysis is None:
        return None
    return MemoryNeeds(
        arguments=analysis.argument_size_in_bytes,
        outputs=analysis.output_size_in_bytes,
        temporaries=analysis.temp_size_in_bytes,
        shared=analysis.alias_size_in_bytes,
        host=analysis.host_argument_size_in_bytes
        + analysis.host_output_size_in_bytes
        + analysis.host_temp_size_in_bytes,
    )


def default_device() -> Any:
    """The device (`jax.Device`) on which JAX runs what is not told where."""
    chosen = jax.config.jax_default_device
    if chosen is None or isinstance(chosen, str):
        return jax.local_devices(backend=chosen)[0]
    return chosen


def bytes_limit(device: Any) -> int | None:
    """The bytes that JAX may use on a device (`jax.Device`); None if the device does not tell.

    For the CPU, this machine's memory; devices that are parts of it share it evenly.
    """
    stats = device.memory_stats()
    if stats is not None:
        return stats.get("bytes_limit")
    if device.platform != "cpu":
        return None
    memory = machine_memory()
    return None if memory is None else memory // jax.local_device_count("cpu")


def host_limit(device: Any) -> int | None:
    """The bytes of the host's memory that may serve devices like this one; None if not known.

    For a GPU, JAX takes no more of them than `XLA_PJRT_GPU_HOST_MEMORY_LIMIT_GB` says.
    """
    memory = machine_memory()
    if device.platform != "gpu":
        return memory
    most = int(os.environ.get("XLA_PJRT_GPU_HOST_MEMORY_LIMIT_GB", "64")) * 2**30
    return most if memory is None else min(most, memory)


def check_compiled(compiled: Any, device: Any, *, runs: int = 1) -> None:
    """Refuses a program (`jax.stages.Compiled`) that needs more than the device or its host has.

    Args:
      runs: so many runs' outputs lie there together.

    Raises:
      InputError: see `check_fits` and `check_host`.
    """
    needs = needs_of(compiled)
    if needs is not None:
        check_fits(needs.keeping(runs).total, bytes_limit(device))
        if needs.host:
            devices = len(compiled.runtime_executable().local_devices())
            check_host(devices * needs.host, host_limit(device))


FEWER_IMAGES = (
    "give fewer views or a lower resolution, reconstruct a sequence in chunks "
    "(reconstruct_sequence, --chunk 60), shard views over more devices (mesh), or write view by "
    "view (stream), fewer of them at once (views_at_once)"
)
"""What helps where images need too much memory."""


def check_fits(
    needed: int,
    limit: int | None,
    *,
    what: str = "images: the program",
    advice: str = FEWER_IMAGES,
) -> None:
    """Refuses a program that cannot run for want of memory.

    Args:
      needed: bytes that it needs on a device.
      limit: bytes that the device has; None if that is not known.
      what: the argument at fault, and the program.
      advice: what to do.

    Raises:
      InputError: it needs more; says both numbers and what to do.
    """
    if limit is None or needed <= limit:
        return
    raise InputError(
        f"{what} needs {readable(needed)} of memory on each device, which has {readable(limit)}; "
        f"{advice}"
    )


def check_host(needed: int, limit: int | None) -> None:
    """Refuses a program whose features do not fit into the host's memory.

    Args:
      needed: bytes that wait there, of all devices of this host.
      limit: bytes that may; None if that is not known.

    Raises:
      InputError: they are more; says both numbers and what to do.
    """
    if limit is None or needed <= limit:
        return
    raise InputError(
        f"offload: {readable(needed)} would wait in the host's memory, where {readable(limit)} "
        "may; give fewer views, load the model without offload, or allow more by "
        "XLA_PJRT_GPU_HOST_MEMORY_LIMIT_GB if the machine has it"
    )


def readable(count: int) -> str:
    """A number of bytes as people read it, in GiB, MiB, KiB or bytes."""
    for unit, size in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if count >= size:
            return f"{count / size:.2f} {unit}"
    return f"{count} bytes"
