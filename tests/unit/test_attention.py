"""What attention functions return, and what trunks make of it."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxrecon.choices import ATTENTIONS
from jaxrecon.nn.alternating import AlternatingAttention, GlobalFirstAttention
from jaxrecon.nn.attention import AttentionStats, TokenLayout, attend_densely
from jaxrecon.nn.block import BlockConfig
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


def test_names_of_backends_are_those_that_there_are() -> None:
    assert ("auto", "fast", "sparse", "dense", *IMPLEMENTATIONS) == ATTENTIONS


def test_old_names_of_a_layout_still_work() -> None:
    layout = TokenLayout(4, (2, 3), num_valid_views=3, replicas=2, replica_rank=1)
    for old, new in (("real_views", 3), ("team", 2), ("member", 1)):
        with pytest.warns(DeprecationWarning, match=rf"TokenLayout\.{old} is called"):
            assert getattr(layout, old) == new
