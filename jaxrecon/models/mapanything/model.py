"""MapAnything: metric geometry from images and whatever else is known (arXiv 2509.13414).

The first view is the reference: the world frame is near its camera's frame.
"""

from dataclasses import dataclass, field, replace

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from jaxrecon.deprecation import renamed_arguments
from jaxrecon.models.mapanything.encoders import NORM_EPS, GeometryEncoder
from jaxrecon.models.mapanything.output import (
    NUMBERS,
    MapAnythingOutput,
    PoseHead,
    ScaleHead,
    compose,
    metres,
)
from jaxrecon.models.mapanything.priors import geometry_of
from jaxrecon.models.model import Encoded, Model, skipped_by_scene
from jaxrecon.models.prediction import Prediction
from jaxrecon.nn.alternating import GlobalFirstAttention, check_taps
from jaxrecon.nn.attention import AttentionFn, Count, TokenLayout, attend_densely
from jaxrecon.nn.block import BlockConfig, MlpKind
from jaxrecon.nn.dinov2 import (
    DINOV2_GIANT,
    DINOV2_LARGE,
    DinoV2,
    DinoV2Config,
    encode_views,
    encoder_chunk,
)
from jaxrecon.nn.dpt import DenseHead, DPTConfig
from jaxrecon.nn.exact import apply_for
from jaxrecon.nn.execution import HEAD_VIEWS, INFERENCE, Chunks, ExecutionConfig, view_chunk
from jaxrecon.nn.layers import layer_norm, linear
from jaxrecon.nn.views import map_views
from jaxrecon.priors import PriorArrays
from jaxrecon.pytree import pytree_dataclass
from jaxrecon.sizes import MOST_BLOCKS, MOST_WIDTH, check_heads, check_whole


@dataclass(frozen=True)
class MapAnythingConfig:
    """Sizes and options of a MapAnything model.

    Attributes:
      encoder: the image encoder.
      width, heads, mlp, layer_scale: of the trunk's blocks.
      pairs: (global, frame) block pairs of the trunk.
      taps: the three blocks of the trunk whose outputs the heads use, the last block among them.
      class_token: whether the encoder's class token of each view enters the trunk.
      dense_widths, vector_widths: of the encoders of maps and of single vectors.
      channels, features: of the dense head.
      pose_width, scale_width: of the pose and the scale head.

    Raises:
      InputError: a size is out of range, the heads do not divide the width, or the taps do not rise
        to the last block.
    """

    encoder: DinoV2Config = field(default=replace(DINOV2_GIANT, depth=24, final_norm=False))
    width: int = 1536
    heads: int = 24
    mlp: MlpKind = "swiglu"
    layer_scale: float | None = 1e-5
    pairs: int = 8
    taps: tuple[int, int, int] = (7, 11, 15)
    class_token: bool = True
    dense_widths: tuple[int, int, int] = (588, 768, 1024)
    vector_widths: tuple[int, int, int] = (128, 256, 512)
    channels: tuple[int, int, int, int] = (96, 192, 384, 768)
    features: int = 256
    pose_width: int = 784
    scale_width: int = 196

    def __post_init__(self) -> None:
        check_whole(self, "pairs", most=MOST_BLOCKS)
        check_whole(self, "width", "dense_widths", "vector_widths", "channels", most=MOST_WIDTH)
        check_whole(self, "features", least=2, most=MOST_WIDTH)
        check_whole(self, "pose_width", "scale_width", most=MOST_WIDTH)
        check_heads(self, "heads", self.width)
        check_taps(self.taps, 2 * self.pairs, "block")
        _ = self.trunk_block, self.dense

    @property
    def trunk_block(self) -> BlockConfig:
        return BlockConfig(self.width, self.heads, layer_scale=self.layer_scale, mlp=self.mlp)

    @property
    def dense(self) -> DPTConfig:
        return DPTConfig(
            self.width,
            self.channels,
            self.features,
            self.features // 2,
            hidden=self.features // 2,
            position=False,
            norm=False,
            rectified_skip=False,
            crop=True,
            shallow_width=self.encoder.width,
        )


