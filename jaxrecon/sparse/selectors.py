"""Policies that choose which blocks of keys each block of queries attends to."""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from jaxtyping import Array, Float

from jaxrecon.checks import is_whole
from jaxrecon.choices import meant
from jaxrecon.errors import InputError
from jaxrecon.sparse.budgets import SPANS, Budget, budgets_of, checked_budget
from jaxrecon.sparse.layout import BlockLayout
from pallas_kernels.block_selection import FOLDS, Pooling, select_blocks
from pallas_kernels.block_sparse_attention import BlockMask


@runtime_checkable
class BlockSelector(Protocol):
    """Chooses blocks of keys. Instances must be hashable: they are static."""

    def select(
        self, q: Float[Array, "G padded N K"], k: Float[Array, "G T N K"], layout: BlockLayout
    ) -> BlockMask:
        """The key blocks of each block of queries.

        Args:
          q: queries in blocks, as `layout.queries` gives them.
          k: keys in blocks, as `layout.keys` gives them.
          layout: which blocks compete (`candidates`), which queries see all (`dense_queries`),
            what is padding (`num_valid`), and which layer and heads these are (`layout.layout`).
            Inputs may be some of the heads.
        """
        ...


@dataclass(frozen=True)
class TopKTopP:
    """The best blocks by pooled queries and keys (arXiv 2509.07120, section 4).

    A block of queries takes competing key blocks from the best down: as many as the ratio leaves,
    or as many as reach the threshold, whichever are more.

    Attributes:
      sparse_ratio: share of the competing key blocks that may be skipped, in [0, 1); None to let
        the threshold alone decide. Budgets are kept as floats or tuples of them.
      cdf_threshold: share of the pooled softmax that the kept blocks reach, in (0, 1]; None to let
        the ratio alone decide.
      pooling: how a block becomes one vector: "mean" or "max".
      pool_q: queries pooled to one when blocks are scored, a divisor of the blocks' size. If not
        given, a quarter of a block of "aligned" tokens, which finds better blocks than the whole
        block that the paper pools and that "packed" ones, or blocks that 4 does not divide, get.

    Raises:
      InputError: a value is out of range; when called, a budget's layers or heads are not the
        model's.
    """

    sparse_ratio: Budget | None = 0.75
    cdf_threshold: Budget | None = 0.9
    pooling: Pooling = "mean"
    pool_q: int | None = None

    def __post_init__(self) -> None:
        if self.sparse_ratio is None and self.cdf_threshold is None:
            raise InputError("sparse_ratio and cdf_threshold are both None; give at least one")
        for name in SPANS:
            object.__setattr__(self, name, checked_budget(name, getattr(self, name)))
        if self.pooling not in FOLDS:
            known = ", ".join(FOLDS)
            near = meant(self.pooling, FOLDS)
            raise InputError(f"pooling={self.pooling!r} is unknown; choose one of {known}{near}")
        if self.pool_q is not None and (not is_whole(self.pool_q) or self.pool_q < 1):
            raise InputError(f"pool_q={self.pool_q!r} must be a whole number of at least 1")

    def select(
        self, q: Float[Array, "G padded N K"], k: Float[Array, "G T N K"], layout: BlockLayout
    ) -> BlockMask:
        budgets = budgets_of(self.sparse_ratio, self.cdf_threshold, layout, q.shape[2])
        return select_blocks(
            q,
            k,
            top_k=budgets.top_k,
            top_p=budgets.top_p,
            block_q=layout.block_q,
            block_kv=layout.block_kv,
            candidates=layout.candidates,
            dense_queries=layout.dense_queries,
            pooling=self.pooling,
            pool_q=self.pooled(layout.block_q, layout.special_tokens),
            num_valid=layout.num_valid,
            scale=layout.layout.scale,
        )

    def pooled(self, block_q: int, special_tokens: str) -> int:
        """Queries pooled to one in blocks of this size."""
        if self.pool_q is not None:
            return self.pool_q
        return block_q if special_tokens == "packed" or block_q % 4 else block_q // 4
