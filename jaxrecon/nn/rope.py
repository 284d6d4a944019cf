"""Rotary position embedding over the patch grid."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jaxrecon.pytree import pytree_dataclass


@pytree_dataclass
class RotaryTable:
    """Cosines and sines for the `P` tokens of one view, in float32.

    The middle axis is (row, column): the first half of each head turns with the token's row, the
    second half with its column.
    """

    cos: Float[Array, "P 2 F"]
    sin: Float[Array, "P 2 F"]


def grid_positions(grid: tuple[int, int], specials: int) -> Int[np.ndarray, "P 2"]:
    """(row, column) of each token of a view: (0, 0) for the leading specials, patches from 1."""
    rows, columns = np.mgrid[1 : grid[0] + 1, 1 : grid[1] + 1]
    patches = np.stack([rows.ravel(), columns.ravel()], axis=-1)
    return np.concatenate([np.zeros((specials, 2), patches.dtype), patches])


def rotary_table(
    positions: Int[np.ndarray, "P 2"] | Int[Array, "P 2"], width: int, *, base: float = 100.0
) -> RotaryTable:
    """Angles `position * base ** (-2 j / d)` with `d = width / 2`, `j = 0 .. d / 2 - 1`.

    Args:
      positions: (row, column) of each token.
      width: width of one head; a multiple of 4.
      base: wavelength base; 100 in VGGT and π³.

    Source: 2-D RoPE as in CroCo v2 (arXiv 2211.10408), used by VGGT and π³.
    """
    half = width // 2
    frequencies = base ** (-jnp.arange(0, half, 2, dtype=jnp.float32) / half)
    angles = jnp.asarray(positions, jnp.float32)[:, :, None] * frequencies[None, None]
    return RotaryTable(jnp.cos(angles), jnp.sin(angles))


def apply_rotary(x: Float[Array, "G T N K"], table: RotaryTable) -> Float[Array, "G T N K"]:
    """Turns each token by its angles; `T` is a whole number of views of `P` tokens.

    Within each half of the head the two quarters form the pairs (a, b) that become
    (a cos - b sin, b cos + a sin).
    """
    tokens = table.cos.shape[0]
    pairs = x.reshape(x.shape[0], -1, tokens, x.shape[2], 2, 2, x.shape[3] // 4)
    cos, sin = (u[None, None, :, None, :, None].astype(x.dtype) for u in (table.cos, table.sin))
    sin = jnp.concatenate([-sin, sin], axis=-2)
    return (pairs * cos + jnp.flip(pairs, axis=-2) * sin).reshape(x.shape)
