"""DINOv2 image encoder (arXiv 2304.07193), with register tokens (arXiv 2309.16588)."""

from dataclasses import dataclass
from functools import partial
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from jaxrecon.nn.attention import TokenLayout, attend_densely
from jaxrecon.nn.block import BlockConfig, MlpKind, scan_blocks, stack_blocks
from jaxrecon.nn.execution import INFERENCE, Chunk, ExecutionConfig, view_chunk
from jaxrecon.nn.layers import HIGHEST, bias_of, layer_norm, linear, product
from jaxrecon.nn.patches import fold
from jaxrecon.nn.views import map_views
from jaxrecon.sizes import MOST_BLOCKS, MOST_WIDTH, check_heads, check_whole

IMAGE_MEAN = (0.485, 0.456, 0.406)
IMAGE_STD = (0.229, 0.224, 0.225)
"""Mean and deviation of ImageNet's colours, with which images are normalised."""

POSITION_OFFSET = 0.1
POSITION_SHARPNESS = -0.75
"""What "offset" resampling of the position table adds to a grid, and its kernel's parameter."""


@dataclass(frozen=True)
class DinoV2Config:
    """Sizes and options of the encoder.

    Attributes:
      depth: blocks; with none, patches are embedded and no more.
      grid: side of the square position table, in patches.
      mlp: kind of the blocks' MLP.
      final_norm: whether the tokens pass a norm after the last block.
      resampling: how the position table is fitted to a grid; see `DinoV2.position_table`.

    Raises:
      InputError: a size is out of range, or the heads do not divide the width.
    """

    width: int = 1024
    depth: int = 24
    heads: int = 16
    registers: int = 4
    patch: int = 14
    grid: int = 37
    mlp: MlpKind = "gelu"
    final_norm: bool = True
    resampling: Literal["antialiased", "offset"] = "antialiased"

    def __post_init__(self) -> None:
        check_whole(self, "width", most=MOST_WIDTH)
        check_whole(self, "depth", least=0, most=MOST_BLOCKS)
        check_whole(self, "registers", least=0, most=MOST_BLOCKS)
        check_whole(self, "patch", most=256)
        check_whole(self, "grid", most=1024)
        check_heads(self, "heads", self.width)

    @property
    def block(self) -> BlockConfig:
        return BlockConfig(self.width, self.heads, layer_scale=1.0, mlp=self.mlp)


DINOV2_LARGE = DinoV2Config()

DINOV2_GIANT = DinoV2Config(
    width=1536, depth=40, heads=24, registers=0, mlp="swiglu", resampling="offset"
)
"""ViT-g as it is released without registers."""


