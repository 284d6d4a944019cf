"""Convolutions that refine what linear heads say of each patch, with the image before them."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from jaxrecon.nn.dpt import conv
from jaxrecon.nn.layers import gelu, linear
from jaxrecon.nn.patches import fold, unfold

CELL = 2
"""The convolutions run on cells of so many pixels a side."""

PATCH_FEATURES = 16
"""Features of each cell that come from its patch."""

BLOCKS = 3
"""Residual blocks of two convolutions."""


NEIGHBOURS = tuple(
    (step * row, step * column)
    for step in (1, 3)
    for row in (-1, 0, 1)
    for column in (-1, 0, 1)
    if row or column
)
"""Offsets in rows and columns of the pixels whose values a pixel may take over."""

OWN = 5.0
"""Added to the logit of a pixel's own value, which has nine tenths of the weight at first."""


class PixelRefiner(nnx.Module):
    """Maps that were predicted patch by patch, refined.

    A linear head sees one patch at a time, so that its maps are soft at edges and do not join
    where patches meet. Here the maps, the image and features of each patch, dealt out to its cells
    of 2x2 pixels, pass a few residual 3x3 convolutions across patches (the idea of the
    convolutional head of MoGe, arXiv 2410.19115), which say what to add. Training sets out from a
    last layer of zeros, so that nothing is added at first.

    What is added is smooth, so a channel may be propagated in the end: each pixel takes a mean of
    its own and its neighbours' values, with weights that the convolutions give (one step of CSPN,
    arXiv 1808.00150, with a softmax). A pixel beside an edge can so take the value of either side.

    Args:
      width: features of a cell in the convolutions.
      channels: of the maps.
      patch: side of a patch in pixels, a multiple of 2.
      width_in: features of each patch.
      propagated: the channel that is propagated; None for none.
      dtype: of the convolutions but the last; sums and the last are in float32.
    """

    def __init__(
        self,
        width: int,
        *,
        channels: int,
        patch: int,
        width_in: int,
        propagated: int | None = None,
        dtype: DTypeLike,
        rngs: nnx.Rngs,
    ) -> None:
        self.cells, self.propagated = patch // CELL, propagated
        seen = PATCH_FEATURES + CELL**2 * (channels + 3)
        self.deal_out = linear(width_in, self.cells**2 * PATCH_FEATURES, dtype=dtype, rngs=rngs)
        self.enter = conv(seen, width, dtype=dtype, rngs=rngs)
        self.blocks = nnx.List(
            [_ResidualConv(width, dtype=dtype, rngs=rngs) for _ in range(BLOCKS)]
        )
        self.leave = conv(width, CELL**2 * channels, dtype=jnp.float32, rngs=rngs)
        self.affinity = (
            None
            if propagated is None
            else conv(width, CELL**2 * (1 + len(NEIGHBOURS)), dtype=dtype, rngs=rngs)
        )

    def __call__(
        self,
        maps: Float[Array, "G H W C"],
        images: Float[Array, "G H W 3"],
        patches: Float[Array, "G P E"],
    ) -> Float[Array, "G H W C"]:
        """The refined maps, in float32.

        Args:
          maps: what was predicted patch by patch.
          images: RGB in [0, 1].
          patches: features of the patches, row by row.
        """
        pixels = fold(jnp.concatenate([maps, images.astype(maps.dtype) - 0.5], axis=-1), CELL)
        rows, columns = (side // self.cells for side in pixels.shape[1:3])
        features = self.deal_out(patches)
        dealt = unfold(features.reshape(-1, rows, columns, features.shape[-1]), self.cells)
        x = jnp.concatenate([pixels.astype(dealt.dtype), dealt], axis=-1)
        x = self.enter(x).astype(jnp.float32)
        for block in self.blocks:
            x = block(x)
        x = gelu(x)
        maps = maps + unfold(self.leave(x), CELL)
        if self.affinity is None or self.propagated is None:
            return maps
        logits = unfold(self.affinity(x).astype(jnp.float32), CELL)
        channel = propagate(maps[..., self.propagated], logits)
        return maps.at[..., self.propagated].set(channel)


def propagate(x: Float[Array, "G H W"], logits: Float[Array, "G H W K"]) -> Float[Array, "G H W"]:
    """A weighted mean of each pixel's own value and those at `NEIGHBOURS`.

    Args:
      x: values; beyond the border they are those of the nearest pixel.
      logits: of the weights: the pixel's own, to which `OWN` is added, and one for each neighbour.
    """
    height, width = x.shape[1:]
    farthest = int(np.abs(NEIGHBOURS).max())
    padded = jnp.pad(x, ((0, 0), (farthest, farthest), (farthest, farthest)), mode="edge")
    weights = jax.nn.softmax(logits.at[..., 0].add(OWN), axis=-1)
    total = weights[..., 0] * x
    for place, (row, column) in enumerate(NEIGHBOURS, start=1):
        rows = slice(farthest + row, farthest + row + height)
        columns = slice(farthest + column, farthest + column + width)
        total += weights[..., place] * padded[:, rows, columns]
    return total


class _ResidualConv(nnx.Module):
    """`x + conv2(gelu(conv1(gelu(x))))`, the sum in float32."""

    def __init__(self, width: int, *, dtype: DTypeLike, rngs: nnx.Rngs) -> None:
        self.conv1 = conv(width, width, dtype=dtype, rngs=rngs)
        self.conv2 = conv(width, width, dtype=dtype, rngs=rngs)

    def __call__(self, x: Float[Array, "G h w F"]) -> Float[Array, "G h w F"]:
        update = self.conv2(gelu(self.conv1(gelu(x))))
        return x + update.astype(jnp.float32)
