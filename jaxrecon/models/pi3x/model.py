"""π³-X: π³ in metres, with smooth heads and room for what is known of the views.

The released sizes are those of the current upstream model (`pi3/models/pi3x.py`). As in π³ no view
is the reference: the world frame is whatever frame the predicted poses share.
"""

from dataclasses import dataclass, field, replace
from typing import ClassVar

import jax
import jax.numpy as jnp
from flax import nnx
from jax.lax import Precision
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from jaxrecon.errors import InputError
from jaxrecon.geometry.transforms import transform_points
from jaxrecon.models.model import Encoded, Model, skipped_by_scene
from jaxrecon.models.pi3.model import CameraHead, TransformerDecoder, with_registers
from jaxrecon.models.pi3x.conditioning import Conditioning
from jaxrecon.models.pi3x.heads import ConvHead
from jaxrecon.models.pi3x.metric import MetricDecoder
from jaxrecon.models.pi3x.priors import known_geometry
from jaxrecon.models.prediction import Prediction
from jaxrecon.nn.alternating import AlternatingAttention
from jaxrecon.nn.attention import AttentionFn, Count, TokenLayout, attend_densely
from jaxrecon.nn.block import BlockConfig
from jaxrecon.nn.dinov2 import DINOV2_LARGE, DinoV2, DinoV2Config, encode_views, encoder_chunk
from jaxrecon.nn.execution import HEAD_VIEWS, INFERENCE, Chunks, ExecutionConfig, view_chunk
from jaxrecon.nn.rope import RotaryTable, grid_positions, rotary_table
from jaxrecon.nn.views import map_views
from jaxrecon.priors import PriorArrays
from jaxrecon.sizes import MOST_BLOCKS, MOST_WIDTH, check_heads, check_real, check_whole

LARGEST_LOG_DEPTH = 15.0
"""Depths beyond exp of this, in the model's unit, are that."""

UPSAMPLED = 16
"""The widths of doubled maps are multiples of this, so that their norms have whole groups."""


