"""Convolutions from the features of patches to numbers for each pixel."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.lax import Precision
from jaxtyping import Array, Float

from jaxrecon.nn.dpt import ConvTranspose, Size, centred_places, conv
from jaxrecon.nn.layers import linear

NORM_EPS = 1e-5
RESIDUALS = 2
"""Residual blocks of each doubling."""

GROUP = 32
"""Channels of a group that is normed together inside a residual block."""


class ConvHead(nnx.Module):
    """Features of patches to maps of the image's size, in float32.

    The map is doubled three times, brought to the image's size, and read by a few convolutions for
    each of the `outputs`. Before each of these steps two channels tell where in the image a place
    is.

    Args:
      width: of the features.
      widths: channels after each doubling, multiples of 16.
      hidden: channels before the last layer.
      outputs: numbers for each pixel, of each map that is returned.
      precision: of the convolutions; the last layer is exact in any case.

    Source: MoGe (arXiv 2410.19115); upstream `ConvHead` (`pi3/models/layers/conv_head.py`).
    """

    def __init__(
        self,
        width: int,
        widths: Sequence[int],
        hidden: int,
        outputs: Sequence[int],
        *,
        precision: Precision,
        rngs: nnx.Rngs,
    ) -> None:
        entering = (width, *widths[:-1])
        self.upsample_blocks = nnx.List(
            [
                UpsampleBlock(before + 2, after, precision=precision, rngs=rngs)
                for before, after in zip(entering, widths, strict=True)
            ]
        )
        self.outputs = nnx.List(
            [
                _Output(widths[-1] + 2, hidden, numbers, precision=precision, rngs=rngs)
                for numbers in outputs
            ]
        )

    def __call__(
        self, patches: Float[Array, "G P D"], grid: Size, size: Size
    ) -> tuple[Float[Array, "G H W _C"], ...]:
        """The maps, not yet activated.

        Args:
          patches: features of the patches, row by row.
          grid: rows and columns of patches.
          size: height and width of the image.
        """
        aspect = size[1] / size[0]
        x = patches.astype(jnp.float32).reshape(-1, *grid, patches.shape[-1])
        for block in self.upsample_blocks:
            x = block(placed(x, aspect))
        shape = x.shape[0], *size, x.shape[3]
        x = placed(jax.image.resize(x, shape, "linear", antialias=False), aspect)
        return tuple(output(x) for output in self.outputs)


class UpsampleBlock(nnx.Module):
    """A transposed convolution to twice the size, a convolution, and residual blocks."""

    def __init__(self, width_in: int, width: int, *, precision: Precision, rngs: nnx.Rngs) -> None:
        options = {"dtype": jnp.float32, "precision": precision, "rngs": rngs}
        self.expand = ConvTranspose(width_in, width, 2, **options)
        self.conv = conv(width, width, padding=0, **options)
        self.residuals = nnx.List(
            [_ResidualConv(width, precision=precision, rngs=rngs) for _ in range(RESIDUALS)]
        )

    def __call__(self, x: Float[Array, "G h w C"]) -> Float[Array, "G H W D"]:
        x = self.expanded(x)
        for residual in self.residuals:
            x = residual(x)
        return x

    def expanded(self, x: Float[Array, "G h w C"]) -> Float[Array, "G H W D"]:
        """The map at twice the size, before the residual blocks."""
        return self.conv(edge_padded(self.expand(x)))


class _ResidualConv(nnx.Module):
    """`x + conv2(relu(norm2(conv1(relu(norm1 x)))))`."""

    def __init__(self, width: int, *, precision: Precision, rngs: nnx.Rngs) -> None:
        hidden = 2 * width
        options = {"padding": 0, "dtype": jnp.float32, "precision": precision, "rngs": rngs}
        self.norm1 = _group_norm(width, 1, rngs=rngs)
        self.conv1 = conv(width, hidden, **options)
        self.norm2 = _group_norm(hidden, hidden // GROUP, rngs=rngs)
        self.conv2 = conv(hidden, width, **options)

    def __call__(self, x: Float[Array, "G h w C"]) -> Float[Array, "G h w C"]:
        hidden = self.conv1(edge_padded(jax.nn.relu(self.norm1(x))))
        return x + self.conv2(edge_padded(jax.nn.relu(self.norm2(hidden))))


class _Output(nnx.Module):
    """A convolution, a ReLU and a linear map of each pixel."""

    def __init__(
        self, width: int, hidden: int, numbers: int, *, precision: Precision, rngs: nnx.Rngs
    ) -> None:
        self.conv = conv(
            width, hidden, padding=0, dtype=jnp.float32, precision=precision, rngs=rngs
        )
        self.out = linear(hidden, numbers, dtype=jnp.float32, rngs=rngs)

    def __call__(self, x: Float[Array, "G H W C"]) -> Float[Array, "G H W N"]:
        return self.out(jax.nn.relu(self.conv(edge_padded(x))))


def placed(x: Float[Array, "G h w C"], aspect: float) -> Float[Array, "G h w D"]:
    """With the column and the row of each place behind the channels; see `centred_places`."""
    rows, columns = centred_places((x.shape[1], x.shape[2]), aspect)
    places = np.stack(np.meshgrid(columns, rows), axis=-1).astype(np.float32)
    copies = jnp.broadcast_to(jnp.asarray(places), (x.shape[0], *places.shape))
    return jnp.concatenate([x, copies], axis=-1)


def edge_padded(x: Float[Array, "G h w C"]) -> Float[Array, "G H W C"]:
    """With a border of one pixel that repeats the edge."""
    return jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="edge")


def _group_norm(width: int, groups: int, *, rngs: nnx.Rngs) -> nnx.GroupNorm:
    return nnx.GroupNorm(
        width,
        num_groups=groups,
        epsilon=NORM_EPS,
        dtype=jnp.float32,
        use_fast_variance=False,
        rngs=rngs,
    )
