"""Encoders of the geometry that MapAnything may be given beside its images."""

import jax.numpy as jnp
from flax import nnx
from jax.lax import Precision
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float

from jaxrecon.models.mapanything.priors import Geometry
from jaxrecon.nn.dpt import conv
from jaxrecon.nn.layers import gelu, layer_norm, linear

NORM_EPS = 1e-6


class ResidualConvBlock(nnx.Module):
    """`gelu(conv2(gelu(conv1 x)) + shortcut x)`."""

    def __init__(self, width_in: int, width: int, *, precision: Precision, rngs: nnx.Rngs) -> None:
        self.conv1 = conv(width_in, width, dtype=jnp.float32, precision=precision, rngs=rngs)
        self.conv2 = conv(width, width, dtype=jnp.float32, precision=precision, rngs=rngs)
        self.shortcut = linear(width_in, width, dtype=jnp.float32, rngs=rngs)

    def __call__(self, x: Float[Array, "G h w C"]) -> Float[Array, "G h w D"]:
        return gelu(self.conv2(gelu(self.conv1(x))) + self.shortcut(x))


class DenseEncoder(nnx.Module):
    """A map of the image's size to one vector a patch, in float32.

    Source: upstream `DenseRepresentationEncoder` (`uniception/models/encoders`).
    """

    def __init__(
        self,
        channels: int,
        widths: tuple[int, int, int],
        width: int,
        *,
        patch: int,
        precision: Precision,
        rngs: nnx.Rngs,
    ) -> None:
        self.patch = patch
        first, second, third = widths
        self.conv = conv(
            channels * patch**2, first, dtype=jnp.float32, precision=precision, rngs=rngs
        )
        self.block1 = ResidualConvBlock(first, second, precision=precision, rngs=rngs)
        self.block2 = ResidualConvBlock(second, third, precision=precision, rngs=rngs)
        self.out = linear(third, width, dtype=jnp.float32, rngs=rngs)
        self.norm = layer_norm(width, eps=NORM_EPS, dtype=jnp.float32, rngs=rngs)

    def __call__(self, x: Float[Array, "*dims H W C"]) -> Float[Array, "*dims P D"]:
        height, width, channels = x.shape[-3:]
        rows, columns = height // self.patch, width // self.patch
        split = x.reshape(-1, rows, self.patch, columns, self.patch, channels)
        # Within a patch: channel, row, column, as `nn.PixelUnshuffle` has it.
        pixels = split.transpose(0, 1, 3, 5, 2, 4).reshape(-1, rows, columns, self.conv.in_features)
        out = self.norm(self.out(self.block2(self.block1(self.conv(pixels)))))
        return out.reshape(*x.shape[:-3], rows * columns, -1)


class VectorEncoder(nnx.Module):
    """A few numbers of each view to one vector, in float32.

    Source: upstream `GlobalRepresentationEncoder` (`uniception/models/encoders`).
    """

    def __init__(
        self, numbers: int, widths: tuple[int, int, int], width: int, *, rngs: nnx.Rngs
    ) -> None:
        first, second, third = widths
        self.fc1 = linear(numbers, first, dtype=jnp.float32, rngs=rngs)
        self.fc2 = linear(first, second, dtype=jnp.float32, rngs=rngs)
        self.fc3 = linear(second, third, dtype=jnp.float32, rngs=rngs)
        self.out = linear(third, width, dtype=jnp.float32, rngs=rngs)
        self.norm = layer_norm(width, eps=NORM_EPS, dtype=jnp.float32, rngs=rngs)

    def __call__(self, x: Float[Array, "*dims N"]) -> Float[Array, "*dims D"]:
        hidden = gelu(self.fc3(gelu(self.fc2(gelu(self.fc1(x))))))
        return self.norm(self.out(hidden))


class GeometryEncoder(nnx.Module):
    """All that is known of the views as one vector a patch, to be added to the image's features.

    It is float32 throughout. For a bfloat16 model the convolutions may be TF32, as upstream's are;
    bfloat16 rays would lose the calibration.
    """

    def __init__(
        self,
        dense_widths: tuple[int, int, int],
        vector_widths: tuple[int, int, int],
        width: int,
        *,
        patch: int,
        dtype: DTypeLike,
        rngs: nnx.Rngs,
    ) -> None:
        exact = jnp.dtype(dtype) == jnp.float32
        precision = Precision.HIGHEST if exact else Precision.DEFAULT

        def dense(channels: int) -> DenseEncoder:
            return DenseEncoder(
                channels, dense_widths, width, patch=patch, precision=precision, rngs=rngs
            )

        def vector(numbers: int) -> VectorEncoder:
            return VectorEncoder(numbers, vector_widths, width, rngs=rngs)

        self.rays, self.depth, self.depth_scale = dense(3), dense(1), vector(1)
        self.rotation, self.translation, self.translation_scale = vector(4), vector(3), vector(1)

    def __call__(self, geometry: Geometry) -> Float[Array, "B V P D"]:
        """The sum over what is known; zero for a view of which nothing is."""
        g = geometry
        patches = _where(g.has_rays, self.rays(g.rays)) + _where(g.has_depth, self.depth(g.depth))
        vectors = (
            _where(g.has_depth_scale, self.depth_scale(g.depth_scale))
            + _where(g.has_pose, self.rotation(g.rotations))
            + _where(g.has_pose, self.translation(g.translations))
            + _where(g.has_pose_scale, self.translation_scale(g.translation_scale))
        )
        return patches + vectors[:, :, None]


def _where(known: Bool[Array, "B V"], vectors: Array) -> Array:
    return jnp.where(known.reshape(*known.shape, *(1,) * (vectors.ndim - 2)), vectors, 0)
