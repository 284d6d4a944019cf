"""Block-sparse global attention as a policy for any model (arXiv 2509.07120)."""

import math
from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxrecon.checks import is_whole
from jaxrecon.errors import InputError
from jaxrecon.nn.attention import AttentionStats, Count, TokenLayout, attend_densely
from jaxrecon.nn.views import from_team, note_chunk
from jaxrecon.sparse.arrangement import Arrangement, Order, SpecialTokens
from jaxrecon.sparse.budgets import SPANS, Budget, Budgets, budgets_of, checked_budget
from jaxrecon.sparse.teams import own_rows
from pallas_kernels.block_selection import Pooling, attend_to_rest, select_blocks, with_rest
from pallas_kernels.block_sparse_attention import (
    IMPLEMENTATIONS,
    BlockMask,
    block_sparse_attention,
    index_dtype,
)

LIST_BYTES_LIMIT = 512 * 2**20
"""The block lists held at any one time are kept under about this many bytes."""


@dataclass(frozen=True)
class SparseAttention:
    """An `AttentionFn` whose global attention skips the key blocks that matter least.

    Attention within a view stays dense. Across views, special tokens see and are seen by all
    tokens; blocks of patch queries see the patch blocks that `select_blocks` chooses: the larger of
    what the ratio and the threshold ask for. For inference only: it has no gradient.

    Attributes:
      sparse_ratio: share of the competing key blocks that may be skipped, in [0, 1); None to let
        the threshold alone decide. Budgets are kept as floats or tuples of them.
      cdf_threshold: share of the pooled softmax that the kept blocks reach, in (0, 1]; None to let
        the ratio alone decide.
      block_q, block_kv: patches in a block of queries and of keys.
      order: "similar", patches of all views that look alike together (see `similar_order`), which
        finds far better blocks; "raster", row by row, as in the paper; or "hilbert", along a
        Hilbert curve, so that a block covers a compact area. If not given, "similar" for "aligned"
        tokens and "raster" for "packed" ones.
      special_tokens: "aligned" keeps specials visible to all; "packed" is upstream's layout, in
        which some may fall into a block that is skipped, and upstream's scoring (`pool_q`).
      pooling: how a block becomes one vector: "mean" or "max".
      pool_q: queries pooled to one when blocks are scored, a divisor of `block_q`. If not given, a
        quarter of a block of "aligned" tokens, which finds better blocks than the whole block that
        the paper pools and that "packed" ones, or blocks that 4 does not divide, get.
      rest_q: so many queries together, a divisor of `block_q`, get from the blocks that they skip
        what one mean key and value a block tells; 0 for nothing, as upstream. If not given, 4, or
        as many as make 32 groups of a larger block, of "aligned" tokens, and 0 of "packed" ones.
      implementation: a backend of `block_sparse_attention`; the best one if not given.

    Raises:
      InputError: a value is out of range; when called, a budget's layers or heads are not the
        model's, or the inputs are not of the layout's tokens.
    """

    sparse_ratio: Budget | None = 0.75
    cdf_threshold: Budget | None = 0.9
    block_q: int = 128
    block_kv: int = 64
    order: Order | None = None
    special_tokens: SpecialTokens = "aligned"
    pooling: Pooling = "mean"
    pool_q: int | None = None
    rest_q: int | None = None
    implementation: str | None = None

    def __post_init__(self) -> None:
        if self.sparse_ratio is None and self.cdf_threshold is None:
            raise InputError("sparse_ratio and cdf_threshold are both None; give at least one")
        for name in SPANS:
            object.__setattr__(self, name, checked_budget(name, getattr(self, name)))
        for name, choices in CHOICES.items():
            value = getattr(self, name)
            if value not in choices and (value is not None or name not in CHOSEN_IF_NONE):
                raise InputError(f"{name}={value!r} is unknown; choose one of {', '.join(choices)}")
        for name in ("block_q", "block_kv"):
            size = getattr(self, name)
            if not is_whole(size) or size < 1:
                raise InputError(f"{name}={size!r} must be a whole number of at least 1")
        for name, least in (("pool_q", 1), ("rest_q", 0)):
            part = getattr(self, name)
            if part is None:
                continue
            if not is_whole(part) or part < least or (part and self.block_q % part):
                raise InputError(f"{name}={part} must divide block_q={self.block_q}")

    def __call__(
        self,
        q: Float[Array, "G T N K"],
        k: Float[Array, "G S N K"],
        v: Float[Array, "G S N K"],
        layout: TokenLayout,
    ) -> tuple[Float[Array, "G T N K"], AttentionStats | None]:
        """Dense within one view, sparse across views."""
        if layout.views == 1:
            return attend_densely(q, k, v, layout)
        out, skipped = self.attend(q, k, v, layout)
        return out, AttentionStats(skipped)

    def attend(
        self,
        q: Float[Array, "G T N K"],
        k: Float[Array, "G T N K"],
        v: Float[Array, "G T N K"],
        layout: TokenLayout,
    ) -> tuple[Float[Array, "G T N K"], Float[Array, "G N"]]:
        """Sparse attention across views, and the share of key blocks that each head skips.

        The share is over the blocks of patch queries, as upstream reports it.

        Raises:
          InputError: q, k and v differ in shape or are not of the layout's tokens, or a budget's
            layers or heads are not the model's.
        """
        _check_inputs(layout, q, k, v)
        made = self.arrangement(layout)
        orders = made.orders(q, k)
        arranged = made.queries(q, orders.queries), *(made.keys(x, orders.keys) for x in (k, v))
        budgets = self._budgets(made, q.shape[2])
        step = _heads_at_once(made, q.shape[0], q.shape[2])
        note_chunk("heads of sparse attention", step, q.shape[2])
        if step == q.shape[2]:
            q, k, v = arranged
            out, skipped = self._attend(made, q, k, v, budgets)
        else:
            out, skipped = self._attend_in_turns(made, arranged, budgets, step)
        return made.restore(out, orders.queries), skipped

    def select(
        self, q: Float[Array, "G T N K"], k: Float[Array, "G T N K"], layout: TokenLayout
    ) -> BlockMask:
        """The key blocks of each block of queries, in the order of `arrangement(layout)`.

        Where like patches are brought together, it has them in its `orders(q, k)`.

        Raises:
          InputError: as `attend` does.
        """
        _check_inputs(layout, q, k)
        made = self.arrangement(layout)
        budgets = self._budgets(made, q.shape[2])
        orders = made.orders(q, k)
        q, k = made.queries(q, orders.queries), made.keys(k, orders.keys)
        return self._select(made, q, k, budgets)

    def arrangement(self, layout: TokenLayout) -> Arrangement:
        """How the tokens of `layout` are laid out in blocks."""
        order = self.patch_order
        return Arrangement(layout, order, self.special_tokens, self.block_q, self.block_kv)

    @property
    def patch_order(self) -> Order:
        """In which order patches are cut into blocks."""
        if self.order is not None:
            return self.order
        return "similar" if self.special_tokens == "aligned" else "raster"

    @property
    def scored_queries(self) -> int:
        """Queries pooled to one when blocks are scored."""
        if self.pool_q is not None:
            return self.pool_q
        whole = self.special_tokens == "packed" or self.block_q % 4
        return self.block_q if whole else self.block_q // 4

    @property
    def rest_queries(self) -> int:
        """Queries that get together what skipped blocks tell; 0 for nothing."""
        if self.rest_q is not None:
            return self.rest_q
        aligned = self.special_tokens == "aligned"
        return math.gcd(self.block_q, max(4, self.block_q // 32)) if aligned else 0

    def _select(self, made: Arrangement, q: Array, k: Array, budgets: Budgets) -> BlockMask:
        return select_blocks(
            q,
            k,
            keep=budgets.keep,
            mass=budgets.mass,
            block_q=self.block_q,
            block_kv=self.block_kv,
            candidates=made.candidates,
            dense_queries=made.dense_queries,
            pooling=self.pooling,
            pool_q=self.scored_queries,
            real=made.real,
        )

    def _attend(
        self, made: Arrangement, q: Array, k: Array, v: Array, budgets: Budgets
    ) -> tuple[Array, Array]:
        mask = self._select(made, q, k, budgets)
        skipped = _share_skipped(mask, made)
        real = None if made.real is None else made.real.queries
        team = made.layout.team
        if team == 1:
            return self._attend_blocks(q, k, v, mask, real), skipped
        own = own_rows(q, mask, real, team, made.layout.member)
        out = self._attend_blocks(own.q, k, v, own.mask, own.real)
        return from_team(out, axis=1, team=team)[:, : q.shape[1]], skipped

    def _attend_blocks(
        self, q: Array, k: Array, v: Array, mask: BlockMask, real_queries: Count | None
    ) -> Array:
        attend = partial(block_sparse_attention, implementation=self.implementation)
        group = self.rest_queries
        if not group:
            return attend(q, k, v, mask)
        out, sums = attend(q, k, v, mask, return_logsumexp=True)
        rest = attend_to_rest(q, k, v, mask, group=group, real_queries=real_queries)
        return with_rest(out, sums, rest, group)

    def _attend_in_turns(
        self, made: Arrangement, arranged: tuple[Array, ...], budgets: Budgets, step: int
    ) -> tuple[Array, Array]:
        """A few heads at a time, so that the lists of all heads never exist together."""
        groups, _, heads, _ = arranged[0].shape

        def turn(index: Array, done: tuple[Array, Array]) -> tuple[Array, Array]:
            start = index * step

            def some(x: Array, axis: int) -> Array:
                return jax.lax.dynamic_slice_in_dim(x, start, step, axis)

            own = jax.tree.map(lambda x: some(x, 0), budgets)
            q, k, v = (some(x, 2) for x in arranged)
            out, skipped = self._attend(made, q, k, v, own)
            return (
                jax.lax.dynamic_update_slice_in_dim(done[0], out, start, 2),
                jax.lax.dynamic_update_slice_in_dim(done[1], skipped, start, 1),
            )

        empty = jnp.zeros_like(arranged[0]), jnp.zeros((groups, heads), jnp.float32)
        return jax.lax.fori_loop(0, heads // step, turn, empty)

    def _budgets(self, made: Arrangement, heads: int) -> Budgets:
        return budgets_of(self.sparse_ratio, self.cdf_threshold, made, heads)


CHOICES = {
    "order": ("similar", "raster", "hilbert"),
    "special_tokens": ("aligned", "packed"),
    "pooling": ("mean", "max"),
    "implementation": tuple(IMPLEMENTATIONS),
}


CHOSEN_IF_NONE = ("order", "implementation")
"""Of the choices, those that need not be made."""


def _check_inputs(layout: TokenLayout, *inputs: Array) -> None:
    """Refuses q, k (and v) that are not of the layout's tokens, or not alike."""
    shapes = ", ".join(f"{name} {x.shape}" for name, x in zip("qkv", inputs, strict=False))
    if any(x.ndim != 4 or x.shape != inputs[0].shape for x in inputs):
        raise InputError(f"q, k and v must have one shape (G, tokens, heads, width): {shapes}")
    if inputs[0].shape[1] != layout.tokens:
        raise InputError(f"the layout has {layout.tokens} tokens, found {shapes}")


def _share_skipped(mask: BlockMask, made: Arrangement) -> Float[Array, "G N"]:
    """Of the key blocks, by the blocks of patch queries; padding counts in neither."""
    counts = mask.counts[:, :, made.dense_queries // made.block_q :]
    if made.real is None:
        return 1 - jnp.mean(counts, axis=-1, dtype=jnp.float32) / made.key_blocks
    rows = -(-(made.real.queries - made.dense_queries) // made.block_q)
    counts = jnp.where(jnp.arange(counts.shape[-1]) < rows, counts, 0)
    key_blocks = -(-made.real.keys // made.block_kv)
    return 1 - jnp.sum(counts, axis=-1, dtype=jnp.float32) / (rows * key_blocks)


def _heads_at_once(made: Arrangement, groups: int, heads: int) -> int:
    """The largest divisor of `heads` whose block lists stay within the limit."""
    entry = jnp.dtype(index_dtype(made.key_blocks)).itemsize
    head_bytes = entry * groups * made.query_blocks * made.key_blocks
    fitting = (n for n in range(heads, 1, -1) if heads % n == 0)
    return next((n for n in fitting if n * head_bytes <= LIST_BYTES_LIMIT), 1)
