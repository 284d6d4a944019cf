"""Attention across views that skips what matters least."""

from jaxrecon.sparse.attention import Budget, SparseAttention
from jaxrecon.sparse.hilbert import hilbert_order

__all__ = ["Budget", "SparseAttention", "hilbert_order"]
