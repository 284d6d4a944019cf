"""Features that wait in the host's memory until the heads read them, a few views at a time."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import jax
from jaxtyping import Array

_OFFLOADING: ContextVar[bool] = ContextVar("offloading", default=False)


@contextmanager
def offloading(wanted: bool) -> Iterator[None]:
    """Whether what is traced inside keeps the trunk's features in the host's memory."""
    token = _OFFLOADING.set(wanted)
    try:
        yield
    finally:
        _OFFLOADING.reset(token)


def parked[X](features: X) -> X:
    """What nothing needs before the heads do: in the host's memory, where that is wanted."""
    return jax.device_put(features, jax.memory.Space.Host) if _OFFLOADING.get() else features


def fetched[X](arrays: X) -> X:
    """Arrays on the device: those that wait in the host's memory come back."""

    def on_device(x: Array) -> Array:
        waits = jax.typeof(x).memory_space == jax.memory.Space.Host
        if not waits:
            return x
        # Else XLA draws a reshape that follows into the host's memory, and then refuses it.
        return jax.lax.optimization_barrier(jax.device_put(x, jax.memory.Space.Device))

    return jax.tree.map(on_device, arrays)
