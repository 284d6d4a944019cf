"""Work on many tokens, some at a time."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from drawn_weights import drawn
from jaxrecon.nn import views
from jaxrecon.nn.attention import TokenLayout, attend_densely
from jaxrecon.nn.block import Block, BlockConfig
from jaxrecon.nn.execution import INFERENCE, ExecutionConfig
from jaxrecon.nn.rope import grid_positions, rotary_table
from jaxrecon.runtime import masks
from jaxrecon.runtime.placement import ONE_DEVICE
from one_program import one_program


@pytest.mark.parametrize("joined", [False, True])
def test_a_block_in_turns_changes_nothing(joined: bool) -> None:
    config = BlockConfig(32, 2, qk_norm=True)
    block = drawn(lambda: Block(config, dtype=jnp.float32, rngs=nnx.Rngs(0)))
    layout = TokenLayout(1, (3, 4), leading=2)
    x = np.random.default_rng(0).normal(size=(5, 14, 32)).astype(np.float32)
    if joined:
        x, layout = x.reshape(1, 70, 32), layout.joined(5)

    def run(block: Block, x: Any, execution: ExecutionConfig) -> jax.Array:
        rope = rotary_table(grid_positions(layout.grid, 2), 16)
        return block(x, layout, attend_densely, rope, execution=execution)

    compiled = jax.jit(run, static_argnums=2)
    whole = compiled(block, x, INFERENCE)
    few = ExecutionConfig(chunk_tokens=30)  # two views, or 30 tokens
    text = str(jax.make_jaxpr(run, static_argnums=2)(block, x, few))
    assert text.count("scan[") == 2
    np.testing.assert_allclose(compiled(block, x, few), whole, rtol=1e-5, atol=1e-6)


def test_tokens_that_make_no_whole_units_stay_together() -> None:
    seen: list[Any] = []

    def work(x: jax.Array) -> jax.Array:
        seen.append(x.shape)
        return x

    x = jnp.zeros((1, 71, 4))
    few = ExecutionConfig(chunk_tokens=30)
    assert views.chunked_map(work, x, unit=14, execution=few).shape == x.shape
    assert seen == [(1, 71, 4)]


@pytest.mark.parametrize(("tokens", "sizes"), [(30, [30]), (60, [30]), (67, [23, 21])])
def test_tokens_are_written_over_chunk_by_chunk(tokens: int, sizes: list[int]) -> None:
    """Each once, also where chunks do not cover them evenly."""
    seen: list[int] = []

    def work(x: jax.Array, other: jax.Array) -> jax.Array:
        seen.append(x.shape[0] * x.shape[1])
        return 2 * x + other[..., :1]

    x = np.arange(2.0 * tokens, dtype=np.float32).reshape(1, tokens, 2)
    other = np.arange(3.0 * tokens, dtype=np.float32).reshape(1, tokens, 3)
    few = ExecutionConfig(chunk_tokens=30)
    out = jax.jit(lambda *given: views.chunked_update(work, *given, execution=few))(x, other)
    np.testing.assert_array_equal(out, 2 * x + other[..., :1])
    assert seen == sizes


def test_edges_in_turns_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(0)
    points = random.normal(size=(7, 12, 16, 3)).astype(np.float32)
    points[..., 2] = 1 + np.abs(points[..., 2])
    mask = random.random(points.shape[:3]) < 0.9

    def edges(points: jax.Array, mask: jax.Array) -> jax.Array:
        return masks._edges(points, mask, 0.03, False, ONE_DEVICE)

    whole = one_program(edges)(points, mask)
    monkeypatch.setattr(masks, "EDGES_AT_ONCE", 3)
    assert whole.any() and not whole.all()
    # Another function to JAX, which traces it anew.
    np.testing.assert_array_equal(one_program(partial(edges))(points, mask), whole)
