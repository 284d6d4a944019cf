"""VGGT's tracks: points of the first view followed through all views by refinement.

Source: upstream `vggt/heads/track_head.py` and `track_modules/`, after VGGSfM (arXiv 2312.04563)
and CoTracker (arXiv 2307.07635).
"""

from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from jaxrecon.errors import InputError
from jaxrecon.models.prediction import Tracks
from jaxrecon.models.vggt.correlation import (
    Pyramid,
    correlate,
    embed_motion,
    embed_places,
    feature_pyramid,
    sample_features,
)
from jaxrecon.nn.attention import Count, TokenLayout, attend_densely
from jaxrecon.nn.block import Block, BlockConfig, stack_blocks
from jaxrecon.nn.dpt import DPT, DPTConfig, resize_bilinear
from jaxrecon.nn.execution import INFERENCE, ExecutionConfig
from jaxrecon.nn.layers import Mlp, gelu, layer_norm, linear, scan_layers
from jaxrecon.nn.views import map_views
from jaxrecon.sizes import MOST_BLOCKS, MOST_WIDTH, check_heads, check_real, check_whole

NORM_EPS = 1e-5


@dataclass(frozen=True)
class TrackerConfig:
    """Sizes of the tracker.

    Attributes:
      features: channels of the feature maps and of a track.
      stride: pixels of the image for one of the feature maps.
      levels, radius: of the windows in which a track looks around.
      width, depth, heads: of the transformer that updates the tracks.
      virtual: its virtual tracks, through which the tracks of a view exchange.
      rounds: how often the tracks are refined.
      motion_scale: divides motion where it enters as a number.

    Raises:
      InputError: a size is out of range, or the heads do not divide the width.
    """

    features: int = 128
    stride: int = 2
    levels: int = 7
    radius: int = 4
    width: int = 384
    depth: int = 6
    heads: int = 8
    virtual: int = 64
    rounds: int = 4
    motion_scale: float = 518.0

    def __post_init__(self) -> None:
        check_whole(self, "features", "width", "virtual", most=MOST_WIDTH)
        check_whole(self, "stride", most=256)
        check_whole(self, "levels", most=12)
        check_whole(self, "radius", least=0, most=64)
        check_whole(self, "depth", "rounds", most=MOST_BLOCKS)
        check_heads(self, "heads", self.width)
        check_real(self, "motion_scale", least=1e-3, most=1e6)

    @property
    def smallest_image(self) -> int:
        """The least height and width of an image, in pixels."""
        return self.stride * 2 ** (self.levels - 1)

    @property
    def window(self) -> int:
        """Numbers that a track sees in its windows."""
        return self.levels * (2 * self.radius + 1) ** 2

    @property
    def token(self) -> int:
        """Width of what enters the transformer."""
        return 3 * self.features + 4

    def block(self, *, cross: bool = False) -> BlockConfig:
        """The transformer's blocks."""
        return BlockConfig(
            self.width, self.heads, norm_eps=NORM_EPS, normed_residual=True, cross=cross
        )


def check_query_points(
    points: Float[np.ndarray, "..."],
    height: int,
    width: int,
    *,
    smallest: int = 1,
    name: str = "query_points",
) -> None:
    """Refuses points that cannot be tracked.

    Args:
      points: (Q, 2) or (B, Q, 2): x and y in pixels of the first processed image.
      height, width: of that image.
      smallest: least height and width that the tracker takes; see `TrackerConfig.smallest_image`.
      name: what the points are called in messages.

    Raises:
      InputError: the shape is another, there is no point, a point is not finite or outside the
        image, or the image is too small.
    """
    if min(height, width) < smallest:
        raise InputError(
            f"tracks need images of at least {smallest} pixels a side, found {width}x{height}; "
            "give a higher resolution"
        )
    if points.ndim not in (2, 3) or points.shape[-1] != 2 or not points.size:
        raise InputError(
            f"{name} has shape {points.shape}; expected (Q, 2) or, for a batch of scenes, "
            "(B, Q, 2), at least one (x, y) in pixels"
        )
    flat = points.reshape(-1, 2)
    outside = ~((flat >= 0) & (flat <= (width - 1, height - 1))).all(axis=1)
    if outside.any():
        number = int(outside.argmax())
        x, y = flat[number].tolist()
        what = "is outside the image" if np.isfinite(flat[number]).all() else "is not finite"
        raise InputError(
            f"{name}[{number}] = ({x:g}, {y:g}) {what}; give x from 0 to {width - 1} and y "
            f"from 0 to {height - 1}"
        )


