"""Policies in one word."""

import warnings

import pytest

from jaxrecon.errors import InputError
from jaxrecon.nn.attention import AttentionFn, attend_densely
from jaxrecon.sparse import (
    FastAttention,
    KeyViews,
    PresetBudgets,
    SparseAttention,
    WithinViews,
    within_views_in,
)
from jaxrecon.sparse.notation import policy_of


@pytest.mark.parametrize(
    ("text", "policy"),
    [
        ("dense", attend_densely),
        ("fast", FastAttention()),
        ("sparse", SparseAttention()),
        ("sparse:order=raster", SparseAttention(order="raster")),
        ("0.75", SparseAttention(0.75, None)),
        (
            "0.75:order=pca_tree,pool_q=128",
            SparseAttention(0.75, None, order="pca_tree", pool_q=128),
        ),
        ("(0.9,0.5)", SparseAttention((0.9, 0.5), None)),
        (
            "None:cdf_threshold=(0.9,0.8),compensation_q=0",
            SparseAttention(None, (0.9, 0.8), compensation_q=0),
        ),
        ("within_views", SparseAttention(selector=WithinViews())),
        ("key_views=8", SparseAttention(selector=KeyViews(count=8))),
        (
            "every=4:compensation_q=4",
            SparseAttention(selector=KeyViews(every=4), compensation_q=4),
        ),
        ("middle_spared", SparseAttention(budgets="middle_spared")),
        (
            "early_most=0.9:order=hilbert",
            SparseAttention(budgets=PresetBudgets("early_most", 0.9), order="hilbert"),
        ),
        ("budgets=late_spared", SparseAttention(budgets="late_spared")),
        ("late_spared@0", within_views_in(0, SparseAttention(budgets="late_spared"))),
        ("dense@0-1", within_views_in((0, 1))),
        ("0.75@0,2-3", within_views_in((0, 2, 3), SparseAttention(0.75, None))),
    ],
)
def test_what_is_written(text: str, policy: AttentionFn) -> None:
    assert policy_of(text) == policy


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "'' is unknown; give a share of key blocks to skip, such as 0.75, or one of auto, "),
        ("dence", "did you mean dense?"),
        ("middle-spared=0.9", "did you mean middle_spared?"),
        ("middle_spared=", "middle_spared takes a share of key blocks to skip, found none"),
        ("middle_spared=1", "middle_spared: skipped=1.0 must be a number in [0, 1)"),
        ("late_spared:cdf_threshold=0.9", "cdf_threshold does not go with late_spared; leave"),
        ("budgets=late_sparred", "did you mean late_spared?"),
        ("key_view=3", "did you mean key_views?"),
        (
            "key_views",
            "key_views needs a whole number of at least 1, found none; write key_views=8",
        ),
        ("every=x", "found x; write every=8"),
        ("every=0", "every needs a whole number of at least 1, found 0; write every=8"),
        ("within_views=3", "within_views takes no number, found '3'; leave it out"),
        ("1.5", "sparse_ratio=1.5 must be numbers in [0, 1)"),
        ("None", "sparse_ratio and cdf_threshold are both None"),
        ("0.75:oder=raster", "'oder' is no field; choose one of cdf_threshold, "),
        ("0.75:oder=raster", "did you mean order?"),
        ("0.75:selector=x", "'selector' is no field"),
        ("0.75:order=spiral", "order='spiral' is unknown; choose one of "),
        ("0.75:pool_q=four", "pool_q='four' is no number; give one, or None"),
        ("0.75:pool_q", "pool_q='' is no number"),
        ("dense:order=raster", "order is of block-sparse attention, found dense; leave it out"),
        ("0.75@", "'' names no layers; give them from 0, such as 0.75@0-8 or dense@0-3,6"),
        ("0.75@3-1", "'3-1' names no layers"),
        ("dense@0,0", "[0] are named twice"),
        ("(0.9", "'(0.9' is unknown"),
        ("(" * 900, "is unknown"),
        ("9" * 2000, "it has 2000 characters; give at most 1000"),
        ("0.5if 1else 2", "is unknown"),
        ("__import__('os')", "is unknown"),
    ],
)
def test_what_names_nothing(text: str, told: str, without_shape_checks: None) -> None:
    with warnings.catch_warnings(), pytest.raises(InputError) as refused:
        warnings.simplefilter("error")
        policy_of(text)
    assert str(refused.value).startswith("policy ")
    assert told in str(refused.value)
    assert "\n" not in str(refused.value)
