"""What attention functions return, and what trunks make of it."""

import math
from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxrecon.choices import ATTENTIONS
from jaxrecon.nn.alternating import AlternatingAttention, GlobalFirstAttention
from jaxrecon.nn.attention import (
    Attention,
    AttentionStats,
    TokenLayout,
    attend_densely,
    named_attention,
    takes_scale,
)
from jaxrecon.nn.block import Block, BlockConfig
from jaxrecon.nn.execution import ExecutionConfig
from jaxrecon.nn.layers import product
from jaxrecon.nn.rope import grid_positions, rotary_table
from jaxrecon.sparse import (
    AttentionByLayer,
    BlockLayout,
    FastAttention,
    KeyViews,
    RasterOrder,
    SparseAttention,
)
from pallas_kernels.block_sparse_attention import BlockMask
from pallas_kernels.dense_attention import IMPLEMENTATIONS

LAYOUT = TokenLayout(1, (2, 3))
TOKENS = jax.random.normal(jax.random.key(0), (2, 4, 6, 8))
SCENE = jnp.ones((2, 1, 8))


def numbered(q: jax.Array, k: jax.Array, v: jax.Array, layout: TokenLayout) -> Any:
    """Dense attention that gives, as its stats, the layer that it is called for."""
    out, _ = attend_densely(q, k, v, layout)
    shape = q.shape[0], q.shape[2]
    return out, AttentionStats(jnp.broadcast_to(jnp.asarray(layout.layer, jnp.float32), shape))


def alternating(taps: tuple[int, ...] = (0, 2)) -> Any:
    make = partial(AlternatingAttention, BlockConfig(8, 2), dtype=jnp.float32, rngs=nnx.Rngs(0))
    trunk = make(3, taps=taps)
    return lambda attention: trunk(TOKENS, LAYOUT, attention)


def global_first() -> Any:
    make = partial(GlobalFirstAttention, BlockConfig(8, 2), dtype=jnp.float32, rngs=nnx.Rngs(0))
    trunk = make(3, taps=(1, 5))
    return lambda attention: trunk(TOKENS, LAYOUT, attention, SCENE)


@pytest.mark.parametrize("made", [alternating, global_first])
def test_trunks_stack_the_stats_of_global_attention(made: Any) -> None:
    trunk = made()
    *found, stats = jax.jit(trunk, static_argnums=0)(numbered)
    np.testing.assert_array_equal(stats.skipped, np.broadcast_to([[[0]], [[1]], [[2]]], (3, 2, 2)))
    *expected, none = jax.jit(trunk, static_argnums=0)(attend_densely)
    assert none is None
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_array_equal(a, b)


def test_the_last_pair_alone_is_what_it_is_among_others() -> None:
    both, last = (
        jax.jit(alternating(taps), static_argnums=0)(attend_densely)[0] for taps in ((0, 2), (2,))
    )
    assert last.shape == (1, *TOKENS.shape[:3], 16)
    np.testing.assert_array_equal(last[0], both[1])


def test_a_function_that_returns_the_output_alone_is_still_taken() -> None:
    trunk = alternating()

    def old(q: jax.Array, k: jax.Array, v: jax.Array, layout: TokenLayout) -> Any:
        return attend_densely(q, k, v, layout)[0]

    with pytest.warns(DeprecationWarning, match=r"returns \(out, AttentionStats or None\)"):
        taps, stats = trunk(old)
    assert stats is None
    np.testing.assert_array_equal(taps, trunk(attend_densely)[0])


def takes(q: jax.Array, k: jax.Array, v: jax.Array, layout: TokenLayout) -> Any:
    """Dense attention that heeds the layout's scale, told to say so."""
    return attend_densely(q, k, v, layout)


class Own:
    """A selector that is not told of scales."""

    def select(self, q: jax.Array, k: jax.Array, layout: BlockLayout) -> BlockMask:
        return KeyViews(1).select(q, k, layout)


SCALES: dict[str, tuple[Any, bool]] = {
    "dense": (attend_densely, True),
    "a backend": (named_attention("xla"), True),
    "sparse": (SparseAttention(), True),
    "fast": (FastAttention(), True),
    "by layer": (AttentionByLayer(None, {(0,): SparseAttention()}), True),
    "of your own": (takes, False),
    "key views": (SparseAttention(selector=KeyViews(4)), True),
    "a selector of your own": (SparseAttention(selector=Own()), False),
    "an order of your own": (SparseAttention(order=RasterOrder()), False),
    "by layer, one of your own": (AttentionByLayer(None, {(1,): takes}), False),
}


@pytest.mark.parametrize("name", SCALES)
def test_functions_of_your_own_get_queries_for_the_usual_scale(name: str) -> None:
    attention, expected = SCALES[name]
    assert takes_scale(attention) is expected


