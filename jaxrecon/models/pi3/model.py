"""π³: permutation-equivariant visual geometry (arXiv 2507.13347; upstream `pi3/models/pi3.py`).

No view is the reference: permuting the input views permutes the outputs, and the world frame is
whatever frame the predicted poses share.
"""

from dataclasses import dataclass, field, replace

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from jaxrecon.deprecation import renamed_arguments
from jaxrecon.errors import InputError
from jaxrecon.geometry.rotation import nearest_rotation
from jaxrecon.geometry.transforms import rigid, transform_points
from jaxrecon.models.model import Encoded, Model, skipped_by_scene
from jaxrecon.models.prediction import Prediction
from jaxrecon.nn.alternating import AlternatingAttention
from jaxrecon.nn.attention import AttentionFn, Count, TokenLayout, attend_densely
from jaxrecon.nn.block import BlockConfig, scan_blocks, stack_blocks
from jaxrecon.nn.depth_filter import DepthFilter
from jaxrecon.nn.dinov2 import DINOV2_LARGE, DinoV2, DinoV2Config, encode_views, encoder_chunk
from jaxrecon.nn.exact import apply_for
from jaxrecon.nn.execution import HEAD_VIEWS, INFERENCE, Chunks, ExecutionConfig, view_chunk
from jaxrecon.nn.layers import linear
from jaxrecon.nn.patches import unfold
from jaxrecon.nn.pose import PoseRegressor
from jaxrecon.nn.refine import CELL, PixelRefiner
from jaxrecon.nn.rope import RotaryTable, grid_positions, rotary_table
from jaxrecon.nn.views import map_views
from jaxrecon.sizes import MOST_BLOCKS, MOST_WIDTH, check_heads, check_real, check_whole


@dataclass(frozen=True)
class Pi3Config:
    """Sizes of a π³ model.

    Attributes:
      encoder: the image encoder; its width is the trunk's width too.
      heads: attention heads of the trunk.
      pairs: (frame, global) block pairs of the trunk.
      registers: register tokens of each view in the trunk; with none, a view of 224x224 pixels has
        256 tokens, whole tiles of attention kernels.
      head_width, head_heads, head_depth: the three decoders after the trunk.
      point_width: features that the point and the confidence decoder hand to their heads.
      camera_width: the same for the camera.
      rope_base: wavelength base of the rotary embedding.
      refine_width: features of the convolutions that refine points and confidence across patches
        (`PixelRefiner`); 0 for none, as released.
      filter_width: features of the convolutions that predict a filter for the depth of each pixel
        (`DepthFilter`), where points are refined; 0 for none, as released.

    Raises:
      InputError: a size is out of range, heads do not divide a width into multiples of 4, there are
        convolutions and an odd patch, or a filter without them.
    """

    encoder: DinoV2Config = field(default=DINOV2_LARGE)
    heads: int = 16
    pairs: int = 18
    registers: int = 5
    head_width: int = 1024
    head_heads: int = 16
    head_depth: int = 5
    point_width: int = 1024
    camera_width: int = 512
    rope_base: float = 100.0
    refine_width: int = 0
    filter_width: int = 0

    def __post_init__(self) -> None:
        check_whole(self, "pairs", "head_depth", most=MOST_BLOCKS)
        check_whole(self, "registers", least=0, most=MOST_BLOCKS)
        check_whole(self, "head_width", "point_width", "camera_width", most=MOST_WIDTH)
        check_heads(self, "heads", self.encoder.width, multiple=4)
        check_heads(self, "head_heads", self.head_width, multiple=4)
        check_real(self, "rope_base", least=1.0, most=1e9)
        check_whole(self, "refine_width", "filter_width", least=0, most=MOST_WIDTH)
        if self.refine_width and self.encoder.patch % CELL:
            raise InputError(
                f"Pi3Config: encoder.patch is {self.encoder.patch}; with refine_width it must be a "
                f"multiple of {CELL}"
            )
        if self.filter_width and not self.refine_width:
            raise InputError(
                f"Pi3Config: filter_width is {self.filter_width}; it needs the convolutions of a "
                "refine_width above 0"
            )

    @property
    def trunk_block(self) -> BlockConfig:
        return BlockConfig(self.encoder.width, self.heads, qk_norm=True, layer_scale=0.01)

    @property
    def head_block(self) -> BlockConfig:
        return BlockConfig(self.head_width, self.head_heads)


PI3 = Pi3Config()
"""The released model (yyfz233/Pi3), 958.7 M parameters."""

PI3_MINI = Pi3Config(
    encoder=DinoV2Config(width=384, depth=0, heads=6, registers=0, grid=16),
    heads=6,
    pairs=6,
    registers=0,
    head_width=256,
    head_heads=4,
    head_depth=1,
    point_width=256,
    camera_width=128,
    refine_width=32,
    filter_width=48,
)
"""A small model that this project trains on rendered scenes and ships."""


