"""What devices that share a scene exchange: for code that `jax.shard_map` runs on each of them."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int, Shaped

from jaxrecon.nn.attention import (
    AttentionFn,
    AttentionStats,
    TokenLayout,
    attend,
    attends_densely,
    attention_chunks,
    takes_scale,
)
from jaxrecon.nn.execution import Chunks, Collectives

VIEW_AXIS = "views"
"""Name of the mesh axis over which views are sharded."""

SHARD_AXIS = "shard_axis"
"""Metadata of a variable of which each device has a part: the axis, counted from the last one."""

type _Found = tuple[Array, AttentionStats | None]


@dataclass(frozen=True)
class ViewCollectives(Collectives):
    """Exchange along the mesh axis "views", over which so many devices share a scene."""

    def first_view(self, views: int) -> Int[Array, ""]:
        """See `Collectives`."""
        return jax.lax.axis_index(VIEW_AXIS) * views

    def own_views(self, x: Shaped[Array, "B _V *rest"], views: int) -> Shaped[Array, "B v *rest"]:
        """See `Collectives`."""
        return jax.lax.dynamic_slice_in_dim(x, self.first_view(views), views, axis=1)

    def all_gather(
        self, x: Shaped[Array, "..."], *, axis: int, replicas: int = 1
    ) -> Shaped[Array, "..."]:
        """See `Collectives`."""
        groups = None if replicas == 1 else self._groups(replicas).T.tolist()
        return jax.lax.all_gather(x, VIEW_AXIS, axis=axis, tiled=True, axis_index_groups=groups)

    def gather_replicas(
        self, x: Shaped[Array, "..."], *, axis: int, replicas: int
    ) -> Shaped[Array, "..."]:
        """See `Collectives`."""
        groups = self._groups(replicas).tolist()
        return jax.lax.all_gather(x, VIEW_AXIS, axis=axis, tiled=True, axis_index_groups=groups)

    def across_views(self, attention: Callable[..., Any]) -> "ShardedAttention":
        """See `Collectives`."""
        return ShardedAttention(attention, self)

    def all_gather_weights[W](self, weights: W) -> W:
        """See `Collectives`; variables that have `SHARD_AXIS` are parts."""
        return jax.tree.map(_gathered, weights, is_leaf=is_variable)

    def _groups(self, count: int) -> Int[np.ndarray, "groups count"]:
        """The devices' numbers, a row a group of replicas."""
        return np.arange(self.devices).reshape(-1, count)


def is_variable(leaf: Any) -> bool:
    """Whether it is a module's variable, which may have metadata."""
    return isinstance(leaf, nnx.Variable)


def _gathered(leaf: Any) -> Any:
    axis = leaf.get_metadata(SHARD_AXIS, None) if is_variable(leaf) else None
    if axis is None:
        return leaf
    part = leaf[...]
    return leaf.replace(jax.lax.all_gather(part, VIEW_AXIS, axis=part.ndim + axis, tiled=True))


