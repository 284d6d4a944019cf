"""Exact attention over all keys: `softmax(scale * q k^T) v`."""

from pallas_kernels.dense_attention.api import IMPLEMENTATIONS, dense_attention, is_long
from pallas_kernels.dense_attention.reference import attention_reference

__all__ = ["IMPLEMENTATIONS", "attention_reference", "dense_attention", "is_long"]
