"""Random numbers of a scene, from hashes that fuse with what uses them.

A scene draws some hundred small tables. Each call of `jax.random` would be a program of its own in
the compiled code: most of the compile time, for few numbers.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Int, Key, UInt32

from jaxrecon.pytree import pytree_dataclass
from jaxrecon.scenes.noise import mixed, normal, uniform

_COUNT, _FIRST, _SECOND = 0x9E3779B9, 0x85EBCA6B, 0xC2B2AE35


@pytree_dataclass
class Rng:
    """A place in the tree of random streams, as 64 bits."""

    first: UInt32[Array, ""]
    second: UInt32[Array, ""]

    def split(self, count: int) -> list["Rng"]:
        """Independent streams."""
        return [self._child(number + 1) for number in range(count)]

    def uniform(self, *shape: int) -> Array:
        """Numbers in [0, 1)."""
        return uniform(self._bits(shape))

    def centred(self, *shape: int) -> Array:
        """Numbers in [-1, 1)."""
        return 2 * self.uniform(*shape) - 1

    def normal(self, *shape: int) -> Array:
        """Nearly normal numbers of mean 0 and deviation 1."""
        return normal(self._bits(shape))

    def integer(self, *shape: int) -> Int[Array, "..."]:
        """Whole numbers of 30 bits, to seed textures."""
        return (self._bits(shape) >> 2).astype(jnp.int32)

    def _child(self, number: int) -> "Rng":
        first, second = np.uint32(number * _FIRST % 2**32), np.uint32(number * _SECOND % 2**32)
        child = Rng(
            mixed(mixed(self.first ^ first) ^ self.second),
            mixed(mixed(self.second ^ second) ^ self.first),
        )
        return lax.optimization_barrier(child)

    def _bits(self, shape: tuple[int, ...]) -> UInt32[Array, "..."]:
        index = lax.iota(jnp.uint32, int(np.prod(shape))).reshape(shape)
        return lax.optimization_barrier(
            mixed(mixed(index * np.uint32(_COUNT) ^ self.first) ^ self.second)
        )


def scene_rng(key: Key[Array, ""], number: UInt32[Array, ""]) -> Rng:
    """The stream of one scene."""
    bits = jax.random.bits(jax.random.fold_in(key, number), (2,), jnp.uint32)
    return Rng(bits[0], bits[1])