class TransformerDecoder(nnx.Module):
    """Trunk features to task features: a projection, blocks of frame attention, a projection."""

    def __init__(
        self,
        block: BlockConfig,
        depth: int,
        width_in: int,
        width_out: int,
        *,
        dtype: DTypeLike,
        rngs: nnx.Rngs,
    ) -> None:
        self.project = linear(width_in, block.width, dtype=dtype, rngs=rngs)
        self.blocks = stack_blocks(block, depth, dtype=dtype, rngs=rngs)
        self.out = linear(block.width, width_out, dtype=dtype, rngs=rngs)

    def __call__(
        self,
        x: Float[Array, "G P D"],
        layout: TokenLayout,
        attention: AttentionFn,
        rope: RotaryTable,
        *,
        execution: ExecutionConfig = INFERENCE,
    ) -> Float[Array, "G P E"]:
        hidden = self.project(x).astype(jnp.float32)
        decoded = scan_blocks(self.blocks, hidden, layout, attention, rope, execution=execution)
        return self.out(decoded)


class CameraHead(PoseRegressor):
    """Patch features of a view to its camera.

    The rotation is regressed as nine numbers and taken to the nearest rotation.
    """

    def __init__(self, width: int, *, rngs: nnx.Rngs) -> None:
        super().__init__(width, 9, rngs=rngs)

    def __call__(
        self, x: Float[Array, "G P D"], *, execution: ExecutionConfig = INFERENCE
    ) -> Float[Array, "G 4 4"]:
        """World-from-camera pose of each view."""
        apply = apply_for(x.dtype, execution)
        translation, numbers = self.regress(x.astype(jnp.float32), apply=apply, execution=execution)
        return rigid(nearest_rotation(numbers.reshape(-1, 3, 3)), translation)


