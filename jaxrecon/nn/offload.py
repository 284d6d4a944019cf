"""Features that wait in the host's memory until the heads read them, a few views at a time."""

import jax
from jaxtyping import Array

from jaxrecon.nn.execution import ExecutionConfig


def to_host[X](features: X, execution: ExecutionConfig) -> X:
    """What nothing needs before the heads do: in the host's memory, where `offload` asks for it."""
    return jax.device_put(features, jax.memory.Space.Host) if execution.offload else features


def to_device[X](arrays: X) -> X:
    """Arrays on the device: those that wait in the host's memory come back."""

    def on_device(x: Array) -> Array:
        waits = jax.typeof(x).memory_space == jax.memory.Space.Host
        if not waits:
            return x
        # Else XLA draws a reshape that follows into the host's memory, and then refuses it.
        return jax.lax.optimization_barrier(jax.device_put(x, jax.memory.Space.Device))

    return jax.tree.map(on_device, arrays)
