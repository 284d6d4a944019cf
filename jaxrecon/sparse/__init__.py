"""Attention across views that skips what matters least."""

from jaxrecon.sparse.attention import Budget, SparseAttention
from jaxrecon.sparse.hilbert import hilbert_order
from jaxrecon.sparse.named import AttentionName, FastAttention, attention_named

__all__ = [
    "AttentionName",
    "Budget",
    "FastAttention",
    "SparseAttention",
    "attention_named",
    "hilbert_order",
]
