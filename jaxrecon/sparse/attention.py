"""Block-sparse global attention as a policy for any model (arXiv 2509.07120)."""

import math
from dataclasses import InitVar, dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxrecon.checks import is_whole, shown
from jaxrecon.choices import ORDERS, PRESETS, OrderName, PresetName, meant
from jaxrecon.deprecation import warn_renamed
from jaxrecon.errors import InputError
from jaxrecon.nn.attention import AttentionStats, Count, TokenLayout, attend_densely
from jaxrecon.nn.execution import Chunk, Chunks
from jaxrecon.sparse.budgets import Budget
from jaxrecon.sparse.calibrated import CalibratedBudgets
from jaxrecon.sparse.layout import BlockLayout, PatchOrder, SpecialTokens, TokenOrders
from jaxrecon.sparse.orders import NAMED_ORDERS
from jaxrecon.sparse.presets import PresetBudgets
from jaxrecon.sparse.replicas import own_rows
from jaxrecon.sparse.selectors import BlockSelector, TopKTopP
from pallas_kernels.block_selection import Pooling, attend_to_skipped, merged_with_skipped
from pallas_kernels.block_sparse_attention import (
    IMPLEMENTATIONS,
    BlockMask,
    block_sparse_attention,
    index_dtype,
)
from pallas_kernels.float8 import E4M3, saturated

LIST_BYTES_LIMIT = 512 * 2**20
"""The block lists held at any one time are kept under about this many bytes."""