MAPANYTHING = MapAnythingConfig()
"""The released model (facebook/map-anything and facebook/map-anything-apache, both version 1.1),
1228.5 M parameters."""

MAPANYTHING_V1 = MapAnythingConfig(
    encoder=replace(DINOV2_LARGE, registers=0, resampling="offset"),
    width=768,
    heads=12,
    mlp="gelu",
    layer_scale=None,
    pairs=12,
    taps=(11, 17, 23),
    class_token=False,
)
"""Version 1 (facebook/map-anything-v1 and facebook/map-anything-apache-v1), 563.3 M parameters."""

MAPANYTHING_MINI = MapAnythingConfig(
    encoder=DinoV2Config(width=384, depth=0, heads=6, registers=0, grid=16),
    width=384,
    heads=6,
    mlp="gelu",
    layer_scale=1.0,
    pairs=4,
    taps=(3, 5, 7),
    class_token=False,
    dense_widths=(128, 192, 256),
    vector_widths=(64, 128, 256),
    channels=(48, 96, 192, 384),
    features=64,
    pose_width=128,
    scale_width=64,
)
"""Small enough to train on rendered scenes in minutes; no weights of it are shipped."""


@pytree_dataclass
class Features:
    """What the heads work on.

    Attributes:
      fused: features of the patches before the trunk.
      tapped: tokens of each view after the tapped blocks of the trunk, not yet normed.
      scale: the scene's scale token after the trunk, not yet normed.
      skipped: see `Prediction`.
    """

    fused: Float[Array, "B V P D"]
    tapped: Float[Array, "3 B V T E"]
    scale: Float[Array, "B E"]
    skipped: Float[Array, "B layers N"] | None = None


