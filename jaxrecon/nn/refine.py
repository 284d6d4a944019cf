"""Convolutions that refine what linear heads say of each patch, with the image before them."""

from collections.abc import Iterable

import jax.numpy as jnp
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


class PixelRefiner(nnx.Module):
    """What to add to maps that were predicted patch by patch.

    A linear head sees one patch at a time, so that its maps are soft at edges and do not join
    where patches meet. Here the maps, the image and features of each patch, dealt out to its cells
    of 2x2 pixels, pass a few residual 3x3 convolutions across patches (the idea of the
    convolutional head of MoGe, arXiv 2410.19115). Training sets out from a last layer of zeros, so
    that nothing is added at first.

    Args:
      width: features of a cell in the convolutions.
      channels: of the maps.
      patch: side of a patch in pixels, a multiple of 2.
      width_in: features of each patch.
      dtype: of the convolutions but the last; sums and the last are in float32.
    """

    def __init__(
        self,
        width: int,
        *,
        channels: int,
        patch: int,
        width_in: int,
        dtype: DTypeLike,
        rngs: nnx.Rngs,
    ) -> None:
        self.cells = patch // CELL
        seen = PATCH_FEATURES + CELL**2 * (channels + 3)
        self.deal_out = linear(width_in, self.cells**2 * PATCH_FEATURES, dtype=dtype, rngs=rngs)
        self.enter = conv(seen, width, dtype=dtype, rngs=rngs)
        self.blocks = nnx.List([ResidualConv(width, dtype=dtype, rngs=rngs) for _ in range(BLOCKS)])
        self.leave = conv(width, CELL**2 * channels, dtype=jnp.float32, rngs=rngs)

    def __call__(
        self,
        maps: Float[Array, "G H W C"],
        images: Float[Array, "G H W 3"],
        patches: Float[Array, "G P E"],
    ) -> tuple[Float[Array, "G H W C"], Float[Array, "G h w F"]]:
        """The update of the maps, and the features of each cell behind it, in float32.

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
        x = convolved(self.enter, self.blocks, x)
        return unfold(self.leave(x), CELL), x


def convolved(
    enter: nnx.Conv, blocks: Iterable["ResidualConv"], x: Float[Array, "G h w E"]
) -> Float[Array, "G h w F"]:
    """Features of cells after a convolution, residual blocks and a GELU, in float32."""
    x = enter(x).astype(jnp.float32)
    for block in blocks:
        x = block(x)
    return gelu(x)


class ResidualConv(nnx.Module):
    """`x + conv2(gelu(conv1(gelu(x))))`, the sum in float32."""

    def __init__(self, width: int, *, dtype: DTypeLike, rngs: nnx.Rngs) -> None:
        self.conv1 = conv(width, width, dtype=dtype, rngs=rngs)
        self.conv2 = conv(width, width, dtype=dtype, rngs=rngs)

    def __call__(self, x: Float[Array, "G h w F"]) -> Float[Array, "G h w F"]:
        update = self.conv2(gelu(self.conv1(gelu(x))))
        return x + update.astype(jnp.float32)
