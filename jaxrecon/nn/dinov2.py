"""DINOv2 image encoder (arXiv 2304.07193), with register tokens (arXiv 2309.16588)."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from jaxrecon.nn.attention import TokenLayout, attend_densely
from jaxrecon.nn.block import BlockConfig, scan_blocks, stack_blocks
from jaxrecon.nn.layers import layer_norm, linear


@dataclass(frozen=True)
class DinoV2Config:
    """Sizes of the encoder; `grid` is the side of the square position table, in patches."""

    width: int = 1024
    depth: int = 24
    heads: int = 16
    registers: int = 4
    patch: int = 14
    grid: int = 37

    @property
    def block(self) -> BlockConfig:
        return BlockConfig(self.width, self.heads, layer_scale=1.0)


DINOV2_LARGE = DinoV2Config()


class DinoV2(nnx.Module):
    """A ViT that turns normalised images into one feature vector a patch."""

    def __init__(self, config: DinoV2Config, *, dtype: DTypeLike, rngs: nnx.Rngs) -> None:
        self.config = config
        width = config.width
        normal = nnx.initializers.normal(0.02)
        self.patch_embed = linear(3 * config.patch**2, width, dtype=dtype, rngs=rngs)
        self.class_token = nnx.Param(normal(rngs.params(), (width,)))
        self.register_tokens = nnx.Param(normal(rngs.params(), (config.registers, width)))
        self.position_embedding = nnx.Param(normal(rngs.params(), (1 + config.grid**2, width)))
        self.blocks = stack_blocks(config.block, config.depth, dtype=dtype, rngs=rngs)
        self.norm = layer_norm(width, eps=config.block.norm_eps, dtype=jnp.float32, rngs=rngs)

    def __call__(self, images: Float[Array, "G H W 3"]) -> Float[Array, "G P D"]:
        """Features of the patches, row by row, after the final norm, in float32.

        Args:
          images: RGB, normalised with ImageNet's mean and deviation; H and W are multiples of the
            patch size.
        """
        tokens = self.embed(images)
        layout = TokenLayout(1, self.patch_grid(images.shape), 1 + self.config.registers)
        tokens = scan_blocks(self.blocks, tokens, layout, attend_densely)
        return self.norm(tokens)[:, layout.leading :]

    def patch_grid(self, shape: tuple[int, ...]) -> tuple[int, int]:
        """Rows and columns of patches in images of shape (G, H, W, 3).

        Raises:
          ValueError: the height or the width is not a multiple of the patch size.
        """
        patch = self.config.patch
        if shape[1] % patch or shape[2] % patch:
            raise ValueError(
                f"image height and width must be multiples of {patch}, found {shape[1]}x{shape[2]}"
            )
        return shape[1] // patch, shape[2] // patch

    def embed_patches(self, images: Float[Array, "G H W 3"]) -> Float[Array, "G P D"]:
        """A linear map of each patch's pixels (row, column, channel)."""
        (rows, columns), patch = self.patch_grid(images.shape), self.config.patch
        pixels = images.reshape(-1, rows, patch, columns, patch, 3).swapaxes(2, 3)
        return self.patch_embed(pixels.reshape(-1, rows * columns, 3 * patch**2))

    def embed(self, images: Float[Array, "G H W 3"]) -> Float[Array, "G T D"]:
        """Tokens that enter the first block: [class | registers | patches], in float32.

        Class and patches carry a position, registers do not.
        """
        position = self.position_table(self.patch_grid(images.shape))
        patches = self.embed_patches(images).astype(jnp.float32) + position[1:]
        first = jnp.concatenate([self.class_token[...] + position[:1], self.register_tokens[...]])
        return jnp.concatenate(
            [jnp.broadcast_to(first, (patches.shape[0], *first.shape)), patches], axis=1
        )

    def position_table(self, grid: tuple[int, int]) -> Float[Array, "T D"]:
        """Position vectors of the class token and of a grid of patches.

        The stored square table is resampled with antialiased bicubic interpolation (Keys,
        a = -0.5), as the variants with registers do upstream.
        """
        table = self.position_embedding[...]
        side = self.config.grid
        if grid == (side, side):
            return table
        square = table[1:].reshape(side, side, -1)
        resized = jax.image.resize(square, (*grid, table.shape[1]), "cubic", antialias=True)
        return jnp.concatenate([table[:1], resized.reshape(-1, table.shape[1])])
