"""Attention across views that skips what matters least."""

from jaxrecon.choices import AttentionName
from jaxrecon.sparse.attention import SparseAttention
from jaxrecon.sparse.budgets import Budget
from jaxrecon.sparse.by_layer import AttentionByLayer, early_within_views, within_views_in
from jaxrecon.sparse.calibrated import (
    CalibratedBudgets,
    check_budgets,
    check_shares,
    read_budgets,
    write_budgets,
)
from jaxrecon.sparse.layout import BlockLayout, PatchOrder, Permutation
from jaxrecon.sparse.named import FastAttention, attention_named, chosen_attention
from jaxrecon.sparse.orders import HilbertOrder, PcaTreeOrder, RasterOrder, hilbert_order
from jaxrecon.sparse.presets import PresetBudgets
from jaxrecon.sparse.selectors import BlockSelector, TopKTopP
from jaxrecon.sparse.view_selectors import KeyViews, WithinViews

__all__ = [
    "AttentionByLayer",
    "AttentionName",
    "BlockLayout",
    "BlockSelector",
    "Budget",
    "CalibratedBudgets",
    "FastAttention",
    "HilbertOrder",
    "KeyViews",
    "PatchOrder",
    "PcaTreeOrder",
    "Permutation",
    "PresetBudgets",
    "RasterOrder",
    "SparseAttention",
    "TopKTopP",
    "WithinViews",
    "attention_named",
    "check_budgets",
    "check_shares",
    "chosen_attention",
    "early_within_views",
    "hilbert_order",
    "read_budgets",
    "within_views_in",
    "write_budgets",
]