class UpdateTransformer(nnx.Module):
    """Attention along each track and, within each view, between tracks by way of virtual ones."""

    def __init__(self, config: TrackerConfig, *, rngs: nnx.Rngs) -> None:
        def blocks(*, cross: bool) -> Block:
            block = config.block(cross=cross)
            return stack_blocks(block, config.depth, dtype=jnp.float32, rngs=rngs)

        width, float32 = config.width, jnp.float32
        normal = nnx.initializers.normal(1.0)
        self.norm_in = layer_norm(config.token, eps=NORM_EPS, dtype=float32, rngs=rngs)
        self.project = linear(config.token, width, dtype=float32, rngs=rngs)
        self.virtual_tracks = nnx.Param(normal(rngs.params(), (config.virtual, width)))
        self.along = blocks(cross=False)
        self.gather = blocks(cross=True)
        self.between = blocks(cross=False)
        self.spread = blocks(cross=True)
        self.norm_out = layer_norm(width, eps=NORM_EPS, dtype=float32, rngs=rngs)
        self.out = linear(width, 2 + config.features, dtype=float32, rngs=rngs)

    def __call__(
        self,
        x: Float[Array, "B Q V E"],
        num_valid_points: Count | None = None,
        *,
        execution: ExecutionConfig = INFERENCE,
    ) -> Float[Array, "B Q V F"]:
        """Changes of place (2) and of features of each track in each view.

        Only tracks of the first `num_valid_points` points are seen by others; all if not given.
        """
        tokens = self.project(self.norm_in(x))
        batch, queries, views, width = tokens.shape
        virtual = self.virtual_tracks[...][:, None]
        virtual = jnp.broadcast_to(virtual, (batch, virtual.shape[0], views, width))
        tracks = jnp.concatenate([tokens, virtual], axis=1)
        layers = self.along, self.gather, self.between, self.spread

        def step(x: Array, layer: tuple[Block, Block, Block, Block]) -> tuple[Array, None]:
            return _exchange(x, layer, queries, num_valid_points, execution=execution), None

        tracks, _ = scan_layers(step, tracks, layers, execution=execution)
        return self.out(self.norm_out(tracks[:, :queries] + tokens))


def _exchange(
    tracks: Float[Array, "B T V D"],
    blocks: tuple[Block, Block, Block, Block],
    queries: int,
    num_valid: Count | None,
    *,
    execution: ExecutionConfig,
) -> Float[Array, "B T V D"]:
    """One layer: along each track, then within each view."""
    along, gather, between, spread = blocks
    attend = partial(_attend, execution=execution)
    batch, count, views, width = tracks.shape
    tracks = attend(along, tracks.reshape(-1, views, width)).reshape(tracks.shape)
    by_view = tracks.swapaxes(1, 2).reshape(-1, count, width)
    points, virtual = by_view[:, :queries], by_view[:, queries:]
    virtual = attend(between, attend(gather, virtual, points, num_valid))
    points = attend(spread, points, virtual)
    joined = jnp.concatenate([points, virtual], axis=1)
    return joined.reshape(batch, views, count, width).swapaxes(1, 2)


def _attend(
    block: Block,
    x: Float[Array, "G T D"],
    context: Float[Array, "G S D"] | None = None,
    num_valid: Count | None = None,
    *,
    execution: ExecutionConfig,
) -> Float[Array, "G T D"]:
    """Each token sees the context, or its first `num_valid` tokens; without one, all others."""
    seen = x.shape[1] if context is None else context.shape[1]
    layout = TokenLayout(seen, (1, 1), num_valid_views=num_valid)
    return block(x, layout, attend_densely, context=context, execution=execution)


