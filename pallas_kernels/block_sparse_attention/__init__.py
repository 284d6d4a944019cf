"""Attention in which each block of queries sees a list of key blocks of its own."""

from pallas_kernels.block_sparse_attention.api import IMPLEMENTATIONS, block_sparse_attention
from pallas_kernels.block_sparse_attention.mask import BlockMask, full_mask, index_dtype
from pallas_kernels.block_sparse_attention.reference import attention_reference

__all__ = [
    "IMPLEMENTATIONS",
    "BlockMask",
    "attention_reference",
    "block_sparse_attention",
    "full_mask",
    "index_dtype",
]
