"""Dense prediction from transformer features at four depths (DPT, arXiv 2103.13413)."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from jaxrecon.errors import InputError
from jaxrecon.nn.exact import apply_for
from jaxrecon.nn.execution import INFERENCE, ExecutionConfig
from jaxrecon.nn.layers import HIGHEST, apply_norm, layer_norm, linear
from jaxrecon.sizes import MOST_WIDTH, check_whole

NORM_EPS = 1e-5
POSITION_BASE = 100.0
POSITION_RATIO = 0.1

type Size = tuple[int, int]
type Patches = Float[Array, "4 G P D"] | Sequence[Float[Array, "G P _D"]]
"""Features of the patches of `G` views at four depths, the shallowest first."""


@dataclass(frozen=True)
class DPTConfig:
    """Sizes of a DPT.

    Attributes:
      width: of the tokens that come in.
      shallow_width: of the shallowest depth's tokens, where they differ.
      channels: of the four feature maps, the finest first.
      features: channels in which they are fused.
      features_out: channels of the fused map.
      hidden: channels of a dense head between the fused map and its numbers.
      position: adds an embedding of the pixel's place to the maps.
      norm: the tokens pass a LayerNorm first, one for all depths.
      rectified_skip: residual connections start behind the first ReLU, as it is where that works
        in place.
      crop: the deepest map is doubled and cropped to the size of the next, not resized to it.
    """

    width: int
    channels: tuple[int, int, int, int] = (256, 512, 1024, 1024)
    features: int = 256
    features_out: int = 128
    hidden: int = 32
    position: bool = True
    norm: bool = True
    rectified_skip: bool = True
    crop: bool = False
    shallow_width: int | None = None

    def __post_init__(self) -> None:
        check_whole(self, "width", "channels", "features", "features_out", most=MOST_WIDTH)
        check_whole(self, "hidden", most=MOST_WIDTH)
        if self.shallow_width is not None:
            check_whole(self, "shallow_width", most=MOST_WIDTH)
        if self.position and any(c % 4 for c in (*self.channels, self.features_out)):
            raise InputError(f"{self.channels=}, {self.features_out=} must be multiples of 4")


def conv(
    width_in: int,
    width_out: int,
    *,
    stride: int = 1,
    padding: int = 1,
    bias: bool = True,
    dtype: DTypeLike,
    precision: jax.lax.Precision | None = None,
    rngs: nnx.Rngs,
) -> nnx.Conv:
    """A 3x3 convolution, padded with zeros; parameters, input and output are all of `dtype`.

    In float32 it is as exact as float32 on every device, unless a `precision` is given.
    """
    if precision is None and jnp.dtype(dtype) == jnp.float32:
        precision = HIGHEST
    return nnx.Conv(
        width_in,
        width_out,
        (3, 3),
        strides=stride,
        padding=padding,
        use_bias=bias,
        dtype=dtype,
        param_dtype=dtype,
        precision=precision,
        rngs=rngs,
    )


class ConvTranspose(nnx.Module):
    """Transposed convolution whose stride is its size: each position becomes `factor` squared."""

    def __init__(
        self,
        width_in: int,
        width_out: int,
        factor: int,
        *,
        dtype: DTypeLike,
        precision: jax.lax.Precision | None = None,
        rngs: nnx.Rngs,
    ) -> None:
        initial = nnx.initializers.lecun_normal(in_axis=0, out_axis=(1, 2, 3))
        shape = width_in, factor, factor, width_out
        self.kernel = nnx.Param(initial(rngs.params(), shape, dtype))
        self.bias = nnx.Param(jnp.zeros((width_out,), dtype))
        if precision is None and jnp.dtype(dtype) == jnp.float32:
            precision = HIGHEST
        self.precision = precision

    def __call__(self, x: Float[Array, "G h w C"]) -> Float[Array, "G H W D"]:
        kernel = self.kernel[...]
        (views, height, width, _), (_, factor, _, channels) = x.shape, kernel.shape
        x = x.astype(kernel.dtype)
        spread = jnp.einsum("ghwc,cijd->ghiwjd", x, kernel, precision=self.precision)
        spread = spread.reshape(views, height * factor, width * factor, channels)
        return spread + jax.lax.broadcast_to_rank(self.bias[...], 4)


class Reassemble(nnx.Module):
    """Tokens of one depth to a feature map of its own size: project, `resize`, convolve."""

    def __init__(
        self,
        config: DPTConfig,
        width: int,
        channels: int,
        resize: ConvTranspose | nnx.Conv | None,
        *,
        dtype: DTypeLike,
        rngs: nnx.Rngs,
    ) -> None:
        self.position = config.position
        self.project = linear(width, channels, dtype=dtype, rngs=rngs)
        self.resize = resize
        self.out = conv(channels, config.features, bias=False, dtype=dtype, rngs=rngs)

    def __call__(self, x: Float[Array, "G h w D"], aspect: float) -> Float[Array, "G H W F"]:
        return self.out(self.resized(x, aspect))

    def resized(self, x: Float[Array, "G h w D"], aspect: float) -> Float[Array, "G H W C"]:
        """The map before the convolution; `aspect` is width over height of the image."""
        x = self.project(x)
        if self.position:
            x = add_position(x, aspect)
        return x if self.resize is None else self.resize(x)


class ResidualConv(nnx.Module):
    """`s + conv2(relu(conv1(relu(x))))`, the sum in float32.

    The skip `s` is `relu(x)` if `rectified_skip` (VGGT's first ReLU works in place), else `x`.
    """

    def __init__(self, config: DPTConfig, *, dtype: DTypeLike, rngs: nnx.Rngs) -> None:
        self.rectified_skip = config.rectified_skip
        self.conv1 = conv(config.features, config.features, dtype=dtype, rngs=rngs)
        self.conv2 = conv(config.features, config.features, dtype=dtype, rngs=rngs)

    def __call__(self, x: Float[Array, "G h w F"]) -> Float[Array, "G h w F"]:
        rectified = jax.nn.relu(x)
        update = self.conv2(jax.nn.relu(self.conv1(rectified)))
        skip = rectified if self.rectified_skip else x
        return skip.astype(jnp.float32) + update.astype(jnp.float32)


class Fusion(nnx.Module):
    """Adds a finer map to the fused map, refines the sum and resizes it."""

    def __init__(self, config: DPTConfig, *, skip: bool, dtype: DTypeLike, rngs: nnx.Rngs) -> None:
        self.skip = ResidualConv(config, dtype=dtype, rngs=rngs) if skip else None
        self.refine = ResidualConv(config, dtype=dtype, rngs=rngs)
        self.out = linear(config.features, config.features, dtype=dtype, rngs=rngs)

    def __call__(
        self,
        x: Float[Array, "G h w F"],
        finer: Float[Array, "G h w F"] | None,
        size: Size,
    ) -> Float[Array, "G H W F"]:
        if self.skip is not None and finer is not None:
            x = x.astype(jnp.float32) + self.skip(finer)
        # The linear map commutes with the interpolation, and is cheaper on the smaller map.
        return resize_bilinear(self.out(self.refine(x)), size)


class DPT(nnx.Module):
    """Patch features of four depths to one feature map at eight times the patch grid.

    Source: upstream `DPTHead` (`vggt/heads/dpt_head.py`) and `DPTFeature`
    (`uniception/models/prediction_heads/dpt.py`), which differ as `DPTConfig` tells.
    """

    def __init__(self, config: DPTConfig, *, dtype: DTypeLike, rngs: nnx.Rngs) -> None:
        def reassemble(level: int, resize: ConvTranspose | nnx.Conv | None) -> Reassemble:
            width = config.shallow_width if level == 0 else None
            channels = config.channels[level]
            return Reassemble(
                config, width or config.width, channels, resize, dtype=dtype, rngs=rngs
            )

        def fusion(*, skip: bool) -> Fusion:
            return Fusion(config, skip=skip, dtype=dtype, rngs=rngs)

        first, second, _, fourth = config.channels
        self.crop = config.crop
        self.norm = (
            layer_norm(config.width, eps=NORM_EPS, dtype=dtype, rngs=rngs) if config.norm else None
        )
        self.level1 = reassemble(0, ConvTranspose(first, first, 4, dtype=dtype, rngs=rngs))
        self.level2 = reassemble(1, ConvTranspose(second, second, 2, dtype=dtype, rngs=rngs))
        self.level3 = reassemble(2, None)
        self.level4 = reassemble(3, conv(fourth, fourth, stride=2, dtype=dtype, rngs=rngs))
        self.fusion1, self.fusion2 = fusion(skip=True), fusion(skip=True)
        self.fusion3, self.fusion4 = fusion(skip=True), fusion(skip=False)
        self.out = conv(config.features, config.features_out, dtype=dtype, rngs=rngs)

    def __call__(self, patches: Patches, grid: Size, aspect: float) -> Float[Array, "G H W F"]:
        """The fused map.

        Args:
          patches: one array, or four of which the widths may differ.
          grid: rows and columns of patches.
          aspect: width over height of the image.
        """
        levels = self.level1, self.level2, self.level3, self.level4
        maps = [
            level(self.normed(tokens, grid), aspect)
            for level, tokens in zip(levels, patches, strict=True)
        ]
        return self.out(self.fuse(*maps))

    def normed(self, patches: Float[Array, "G P D"], grid: Size) -> Float[Array, "G h w D"]:
        """The patches of one depth, after the norm that all depths share if any, as a map."""
        tokens = patches if self.norm is None else apply_norm(self.norm, patches)
        return tokens.reshape(-1, *grid, patches.shape[-1])

    def fuse(self, *maps: Float[Array, "G _h _w F"]) -> Float[Array, "G H W F"]:
        """The four maps, the finest first, to one at twice the size of the finest."""
        map1, map2, map3, map4 = maps
        x = self.deepest(map4, _size(map3))
        x = self.fusion3(x, map3, _size(map2))
        x = self.fusion2(x, map2, _size(map1))
        return self.fusion1(x, map1, _doubled(map1))

    def deepest(self, map4: Float[Array, "G h w F"], size: Size) -> Float[Array, "G H W F"]:
        """The coarsest map at the `size` of the next."""
        if not self.crop:
            return self.fusion4(map4, None, size)
        return self.fusion4(map4, None, _doubled(map4))[:, : size[0], : size[1]]


class DenseHead(nnx.Module):
    """A DPT that gives `outputs` numbers for each pixel; the last layer is float32."""

    def __init__(
        self, config: DPTConfig, outputs: int, *, dtype: DTypeLike, rngs: nnx.Rngs
    ) -> None:
        self.position = config.position
        self.dpt = DPT(config, dtype=dtype, rngs=rngs)
        self.conv = conv(config.features_out, config.hidden, dtype=dtype, rngs=rngs)
        self.out = linear(config.hidden, outputs, dtype=jnp.float32, rngs=rngs)

    def __call__(
        self,
        patches: Patches,
        grid: Size,
        size: Size,
        *,
        execution: ExecutionConfig = INFERENCE,
    ) -> Float[Array, "G H W C"]:
        """The numbers at the image's `size` (height, width), not yet activated."""
        aspect = size[1] / size[0]
        x = resize_bilinear(self.dpt(patches, grid, aspect), size)
        if self.position:
            x = add_position(x, aspect)
        hidden = jax.nn.relu(self.conv(x))
        return apply_for(hidden.dtype, execution)(self.out, hidden)


def resize_bilinear(x: Float[Array, "G h w C"], size: Size) -> Float[Array, "G H W C"]:
    """Bilinear interpolation that keeps the corner pixels at the corners (`align_corners`)."""
    return _resized(_resized(x, 1, size[0]), 2, size[1])


@partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def _resized(x: Float[Array, "G h w C"], axis: int, length: int) -> Float[Array, "G H W C"]:
    """Bilinear interpolation along one axis; sums are those of float32."""
    old = x.shape[axis]
    place = _places(old, length)
    below = np.clip(place.astype(np.int32), 0, max(old - 2, 0))
    share = (place - below).reshape([-1 if other == axis else 1 for other in range(4)])
    share = jnp.asarray(share, jnp.float32)
    one, other = (
        x.take(place, axis=axis, mode="clip").astype(jnp.float32) for place in (below, below + 1)
    )
    return (one + share * (other - one)).astype(x.dtype)


def _with_length(x: Array, axis: int, length: int) -> tuple[Array, int]:
    return _resized(x, axis, length), x.shape[axis]


def _spread(axis: int, length: int, old: int, gradient: Array) -> tuple[Array]:
    """A product with the weights: the gradient of what is taken would be scattered."""
    place = _places(old, length)
    weights = np.maximum(1 - np.abs(place[:, None] - np.arange(old)), 0)
    precision = HIGHEST if gradient.dtype == jnp.float32 else None
    matrix = jnp.asarray(weights, gradient.dtype)
    equation = "io,giwc->gowc" if axis == 1 else "io,ghic->ghoc"
    return (jnp.einsum(equation, matrix, gradient, precision=precision),)


_resized.defvjp(_with_length, _spread)


def _places(old: int, length: int) -> Float[np.ndarray, "length"]:
    """Where each new place lies among the old ones; the first and the last coincide."""
    return np.arange(length) * ((old - 1) / max(length - 1, 1))


def add_position(x: Float[Array, "G h w C"], aspect: float) -> Float[Array, "G h w C"]:
    """Adds the embedding of each pixel's place in the image, in float32.

    The first half of the channels tells the column, the second the row. Places are centred, and
    scaled so that half the image's diagonal is 1.
    """
    rows, columns = (p[:, None] for p in centred_places((x.shape[1], x.shape[2]), aspect))
    column, row = (_position_table(places, x.shape[3] // 2) for places in (columns, rows))
    nothing = np.zeros_like
    first = np.concatenate([column, nothing(column)], axis=1).astype(np.float32)
    second = np.concatenate([nothing(row), row], axis=1).astype(np.float32)
    return (
        x.astype(jnp.float32) + jnp.asarray(first)[None, None] + jnp.asarray(second)[None, :, None]
    )


def centred_places(
    size: Size, aspect: float
) -> tuple[Float[np.ndarray, "h"], Float[np.ndarray, "w"]]:
    """Where the rows and the columns of a map lie in an image of this width over height.

    The image's centre is 0, and half its diagonal 1.
    """
    diagonal = np.hypot(aspect, 1)
    edges = [
        span * (count - 1) / count
        for count, span in zip(size, (1 / diagonal, aspect / diagonal), strict=True)
    ]
    rows, columns = (np.linspace(-e, e, count) for e, count in zip(edges, size, strict=True))
    return rows, columns


def _position_table(places: Float[np.ndarray, "count 1"], channels: int) -> np.ndarray:
    """Sines, then cosines, of places (count, C)."""
    frequencies = POSITION_BASE ** -(np.arange(channels // 2) / (channels / 2))
    angles = places * frequencies
    return POSITION_RATIO * np.concatenate([np.sin(angles), np.cos(angles)], axis=1)


def _size(x: Float[Array, "G h w C"]) -> Size:
    return x.shape[1], x.shape[2]


def _doubled(x: Float[Array, "G h w C"]) -> Size:
    return 2 * x.shape[1], 2 * x.shape[2]
