"""Which key blocks are worth attending to, judged by pooled queries and keys."""

from pallas_kernels.block_selection.api import IMPLEMENTATIONS, Candidates, Real, select_blocks
from pallas_kernels.block_selection.compensation import (
    SkippedAttention,
    attend_to_skipped,
    merged_with_skipped,
)
from pallas_kernels.block_selection.pooling import FOLDS, Pooling, pool_blocks

__all__ = [
    "FOLDS",
    "IMPLEMENTATIONS",
    "Candidates",
    "Pooling",
    "Real",
    "SkippedAttention",
    "attend_to_skipped",
    "merged_with_skipped",
    "pool_blocks",
    "select_blocks",
]
