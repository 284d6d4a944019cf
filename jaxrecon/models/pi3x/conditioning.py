"""The branch of π³-X that takes what is known of the views."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int

from jaxrecon.geometry.transforms import invert_rigid
from jaxrecon.models.pi3x.priors import KnownGeometry
from jaxrecon.nn.attention import (
    Attention,
    AttentionFn,
    AttentionStats,
    TokenLayout,
    attend,
    attend_densely,
    attends_densely,
)
from jaxrecon.nn.block import BlockConfig
from jaxrecon.nn.dinov2 import DinoV2, DinoV2Config, views_at_once
from jaxrecon.nn.execution import INFERENCE, ExecutionConfig
from jaxrecon.nn.layers import (
    HIGHEST,
    LayerScale,
    Mlp,
    apply_norm,
    layer_norm,
    linear,
    stack,
)
from jaxrecon.nn.patches import fold
from jaxrecon.nn.rope import RotaryTable, apply_rotary, rotary_table
from jaxrecon.nn.views import chunked_map, map_views
from jaxrecon.pytree import pytree_dataclass

type AfterPair = Callable[[Array, Array], Array]

ROPE_BASE = 100.0


class Conditioning(nnx.Module):
    """What turns rays and depth into features of patches, and lets posed views exchange.

    Args:
      encoder: sizes of the depth encoder, which are those of the image encoder.
      block: of the blocks in which posed views exchange.
      pairs: behind which pairs of the trunk they do.

    Source: upstream `Pi3X` (`pi3/models/pi3x.py`).
    """

    def __init__(
        self,
        encoder: DinoV2Config,
        block: BlockConfig,
        pairs: tuple[int, ...],
        *,
        dtype: DTypeLike,
        rngs: nnx.Rngs,
    ) -> None:
        self.pairs = pairs
        self.depth_encoder = DinoV2(encoder, channels=2, dtype=dtype, rngs=rngs)
        self.depth_token = nnx.Param(jnp.zeros((encoder.width,)))
        self.ray_embed = linear(2 * encoder.patch**2, encoder.width, dtype=jnp.float32, rngs=rngs)
        self.pose_blocks = stack(
            lambda keys: PoseBlock(block, dtype=dtype, rngs=keys), len(pairs), rngs
        )

    def features(
        self, known: KnownGeometry, *, execution: ExecutionConfig = INFERENCE
    ) -> Float[Array, "B V P D"]:
        """What rays and depth add to the features of the patches; zero where neither is known."""
        return self.of_rays(known) + self.of_depth(known, execution=execution)

    def of_rays(self, known: KnownGeometry) -> Float[Array, "B V P D"]:
        """What rays add, in float32: bfloat16 would lose the calibration."""
        flat = known.slopes.reshape(-1, *known.slopes.shape[2:])
        patches = fold(flat, self.depth_encoder.config.patch)
        shape = *known.has_rays.shape, -1, patches.shape[-1]
        embedded = self.ray_embed(patches.reshape(shape))
        return jnp.where(known.has_rays[..., None, None], embedded, 0)

    def of_depth(
        self, known: KnownGeometry, *, execution: ExecutionConfig = INFERENCE
    ) -> Float[Array, "B V P D"]:
        """What depth adds; views are left alone of which a whole group has none."""
        encoder = self.depth_encoder
        flat = known.depth.reshape(-1, *known.depth.shape[2:])
        grid = encoder.patch_grid(flat.shape)
        empty = grid[0] * grid[1], encoder.config.width

        def encoded(given: tuple[Array, Array]) -> Float[Array, "g P D"]:
            depth, has_depth = given
            found = jax.lax.cond(
                jnp.any(has_depth),
                lambda depth: (
                    encoder(depth, execution=execution) + self.depth_token[...][None, None]
                ),
                lambda depth: jnp.zeros((depth.shape[0], *empty), jnp.float32),
                depth,
            )
            return jnp.where(has_depth[:, None, None], found, 0)

        at_once = views_at_once(grid, execution)
        given = flat, known.has_depth.reshape(-1)
        found = map_views(encoded, given, at_once=at_once, execution=execution)
        return found.reshape(*known.has_depth.shape, *empty)

    def exchange_after(
        self,
        known: KnownGeometry,
        layout: TokenLayout,
        attention: AttentionFn,
        *,
        execution: ExecutionConfig = INFERENCE,
    ) -> AfterPair:
        """What becomes of the trunk's tokens behind each pair; see `AlternatingAttention`.

        Posed views exchange behind some pairs, and behind none in scenes where none has a pose that
        counts.

        Args:
          known: what is known of the views.
          layout: of one view's tokens.
          attention: the trunk's; if it is sparse, exact attention takes its place here.
        """
        heads = self.pose_blocks.attention.heads
        frames = CameraFrames.of(
            known.world_from_camera, layout.grid, self.depth_encoder.config.width // heads
        )
        exact = attention if attends_densely(attention) else attend_densely
        posed_first = PosedFirst(exact, known.order, known.posed_views)
        turns = jnp.asarray(self.pairs)

        def exchanged(x: Array, which: Array) -> Array:
            block = jax.tree.map(
                lambda w: jax.lax.dynamic_index_in_dim(w, which, keepdims=False), self.pose_blocks
            )
            patches = x[:, :, layout.leading :]
            only = replace(layout, leading=0, num_valid_views=None)
            update = block(patches, known.has_pose, frames, only, posed_first, execution=execution)
            update = jnp.where(known.has_pose[..., None, None], update, 0)
            return x.at[:, :, layout.leading :].add(update)

        def after(x: Array, pair: Array) -> Array:
            which = jnp.searchsorted(turns, pair)
            turn = jnp.any(turns == pair) & jnp.any(known.posed_views > 1)
            return jax.lax.cond(turn, exchanged, lambda x, which: x, x, which)

        return after


class PoseBlock(nnx.Module):
    """`scale1(attention(norm1 x)) + scale2(mlp(norm2 x))` of patches, in their cameras' frames.

    Source: upstream `PoseInjectBlock` (`pi3/models/layers/block.py`).
    """

    def __init__(self, config: BlockConfig, *, dtype: DTypeLike, rngs: nnx.Rngs) -> None:
        width, eps, scale = config.width, config.norm_eps, config.layer_scale or 1.0
        self.norm1 = layer_norm(width, eps=eps, dtype=dtype, rngs=rngs)
        self.attention = Attention(
            width, config.heads, qk_norm=config.qk_norm, dtype=dtype, rngs=rngs
        )
        self.scale1 = LayerScale(width, scale)
        self.norm2 = layer_norm(width, eps=eps, dtype=dtype, rngs=rngs)
        self.mlp = Mlp(width, config.hidden, dtype=dtype, rngs=rngs)
        self.scale2 = LayerScale(width, scale)

    def __call__(
        self,
        x: Float[Array, "B V P D"],
        posed: Bool[Array, "B V"],
        frames: "CameraFrames",
        layout: TokenLayout,
        attention: "PosedFirst",
        *,
        execution: ExecutionConfig = INFERENCE,
    ) -> Float[Array, "B V P D"]:
        """What is to be added to the patches of posed views; of the others it says nothing.

        Args:
          x: the patches of each view.
          posed: views with a pose.
          frames: the frames of their cameras.
          layout: of one view's patches.
          attention: how patches of posed views attend to each other.
        """
        views, collectives = x.shape[1], execution.collectives
        joined = layout.joined(collectives.devices * views, collectives.devices)
        flat = x.reshape(x.shape[0], -1, x.shape[3])

        def entering(x: Array) -> tuple[Array, ...]:
            normed = apply_norm(self.norm1, x)
            return self.attention.inputs(normed, backend=execution.backend)

        q, k, v = chunked_map(entering, flat, unit=layout.tokens, execution=execution)
        out, _ = attend(
            collectives.across_views(attention),
            frames.of_queries(q),
            frames.of_keys(k),
            frames.of_keys(v),
            joined,
        )
        attended = frames.back(out).reshape(x.shape)
        attended = jnp.where(posed[..., None, None], attended, 0).reshape(flat.shape)
        leave = partial(self._leaving, execution=execution)
        return chunked_map(leave, (flat, attended), execution=execution).reshape(x.shape)

    def _leaving(
        self, given: tuple[Array, Array], *, execution: ExecutionConfig
    ) -> Float[Array, "g t D"]:
        x, attended = given
        update = self.attention.out(attended).astype(jnp.float32)
        hidden = self.mlp(apply_norm(self.norm2, x), execution=execution).astype(jnp.float32)
        gamma1, gamma2 = (scale.gamma[...][None, None] for scale in (self.scale1, self.scale2))
        return gamma1 * update + gamma2 * hidden


@pytree_dataclass
class CameraFrames:
    """Takes queries, keys and values of patches to the frames of their cameras, and back.

    The first half of each head is rows of four numbers, which pass through the camera's pose, so
    that what attends is one camera's frame relative to another's. The second half is turned by the
    patch's column and row.

    Source: PRoPE (arXiv 2507.10496) without intrinsics, that is GTA (arXiv 2310.10375); upstream
    `pi3/models/layers/prope.py`.

    Attributes:
      world_from_camera, camera_from_world: of each view.
      forth, back_again: turn by column and row, and undo that.
    """

    world_from_camera: Float[Array, "B V 4 4"]
    camera_from_world: Float[Array, "B V 4 4"]
    forth: RotaryTable
    back_again: RotaryTable

    @classmethod
    def of(
        cls, world_from_camera: Float[Array, "B V 4 4"], grid: tuple[int, int], head: int
    ) -> "CameraFrames":
        """For patches of a grid and heads of a width that is a multiple of 8."""
        rows, columns = np.mgrid[: grid[0], : grid[1]]
        places = np.stack([columns.ravel(), rows.ravel()], axis=-1)
        forth, back = (rotary_table(sign * places, head // 2, base=ROPE_BASE) for sign in (-1, 1))
        return cls(world_from_camera, invert_rigid(world_from_camera), forth, back)

    def of_queries(self, q: Float[Array, "B T N K"]) -> Float[Array, "B T N K"]:
        """Queries, ready to attend."""
        return _moved(q, self.camera_from_world.mT, self.forth)

    def of_keys(self, k: Float[Array, "B T N K"]) -> Float[Array, "B T N K"]:
        """Keys, or values, ready to be attended to."""
        return _moved(k, self.world_from_camera, self.forth)

    def back(self, out: Float[Array, "B T N K"]) -> Float[Array, "B T N K"]:
        """What was attended to, in each patch's own frame."""
        return _moved(out, self.camera_from_world, self.back_again)