class Tracker(nnx.Module):
    """Feature maps and query points to tracks; all in float32."""

    def __init__(self, config: TrackerConfig, *, rngs: nnx.Rngs) -> None:
        self.config = config
        features, float32 = config.features, jnp.float32
        normal = nnx.initializers.normal(1.0)
        self.map_norm = layer_norm(features, eps=NORM_EPS, dtype=float32, rngs=rngs)
        self.window_mlp = Mlp(config.window, config.width, features, dtype=float32, rngs=rngs)
        self.view_tokens = nnx.Param(normal(rngs.params(), (2, config.token)))
        self.transformer = UpdateTransformer(config, rngs=rngs)
        self.update_norm = layer_norm(features, eps=NORM_EPS, dtype=float32, rngs=rngs)
        self.update = linear(features, features, dtype=float32, rngs=rngs)
        self.visibility = linear(features, 1, dtype=float32, rngs=rngs)
        self.confidence = linear(features, 1, dtype=float32, rngs=rngs)

    def __call__(
        self,
        maps: Float[Array, "B V h w C"],
        query_points: Float[Array, "B Q 2"],
        num_valid_points: Count | None = None,
        *,
        execution: ExecutionConfig = INFERENCE,
    ) -> tuple[Float[Array, "rounds B V Q 2"], Float[Array, "B V Q"], Float[Array, "B V Q"]]:
        """Positions after each round, visibility and confidence after the last.

        Args:
          maps: features of all views at the tracker's stride.
          query_points: (x, y) in pixels of the first image.
          num_valid_points: so many first points count; the others are padding, which changes
            nothing of the first ones. All count if not given.

        Raises:
          ValueError: the maps are too small.
        """
        pyramid = feature_pyramid(self.map_norm(maps), self.config.levels)
        start, places, features = self.start(pyramid, query_points)
        fixed = self.fixed_tokens(start, maps.shape)

        def step(carry: tuple[Array, Array], _: None) -> tuple[tuple[Array, Array], Array]:
            places, features = carry
            places = jax.lax.stop_gradient(places)
            window = correlate(pyramid, features, places, self.config.radius)
            entering = self.tokens(window, places, features, execution=execution) + fixed
            change = self.transformer(entering, num_valid_points, execution=execution)
            places = (places + _by_view(change[..., :2])).at[:, 0].set(start)
            update = self.update(self.update_norm(_by_view(change[..., 2:])))
            features = features + gelu(update)
            return (places, features), places * self.config.stride

        (_, features), positions = jax.lax.scan(
            step, (places, features), None, length=self.config.rounds
        )
        visibility, confidence = (
            jax.nn.sigmoid(layer(features)[..., 0]) for layer in (self.visibility, self.confidence)
        )
        return positions, visibility, confidence

    def start(
        self, pyramid: Pyramid, query_points: Float[Array, "B Q 2"]
    ) -> tuple[Float[Array, "B Q 2"], Float[Array, "B V Q 2"], Float[Array, "B V Q C"]]:
        """Query points in pixels of the maps; the same place and its features in every view."""
        start = query_points / self.config.stride
        features = sample_features(pyramid[0][:, 0], start)
        places, features = (
            jnp.broadcast_to(x[:, None], (x.shape[0], pyramid[0].shape[1], *x.shape[1:]))
            for x in (start, features)
        )
        return start, places, features

    def fixed_tokens(
        self, start: Float[Array, "B Q 2"], maps: tuple[int, ...]
    ) -> Float[Array, "B Q V E"]:
        """The part of the transformer's input that no round changes: query place and view."""
        place = embed_places(start, (maps[2], maps[3]), self.config.token)
        view = self.view_tokens[...][np.minimum(np.arange(maps[1]), 1)]
        return place[:, :, None] + view[None, None]

    def tokens(
        self,
        window: Float[Array, "B V Q W"],
        places: Float[Array, "B V Q 2"],
        features: Float[Array, "B V Q C"],
        *,
        execution: ExecutionConfig = INFERENCE,
    ) -> Float[Array, "B Q V E"]:
        """The other part: motion since the first view, windows and features."""
        motion = places - places[:, :1]
        scaled = motion / self.config.motion_scale
        waves = embed_motion(motion, self.config.features // 2)
        seen = self.window_mlp(window, execution=execution)
        parts = [waves, scaled, scaled, seen, features]
        return jnp.concatenate(parts, axis=-1).swapaxes(1, 2)


def _by_view(x: Float[Array, "B Q V C"]) -> Float[Array, "B V Q C"]:
    return x.swapaxes(1, 2)


class TrackHead(nnx.Module):
    """A DPT that makes feature maps, and the tracker on them."""

    def __init__(
        self, dpt: DPTConfig, config: TrackerConfig, *, dtype: DTypeLike, rngs: nnx.Rngs
    ) -> None:
        self.dpt = DPT(dpt, dtype=dtype, rngs=rngs)
        self.tracker = Tracker(config, rngs=rngs)

    def follow(
        self,
        maps: Float[Array, "B V h w C"],
        query_points: Float[Array, "B Q 2"],
        num_valid_points: Count | None = None,
        *,
        execution: ExecutionConfig = INFERENCE,
    ) -> Tracks:
        """Follows the points on feature maps; see `Tracker`."""
        positions, visibility, confidence = self.tracker(
            maps, query_points, num_valid_points, execution=execution
        )
        return Tracks(positions[-1], visibility, confidence)

    def maps(
        self,
        features: Float[Array, "4 B V P E"],
        layout: TokenLayout,
        size: tuple[int, int],
        *,
        execution: ExecutionConfig = INFERENCE,
    ) -> Float[Array, "B V h w C"]:
        """Feature maps at the tracker's stride, a few views at a time, in float32."""
        (height, width), stride = size, self.tracker.config.stride

        def some_views(patches: Float[Array, "4 g P E"]) -> Float[Array, "g h w C"]:
            fused = self.dpt(patches[:, :, layout.leading :], layout.grid, width / height)
            return resize_bilinear(fused, (height // stride, width // stride)).astype(jnp.float32)

        flat = features.reshape(4, -1, *features.shape[3:])
        at_once = execution.head_views
        maps = map_views(some_views, flat, at_once=at_once, axis=1, execution=execution)
        return maps.reshape(*features.shape[1:3], *maps.shape[1:])
