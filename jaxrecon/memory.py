"""What a compiled program needs of a device's memory, and what the device has."""

from dataclasses import dataclass
from typing import Any

import jax

from jaxrecon.errors import InputError


@dataclass(frozen=True)
class MemoryNeeds:
    """Bytes that a program needs on each of its devices.

    Attributes:
      arguments: weights, images and numbers; they lie there before the program runs.
      outputs: what it returns.
      temporaries: what it works with, at the worst moment.
      shared: of the outputs, what is written over arguments and so needs no room of its own.
    """

    arguments: int
    outputs: int
    temporaries: int
    shared: int = 0

    @property
    def total(self) -> int:
        """All together."""
        return self.arguments + self.outputs + self.temporaries - self.shared


def needs_of(compiled: Any) -> MemoryNeeds | None:
    """What the compiler says of a program (`jax.stages.Compiled`); None if it does not tell."""
    told = compiled.memory_analysis()
    if told is None:
        return None
    return MemoryNeeds(
        arguments=told.argument_size_in_bytes,
        outputs=told.output_size_in_bytes,
        temporaries=told.temp_size_in_bytes,
        shared=told.alias_size_in_bytes,
    )


def default_device() -> Any:
    """The device (`jax.Device`) on which JAX runs what is not told where."""
    chosen = jax.config.jax_default_device
    if chosen is None or isinstance(chosen, str):
        return jax.local_devices(backend=chosen)[0]
    return chosen


def bytes_limit(device: Any) -> int | None:
    """The bytes that JAX may use on a device (`jax.Device`); None if the device does not tell."""
    stats = device.memory_stats()
    return None if stats is None else stats.get("bytes_limit")


def check_compiled(compiled: Any, device: Any) -> None:
    """Refuses a program (`jax.stages.Compiled`) that needs more than the device has.

    Raises:
      InputError: see `check_fits`.
    """
    needs = needs_of(compiled)
    if needs is not None:
        check_fits(needs.total, bytes_limit(device))


def check_fits(needed: int, limit: int | None) -> None:
    """Refuses a program that cannot run for want of memory.

    Args:
      needed: bytes that it needs on a device.
      limit: bytes that the device has; None if that is not known.

    Raises:
      InputError: it needs more; says both numbers and what to do.
    """
    if limit is None or needed <= limit:
        return
    raise InputError(
        f"images: the program needs {readable(needed)} of memory on each device, which has "
        f"{readable(limit)}; give fewer views or a lower resolution, spread them over more devices "
        "(mesh), or write view by view (stream)"
    )


def readable(count: int) -> str:
    """A number of bytes as people read it, in GiB, MiB, KiB or bytes."""
    for unit, size in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if count >= size:
            return f"{count / size:.2f} {unit}"
    return f"{count} bytes"
