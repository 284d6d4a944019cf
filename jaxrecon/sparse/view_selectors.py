"""Policies that choose blocks of keys by the views that their patches are of."""

from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jaxrecon.checks import is_whole
from jaxrecon.errors import InputError
from jaxrecon.sparse.layout import BlockLayout
from pallas_kernels.block_sparse_attention import BlockMask, index_dtype


@dataclass(frozen=True)
class WithinViews:
    """Patches attend to the blocks that hold patches of their own views, and to no others.

    A block that two views share sees, and is seen by, both. Special tokens see all tokens; with
    "aligned" special tokens all tokens see them, so that views still exchange through them. Source:
    the early layers of AVGGT (arXiv 2512.02541).
    """

    needs_views_apart: ClassVar[bool] = True
    takes_scale: ClassVar[bool] = True

    def select(
        self, q: Float[Array, "G padded N K"], k: Float[Array, "G T N K"], layout: BlockLayout
    ) -> BlockMask:
        return _mask(jnp.zeros(layout.key_blocks, bool), q, k, layout)


@dataclass(frozen=True)
class KeyViews:
    """Patches attend to the blocks that hold patches of their own views or of a key view.

    Special tokens are seen as with `WithinViews`. The first view is a key view, and padding views
    never are. Keys and values may be thinned out far more than queries: Spark3R (arXiv 2605.06270).

    Attributes:
      every: every n-th view is a key view, from the first on.
      count: so many views are, evenly spaced; all where a scene has no more. Give one of the two.

    Raises:
      InputError: both are given or none, or one is no whole number of at least 1.
    """

    every: int | None = None
    count: int | None = None

    needs_views_apart: ClassVar[bool] = True
    takes_scale: ClassVar[bool] = True

    def __post_init__(self) -> None:
        given = {name: getattr(self, name) for name in ("every", "count")}
        if sum(value is not None for value in given.values()) != 1:
            raise InputError(f"KeyViews: give every or count, one of them; found {given}")
        for name, value in given.items():
            if value is not None and (not is_whole(value) or value < 1):
                raise InputError(f"{name}={value!r} must be a whole number of at least 1")

    def select(
        self, q: Float[Array, "G padded N K"], k: Float[Array, "G T N K"], layout: BlockLayout
    ) -> BlockMask:
        keys = _key_spans(layout)
        key = self._before(keys.last + 1, layout) > self._before(keys.first, layout)
        return _mask(key, q, k, layout)

    def _before(self, view: Int[Array, " blocks"], layout: BlockLayout) -> Int[Array, " blocks"]:
        """How many key views there are before each of these."""
        most = layout.layout.views
        if self.every is not None:
            return -(-view // min(self.every, most))
        # The i-th of `count` key views of so many views is floor(i * views / count).
        assert self.count is not None
        return -(-view * min(self.count, most) // layout.counted_views)


class _Spans(NamedTuple):
    """The first and the last view of each block's patches; the last comes first if it has none."""

    first: Int[Array, " blocks"]
    last: Int[Array, " blocks"]


def _spans(start: Int[Array, " blocks"], size: int, layout: BlockLayout) -> _Spans:
    """Of blocks that begin at these patches, those of the valid views one after the other."""
    each = layout.layout.grid[0] * layout.layout.grid[1]
    stop = jnp.minimum(start + size, layout.counted_views * each)
    return _Spans(jnp.maximum(start, 0) // each, (stop - 1) // each)


def _query_spans(layout: BlockLayout) -> _Spans:
    start = layout.block_q * jnp.arange(layout.query_blocks) - layout.dense_queries
    return _spans(start, layout.block_q, layout)


def _key_spans(layout: BlockLayout) -> _Spans:
    """Of the blocks of keys; those in which nothing competes are dealt with by `_mask`."""
    tokens, views = layout.layout, layout.counted_views
    around = views * (tokens.leading + tokens.trailing) + tokens.scene
    ahead = around if layout.special_tokens == "aligned" else 0
    start = layout.block_kv * jnp.arange(layout.key_blocks) - ahead
    return _spans(start, layout.block_kv, layout)


class _Ranges(NamedTuple):
    """The first of each query block's own key blocks, and the one behind its last."""

    start: Int[Array, " query_blocks"]
    stop: Int[Array, " query_blocks"]


def _own_blocks(layout: BlockLayout) -> _Ranges:
    """The competing key blocks in which the views of a query block have patches.

    Both spans rise from block to block, so that they lie one after the other.
    """
    queries, keys = _query_spans(layout), _key_spans(layout)
    start = jnp.searchsorted(keys.last, queries.first, side="left")
    stop = jnp.searchsorted(keys.first, queries.last, side="right")
    candidates = layout.candidates
    start = jnp.maximum(start, -(-candidates.start // layout.block_kv))
    stop = jnp.minimum(stop, -(-candidates.stop // layout.block_kv))
    return _Ranges(start, jnp.maximum(start, stop))


def _mask(
    shared: Bool[Array, " key_blocks"],
    q: Float[Array, "G padded N K"],
    k: Float[Array, "G T N K"],
    layout: BlockLayout,
) -> BlockMask:
    """Lists each query block's own key blocks, the shared ones, and those that do not compete.

    The lists are written down, not sorted: of a thousand views they have 10^8 places.
    """
    keys = None if layout.num_valid is None else layout.num_valid.keys
    number = jnp.arange(layout.key_blocks, dtype=jnp.int32)
    start = layout.block_kv * number
    valid = start < (k.shape[1] if keys is None else keys)
    competes = (start >= layout.candidates.start) & (start < layout.candidates.stop)
    listed = (shared | ~competes) & valid
    others = jnp.sort(jnp.where(listed, number, layout.key_blocks))
    before = jnp.concatenate([jnp.zeros(1, jnp.int32), jnp.cumsum(listed, dtype=jnp.int32)])

    own, num_valid = _own_blocks(layout), valid.sum(dtype=jnp.int32)
    sees_all = layout.block_q * jnp.arange(layout.query_blocks) < layout.dense_queries
    first = jnp.where(sees_all, 0, own.start).astype(jnp.int32)[:, None]
    last = jnp.where(sees_all, num_valid, jnp.minimum(own.stop, num_valid)).astype(jnp.int32)
    last = jnp.maximum(first, last[:, None])
    # A list has the others before a block's own ones, these, and the others behind them.
    ahead, behind, length = before[first], before[last], last - first
    place = number[None]
    of_own = first + place - ahead
    of_others = others[jnp.where(place < ahead, place, place - length - ahead + behind)]
    lists = jnp.where((place >= ahead) & (place < ahead + length), of_own, of_others)
    counts = (ahead + length + before[-1] - behind)[:, 0]
    spans = _query_spans(layout)
    counts = jnp.where(sees_all | (spans.first <= spans.last), counts, 1)  # else it is padding
    lists = jnp.where(place < counts[:, None], lists, 0).astype(index_dtype(layout.key_blocks))
    every = q.shape[0], q.shape[2], layout.query_blocks
    return BlockMask(
        jnp.broadcast_to(jnp.maximum(1, counts), every),
        jnp.broadcast_to(lists, (*every, layout.key_blocks)),
        layout.block_q,
        layout.block_kv,
        q.shape[1],
        k.shape[1],
        keys,
    )