@dataclass(frozen=True)
class SparseAttention:
    """An `AttentionFn` whose global attention skips the key blocks that matter least.

    Attention within a view stays dense. Across views, special tokens see and are seen by all
    tokens; blocks of patch queries see the patch blocks that a selector chooses: by default the
    larger of what the ratio and the threshold ask for. For inference only: it has no gradient.

    Attributes:
      sparse_ratio, cdf_threshold, pooling, pool_q: see `TopKTopP`, which they make.
      block_q, block_kv: patches in a block of queries and of keys.
      order: which patches share a block: "pca_tree", patches of all views that look alike (see
        `pca_tree_order`), which finds far better blocks; "raster", row by row, as in the paper;
        "hilbert", along a Hilbert curve, so that a block covers a compact area; or a `PatchOrder`.
        If not given, "pca_tree" for "aligned" tokens and "raster" for "packed" ones, and for
        selectors that need views apart.
      special_tokens: "aligned" keeps specials visible to all; "packed" is upstream's layout, in
        which some may fall into a block that is skipped, and upstream's scoring (`pool_q`).
      compensation_q: so many queries together, a divisor of `block_q`, are compensated for the
        blocks that they skip by one mean key and value a block; 0 for nothing, as upstream. If not
        given, 4, or as many as make 32 groups of a larger block, of "aligned" tokens, and 0 of
        "packed" ones and for selectors that need views apart.
      implementation: a backend of `block_sparse_attention`; the best one if not given.
      selector: a policy of its own, in place of `TopKTopP`. One that goes by views has
        `needs_views_apart = True`, and goes with no order that mixes them; one that heeds
        `layout.layout.scale`, or does not look at queries, says `takes_scale = True`.
      budgets: in place of a ratio and a threshold, the name of a preset by layer or one with
        another mean share (`PresetBudgets`), or what a file of `jaxrecon calibrate` holds
        (`read_budgets`): the ratio is then theirs, and there is no threshold.

    Raises:
      InputError: a value is out of range, or two do not go together; when called, a budget's
        layers or heads are not the model's, the order mixes views that the selector needs apart,
        selector or order return something else than they should, or the inputs are not of the
        layout's tokens.
    """

    sparse_ratio: Budget | None = 0.75
    cdf_threshold: Budget | None = 0.9
    block_q: int = 128
    block_kv: int = 64
    order: OrderName | PatchOrder | None = None
    special_tokens: SpecialTokens = "aligned"
    pooling: Pooling = "mean"
    pool_q: int | None = None
    compensation_q: int | None = None
    implementation: str | None = None
    selector: BlockSelector | None = None
    budgets: CalibratedBudgets | PresetBudgets | PresetName | None = None
    rest_q: InitVar[int | None] = None

    def __post_init__(self, rest_q: int | None) -> None:
        self._take_old_names(rest_q)
        self._take_budgets()
        self._check_sizes()
        made = TopKTopP(self.sparse_ratio, self.cdf_threshold, self.pooling, self.pool_q)
        for name in ("sparse_ratio", "cdf_threshold"):
            object.__setattr__(self, name, getattr(made, name))
        if self.selector is not None and made != TopKTopP():
            raise InputError(
                "selector: sparse_ratio, cdf_threshold, pooling and pool_q make a TopKTopP and do "
                "not go with another selector; give it these, or leave it out"
            )
        for name, choices in CHOICES.items():
            value = getattr(self, name)
            chosen = isinstance(value, str) or name == "special_tokens"
            if chosen and value not in choices:
                raise InputError(
                    f"{name}={value!r} is unknown; choose one of {', '.join(choices)}"
                    f"{meant(value, choices)}"
                )
        for name, method in (("order", "order"), ("selector", "select")):
            _check_part(name, getattr(self, name), method)
        if self._needs_views_apart and self.patch_order == NAMED_ORDERS["pca_tree"]:
            raise self._mixed()

    def _take_budgets(self) -> None:
        """Has the ratio of measured budgets or of a preset, if there are any."""
        budgets = PresetBudgets(self.budgets) if isinstance(self.budgets, str) else self.budgets
        if budgets is None:
            return
        if not isinstance(budgets, CalibratedBudgets | PresetBudgets):
            raise InputError(
                f"budgets: found {type(budgets).__name__}; give read_budgets(FILE), a preset, or "
                f"the name of one: {', '.join(PRESETS)}"
            )
        given = (self.sparse_ratio, self.cdf_threshold)
        own = (budgets.sparse_ratio, None)
        usual = tuple(getattr(SparseAttention, name) for name in ("sparse_ratio", "cdf_threshold"))
        if given not in (own, usual) or self.selector is not None:
            raise InputError(
                "budgets: they take the place of sparse_ratio, cdf_threshold and selector; leave "
                "these out"
            )
        for name, value in zip(("sparse_ratio", "cdf_threshold"), own, strict=True):
            object.__setattr__(self, name, value)
        object.__setattr__(self, "budgets", budgets)

    def _check_sizes(self) -> None:
        for name in ("block_q", "block_kv"):
            size = getattr(self, name)
            if not is_whole(size) or size < 1:
                raise InputError(f"{name}={size!r} must be a whole number of at least 1")
        for name, least in (("pool_q", 1), ("compensation_q", 0)):
            part = getattr(self, name)
            if part is None:
                continue
            if not is_whole(part) or part < least or (part and self.block_q % part):
                raise InputError(f"{name}={part} must divide block_q={self.block_q}")

    def _take_old_names(self, rest_q: int | None) -> None:
        """What version 0.1 called otherwise."""
        if rest_q is not None:
            warn_renamed("rest_q", "compensation_q")
            object.__setattr__(self, "compensation_q", rest_q)
        if self.order == "similar":
            warn_renamed('order="similar"', 'order="pca_tree"')
            object.__setattr__(self, "order", "pca_tree")

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
          InputError: q, k and v differ in shape or are not of the layout's tokens, a budget's
            layers or heads are not the model's, or the order mixes views that the selector needs
            apart.
        """
        _check_inputs(layout, q, k, v)
        blocks = self.block_layout(layout)
        orders = self._orders(blocks, q, k)
        # Without the barrier XLA lets the pooling for block choice gather each query anew.
        queries = jax.lax.optimization_barrier(blocks.queries(q, orders))
        laid_out = queries, blocks.keys(k, orders), blocks.keys(v, orders)
        heads = q.shape[2]
        step = _heads_at_once(blocks, q.shape[0], heads)
        if step == heads:
            out, skipped = self._attend(blocks, *laid_out)
        else:
            out, skipped = self._attend_in_chunks(blocks, laid_out, step)
        return blocks.restore(out, orders), skipped

    def chunks(self, layout: TokenLayout, heads: int) -> Chunks:
        """How many heads of one scene are worked on at a time."""
        if layout.views == 1:
            return {}
        step = _heads_at_once(self.block_layout(layout), 1, heads)
        return {"heads of sparse attention": Chunk(step, heads)}

    def select(
        self, q: Float[Array, "G T N K"], k: Float[Array, "G T N K"], layout: TokenLayout
    ) -> BlockMask:
        """The key blocks of each block of queries, as `block_layout(layout)` lays them out.

        Raises:
          InputError: as `attend` does.
        """
        _check_inputs(layout, q, k)
        blocks = self.block_layout(layout)
        orders = self._orders(blocks, q, k)
        return self._mask(blocks, blocks.queries(q, orders), blocks.keys(k, orders))

    def block_layout(self, layout: TokenLayout) -> BlockLayout:
        """How the tokens of `layout` are laid out in blocks."""
        order = self.patch_order
        return BlockLayout(layout, order, self.special_tokens, self.block_q, self.block_kv)

    @property
    def takes_scale(self) -> bool:
        """Whether it heeds the layout's `scale`, as selectors and orders of your own need not."""
        selects = self.selector is None or getattr(self.selector, "takes_scale", False)
        return selects and isinstance(self.order, str | None)

    @property
    def patch_order(self) -> PatchOrder:
        """In which order patches are cut into blocks."""
        if self.order is None:
            mixed = self.special_tokens == "aligned" and not self._needs_views_apart
            return NAMED_ORDERS["pca_tree" if mixed else "raster"]
        return NAMED_ORDERS[self.order] if isinstance(self.order, str) else self.order

    @property
    def block_selector(self) -> BlockSelector:
        """What chooses the blocks."""
        if self.selector is not None:
            return self.selector
        return TopKTopP(self.sparse_ratio, self.cdf_threshold, self.pooling, self.pool_q)

    @property
    def compensated_queries(self) -> int:
        """Queries that are compensated together for skipped blocks; 0 for none."""
        if self.compensation_q is not None:
            return self.compensation_q
        if self.special_tokens == "packed" or self._needs_views_apart:
            return 0
        return math.gcd(self.block_q, max(4, self.block_q // 32))

    @property
    def _needs_views_apart(self) -> bool:
        return getattr(self.selector, "needs_views_apart", False)

    def _orders(self, blocks: BlockLayout, q: Array, k: Array) -> TokenOrders:
        """Where tokens go; refuses to mix views that the selector needs apart."""
        orders = blocks.orders(q, k)
        if self._needs_views_apart and orders.queries is not None:
            raise self._mixed()
        return orders

    def _mixed(self) -> InputError:
        kind = type(self.selector).__name__
        return InputError(
            f"order={self.order!r} mixes patches of several views, which {kind} needs apart; "
            'give order="raster" or "hilbert"'
        )

    def _attend(self, blocks: BlockLayout, q: Array, k: Array, v: Array) -> tuple[Array, Array]:
        mask = self._mask(blocks, q, k)
        skipped = _share_skipped(mask, blocks)
        num_valid = None if blocks.num_valid is None else blocks.num_valid.queries
        replicas = blocks.layout.replicas
        if replicas == 1:
            return self._attend_blocks(q, k, v, mask, num_valid, blocks.layout), skipped
        own = own_rows(q, mask, num_valid, replicas, blocks.layout.replica_rank)
        out = self._attend_blocks(own.q, k, v, own.mask, own.num_valid, blocks.layout)
        gathered = blocks.layout.collectives.gather_replicas(out, axis=1, replicas=replicas)
        return gathered[:, : q.shape[1]], skipped

    def _mask(self, blocks: BlockLayout, q: Array, k: Array) -> BlockMask:
        """The selector's choice; kernels check its shapes."""
        found: Any = self.block_selector.select(q, k, blocks)
        if not isinstance(found, BlockMask):
            raise InputError(
                f"selector: {type(self.selector).__name__}.select returned a "
                f"{type(found).__name__}; return a BlockMask"
            )
        return found

    def _attend_blocks(
        self,
        q: Array,
        k: Array,
        v: Array,
        mask: BlockMask,
        real_queries: Count | None,
        layout: TokenLayout,
    ) -> Array:
        scale = layout.scale
        attend = partial(block_sparse_attention, scale=scale, implementation=self.implementation)
        q8, k8 = (saturated(q, E4M3), saturated(k, E4M3)) if layout.float8 else (q, k)
        group = self.compensated_queries
        if not group:
            return attend(q8, k8, v, mask)
        out, sums = attend(q8, k8, v, mask, return_logsumexp=True)
        skipped = attend_to_skipped(
            q, k, v, mask, group=group, real_queries=real_queries, scale=scale
        )
        return merged_with_skipped(out, sums, skipped, group)

    def _attend_in_chunks(
        self, blocks: BlockLayout, laid_out: tuple[Array, ...], step: int
    ) -> tuple[Array, Array]:
        """A few heads at a time, so that the lists of all heads never exist together."""
        groups, _, heads, _ = laid_out[0].shape

        def chunk(index: Array, done: tuple[Array, Array]) -> tuple[Array, Array]:
            start = index * step
            q, k, v = (jax.lax.dynamic_slice_in_dim(x, start, step, 2) for x in laid_out)
            out, skipped = self._attend(blocks.for_heads(start, heads), q, k, v)
            return (
                jax.lax.dynamic_update_slice_in_dim(done[0], out, start, 2),
                jax.lax.dynamic_update_slice_in_dim(done[1], skipped, start, 1),
            )

        empty = jnp.zeros_like(laid_out[0]), jnp.zeros((groups, heads), jnp.float32)
        return jax.lax.fori_loop(0, heads // step, chunk, empty)


CHOICES: dict[str, tuple[str, ...]] = {
    "order": ORDERS,
    "special_tokens": ("aligned", "packed"),
    "implementation": tuple(IMPLEMENTATIONS),
}


def _check_part(name: str, part: Any, method: str) -> None:
    """Refuses a selector or an order that is none; names have been checked."""
    if part is None or (isinstance(part, str) and name == "order"):
        return
    if isinstance(part, type) or not callable(getattr(part, method, None)):
        found = f"the class {part.__name__}" if isinstance(part, type) else shown(part)
        raise InputError(f"{name}: found {found}; give an object with a method `{method}`")


def _check_inputs(layout: TokenLayout, *inputs: Array) -> None:
    """Refuses q, k (and v) that are not of the layout's tokens, or not alike."""
    shapes = ", ".join(f"{name} {x.shape}" for name, x in zip("qkv", inputs, strict=False))
    if any(x.ndim != 4 or x.shape != inputs[0].shape for x in inputs):
        raise InputError(f"q, k and v must have one shape (G, tokens, heads, width): {shapes}")
    if inputs[0].shape[1] != layout.tokens:
        raise InputError(f"the layout has {layout.tokens} tokens, found {shapes}")


def _share_skipped(mask: BlockMask, blocks: BlockLayout) -> Float[Array, "G N"]:
    """Of the key blocks, by the blocks of patch queries; padding counts in neither."""
    counts = mask.counts[:, :, blocks.dense_queries // blocks.block_q :]
    # What is skipped is summed, and not what is left of 1: of nothing that is 0 to the bit.
    if blocks.num_valid is None:
        skipped = blocks.key_blocks - counts
        return jnp.mean(skipped, axis=-1, dtype=jnp.float32) / blocks.key_blocks
    rows = -(-(blocks.num_valid.queries - blocks.dense_queries) // blocks.block_q)
    key_blocks = -(-blocks.num_valid.keys // blocks.block_kv)
    skipped = jnp.where(jnp.arange(counts.shape[-1]) < rows, key_blocks - counts, 0)
    # Their product may pass the largest int32.
    pairs = jnp.asarray(rows, jnp.float32) * jnp.asarray(key_blocks, jnp.float32)
    return jnp.sum(skipped, axis=-1, dtype=jnp.float32) / pairs


def _heads_at_once(blocks: BlockLayout, groups: int, heads: int) -> int:
    """The largest divisor of `heads` whose block lists stay within the limit."""
    entry = jnp.dtype(index_dtype(blocks.key_blocks)).itemsize
    head_bytes = entry * groups * blocks.query_blocks * blocks.key_blocks
    fitting = (n for n in range(heads, 1, -1) if heads % n == 0)
    return next((n for n in fitting if n * head_bytes <= LIST_BYTES_LIMIT), 1)