class DinoV2(nnx.Module):
    """A ViT that turns normalised images into one feature vector a patch.

    Args:
      channels: of the images; 3 for colours.
    """

    def __init__(
        self, config: DinoV2Config, *, channels: int = 3, dtype: DTypeLike, rngs: nnx.Rngs
    ) -> None:
        self.config = config
        width = config.width
        normal = nnx.initializers.normal(0.02)
        self.patch_embed = linear(channels * config.patch**2, width, dtype=dtype, rngs=rngs)
        self.class_token = nnx.Param(normal(rngs.params(), (width,)))
        self.register_tokens = (
            nnx.Param(normal(rngs.params(), (config.registers, width)))
            if config.registers
            else None
        )
        self.position_embedding = nnx.Param(normal(rngs.params(), (1 + config.grid**2, width)))
        self.blocks = (
            stack_blocks(config.block, config.depth, dtype=dtype, rngs=rngs)
            if config.depth
            else None
        )
        self.norm = (
            layer_norm(width, eps=config.block.norm_eps, dtype=jnp.float32, rngs=rngs)
            if config.final_norm
            else None
        )

    def __call__(
        self, images: Float[Array, "G H W C"], *, execution: ExecutionConfig = INFERENCE
    ) -> Float[Array, "G P D"]:
        """Features of the patches, row by row, in float32; see `tokens`."""
        if self.blocks is None:  # no patch has seen another token
            return self.normed(self.placed_patches(images))
        return self.tokens(images, execution=execution)[:, 1 + self.config.registers :]

    def tokens(
        self, images: Float[Array, "G H W C"], *, execution: ExecutionConfig = INFERENCE
    ) -> Float[Array, "G T D"]:
        """All tokens, [class | registers | patches], after the last block and the final norm.

        Args:
          images: RGB normalised with ImageNet's mean and deviation, or what else the encoder was
            made for; H and W are multiples of the patch size.
        """
        tokens = self.embed(images)
        layout = TokenLayout(1, self.patch_grid(images.shape), 1 + self.config.registers)
        if self.blocks is not None:
            tokens = scan_blocks(self.blocks, tokens, layout, attend_densely, execution=execution)
        return self.normed(tokens)

    def normed(self, tokens: Float[Array, "G T D"]) -> Float[Array, "G T D"]:
        """The final norm, if there is one."""
        return tokens if self.norm is None else self.norm(tokens)

    def patch_grid(self, shape: tuple[int, ...]) -> tuple[int, int]:
        """Rows and columns of patches in images of shape (G, H, W, C).

        Raises:
          ValueError: the height or the width is not a multiple of the patch size.
        """
        patch = self.config.patch
        if shape[1] % patch or shape[2] % patch:
            raise ValueError(
                f"image height and width must be multiples of {patch}, found {shape[1]}x{shape[2]}"
            )
        return shape[1] // patch, shape[2] // patch

    def embed_patches(self, images: Float[Array, "G H W C"]) -> Float[Array, "G P D"]:
        """A linear map of each patch's pixels (row, column, channel)."""
        rows, columns = self.patch_grid(images.shape)
        patches = fold(images, self.config.patch)
        flat = patches.reshape(-1, rows * columns, patches.shape[-1])
        return product(self.patch_embed, flat) + bias_of(self.patch_embed)[None, None]

    def placed_patches(self, images: Float[Array, "G H W C"]) -> Float[Array, "G P D"]:
        """Embedded patches with their positions, in float32."""
        position = self.position_table(self.patch_grid(images.shape))
        return self.embed_patches(images).astype(jnp.float32) + position[None, 1:]

    def embed(self, images: Float[Array, "G H W C"]) -> Float[Array, "G T D"]:
        """Tokens that enter the first block: [class | registers | patches], in float32.

        Class and patches carry a position, registers do not.
        """
        patches = self.placed_patches(images)
        first = self.class_token[...][None] + self.position_embedding[...][:1]
        if self.register_tokens is not None:
            first = jnp.concatenate([first, self.register_tokens[...]])
        return jnp.concatenate(
            [jnp.broadcast_to(first, (patches.shape[0], *first.shape)), patches], axis=1
        )

    def position_table(self, grid: tuple[int, int]) -> Float[Array, "T D"]:
        """Position vectors of the class token and of a grid of patches.

        The stored square table is resampled with bicubic interpolation: "antialiased" as the
        variants with registers do upstream (Keys, a = -0.5), "offset" as those without (a = -0.75,
        no antialiasing, and places that follow from a grid larger by a tenth of a patch).
        """
        table = self.position_embedding[...]
        side = self.config.grid
        if grid == (side, side):
            return table
        square = table[1:].reshape(side, side, -1)
        if self.config.resampling == "antialiased":
            resized = jax.image.resize(square, (*grid, table.shape[1]), "cubic", antialias=True)
        else:
            rows, columns = (jnp.asarray(_offset_bicubic(side, new)) for new in grid)
            resized = jnp.einsum("ih,jw,hwd->ijd", rows, columns, square, precision=HIGHEST)
        return jnp.concatenate([table[:1], resized.reshape(-1, table.shape[1])])


def encode_views(
    encoder: DinoV2,
    images: Float[Array, "B V H W 3"],
    *,
    patches_only: bool = True,
    execution: ExecutionConfig = INFERENCE,
) -> Float[Array, "B V T D"]:
    """Features of RGB images in [0, 1], a few views at a time.

    Args:
      patches_only: leaves out the class token and the registers.
    """
    at_once = views_at_once(encoder.patch_grid(images.shape[1:]), execution)
    mean, deviation = (
        jax.lax.broadcast_to_rank(jnp.asarray(x), images.ndim) for x in (IMAGE_MEAN, IMAGE_STD)
    )
    normalised = (images - mean) / deviation
    flat = normalised.reshape(-1, *images.shape[2:])
    work = partial(encoder if patches_only else encoder.tokens, execution=execution)
    tokens = map_views(work, flat, at_once=at_once, execution=execution)
    return tokens.reshape(*images.shape[:2], *tokens.shape[1:])


def encoder_chunk(views: int, grid: tuple[int, int], execution: ExecutionConfig) -> Chunk:
    """How many of so many views `encode_views` works on at a time."""
    return view_chunk(views, views_at_once(grid, execution), execution)


def views_at_once(grid: tuple[int, int], execution: ExecutionConfig) -> int:
    """How many views the encoder works on at a time, if there are so many."""
    return max(1, execution.encoder_patches // (grid[0] * grid[1]))


def _offset_bicubic(old: int, new: int) -> Float[np.ndarray, "new old"]:
    """Weights of the old positions for each new one; positions outside repeat the edge.

    Source: upstream `interpolate_pos_encoding` (dinov2/models/vision_transformer.py), which hands
    PyTorch the scale (new + 0.1) / old.
    """
    place = (np.arange(new) + 0.5) * (old / (new + POSITION_OFFSET)) - 0.5
    near = np.floor(place)[:, None] + np.arange(-1, 3)
    x, a = np.abs(place[:, None] - near), POSITION_SHARPNESS
    inner, outer = ((a + 2) * x - (a + 3)) * x**2 + 1, ((x - 5) * x + 8) * x * a - 4 * a
    weights = np.zeros((new, old))
    columns = near.astype(int).clip(0, old - 1)
    np.add.at(weights, (np.arange(new)[:, None], columns), np.where(x <= 1, inner, outer))
    return weights.astype(np.float32)
