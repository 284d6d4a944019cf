"""Attention across views that skips what matters least."""

from jaxrecon.choices import AttentionName
from jaxrecon.sparse.attention import SparseAttention
from jaxrecon.sparse.budgets import Budget
from jaxrecon.sparse.by_layer import AttentionByLayer, early_within_views, within_views_in
from jaxrecon.sparse.layout import BlockLayout, PatchOrder, Permutation
from jaxrecon.sparse.named import FastAttention, attention_named, chosen_attention
from jaxrecon.sparse.orders import HilbertOrder, PcaTreeOrder, RasterOrder, hilbert_order
from jaxrecon.sparse.selectors import BlockSelector, TopKTopP
from jaxrecon.sparse.view_selectors import KeyViews, WithinViews

__all__ = [
    "AttentionByLayer",
    "AttentionName",
    "BlockLayout",
    "BlockSelector",
    "Budget",
    "FastAttention",
    "HilbertOrder",
    "KeyViews",
    "PatchOrder",
    "PcaTreeOrder",
    "Permutation",
    "RasterOrder",
    "SparseAttention",
    "TopKTopP",
    "WithinViews",
    "attention_named",
    "chosen_attention",
    "early_within_views",
    "hilbert_order",
    "within_views_in",
]