class MapAnything(Model):
    """MapAnything as released.

    Args:
      config: the sizes; `MAPANYTHING` is the released model.
      dtype: of the matrices and their inputs: float32 or bfloat16. Norms, the residual stream,
        softmax, the last layer of the dense head, the pose and the scale head and the encoders of
        geometry are float32 in any case.
    """

    def __init__(
        self, config: MapAnythingConfig, *, dtype: DTypeLike = jnp.float32, rngs: nnx.Rngs
    ) -> None:
        self.config = config
        encoder, width, float32 = config.encoder, config.width, jnp.float32
        self.encoder = DinoV2(encoder, dtype=dtype, rngs=rngs)
        self.geometry = GeometryEncoder(
            config.dense_widths,
            config.vector_widths,
            encoder.width,
            patch=encoder.patch,
            dtype=dtype,
            rngs=rngs,
        )
        self.fusion_norm = layer_norm(encoder.width, eps=NORM_EPS, dtype=float32, rngs=rngs)
        self.scale_token = nnx.Param(nnx.initializers.normal(0.02)(rngs.params(), (encoder.width,)))
        self.project = (
            linear(encoder.width, width, dtype=dtype, rngs=rngs) if width != encoder.width else None
        )
        self.trunk = GlobalFirstAttention(
            config.trunk_block, config.pairs, taps=config.taps, dtype=dtype, rngs=rngs
        )
        self.norm = layer_norm(width, eps=NORM_EPS, dtype=float32, rngs=rngs)
        self.dense_head = DenseHead(config.dense, NUMBERS, dtype=dtype, rngs=rngs)
        self.pose_head = PoseHead(width, config.pose_width, rngs=rngs)
        self.scale_head = ScaleHead(width, config.scale_width, rngs=rngs)

    @renamed_arguments(conditions="priors", real_views="num_valid_views")
    def __call__(
        self,
        images: Float[Array, "B V H W 3"],
        *,
        attention: AttentionFn = attend_densely,
        priors: PriorArrays | None = None,
        num_valid_views: Count | None = None,
        execution: ExecutionConfig = INFERENCE,
    ) -> Prediction:
        """Reconstructs the scenes.

        Args:
          images: RGB in [0, 1]; H and W are multiples of the patch size.
          attention: how the trunk's tokens attend; dense if not given.
          priors: what is known of the views. With none given, the encoders of geometry are
            not run.
          num_valid_views: so many first views count; see `encode`.
          execution: how the work is done; a static argument where this is compiled.

        Raises:
          ValueError: H or W is not a multiple of the patch size.
        """
        encoded = self.encode(
            images,
            attention=attention,
            priors=priors,
            num_valid_views=num_valid_views,
            execution=execution,
        )
        return self.predict_all(encoded, self.layout(images.shape), execution=execution)

    @renamed_arguments(conditions="priors", real_views="num_valid_views")
    def encode(
        self,
        images: Float[Array, "B V H W 3"],
        *,
        attention: AttentionFn = attend_densely,
        num_valid_views: Count | None = None,
        priors: PriorArrays | None = None,
        execution: ExecutionConfig = INFERENCE,
    ) -> Encoded:
        """As every model's; for `priors` see `__call__`."""
        features = self.features(
            images,
            attention=attention,
            priors=priors,
            num_valid_views=num_valid_views,
            execution=execution,
        )
        return Encoded(
            views=features.fused,
            stacked=features.tapped,
            metric_scale=metres(self.scale(features.scale)),
            skipped=features.skipped,
        )

    def predict(
        self, encoded: Encoded, layout: TokenLayout, *, execution: ExecutionConfig = INFERENCE
    ) -> Prediction:
        output = self.read(
            encoded.views, encoded.stacked, encoded.metric_scale, layout, execution=execution
        )
        return output.prediction()

    def chunks(
        self, views: int, layout: TokenLayout, attention: AttentionFn, execution: ExecutionConfig
    ) -> Chunks:
        with_scene = replace(layout, scene=1)
        return self.trunk.chunks(views, with_scene, attention, execution) | {
            "encoder views": encoder_chunk(views, layout.grid, execution),
            HEAD_VIEWS: view_chunk(views, execution.head_views, execution),
        }

    def layout(self, shape: tuple[int, ...]) -> TokenLayout:
        """Token layout of one view of images of shape (B, V, H, W, 3)."""
        grid = self.encoder.patch_grid(shape[1:])
        return TokenLayout(1, grid, trailing=int(self.config.class_token))

    def features(
        self,
        images: Float[Array, "B V H W 3"],
        *,
        attention: AttentionFn = attend_densely,
        priors: PriorArrays | None = None,
        num_valid_views: Count | None = None,
        execution: ExecutionConfig = INFERENCE,
    ) -> Features:
        """Features of the views, which all heads share; see `__call__`."""
        layout = replace(self.layout(images.shape), num_valid_views=num_valid_views)
        fused, classes = self.fused(images, priors, execution=execution)
        tokens, scene = self.tokens(fused, classes, execution=execution)
        tapped, scene, stats = self.trunk(tokens, layout, attention, scene, execution=execution)
        skipped = skipped_by_scene(stats)
        return Features(fused=fused, tapped=tapped, scale=scene[:, 0], skipped=skipped)

    def fused(
        self,
        images: Float[Array, "B V H W 3"],
        priors: PriorArrays | None,
        *,
        execution: ExecutionConfig = INFERENCE,
    ) -> tuple[Float[Array, "B V P D"], Float[Array, "B V 1 D"]]:
        """Features of the patches with what is known of them, normed, and the class tokens."""
        encoded = encode_views(self.encoder, images, patches_only=False, execution=execution)
        patches = encoded[:, :, 1:]
        if priors is not None:
            known = geometry_of(priors, execution.collectives)
            patches = patches + self.geometry(known)
        return self.fusion_norm(patches), encoded[:, :, :1]

    def tokens(
        self,
        fused: Float[Array, "B V P D"],
        classes: Float[Array, "B V 1 D"],
        *,
        execution: ExecutionConfig = INFERENCE,
    ) -> tuple[Float[Array, "B V T E"], Float[Array, "B 1 E"]]:
        """Tokens that enter the trunk, of the views and of the scene, in float32.

        A fixed vector marks all tokens of the first view.
        """
        tokens = jnp.concatenate([fused, classes], axis=2) if self.config.class_token else fused
        scene = jnp.broadcast_to(self.scale_token[...], (fused.shape[0], 1, fused.shape[3]))
        if self.project is not None:
            tokens, scene = (self.project(x).astype(jnp.float32) for x in (tokens, scene))
        views = fused.shape[1]
        is_first = execution.collectives.first_view(views) + np.arange(views) == 0
        mark = np.arange(self.config.width) % 2
        marks = is_first[:, None, None].astype(np.int32) * mark[None, None]
        return tokens + jnp.asarray(marks, jnp.float32)[None], scene

    def read(
        self,
        fused: Float[Array, "B V P D"],
        tapped: Float[Array, "3 B V T E"],
        metric_scale: Float[Array, "B"],
        layout: TokenLayout,
        *,
        execution: ExecutionConfig = INFERENCE,
    ) -> MapAnythingOutput:
        """Geometry from the fields of `Features`; each view on its own."""
        dense = self.dense(fused, tapped, layout, execution=execution)
        return compose(dense, self.poses(tapped, layout, execution=execution), metric_scale)

    def dense(
        self,
        fused: Float[Array, "B V P D"],
        tapped: Float[Array, "3 B V T E"],
        layout: TokenLayout,
        *,
        execution: ExecutionConfig = INFERENCE,
    ) -> Float[Array, "B V H W 6"]:
        """The numbers of the dense head, a few views at a time."""
        patch = self.config.encoder.patch
        size = layout.grid[0] * patch, layout.grid[1] * patch

        def some_views(x: tuple[Array, Array]) -> Float[Array, "g H W 6"]:
            (fused,), tapped = x
            patches = fused, *(self.patches(tokens, layout) for tokens in tapped)
            return self.dense_head(patches, layout.grid, size, execution=execution)

        flat = _flat(fused[None]), _flat(tapped)
        at_once = execution.head_views
        raw = map_views(some_views, flat, at_once=at_once, axis=1, execution=execution)
        return raw.reshape(*fused.shape[:2], *raw.shape[1:])

    def poses(
        self,
        tapped: Float[Array, "3 B V T E"],
        layout: TokenLayout,
        *,
        execution: ExecutionConfig = INFERENCE,
    ) -> Float[Array, "B V 7"]:
        """Translation and quaternion of each view, a few views at a time."""
        apply = apply_for(self.dense_head.conv.kernel[...].dtype, execution)

        def some_views(x: Array) -> Float[Array, "g 7"]:
            patches = self.patches(x[-1], layout)
            return self.pose_head(patches, apply=apply, execution=execution)

        raw = map_views(
            some_views,
            _flat(tapped),
            at_once=execution.head_views,
            axis=1,
            execution=execution,
        )
        return raw.reshape(*tapped.shape[1:3], 7)

    def scale(self, token: Float[Array, "B E"]) -> Float[Array, "B"]:
        """Logarithm of the metric scale of each scene, from its scale token."""
        return self.scale_head(self.norm(token))

    def patches(self, tokens: Float[Array, "G T E"], layout: TokenLayout) -> Float[Array, "G P E"]:
        """The patches among the trunk's tokens, normed, in float32."""
        return self.norm(tokens[:, : layout.grid[0] * layout.grid[1]])


def _flat(x: Float[Array, "taps B V T D"]) -> Float[Array, "taps G T D"]:
    """Views of all scenes in one row."""
    return x.reshape(x.shape[0], -1, *x.shape[3:])
