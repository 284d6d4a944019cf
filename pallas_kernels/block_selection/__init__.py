"""Which key blocks are worth attending to, judged by pooled queries and keys."""

from jaxrecon.deprecation import moved_names
from pallas_kernels.block_selection.api import IMPLEMENTATIONS, Candidates, NumValid, select_blocks
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
    "NumValid",
    "Pooling",
    "SkippedAttention",
    "attend_to_skipped",
    "merged_with_skipped",
    "pool_blocks",
    "select_blocks",
]

__getattr__ = moved_names(__name__, {"Real": "pallas_kernels.block_selection:NumValid"})
