"""Attention across views that skips what matters least."""

from jaxrecon.sparse.attention import Budget, SparseAttention
from jaxrecon.sparse.hilbert import hilbert_order
from jaxrecon.sparse.named import AttentionName, FastAttention, attention_named, chosen_attention

__all__ = [
    "AttentionName",
    "Budget",
    "FastAttention",
    "SparseAttention",
    "attention_named",
    "chosen_attention",
    "hilbert_order",
]
