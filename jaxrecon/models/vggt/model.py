"""VGGT: visual geometry grounded transformer (arXiv 2503.11651; upstream `vggt/models/vggt.py`).

The first view is the reference: the world frame is near its camera's frame.
"""

from dataclasses import dataclass, field, replace
from functools import partial
from typing import Literal

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from jaxrecon.deprecation import renamed_arguments
from jaxrecon.geometry import decode_pose, invert_rigid, transform_points, unproject_depth
from jaxrecon.models.model import Encoded, TrackingModel, skipped_by_scene
from jaxrecon.models.prediction import Prediction
from jaxrecon.models.vggt.heads import CameraHead, activate_depth, activate_points
from jaxrecon.models.vggt.tracks import TrackerConfig, TrackHead, Tracks
from jaxrecon.nn.alternating import AlternatingAttention, check_taps
from jaxrecon.nn.attention import AttentionFn, Count, TokenLayout, attend_densely
from jaxrecon.nn.block import BlockConfig
from jaxrecon.nn.dinov2 import DINOV2_LARGE, DinoV2, DinoV2Config, encode_views, encoder_chunk
from jaxrecon.nn.dpt import DenseHead, DPTConfig
from jaxrecon.nn.execution import HEAD_VIEWS, INFERENCE, Chunks, ExecutionConfig, view_chunk
from jaxrecon.nn.offload import to_device
from jaxrecon.nn.rope import RotaryTable, grid_positions, rotary_table
from jaxrecon.nn.views import map_views
from jaxrecon.pytree import pytree_dataclass
from jaxrecon.sizes import MOST_BLOCKS, MOST_WIDTH, check_heads, check_real, check_whole

BLOCK_EPS = 1e-5

type Points = Literal["depth", "pointmap"]