@dataclass(frozen=True)
class ShardedAttention:
    """Attention across all views, each device on whole sequences, for inputs of its own views.

    The tokens are exchanged (all-to-all) so that each device has all tokens of some of the heads,
    and the outputs back; kernels therefore run unchanged. With more devices than heads, and dense
    attention, each device keeps its queries and gets the keys and values of all; otherwise several
    devices get the same head, and may part the work (`TokenLayout.replicas`).

    It takes the layout of the whole sequence, in one shard a device.
    """

    attention: AttentionFn
    collectives: ViewCollectives

    def __call__(self, q: Array, k: Array, v: Array, layout: TokenLayout) -> _Found:
        """See `AttentionFn`; what is found out is told of all heads."""
        if self.collectives.devices > q.shape[2] and attends_densely(self.attention):
            return self._own_queries(q, k, v, layout)
        return self._own_heads(q, k, v, layout)

    @property
    def takes_scale(self) -> bool:
        """Whether the attention heeds the layout's `scale`."""
        return takes_scale(self.attention)

    def chunks(self, layout: TokenLayout, heads: int) -> Chunks:
        """What each device works on at a time."""
        share = -(-heads * self._replicas_of(heads) // self.collectives.devices)
        return attention_chunks(self.attention, replace(layout, shards=1), share)

    def _own_queries(self, q: Array, k: Array, v: Array, layout: TokenLayout) -> _Found:
        """Queries of this device's tokens, keys and values of all."""
        k, v = (_one_copy(self.collectives.all_gather(x, axis=1), layout) for x in (k, v))
        return attend(self.attention, q, k, v, replace(layout, shards=1))[0], None

    def _own_heads(self, q: Array, k: Array, v: Array, layout: TokenLayout) -> _Found:
        """All tokens of this device's share of the heads, which copies of the last one fill up.

        With more devices than heads a group of neighbours are replicas: they have the same head.
        """
        heads, devices = q.shape[2], self.collectives.devices
        replicas = self._replicas_of(heads)
        share = -(-heads * replicas // devices)
        spare = ((0, 0), (0, 0), (0, share * devices - heads * replicas), (0, 0))

        def exchanged(x: Array) -> Array:
            even = jnp.pad(jnp.repeat(x, replicas, axis=2), spare, mode="edge")
            return _one_copy(jax.lax.all_to_all(even, VIEW_AXIS, 2, 1, tiled=True), layout)

        number = jax.lax.axis_index(VIEW_AXIS)
        part = {"heads": heads, "first_head": number // replicas * share, "replicas": replicas}
        whole = replace(layout, shards=1, replica_rank=number % replicas, **part)
        whole = replace(whole, collectives=self.collectives)
        out, stats = attend(self.attention, exchanged(q), exchanged(k), exchanged(v), whole)
        back = jax.lax.all_to_all(_copied(out, layout), VIEW_AXIS, 1, 2, tiled=True)
        return back[:, :, ::replicas][:, :, :heads], self._of_all_heads(stats, replicas, heads)

    def _of_all_heads(
        self, stats: AttentionStats | None, replicas: int, heads: int
    ) -> AttentionStats | None:
        """What all devices found out about their heads."""
        return jax.tree.map(
            lambda x: self.collectives.all_gather(x, axis=1)[:, ::replicas][:, :heads], stats
        )

    def _replicas_of(self, heads: int) -> int:
        """How many devices have the same head: as many as all can have, in equal groups."""
        devices = self.collectives.devices
        most = max(1, devices // heads)
        return max(size for size in range(1, most + 1) if devices % size == 0)


def scene_in_each_shard(
    views: Float[Array, "B T *rest"], scene: Float[Array, "B S *rest"], shards: int
) -> Float[Array, "B U *rest"]:
    """Tokens of all views in so many equal parts, behind each of them a copy of the scene's."""
    parts = views.reshape(views.shape[0], shards, -1, *views.shape[2:])
    copies = jnp.broadcast_to(scene[:, None], (scene.shape[0], shards, *scene.shape[1:]))
    return jnp.concatenate([parts, copies], axis=2).reshape(views.shape[0], -1, *views.shape[2:])


def scene_once(
    tokens: Float[Array, "B U *rest"], scene: int, shards: int
) -> tuple[Float[Array, "B T *rest"], Float[Array, "B S *rest"]]:
    """The way back from `scene_in_each_shard`: all views' tokens, and one copy of the scene's.

    Args:
      scene: how many tokens a copy has.
    """
    parts = tokens.reshape(tokens.shape[0], shards, -1, *tokens.shape[2:])
    end = parts.shape[2] - scene
    views = parts[:, :, :end].reshape(tokens.shape[0], -1, *tokens.shape[2:])
    return views, parts[:, 0, end:]


def _one_copy(x: Float[Array, "G T N K"], layout: TokenLayout) -> Float[Array, "G S N K"]:
    """The tokens of all views, then one copy of the scene's; see `TokenLayout.shards`."""
    return jnp.concatenate(scene_once(x, layout.scene, layout.shards), axis=1)


def _copied(x: Float[Array, "G S N K"], layout: TokenLayout) -> Float[Array, "G T N K"]:
    """The way back from `_one_copy`."""
    end = x.shape[1] - layout.scene
    return scene_in_each_shard(x[:, :end], x[:, end:], layout.shards)