class Pi3(Model):
    """π³ as released.

    Args:
      config: the sizes; `PI3` is the released model.
      dtype: of the matrices and their inputs: float32 or bfloat16. Norms, the residual stream,
        softmax, rotary angles and the last layer of each head are float32 in any case.
    """

    def __init__(
        self, config: Pi3Config, *, dtype: DTypeLike = jnp.float32, rngs: nnx.Rngs
    ) -> None:
        self.config = config
        width, pixels = config.encoder.width, config.encoder.patch**2
        self.encoder = DinoV2(config.encoder, dtype=dtype, rngs=rngs)
        self.register_tokens = (
            nnx.Param(1e-6 * jax.random.normal(rngs.params(), (config.registers, width)))
            if config.registers
            else None
        )
        self.trunk = AlternatingAttention(
            config.trunk_block, config.pairs, taps=(config.pairs - 1,), dtype=dtype, rngs=rngs
        )

        def decoder(width_out: int) -> TransformerDecoder:
            return TransformerDecoder(
                config.head_block,
                config.head_depth,
                2 * width,
                width_out,
                dtype=dtype,
                rngs=rngs,
            )

        self.point_decoder = decoder(config.point_width)
        self.confidence_decoder = decoder(config.point_width)
        self.camera_decoder = decoder(config.camera_width)
        self.point_head = linear(config.point_width, 3 * pixels, dtype=jnp.float32, rngs=rngs)
        self.confidence_head = linear(config.point_width, pixels, dtype=jnp.float32, rngs=rngs)
        self.camera_head = CameraHead(config.camera_width, rngs=rngs)
        self.refiner = (
            PixelRefiner(
                config.refine_width,
                channels=4,
                patch=config.encoder.patch,
                width_in=2 * config.point_width,
                dtype=dtype,
                rngs=rngs,
            )
            if config.refine_width
            else None
        )
        self.depth_filter = (
            DepthFilter(config.filter_width, width_in=config.refine_width, dtype=dtype, rngs=rngs)
            if config.filter_width
            else None
        )

    @renamed_arguments(real_views="num_valid_views")
    def encode(
        self,
        images: Float[Array, "B V H W 3"],
        *,
        attention: AttentionFn = attend_densely,
        num_valid_views: Count | None = None,
        execution: ExecutionConfig = INFERENCE,
    ) -> Encoded:
        layout = replace(self.layout(images.shape), num_valid_views=num_valid_views)
        rope = self.rope(layout, self.config.trunk_block)
        tokens = self.tokens(images, execution=execution)
        features, stats = self.trunk(tokens, layout, attention, rope, execution=execution)
        seen = (images,) if self.config.refine_width else ()
        return Encoded(views=(features[-1], *seen), skipped=skipped_by_scene(stats))

    def predict(
        self, encoded: Encoded, layout: TokenLayout, *, execution: ExecutionConfig = INFERENCE
    ) -> Prediction:
        return self.decode(*encoded.views, layout=layout, execution=execution)

    def chunks(
        self, views: int, layout: TokenLayout, attention: AttentionFn, execution: ExecutionConfig
    ) -> Chunks:
        return self.trunk.chunks(views, layout, attention, execution) | {
            "encoder views": encoder_chunk(views, layout.grid, execution),
            HEAD_VIEWS: view_chunk(views, execution.at_once(layout.tokens), execution),
        }

    def layout(self, shape: tuple[int, ...]) -> TokenLayout:
        """Token layout of one view of images of shape (B, V, H, W, 3)."""
        return TokenLayout(1, self.encoder.patch_grid(shape[1:]), self.config.registers)

    def rope(self, layout: TokenLayout, block: BlockConfig) -> RotaryTable:
        """Rotary table of one view's tokens, for the head width of `block`."""
        positions = grid_positions(layout.grid, layout.leading)
        return rotary_table(positions, block.width // block.heads, base=self.config.rope_base)

    def tokens(
        self, images: Float[Array, "B V H W 3"], *, execution: ExecutionConfig = INFERENCE
    ) -> Float[Array, "B V P D"]:
        """Tokens that enter the trunk: [registers | patches] of each view, in float32."""
        patches = encode_views(self.encoder, images, execution=execution)
        if self.register_tokens is None:
            return patches
        return with_registers(self.register_tokens[...], patches)

    def decode(
        self,
        features: Float[Array, "B V P E"],
        *images: Float[Array, "B V H W 3"],
        layout: TokenLayout,
        execution: ExecutionConfig = INFERENCE,
    ) -> Prediction:
        """Trunk features, and images if they are needed, to geometry, a few views at a time."""
        views = features.shape[:2]
        flat = tuple(x.reshape(-1, *x.shape[2:]) for x in (features, *images))
        at_once = execution.at_once(layout.tokens)

        def raw_geometry(views: tuple[Array, ...]) -> tuple[Array, Array, Array]:
            return self.raw_geometry(layout, *views, execution=execution)

        numbers = map_views(raw_geometry, flat, at_once=at_once, execution=execution)
        raw, logits, pose = (x.reshape(*views, *x.shape[1:]) for x in numbers)
        points_camera, logits = points_from_raw(raw), logits[..., 0]
        return Prediction(
            points_world=transform_points(pose[:, :, None, None], points_camera),
            points_camera=points_camera,
            confidence=jax.nn.sigmoid(logits),
            world_from_camera=pose,
            confidence_logits=logits,
        )

    def raw_geometry(
        self,
        layout: TokenLayout,
        features: Float[Array, "G P E"],
        *images: Float[Array, "G H W 3"],
        execution: ExecutionConfig = INFERENCE,
    ) -> tuple[Float[Array, "G H W 3"], Float[Array, "G H W 1"], Float[Array, "G 4 4"]]:
        """What the heads say: points as (x/z, y/z, log z), confidence logits, poses."""
        rope = self.rope(layout, self.config.head_block)

        def patches(decoder: TransformerDecoder) -> Float[Array, "G P E"]:
            hidden = decoder(features, layout, attend_densely, rope, execution=execution)
            return hidden[:, layout.leading :]

        of_points, of_confidence = patches(self.point_decoder), patches(self.confidence_decoder)
        apply = apply_for(of_points.dtype, execution)
        points = self.to_pixels(apply(self.point_head, of_points), layout.grid)
        logits = self.to_pixels(apply(self.confidence_head, of_confidence), layout.grid)
        if self.refiner is not None:
            maps = jnp.concatenate([points, logits], axis=-1)
            hidden = jnp.concatenate([of_points, of_confidence], axis=-1).astype(jnp.float32)
            update, cells = self.refiner(maps, images[0], hidden)
            points, logits = jnp.split(maps + update, [3], axis=-1)
            points = self.filtered(points, logits, images[0], cells, execution)
        pose = self.camera_head(patches(self.camera_decoder), execution=execution)
        return points, logits, pose

    def filtered(
        self,
        points: Float[Array, "G H W 3"],
        logits: Float[Array, "G H W 1"],
        images: Float[Array, "G H W 3"],
        cells: Float[Array, "G h w F"],
        execution: ExecutionConfig,
    ) -> Float[Array, "G H W 3"]:
        """Points as (x/z, y/z, log z) whose depth has passed the filter, if there is one."""
        if (depth_filter := self.depth_filter) is None:
            return points
        depths = map_views(
            lambda maps: depth_filter(*maps),
            (points[..., 2], logits[..., 0], images, cells),
            at_once=execution.head_views,
            execution=execution,
        )
        return jnp.concatenate([points[..., :2], depths[..., None]], axis=-1)

    def to_pixels(
        self, patches: Float[Array, "G P E"], grid: tuple[int, int]
    ) -> Float[Array, "G H W C"]:
        """Unfolds each patch's numbers (row, column, channel) into its pixels."""
        return unfold(patches.reshape(-1, *grid, patches.shape[-1]), self.config.encoder.patch)


def with_registers(
    registers: Float[Array, "R D"], patches: Float[Array, "B V P D"]
) -> Float[Array, "B V T D"]:
    """Tokens [registers | patches] of each view; the registers are the same in all."""
    copies = jnp.broadcast_to(registers, (*patches.shape[:2], *registers.shape))
    return jnp.concatenate([copies, patches], axis=2)


def points_from_raw(raw: Float[Array, "*dims 3"]) -> Float[Array, "*dims 3"]:
    """(x/z, y/z, log z) to (x, y, z)."""
    z = jnp.exp(raw[..., 2:])
    return jnp.concatenate([raw[..., :2] * z, z], axis=-1)