@dataclass(frozen=True)
class VGGTConfig:
    """Sizes of a VGGT model.

    Attributes:
      encoder: the image encoder; its width is the trunk's width too.
      heads: attention heads of the trunk.
      pairs: (frame, global) block pairs of the trunk.
      taps: the four pairs whose outputs the heads use, the last pair among them.
      registers: register tokens of each view in the trunk, behind its camera token.
      camera_heads, camera_depth, camera_rounds: the camera head and how often it refines.
      channels, features: of the dense heads.
      track: whether the model has a track head.
      tracker: sizes of the track head.
      rope_base: wavelength base of the rotary embedding.

    Raises:
      InputError: a size is out of range, heads do not divide a width, or the taps do not rise to
        the last pair.
    """

    encoder: DinoV2Config = field(default=DINOV2_LARGE)
    heads: int = 16
    pairs: int = 24
    taps: tuple[int, int, int, int] = (4, 11, 17, 23)
    registers: int = 4
    camera_heads: int = 16
    camera_depth: int = 4
    camera_rounds: int = 4
    channels: tuple[int, int, int, int] = (256, 512, 1024, 1024)
    features: int = 256
    track: bool = True
    tracker: TrackerConfig = field(default_factory=TrackerConfig)
    rope_base: float = 100.0

    def __post_init__(self) -> None:
        check_whole(self, "pairs", "camera_depth", "camera_rounds", most=MOST_BLOCKS)
        check_whole(self, "registers", least=0, most=MOST_BLOCKS)
        check_whole(self, "channels", "features", most=MOST_WIDTH)
        check_heads(self, "heads", self.encoder.width, multiple=4)
        check_heads(self, "camera_heads", 2 * self.encoder.width)
        check_real(self, "rope_base", least=1.0, most=1e9)
        check_taps(self.taps, self.pairs, "pair")
        _ = self.dense, self.track_features

    @property
    def trunk_block(self) -> BlockConfig:
        return BlockConfig(
            self.encoder.width, self.heads, qk_norm=True, layer_scale=0.01, norm_eps=BLOCK_EPS
        )

    @property
    def camera_block(self) -> BlockConfig:
        return BlockConfig(
            2 * self.encoder.width, self.camera_heads, layer_scale=0.01, norm_eps=BLOCK_EPS
        )

    @property
    def dense(self) -> DPTConfig:
        return DPTConfig(2 * self.encoder.width, self.channels, self.features, self.features // 2)

    @property
    def track_features(self) -> DPTConfig:
        features = self.tracker.features
        return DPTConfig(2 * self.encoder.width, self.channels, features, features, position=False)


VGGT_1B = VGGTConfig()
"""The released model (facebook/VGGT-1B), 1256.5 M parameters with the track head."""


@pytree_dataclass
class VGGTOutput:
    """What VGGT's heads tell of `V` views of `B` scenes, in float32.

    Attributes:
      pose_encodings: cameras after each round of refinement; see `geometry.pose_encoding`.
      depth_z: depth of each pixel.
      depth_confidence: of the depth; above 1.
      points_world: the point head's own points, in the world frame.
      points_confidence: of these points; above 1.
    """

    pose_encodings: Float[Array, "rounds B V 9"]
    depth_z: Float[Array, "B V H W"]
    depth_confidence: Float[Array, "B V H W"]
    points_world: Float[Array, "B V H W 3"]
    points_confidence: Float[Array, "B V H W"]

    def prediction(self, points: Points = "depth") -> Prediction:
        """Cameras of the last round, with the points of one of the two heads.

        Args:
          points: "depth" moves each depth along its pixel's ray; "pointmap" takes the point head's
            points. Upstream finds the first more accurate.
        """
        size = self.depth_z.shape[2], self.depth_z.shape[3]
        camera_from_world, intrinsics = decode_pose(self.pose_encodings[-1], size)
        world_from_camera = invert_rigid(camera_from_world)
        if points == "depth":
            points_camera = unproject_depth(self.depth_z, intrinsics)
            points_world = transform_points(world_from_camera[:, :, None, None], points_camera)
        else:
            points_world = self.points_world
            points_camera = transform_points(camera_from_world[:, :, None, None], points_world)
        return Prediction(
            points_world=points_world,
            points_camera=points_camera,
            confidence=self.depth_confidence if points == "depth" else self.points_confidence,
            world_from_camera=world_from_camera,
            intrinsics=intrinsics,
        )


class VGGT(TrackingModel):
    """VGGT as released.

    Args:
      config: the sizes; `VGGT_1B` is the released model.
      dtype: of the matrices and their inputs: float32 or bfloat16. Norms, the residual stream,
        softmax, rotary angles, the last layer of each head, and the whole camera head and tracker
        are float32 in any case.
    """

    def __init__(
        self, config: VGGTConfig, *, dtype: DTypeLike = jnp.float32, rngs: nnx.Rngs
    ) -> None:
        self.config = config
        width, normal = config.encoder.width, nnx.initializers.normal(1e-6)
        self.encoder = DinoV2(config.encoder, dtype=dtype, rngs=rngs)
        self.camera_tokens = nnx.Param(normal(rngs.params(), (2, 1, width)))
        self.register_tokens = nnx.Param(normal(rngs.params(), (2, config.registers, width)))
        self.trunk = AlternatingAttention(
            config.trunk_block, config.pairs, taps=config.taps, dtype=dtype, rngs=rngs
        )
        self.camera_head = CameraHead(
            config.camera_block, config.camera_depth, rounds=config.camera_rounds, rngs=rngs
        )
        self.depth_head = DenseHead(config.dense, 2, dtype=dtype, rngs=rngs)
        self.point_head = DenseHead(config.dense, 4, dtype=dtype, rngs=rngs)
        self.track_head = (
            TrackHead(config.track_features, config.tracker, dtype=dtype, rngs=rngs)
            if config.track
            else None
        )

    @renamed_arguments(real_views="num_valid_views")
    def __call__(
        self,
        images: Float[Array, "B V H W 3"],
        *,
        attention: AttentionFn = attend_densely,
        points: Points = "depth",
        num_valid_views: Count | None = None,
        execution: ExecutionConfig = INFERENCE,
    ) -> Prediction:
        """Reconstructs the scenes.

        Args:
          images: RGB in [0, 1]; H and W are multiples of the patch size.
          attention: how the trunk's tokens attend; dense if not given.
          points: which head's points are returned; see `VGGTOutput.prediction`. Compiled, the
            other head is not run.
          num_valid_views: so many first views count; see `encode`.
          execution: how the work is done; a static argument where this is compiled.

        Raises:
          ValueError: H or W is not a multiple of the patch size.
        """
        encoded = self.encode(
            images, attention=attention, num_valid_views=num_valid_views, execution=execution
        )
        layout = self.layout(images.shape)
        return self.predict_all(encoded, layout, execution=execution, points=points)

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
        tokens, rope = self.tokens(images, execution=execution), self.rope(layout)
        features, stats = self.trunk(tokens, layout, attention, rope, execution=execution)
        cameras = self.cameras(features, num_valid_views, execution=execution)
        return Encoded(stacked=(features, cameras), skipped=skipped_by_scene(stats))

    def predict(
        self,
        encoded: Encoded,
        layout: TokenLayout,
        *,
        execution: ExecutionConfig = INFERENCE,
        points: Points = "depth",
    ) -> Prediction:
        features, cameras = encoded.stacked
        return self.read(features, cameras, layout, execution=execution).prediction(points)

    def chunks(
        self, views: int, layout: TokenLayout, attention: AttentionFn, execution: ExecutionConfig
    ) -> Chunks:
        return self.trunk.chunks(views, layout, attention, execution) | {
            "encoder views": encoder_chunk(views, layout.grid, execution),
            HEAD_VIEWS: view_chunk(views, execution.head_views, execution),
        }

    def layout(self, shape: tuple[int, ...]) -> TokenLayout:
        """Token layout of one view of images of shape (B, V, H, W, 3)."""
        return TokenLayout(1, self.encoder.patch_grid(shape[1:]), 1 + self.config.registers)

    def rope(self, layout: TokenLayout) -> RotaryTable:
        """Rotary table of one view's tokens."""
        block = self.config.trunk_block
        positions = grid_positions(layout.grid, layout.leading)
        return rotary_table(positions, block.width // block.heads, base=self.config.rope_base)

    def tokens(
        self, images: Float[Array, "B V H W 3"], *, execution: ExecutionConfig = INFERENCE
    ) -> Float[Array, "B V P D"]:
        """Tokens that enter the trunk: [camera | registers | patches] of each view, in float32.

        The first view has a camera token and registers of its own.
        """
        batch, views = images.shape[:2]
        patches = encode_views(self.encoder, images, execution=execution)
        specials = jnp.concatenate([self.camera_tokens[...], self.register_tokens[...]], axis=1)
        is_first = execution.collectives.first_view(views) + np.arange(views) == 0
        chosen = specials[1 - is_first.astype(np.int32)]
        return jnp.concatenate([jnp.broadcast_to(chosen, (batch, *chosen.shape)), patches], axis=2)

    def cameras(
        self,
        features: Float[Array, "4 B V P E"],
        num_valid_views: Count | None = None,
        *,
        execution: ExecutionConfig = INFERENCE,
    ) -> Float[Array, "rounds B V 9"]:
        """Pose encodings after each round of refinement, for which the views exchange."""
        tokens = to_device(features[-1, :, :, 0]).astype(jnp.float32)
        return self.camera_head(tokens, num_valid_views, execution=execution)

    def read(
        self,
        features: Float[Array, "4 B V P E"],
        cameras: Float[Array, "rounds B V 9"],
        layout: TokenLayout,
        *,
        execution: ExecutionConfig = INFERENCE,
    ) -> VGGTOutput:
        """Depth and points from the tapped outputs, beside `cameras`; each view on its own."""
        dense = partial(self.dense, features=features, layout=layout, execution=execution)
        depth, depth_confidence = activate_depth(dense(self.depth_head))
        points, points_confidence = activate_points(dense(self.point_head))
        return VGGTOutput(
            pose_encodings=cameras,
            depth_z=depth,
            depth_confidence=depth_confidence,
            points_world=points,
            points_confidence=points_confidence,
        )

    def dense(
        self,
        head: DenseHead,
        features: Float[Array, "4 B V P E"],
        layout: TokenLayout,
        *,
        execution: ExecutionConfig = INFERENCE,
    ) -> Float[Array, "B V H W C"]:
        """The numbers of one dense head, a few views at a time."""
        size = self.size(layout)
        flat = features.reshape(4, -1, *features.shape[3:])
        raw = map_views(
            lambda x: head(x[:, :, layout.leading :], layout.grid, size, execution=execution),
            flat,
            at_once=execution.head_views,
            axis=1,
            execution=execution,
        )
        return raw.reshape(*features.shape[1:3], *raw.shape[1:])

    @property
    def smallest_tracked(self) -> int | None:
        return None if self.track_head is None else self.config.tracker.smallest_image

    def track_maps(
        self, encoded: Encoded, layout: TokenLayout, *, execution: ExecutionConfig = INFERENCE
    ) -> Float[Array, "B V h w C"]:
        head, features = self._track_head(), encoded.stacked[0]
        return head.maps(features, layout, self.size(layout), execution=execution)

    @renamed_arguments(real="num_valid_points")
    def follow(
        self,
        maps: Float[Array, "B V h w C"],
        query_points: Float[Array, "B Q 2"],
        num_valid_points: Count | None = None,
        *,
        execution: ExecutionConfig = INFERENCE,
    ) -> Tracks:
        head = self._track_head()
        return head.follow(maps, query_points, num_valid_points, execution=execution)

    def _track_head(self) -> TrackHead:
        if self.track_head is None:
            raise ValueError("the model has no track head; build it with track=True")
        return self.track_head

    def size(self, layout: TokenLayout) -> tuple[int, int]:
        """Height and width of the images that have such a layout."""
        patch = self.config.encoder.patch
        return layout.grid[0] * patch, layout.grid[1] * patch
