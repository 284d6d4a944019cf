"""A filter for the depth of each pixel, predicted by convolutions."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from jaxrecon.nn.dpt import conv
from jaxrecon.nn.patches import fold, unfold
from jaxrecon.nn.refine import CELL, ResidualConv, convolved

BLOCKS = 4
"""Residual blocks of two convolutions."""

RADIUS = 3
"""How far, in rows and columns, a neighbour is away at most."""

NEIGHBOURS = tuple(
    (row, column)
    for row in range(-RADIUS, RADIUS + 1)
    for column in range(-RADIUS, RADIUS + 1)
    if (row + column) % 2 == 0
)
"""Rows and columns to the neighbours: every other one of the window, as on a chessboard."""

SEEN = 6
"""Numbers of a pixel: depth, depth beside that of its surroundings, confidence, RGB."""

_OTHERS = -6.0
"""What is added to the logits of all neighbours but the pixel itself."""

_SCALE = 8.0
"""Of differences of log depths, which are small numbers."""


class DepthFilter(nnx.Module):
    """A mean of the log depths around each pixel, with weights that convolutions predict.

    A depth that was regressed is soft at the edges of things, or has them a pixel off. Here
    convolutions see the image beside depth, confidence and features of its cells of 2x2 pixels,
    and choose by a softmax which neighbours a pixel goes with. What comes out lies between the
    depths around it, and follows when all of them are scaled. Training sets out from a last layer
    of zeros, with which a pixel keeps nearly its own depth.

    Args:
      width: features of a cell in the convolutions.
      width_in: features of each cell that are given.
      dtype: of the convolutions but the last; sums and the last are in float32.

    Source: kernel-predicting networks (Bako et al., SIGGRAPH 2017).
    """

    def __init__(self, width: int, *, width_in: int, dtype: DTypeLike, rngs: nnx.Rngs) -> None:
        self.enter = conv(width_in + SEEN * CELL**2, width, dtype=dtype, rngs=rngs)
        self.blocks = nnx.List([ResidualConv(width, dtype=dtype, rngs=rngs) for _ in range(BLOCKS)])
        self.leave = conv(width, len(NEIGHBOURS) * CELL**2, dtype=jnp.float32, rngs=rngs)

    def __call__(
        self,
        log_depths: Float[Array, "G H W"],
        logits: Float[Array, "G H W"],
        images: Float[Array, "G H W 3"],
        cells: Float[Array, "G h w F"],
    ) -> Float[Array, "G H W"]:
        """The filtered log depths, in float32.

        Args:
          log_depths: as regressed.
          logits: of their confidence.
          images: RGB in [0, 1].
          cells: features of each cell of 2x2 pixels.
        """
        around = neighbours_of(log_depths)
        level = jnp.mean(log_depths, axis=(1, 2), keepdims=True)
        beside = _SCALE * (log_depths - jnp.mean(around, axis=-1))
        seen = jnp.stack([log_depths - level, beside, logits / 4], axis=-1)
        pixels = fold(jnp.concatenate([seen, images.astype(seen.dtype) - 0.5], axis=-1), CELL)
        x = jnp.concatenate([pixels, cells], axis=-1).astype(self.enter.dtype)
        x = convolved(self.enter, self.blocks, x)
        chosen = unfold(self.leave(x), CELL) + _prior()
        return jnp.sum(jax.nn.softmax(chosen, axis=-1) * around, axis=-1)


def neighbours_of(maps: Float[Array, "G H W"]) -> Float[Array, "G H W N"]:
    """The values at `NEIGHBOURS` of each pixel; beyond the border lie those of its pixels."""
    height, width = maps.shape[1:]
    padded = jnp.pad(maps, ((0, 0), (RADIUS, RADIUS), (RADIUS, RADIUS)), mode="edge")
    down, right = RADIUS + np.array(NEIGHBOURS).T
    return jnp.stack(
        [
            padded[:, row : row + height, column : column + width]
            for row, column in zip(down, right, strict=True)
        ],
        axis=-1,
    )


def _prior() -> np.ndarray:
    own = [neighbour == (0, 0) for neighbour in NEIGHBOURS]
    return np.where(own, 0.0, _OTHERS).astype(np.float32).reshape(1, 1, 1, -1)
