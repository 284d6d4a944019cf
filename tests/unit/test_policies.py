"""Policies that go by views and by layers, against dense attention with an explicit mask."""

from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrecon.errors import InputError
from jaxrecon.nn.attention import TokenLayout
from jaxrecon.sparse import (
    BlockSelector,
    KeyViews,
    PcaTreeOrder,
    SparseAttention,
    WithinViews,
    hilbert_order,
)
from jaxrecon.sparse import attention as policy_module
from jaxrecon.sparse.layout import BlockLayout, Permutation

SMALL: dict[str, Any] = {"block_q": 8, "block_kv": 4, "compensation_q": 0}
LAYOUT = TokenLayout(views=5, grid=(3, 5), leading=2, trailing=1, scene=2)
"""Fifteen patches a view: neither kind of block divides them."""


def qkv(layout: TokenLayout, heads: int = 2) -> list[np.ndarray]:
    random = np.random.default_rng(layout.tokens)
    shape = (2, layout.tokens, heads, 8)
    return [random.normal(size=shape).astype(np.float32) for _ in range(3)]


def key_views(selector: BlockSelector, views: int) -> set[int]:
    if not isinstance(selector, KeyViews):
        return set()
    if selector.every is not None:
        return set(range(0, views, selector.every))
    assert selector.count is not None
    count = min(selector.count, views)
    return {index * views // count for index in range(count)}


def seen(attention: SparseAttention, layout: TokenLayout) -> np.ndarray:
    """Which tokens each token sees, from what the docstrings say, token by token."""
    view_of: list[int | None] = []
    patches = layout.grid[0] * layout.grid[1]
    for view in range(layout.views):
        own = [*(None,) * layout.leading, *(view,) * patches, *(None,) * layout.trailing]
        view_of += own
    view_of += [None] * layout.scene
    specials = [token for token, view in enumerate(view_of) if view is None]
    within = hilbert_order(layout.grid) if attention.order == "hilbert" else np.arange(patches)
    first = layout.tokens_per_view * np.arange(layout.views)[:, None] + layout.leading
    ordered = (first + within).reshape(-1).tolist()
    keys = [*specials, *ordered]
    if attention.special_tokens == "packed":
        keys = [*ordered, *specials]
    query_blocks = cut(ordered, attention.block_q)
    key_blocks = cut(keys, attention.block_kv)
    wanted = key_views(attention.block_selector, layout.views)
    found = np.zeros((layout.tokens, layout.tokens), bool)
    found[specials] = True
    for rows in query_blocks:
        own = {view_of[token] for token in rows}
        for block in key_blocks:
            views = {view_of[token] for token in block}
            aligned = attention.special_tokens == "aligned" and None in views
            if views == {None} or aligned or views & (own | wanted):
                found[np.ix_(rows, block)] = True
    return found


def cut(tokens: list[int], size: int) -> list[list[int]]:
    return [tokens[start : start + size] for start in range(0, len(tokens), size)]


def masked_dense(inputs: list[np.ndarray], mask: np.ndarray) -> np.ndarray:
    q, k, v = (x.astype(np.float64) for x in inputs)
    scores = np.einsum("gtnk,gsnk->gnts", q, k) / np.sqrt(q.shape[-1])
    weights = np.exp(np.where(mask, scores, -np.inf))
    weights /= weights.sum(-1, keepdims=True)
    return np.einsum("gnts,gsnk->gtnk", weights, v)


@partial(jax.jit, static_argnums=(0, 1))
def attended(
    attention: SparseAttention, layout: TokenLayout, views: Any, q: Any, k: Any, v: Any
) -> tuple[jax.Array, jax.Array]:
    return attention.attend(q, k, v, replace(layout, num_valid_views=views))


PACKED: dict[str, Any] = {"special_tokens": "packed"}
EVEN = replace(LAYOUT, grid=(4, 4), views=2)
TINY = replace(LAYOUT, grid=(1, 2), views=7)
PATCHES_ALONE = replace(LAYOUT, leading=0, trailing=0, scene=0)


@pytest.mark.parametrize(
    ("selector", "layout", "options"),
    [
        (WithinViews(), LAYOUT, {}),
        (WithinViews(), LAYOUT, PACKED),
        (WithinViews(), PATCHES_ALONE, {"order": "hilbert"}),
        (WithinViews(), EVEN, {}),
        (WithinViews(), TINY, PACKED),
        (KeyViews(every=2), LAYOUT, {}),
        (KeyViews(every=3), TINY, PACKED),
        (KeyViews(count=3), LAYOUT, {"order": "hilbert"}),
        (KeyViews(count=2), PATCHES_ALONE, {}),
        (KeyViews(count=1), EVEN, PACKED),
    ],
)
def test_blocks_are_seen_by_their_views(
    selector: BlockSelector, layout: TokenLayout, options: dict[str, Any]
) -> None:
    attention = SparseAttention(selector=selector, **SMALL | options)
    inputs = qkv(layout)
    mask = seen(attention, layout)
    assert not mask.all()
    out, _ = attended(attention, layout, None, *inputs)
    np.testing.assert_allclose(out, masked_dense(inputs, mask), rtol=0, atol=2e-6)


@pytest.mark.parametrize(
    ("selector", "views"), [(WithinViews(), 1), (KeyViews(every=9), 1), (KeyViews(count=99), 5)]
)
def test_where_all_views_are_seen_it_is_dense(selector: BlockSelector, views: int) -> None:
    attention = SparseAttention(selector=selector, **SMALL)
    layout = replace(LAYOUT, views=views)
    inputs = qkv(layout)
    out, skipped = attended(attention, layout, None, *inputs)
    np.testing.assert_allclose(out, masked_dense(inputs, np.array(True)), rtol=0, atol=2e-6)
    np.testing.assert_allclose(skipped, np.zeros((2, 2)), atol=1e-6)


@pytest.mark.parametrize(
    ("selector", "special_tokens"),
    [
        (WithinViews(), "aligned"),
        (WithinViews(), "packed"),
        (KeyViews(every=2), "packed"),
        (KeyViews(count=3), "aligned"),
    ],
)
def test_padding_views_are_never_seen(selector: BlockSelector, special_tokens: Any) -> None:
    attention = SparseAttention(selector=selector, special_tokens=special_tokens, **SMALL)
    inputs = qkv(LAYOUT)
    padded = replace(LAYOUT, views=8)
    end = LAYOUT.views * LAYOUT.tokens_per_view
    spare = padded.tokens - LAYOUT.tokens
    junk = np.full((2, spare, *inputs[0].shape[2:]), 9, np.float32)
    wide = [np.concatenate([x[:, :end], junk, x[:, end:]], axis=1) for x in inputs]
    own = np.r_[:end, end + spare : padded.tokens]
    out, skipped = attended(attention, padded, jnp.int32(LAYOUT.views), *wide)
    expected = masked_dense(inputs, seen(attention, LAYOUT))
    np.testing.assert_allclose(out[:, own], expected, rtol=0, atol=2e-6)
    _, share = attended(attention, LAYOUT, None, *inputs)
    np.testing.assert_allclose(skipped, share, rtol=0, atol=1e-6)


def test_heads_in_turns_see_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(policy_module, "LIST_BYTES_LIMIT", 1)
    attention = SparseAttention(selector=KeyViews(count=2), **SMALL)
    inputs = qkv(LAYOUT, heads=3)
    out, skipped = attended(attention, LAYOUT, None, *inputs)
    expected = masked_dense(inputs, seen(attention, LAYOUT))
    np.testing.assert_allclose(out, expected, rtol=0, atol=2e-6)
    assert skipped.shape == (2, 3)


def test_orders_that_mix_views_are_refused(without_shape_checks: None) -> None:
    assert SparseAttention(selector=WithinViews()).order is None
    mixed = 'mixes patches of several views, which WithinViews needs apart; give order="raster"'
    for order in ("pca_tree", PcaTreeOrder()):
        with pytest.raises(InputError, match=mixed):
            SparseAttention(selector=WithinViews(), order=order)

    class Reversed:
        """An order of one's own, across all views."""

        def order(self, q: jax.Array, k: jax.Array, layout: BlockLayout) -> Permutation:
            back = jnp.broadcast_to(jnp.arange(layout.patches)[::-1], (len(q), layout.patches))
            return Permutation(queries=back, keys=back)

    attention = SparseAttention(selector=WithinViews(), order=Reversed(), **SMALL)
    with pytest.raises(InputError, match="mixes patches of several views"):
        attended(attention, LAYOUT, None, *qkv(LAYOUT))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "KeyViews: give every or count, one of them"),
        ({"every": 2, "count": 3}, "KeyViews: give every or count, one of them"),
        ({"every": 0}, "every=0 must be a whole number of at least 1"),
        ({"count": 2.5}, "count=2.5 must be a whole number of at least 1"),
    ],
)
def test_key_views_that_make_no_sense_are_refused(
    without_shape_checks: None, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        KeyViews(**options)