@pytest.mark.parametrize(
    ("qk_norm", "dtype", "training"),
    [
        (True, jnp.bfloat16, False),
        (False, jnp.bfloat16, False),
        (True, jnp.float32, False),
        (True, jnp.bfloat16, True),
        *(
            pytest.param(*case, marks=pytest.mark.thorough)
            for case in (
                (False, jnp.float32, False),
                (False, jnp.bfloat16, True),
                (True, jnp.float32, True),
                (False, jnp.float32, True),
            )
        ),
    ],
)
def test_queries_are_scaled_before_they_are_rounded(
    monkeypatch: pytest.MonkeyPatch, qk_norm: bool, dtype: Any, training: bool
) -> None:
    block = Block(BlockConfig(32, 2, qk_norm=qk_norm), dtype=dtype, rngs=nnx.Rngs(0))
    bias = 0.3 * jax.random.normal(jax.random.key(2), (96,))
    block.attention.qkv.bias = nnx.Param(bias.astype(dtype))
    x = jax.random.normal(jax.random.key(1), (2, 12, 32))
    execution = ExecutionConfig(training=training)
    seen: list[tuple[Any, TokenLayout]] = []

    def watched(q: jax.Array, k: jax.Array, v: jax.Array, layout: TokenLayout) -> Any:
        seen.append((q, layout))
        return attend_densely(q, k, v, layout)

    layout = TokenLayout(2, (2, 3))
    usual = block(x, layout, watched, execution=execution)
    monkeypatch.setattr(watched, "takes_scale", True, raising=False)
    scaled = block(x, layout, watched, execution=execution)
    (q, first), (q_scaled, second) = seen
    assert first == layout
    if dtype == jnp.bfloat16 and not training:
        assert second.scale == math.log(2)
        expected = q.astype(jnp.float32) * (16**-0.5 / math.log(2))
        np.testing.assert_allclose(q_scaled.astype(jnp.float32), expected, rtol=2**-7)
        np.testing.assert_allclose(scaled, usual, atol=0.02)
        assert not np.array_equal(q_scaled, expected.astype(jnp.bfloat16)), "rounded twice"
    else:
        assert second == layout
        np.testing.assert_array_equal(scaled, usual)


def test_scores_within_a_view_are_scaled_by_attention_itself() -> None:
    """Where no kernel takes powers of two, a pass over the queries would be for nothing."""
    attention = Attention(32, 2, qk_norm=True, dtype=jnp.bfloat16, rngs=nnx.Rngs(0))
    one, two = (TokenLayout(views, (2, 3)) for views in (1, 2))
    assert attention.with_scores(one, float8=True) == replace(one, float8=True)
    assert attention.with_scores(two, float8=False) == replace(two, scale=math.log(2))


@pytest.mark.parametrize(
    ("qk_norm", "turned", "scale", "parts"),
    [
        (False, False, None, [1, 1, 1]),
        (False, False, math.log(2), [1, 1, 1]),
        (True, True, math.log(2), [1, 2]),
        *(
            pytest.param(*case, marks=pytest.mark.thorough)
            for case in ((False, True, None, [1, 2]), (True, False, math.log(2), [1, 2]))
        ),
    ],
)
def test_queries_keys_and_values_of_many_tokens_are_products_of_their_own(
    monkeypatch: pytest.MonkeyPatch,
    qk_norm: bool,
    turned: bool,
    scale: float | None,
    parts: list[int],
) -> None:
    attention = Attention(64, 2, qk_norm=qk_norm, dtype=jnp.float32, rngs=nnx.Rngs(0))
    attention.qkv.bias = nnx.Param(jax.random.normal(jax.random.key(2), (192,)))
    x = jax.random.normal(jax.random.key(1), (2, 12, 64))
    rope = rotary_table(grid_positions((2, 3), 0), 32) if turned else None
    made: list[int] = []

    def counted(layer: Any, x: jax.Array, columns: slice = slice(None)) -> jax.Array:
        out = product(layer, x, columns)
        made.append(out.shape[-1] // 64)
        return out

    monkeypatch.setattr("jaxrecon.nn.attention.product", counted)
    expected = attention.inputs(x, rope, scale=scale)
    monkeypatch.setattr("jaxrecon.nn.attention.MANY", 24)
    found = attention.inputs(x, rope, scale=scale)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-5), found, expected)
    assert (made[0], sorted(made[1:])) == (3, parts)
    np.testing.assert_array_equal(attention.inputs(x, rope, scale=scale, joint=True), expected)


@pytest.mark.parametrize("attention", [attend_densely, SparseAttention(0.5, None)])
def test_scores_of_many_tokens_are_products_of_float8_if_told(
    monkeypatch: pytest.MonkeyPatch, attention: Any
) -> None:
    layout = TokenLayout(4, (8, 16))
    q, k, v = jax.random.normal(jax.random.key(0), (3, 1, layout.tokens, 2, 16))
    told = replace(layout, float8=True)

    def run(*inputs: jax.Array, layout: TokenLayout) -> jax.Array:
        return jax.jit(lambda *x: attention(*x, layout)[0])(*inputs)

    usual = run(q, k, v, layout=layout)
    if attention is attend_densely:
        np.testing.assert_array_equal(run(q, k, v, layout=told), usual)
        monkeypatch.setattr("pallas_kernels.dense_attention.api.LONG", 512)
    rounded = (x.astype(jnp.float8_e4m3fn).astype(x.dtype) for x in (q, k))
    found = run(q, k, v, layout=told)
    assert 1e-3 < jnp.abs(found - usual).max() < 0.3
    if attention is attend_densely:
        np.testing.assert_allclose(found, run(*rounded, v, layout=layout), rtol=0, atol=1e-6)


def test_names_of_backends_are_those_that_there_are() -> None:
    assert ("auto", "fast", "sparse", "dense", *IMPLEMENTATIONS) == ATTENTIONS


def test_old_names_of_a_layout_still_work() -> None:
    layout = TokenLayout(4, (2, 3), num_valid_views=3, replicas=2, replica_rank=1)
    for old, new in (("real_views", 3), ("team", 2), ("member", 1)):
        with pytest.warns(DeprecationWarning, match=rf"TokenLayout\.{old} is called"):
            assert getattr(layout, old) == new
