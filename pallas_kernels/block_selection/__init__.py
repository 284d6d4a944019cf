"""Which key blocks are worth attending to, judged by pooled queries and keys."""

from pallas_kernels.block_selection.api import IMPLEMENTATIONS, Candidates, Real, select_blocks
from pallas_kernels.block_selection.pooling import Pooling, pool_blocks
from pallas_kernels.block_selection.rest import Rest, attend_to_rest, with_rest

__all__ = [
    "IMPLEMENTATIONS",
    "Candidates",
    "Pooling",
    "Real",
    "Rest",
    "attend_to_rest",
    "pool_blocks",
    "select_blocks",
    "with_rest",
]
