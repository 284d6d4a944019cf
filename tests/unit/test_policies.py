"""Policies that go by views and by layers, against dense attention with an explicit mask."""

from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from drawn_weights import drawn
from jaxrecon.errors import InputError
from jaxrecon.nn.alternating import AlternatingAttention
from jaxrecon.nn.attention import (
    AttentionFn,
    AttentionStats,
    TokenLayout,
    attend_densely,
    attention_chunks,
)
from jaxrecon.nn.block import BlockConfig
from jaxrecon.nn.execution import Chunk, Chunks
from jaxrecon.sparse import (
    AttentionByLayer,
    BlockSelector,
    FastAttention,
    KeyViews,
    PcaTreeOrder,
    RasterOrder,
    SparseAttention,
    WithinViews,
    early_within_views,
    hilbert_order,
    within_views_in,
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
        (WithinViews(), LAYOUT, PACKED),
        (WithinViews(), PATCHES_ALONE, {"order": "hilbert"}),
        (WithinViews(), EVEN, {}),
        (KeyViews(every=2), LAYOUT, {}),
        (KeyViews(every=3), TINY, PACKED),
        (KeyViews(count=3), LAYOUT, {"order": "hilbert"}),
        *(
            pytest.param(*case, marks=pytest.mark.thorough)
            for case in (
                (WithinViews(), LAYOUT, {}),
                (WithinViews(), TINY, PACKED),
                (KeyViews(count=2), PATCHES_ALONE, {}),
                (KeyViews(count=1), EVEN, PACKED),
            )
        ),
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
    ("selector", "views"),
    [
        (WithinViews(), 1),
        pytest.param(KeyViews(every=9), 1, marks=pytest.mark.thorough),
        (KeyViews(count=99), 5),
    ],
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
        (WithinViews(), "packed"),
        (KeyViews(count=3), "aligned"),
        pytest.param(WithinViews(), "aligned", marks=pytest.mark.thorough),
        pytest.param(KeyViews(every=2), "packed", marks=pytest.mark.thorough),
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
    assert SparseAttention(selector=WithinViews()).patch_order == RasterOrder()
    assert SparseAttention(selector=KeyViews(count=9)).compensated_queries == 0
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


WITHIN = SparseAttention(selector=WithinViews(), **SMALL)
FEW = SparseAttention(0.9, None, order="raster", **SMALL)


@partial(jax.jit, static_argnums=(0, 1))
def called(
    attention: AttentionFn, layout: TokenLayout, layer: Any, q: Any, k: Any, v: Any
) -> tuple[jax.Array, AttentionStats | None]:
    return attention(q, k, v, replace(layout, layer=layer))


def test_each_layer_has_its_attention_in_one_program() -> None:
    layout = replace(LAYOUT, layers=5)
    policy = AttentionByLayer("dense", {(0, 3): WITHIN, range(1, 2): FEW, 4: None})
    inputs = qkv(layout)
    traces: list[TokenLayout] = []

    @jax.jit
    def run(layer: jax.Array, *inputs: jax.Array) -> tuple[jax.Array, AttentionStats | None]:
        traces.append(replace(layout, layer=layer))
        q, k, v = inputs
        return policy(q, k, v, traces[-1])

    found = [run(jnp.int32(layer), *inputs) for layer in range(5)]
    assert len(traces) == 1
    for (out, stats), part in zip(
        found, (WITHIN, FEW, attend_densely, WITHIN, attend_densely), strict=True
    ):
        expected, same = called(part, layout, jnp.int32(0), *inputs)
        np.testing.assert_allclose(out, expected, rtol=0, atol=2e-6)
        assert stats is not None
        skipped = np.zeros((2, 2)) if same is None else same.skipped
        np.testing.assert_allclose(stats.skipped, skipped, rtol=0, atol=1e-6)
    out, stats = jax.jit(policy, static_argnums=3)(*inputs, replace(layout, layer=2))
    np.testing.assert_allclose(out, found[2][0], rtol=0, atol=2e-6)
    assert stats is not None and stats.skipped.shape == (2, 2)


def test_only_the_attention_of_the_layer_runs() -> None:
    ran: list[str] = []

    def watching(name: str) -> AttentionFn:
        def attention(
            q: jax.Array, k: jax.Array, v: jax.Array, layout: TokenLayout
        ) -> tuple[jax.Array, None]:
            jax.debug.callback(lambda: ran.append(name))
            return q, None

        return attention

    policy = AttentionByLayer(watching("others"), [(1, watching("one"))])
    layout = replace(LAYOUT, layers=3)
    for layer in range(3):
        jax.block_until_ready(called(policy, layout, jnp.int32(layer), *qkv(layout)))
        jax.effects_barrier()
    assert ran == ["others", "one", "others"]


def test_a_trunk_scans_it_and_tells_what_each_layer_skipped() -> None:
    config = BlockConfig(width=16, heads=2)
    make = partial(AlternatingAttention, config, dtype=jnp.float32, pairs=3, taps=(0, 2))
    trunk = drawn(lambda: make(rngs=nnx.Rngs(0)))
    layout = TokenLayout(views=1, grid=(4, 4))
    tokens = jnp.asarray(np.random.default_rng(0).normal(size=(1, 4, 16, 16)), jnp.float32)
    forward = jax.jit(lambda attention: trunk(tokens, layout, attention), static_argnums=0)
    dense, _ = forward(attend_densely)
    late, stats = forward(AttentionByLayer(None, {2: WITHIN}))
    np.testing.assert_allclose(late[0], dense[0], rtol=0, atol=1e-5)
    assert np.abs(np.asarray(late[1] - dense[1])).max() > 1e-3
    # Four views of 16 patches and no specials: a block of queries sees one view of the four.
    shares = np.broadcast_to(np.array([0, 0, 0.75])[:, None, None], (3, 1, 2))
    np.testing.assert_allclose(stats.skipped, shares, atol=1e-6)


def test_within_a_view_all_layers_have_the_first_attention() -> None:
    layout = replace(LAYOUT, views=1, scene=0, layers=2)
    policy = AttentionByLayer(None, {0: lambda *_: pytest.fail("called within a view")})
    out, stats = called(policy, layout, 0, *qkv(layout))
    np.testing.assert_array_equal(out, called(attend_densely, layout, 0, *qkv(layout))[0])
    assert stats is None


def test_a_policy_is_kept_in_one_form() -> None:
    """So that it can be the static argument of a program."""
    given: dict[Any, Any] = {range(2): "fast", np.int64(4): None}
    one = AttentionByLayer("sparse", given)
    same = AttentionByLayer(SparseAttention(), (((0, 1), FastAttention()), ((4,), attend_densely)))
    assert (one, hash(one)) == (same, hash(same))


def test_the_plan_is_that_of_the_largest_part(monkeypatch: pytest.MonkeyPatch) -> None:
    class Turns:
        """Works on some things at a time."""

        def __init__(self, size: int) -> None:
            self.size = size

        def __call__(self, q: Any, k: Any, v: Any, layout: TokenLayout) -> tuple[Any, None]:
            return q, None

        def chunks(self, layout: TokenLayout, heads: int) -> Chunks:
            return {"heads": Chunk(self.size, heads)}

    policy = AttentionByLayer(Turns(2), {0: Turns(3), 1: None, 2: WITHIN})
    heads = {"heads of sparse attention": Chunk(4, 4)}
    assert policy.chunks(LAYOUT, 4) == {"heads": Chunk(3, 4), **heads}


def test_early_layers_are_those_of_released_models() -> None:
    within = SparseAttention(selector=WithinViews())
    for layers, early in ((24, 9), (18, 10), (12, 4), (5, 1), (1, 1)):
        policy = early_within_views(layers, "sparse")
        assert policy == AttentionByLayer(SparseAttention(), {range(early): within})
    assert early_within_views(24) == within_views_in(range(9))
    with pytest.raises(InputError, match="num_layers=0 must be a whole number of at least 1"):
        early_within_views(0)


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ({-1: None}, "layers: give layers and their attention, such as"),
        ({"0-8": None}, "layers: give layers and their attention, such as"),
        (7, "layers: give layers and their attention, such as"),
        ({True: None}, "layers: give layers and their attention, such as"),
        ({range(3): None, 2: "sparse"}, r"layers: \[2\] are named twice"),
        ({0: "dens"}, "attention='dens' is unknown.*did you mean dense"),
        ({0: 3}, "attention: found int; give a name or a function"),
    ],
)
def test_layers_that_make_no_sense_are_refused(
    without_shape_checks: None, layers: Any, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        AttentionByLayer(None, layers)


def test_layers_that_the_model_has_not_are_refused() -> None:
    policy = AttentionByLayer(None, {range(2, 6): WITHIN})
    with pytest.raises(InputError, match="layers: 5 is named, the model has 5 global layers; name"):
        called(policy, replace(LAYOUT, layers=5), 0, *qkv(LAYOUT))


def test_fast_attention_is_planned_as_what_it_is() -> None:
    sparse = SparseAttention(block_q=16, block_kv=16)
    layout = TokenLayout(views=3, grid=(4, 4), leading=1, layer=0, layers=2)
    for limit, expected in ((layout.tokens, {}), (layout.tokens - 1, sparse.chunks(layout, 4))):
        assert attention_chunks(FastAttention(sparse, limit), layout, 4) == expected
    assert sparse.chunks(layout, 4)