@dataclass(frozen=True)
class Pi3XConfig:
    """Sizes of a π³-X model.

    Attributes:
      encoder, heads, pairs, registers, head_width, head_heads, head_depth, point_width,
        camera_width, rope_base: as in `Pi3Config`; there are registers.
      upsampled: channels of the points' and the confidence's maps after each doubling.
      last_width: channels before their last layer.
      metric_width, metric_heads, metric_depth, metric_features: of the decoder of metres.
      priors: whether the model takes what is known of the views.
      posed_pairs: pairs of the trunk behind which views with a known pose exchange.

    Raises:
      InputError: a size is out of range, heads do not divide a width into multiples of 4 (of the
        trunk: 8), a doubled map's width is no multiple of 16, or a pair does not exist.
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
    upsampled: tuple[int, int, int] = (256, 128, 64)
    last_width: int = 32
    metric_width: int = 512
    metric_heads: int = 8
    metric_depth: int = 5
    metric_features: int = 512
    priors: bool = True
    posed_pairs: tuple[int, ...] = (0, 4, 8, 12, 16)

    def __post_init__(self) -> None:
        check_whole(self, "pairs", "head_depth", "metric_depth", most=MOST_BLOCKS)
        check_whole(self, "registers", most=MOST_BLOCKS)
        check_whole(self, "head_width", "point_width", "camera_width", most=MOST_WIDTH)
        check_whole(self, "upsampled", "last_width", most=MOST_WIDTH)
        check_whole(self, "metric_width", "metric_features", most=MOST_WIDTH)
        check_heads(self, "heads", self.encoder.width, multiple=8)
        check_heads(self, "head_heads", self.head_width, multiple=4)
        check_heads(self, "metric_heads", self.metric_width, multiple=4)
        check_real(self, "rope_base", least=1.0, most=1e9)
        check_whole(self, "posed_pairs", least=0, most=self.pairs - 1)
        if any(width % UPSAMPLED for width in self.upsampled):
            raise InputError(
                f"Pi3XConfig: upsampled is {self.upsampled}; its numbers must be multiples of "
                f"{UPSAMPLED}"
            )
        if not self.posed_pairs or tuple(sorted(set(self.posed_pairs))) != self.posed_pairs:
            raise InputError(
                f"Pi3XConfig: posed_pairs is {self.posed_pairs}; its numbers must rise"
            )

    @property
    def trunk_block(self) -> BlockConfig:
        return BlockConfig(self.encoder.width, self.heads, qk_norm=True, layer_scale=0.01)

    @property
    def head_block(self) -> BlockConfig:
        return BlockConfig(self.head_width, self.head_heads)

    @property
    def metric_block(self) -> BlockConfig:
        return BlockConfig(self.metric_width, self.metric_heads)


PI3X = Pi3XConfig()
"""The released model (yyfz233/Pi3X), 1360.0 M parameters; without the branch for priors 992.5 M."""


class Pi3X(Model):
    """π³-X as released.

    Args:
      config: the sizes; `PI3X` is the released model.
      dtype: of the matrices and their inputs: float32 or bfloat16. Norms, the residual stream,
        softmax, rotary angles, cameras, rays and the convolutions of the heads are float32 in any
        case; in a bfloat16 model these convolutions may be TF32, as upstream's are.
    """

    first_view_is_world: ClassVar[bool] = False

    def __init__(
        self, config: Pi3XConfig, *, dtype: DTypeLike = jnp.float32, rngs: nnx.Rngs
    ) -> None:
        self.config = config
        width = config.encoder.width
        exact = jnp.dtype(dtype) == jnp.float32

        def decoder(width_out: int) -> TransformerDecoder:
            return TransformerDecoder(
                config.head_block, config.head_depth, 2 * width, width_out, dtype=dtype, rngs=rngs
            )

        def head(*outputs: int) -> ConvHead:
            return ConvHead(
                config.point_width,
                config.upsampled,
                config.last_width,
                outputs,
                precision=Precision.HIGHEST if exact else Precision.DEFAULT,
                rngs=rngs,
            )

        self.encoder = DinoV2(config.encoder, dtype=dtype, rngs=rngs)
        self.register_tokens = nnx.Param(
            1e-6 * jax.random.normal(rngs.params(), (config.registers, width))
        )
        self.conditioning = (
            Conditioning(
                config.encoder, config.trunk_block, config.posed_pairs, dtype=dtype, rngs=rngs
            )
            if config.priors
            else None
        )
        self.trunk = AlternatingAttention(
            config.trunk_block, config.pairs, taps=(config.pairs - 1,), dtype=dtype, rngs=rngs
        )
        self.point_decoder = decoder(config.point_width)
        self.confidence_decoder = decoder(config.point_width)
        self.camera_decoder = decoder(config.camera_width)
        self.point_head, self.confidence_head = head(2, 1), head(1)
        self.camera_head = CameraHead(config.camera_width, rngs=rngs)
        self.metric = MetricDecoder(
            config.metric_block,
            config.metric_depth,
            2 * width,
            config.metric_features,
            dtype=dtype,
            rngs=rngs,
        )

    def __call__(
        self,
        images: Float[Array, "B V H W 3"],
        *,
        attention: AttentionFn = attend_densely,
        priors: PriorArrays | None = None,
        rays: Float[Array, "B V H W 3"] | None = None,
        num_valid_views: Count | None = None,
        execution: ExecutionConfig = INFERENCE,
    ) -> Prediction:
        """Reconstructs the scenes.

        Args:
          images: RGB in [0, 1]; H and W are multiples of the patch size.
          attention: how the trunk's tokens attend; dense if not given.
          priors: what is known of the views. With none given, the branch for it is not run.
          rays: of each pixel in its camera's frame, in place of the priors' intrinsics; for cameras
            that are no pinholes.
          num_valid_views: so many first views count; see `encode`.
          execution: how the work is done; a static argument where this is compiled.

        Raises:
          ValueError: H or W is not a multiple of the patch size, or the model was built without the
            branch for priors and some are given, or there are rays without them.
        """
        encoded = self.encode(
            images,
            attention=attention,
            priors=priors,
            rays=rays,
            num_valid_views=num_valid_views,
            execution=execution,
        )
        return self.predict_all(encoded, self.layout(images.shape), execution=execution)

    def encode(
        self,
        images: Float[Array, "B V H W 3"],
        *,
        attention: AttentionFn = attend_densely,
        num_valid_views: Count | None = None,
        priors: PriorArrays | None = None,
        rays: Float[Array, "B V H W 3"] | None = None,
        execution: ExecutionConfig = INFERENCE,
    ) -> Encoded:
        """As every model's; for `priors` and `rays` see `__call__`."""
        layout = replace(self.layout(images.shape), num_valid_views=num_valid_views)
        rope = self.rope(layout, self.config.trunk_block)
        patches = encode_views(self.encoder, images, execution=execution)
        after_pair = None
        if rays is not None and priors is None:
            raise ValueError("rays: give priors too, which tell of which views there are some")
        if priors is not None:
            if self.conditioning is None:
                raise ValueError("priors: the model was built without the branch that takes them")
            known = known_geometry(priors, rays, collectives=execution.collectives)
            patches = patches + self.conditioning.features(known, execution=execution)
            after_pair = self.conditioning.exchange_after(
                known, layout, attention, execution=execution
            )
        tokens = with_registers(self.register_tokens[...], patches)
        features, stats = self.trunk(
            tokens, layout, attention, rope, after_pair=after_pair, execution=execution
        )
        metres = self.metric(
            features[-1],
            layout,
            self.rope(layout, self.config.metric_block),
            num_valid_views=num_valid_views,
            execution=execution,
        )
        return Encoded(views=(features[-1],), metric_scale=metres, skipped=skipped_by_scene(stats))

    def predict(
        self, encoded: Encoded, layout: TokenLayout, *, execution: ExecutionConfig = INFERENCE
    ) -> Prediction:
        (features,) = encoded.views
        views = features.shape[:2]
        flat = features.reshape(-1, *features.shape[2:])

        def raw_geometry(features: Array) -> tuple[Array, Array, Array]:
            return self.raw_geometry(features, layout, execution=execution)

        numbers = map_views(raw_geometry, flat, at_once=execution.head_views, execution=execution)
        raw, logits, pose = (x.reshape(*views, *x.shape[1:]) for x in numbers)
        metres = encoded.metric_scale[:, None, None]
        points_camera, logits = points_from_raw(raw), logits[..., 0]
        points_world = transform_points(pose[:, :, None, None], points_camera)
        return Prediction(
            points_world=points_world * metres[..., None, None],
            points_camera=points_camera * metres[..., None, None],
            confidence=jax.nn.sigmoid(logits),
            world_from_camera=pose.at[..., :3, 3].multiply(metres),
            confidence_logits=logits,
        )

    def raw_geometry(
        self,
        features: Float[Array, "G P E"],
        layout: TokenLayout,
        *,
        execution: ExecutionConfig = INFERENCE,
    ) -> tuple[Float[Array, "G H W 3"], Float[Array, "G H W 1"], Float[Array, "G 4 4"]]:
        """What the heads say: points as (x/z, y/z, log z), confidence logits, poses."""
        rope, patch = self.rope(layout, self.config.head_block), self.config.encoder.patch
        size = layout.grid[0] * patch, layout.grid[1] * patch

        def patches(decoder: TransformerDecoder) -> Float[Array, "G P E"]:
            hidden = decoder(features, layout, attend_densely, rope, execution=execution)
            return hidden[:, layout.leading :]

        of_points, of_confidence = (
            patches(decoder).astype(jnp.float32)
            for decoder in (self.point_decoder, self.confidence_decoder)
        )
        points = self.point_head(of_points, layout.grid, size)
        (logits,) = self.confidence_head(of_confidence, layout.grid, size)
        pose = self.camera_head(patches(self.camera_decoder), execution=execution)
        return jnp.concatenate(points, axis=-1), logits, pose

    def chunks(
        self, views: int, layout: TokenLayout, attention: AttentionFn, execution: ExecutionConfig
    ) -> Chunks:
        return self.trunk.chunks(views, layout, attention, execution) | {
            "encoder views": encoder_chunk(views, layout.grid, execution),
            HEAD_VIEWS: view_chunk(views, execution.head_views, execution),
        }

    def layout(self, shape: tuple[int, ...]) -> TokenLayout:
        """Token layout of one view of images of shape (B, V, H, W, 3)."""
        return TokenLayout(1, self.encoder.patch_grid(shape[1:]), self.config.registers)

    def rope(self, layout: TokenLayout, block: BlockConfig) -> RotaryTable:
        """Rotary table of one view's tokens, for the head width of `block`."""
        positions = grid_positions(layout.grid, layout.leading)
        return rotary_table(positions, block.width // block.heads, base=self.config.rope_base)


def points_from_raw(raw: Float[Array, "*dims 3"]) -> Float[Array, "*dims 3"]:
    """(x/z, y/z, log z) to (x, y, z); the logarithm is held below 15 first."""
    z = jnp.exp(jnp.minimum(raw[..., 2:], LARGEST_LOG_DEPTH))
    return jnp.concatenate([raw[..., :2] * z, z], axis=-1)