def _moved(
    x: Float[Array, "B T N K"], matrices: Float[Array, "B V 4 4"], table: RotaryTable
) -> Float[Array, "B T N K"]:
    """The first half of each head by its view's matrix, the second by the table, in float32."""
    half = x.shape[-1] // 2
    first, second = x[..., :half].astype(jnp.float32), x[..., half:].astype(jnp.float32)
    split = first.reshape(*matrices.shape[:2], -1, x.shape[2], half // 4, 4)
    moved = jnp.einsum("bvij,bvpnkj->bvpnki", matrices, split, precision=HIGHEST)
    parts = [moved.reshape(first.shape), apply_rotary(second, table)]
    return jnp.concatenate(parts, axis=-1).astype(x.dtype)


@dataclass(frozen=True)
class PosedFirst:
    """Exact attention in which the views that have a pose are the only ones that are seen.

    The keys of these views are put first, so that kernels which leave out padding behind the last
    key will do.

    Attributes:
      attention: exact attention.
      order: numbers of the scene's views, those with a pose first.
      posed_views: how many they are.
    """

    attention: AttentionFn
    order: Int[Array, "B V"]
    posed_views: Int[Array, "B"]

    def __call__(
        self, q: Array, k: Array, v: Array, layout: TokenLayout
    ) -> tuple[Array, AttentionStats | None]:
        """See `AttentionFn`; the sequence is patches alone."""

        def of_scene(scene: tuple[Array, ...]) -> Array:
            q, k, v, order, count = scene

            def reordered(x: Array) -> Array:
                return x.reshape(layout.views, -1, *x.shape[1:])[order].reshape(x.shape)

            seen = replace(layout, num_valid_views=count)
            out, _ = attend(self.attention, q[None], reordered(k)[None], reordered(v)[None], seen)
            return out[0]

        scenes = q, k, v, self.order, self.posed_views
        if q.shape[0] == 1:
            return of_scene(jax.tree.map(lambda x: x[0], scenes))[None], None
        return jax.lax.map(of_scene, scenes), None
