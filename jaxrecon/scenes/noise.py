"""Pseudo-random numbers and smooth noise from integer hashes: no tables, equal on every device."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, UInt32

from jaxrecon.scenes.vectors import Vector

_X, _Y = np.uint32(0x8DA6B343), np.uint32(0xD8163841)
_Z, _SEED = np.uint32(0xCB1AB31F), np.uint32(0x9E3779B9)
_UNIT = 2.0**-24


def mixed(bits: UInt32[Array, "..."]) -> UInt32[Array, "..."]:
    """A well-mixed permutation of 32 bits (the `lowbias32` hash of C. Wellons)."""
    bits = (bits ^ (bits >> 16)) * np.uint32(0x7FEB352D)
    bits = (bits ^ (bits >> 15)) * np.uint32(0x846CA68B)
    return bits ^ (bits >> 16)


def hashed(x: Array, y: Array, z: Array, seed: Array) -> UInt32[Array, "..."]:
    """32 random bits for three integers and a seed."""
    spread = (x.astype(jnp.uint32) * _X) ^ (y.astype(jnp.uint32) * _Y)
    return mixed(spread ^ (z.astype(jnp.uint32) * _Z) ^ (seed.astype(jnp.uint32) * _SEED))


def uniform(bits: UInt32[Array, "..."]) -> Array:
    """Bits as a number in [0, 1)."""
    return (bits >> 8).astype(jnp.int32).astype(jnp.float32) * _UNIT


def normal(bits: UInt32[Array, "..."]) -> Array:
    """Bits as a nearly normal number of mean 0 and deviation 1: the sum of their four bytes."""
    low, high = bits & np.uint32(0x00FF00FF), (bits >> 8) & np.uint32(0x00FF00FF)
    pairs = low + high
    total = (pairs & np.uint32(0xFFFF)) + (pairs >> 16)
    return (total.astype(jnp.int32).astype(jnp.float32) - 510.0) * (1 / 147.8)


def noise_3d(point: Vector, seed: Array) -> Array:
    """Smooth noise in [-1, 1] whose features are about one unit of `point` wide."""
    (x0, x1), wx = _cell(point.x, _X)
    (y0, y1), wy = _cell(point.y, _Y)
    (z0, z1), wz = _cell(point.z, _Z)
    salt = seed.astype(jnp.uint32) * _SEED
    low = _face(x0, x1, wx, y0, y1, wy, z0 ^ salt)
    high = _face(x0, x1, wx, y0, y1, wy, z1 ^ salt)
    return low + (high - low) * wz


def noise_2d(x: Array, y: Array, seed: Array) -> Array:
    """Smooth noise in [-1, 1] of two coordinates."""
    (x0, x1), wx = _cell(x, _X)
    (y0, y1), wy = _cell(y, _Y)
    return _face(x0, x1, wx, y0, y1, wy, seed.astype(jnp.uint32) * _SEED)


def _cell(value: Array, factor: np.uint32) -> tuple[tuple[Array, Array], Array]:
    """Hash terms of the two lattice numbers around a value, and the smooth share of the upper."""
    low = jnp.floor(value)
    part = value - low
    number = low.astype(jnp.int32).astype(jnp.uint32) * factor
    smooth = part * part * part * (part * (part * 6 - 15) + 10)
    return (number, number + factor), smooth


def _face(x0: Array, x1: Array, wx: Array, y0: Array, y1: Array, wy: Array, z: Array) -> Array:
    """Values at the corners of a lattice square, blended."""
    a, b = y0 ^ z, y1 ^ z
    left, right = _value(x0 ^ a), _value(x1 ^ a)
    low = left + (right - left) * wx
    left, right = _value(x0 ^ b), _value(x1 ^ b)
    return low + (left + (right - left) * wx - low) * wy


def _value(bits: UInt32[Array, "..."]) -> Array:
    """A cheaper hash than `mixed`, good enough for texture, as a number in [-1, 1)."""
    bits = (bits ^ (bits >> 15)) * np.uint32(0x2C1B3C6D)
    bits = (bits ^ (bits >> 12)) * np.uint32(0x297A2D39)
    return (bits.astype(jnp.int32)).astype(jnp.float32) * 2.0**-31
