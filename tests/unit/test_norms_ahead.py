"""Blocks that norm their tokens for the block that follows."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from drawn_weights import drawn
from jaxrecon.nn.alternating import AlternatingAttention
from jaxrecon.nn.attention import TokenLayout, attend_densely
from jaxrecon.nn.block import Block, BlockConfig, scan_blocks, stack_blocks, streamed
from jaxrecon.nn.execution import INFERENCE, TRAINING, ExecutionConfig
from jaxrecon.nn.float8_blocks import in_float8
from jaxrecon.nn.layers import norm_parameters
from jaxrecon.nn.rope import grid_positions, rotary_table

CONFIG = BlockConfig(32, 2, qk_norm=True, layer_scale=0.5)
LAYOUT = TokenLayout(1, (3, 4), leading=2)
FEW = ExecutionConfig(chunk_tokens=30)
"""Two views at a time, and so no norm ahead."""


def tokens(*views: int) -> np.ndarray:
    shape = (*views, LAYOUT.tokens_per_view, CONFIG.width)
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


def stacked(depth: int) -> Block:
    return drawn(lambda: stack_blocks(CONFIG, depth, dtype=jnp.float32, rngs=nnx.Rngs(0)))


@pytest.mark.parametrize("float8", [False, True])
def test_the_next_norm_ahead_changes_nothing(float8: bool) -> None:
    blocks, x = stacked(3), tokens(5)
    if float8:
        blocks = jax.jit(jax.vmap(in_float8))(blocks)

    def run(blocks: Block, x: Any, execution: ExecutionConfig) -> jax.Array:
        return scan_blocks(blocks, x, LAYOUT, attend_densely, execution=execution)

    compiled = jax.jit(run, static_argnums=2)
    ahead, apart = (compiled(blocks, x, execution) for execution in (INFERENCE, FEW))
    # Of float8 a number half-way between two may fall to either side.
    np.testing.assert_allclose(ahead, apart, rtol=1e-5, atol=0.02 if float8 else 1e-5)


@pytest.mark.parametrize("taps", [(2,), (0, 1, 2)])
@pytest.mark.parametrize("conditioned", [False, True])
def test_nor_does_it_where_kinds_of_blocks_take_turns(
    taps: tuple[int, ...], conditioned: bool
) -> None:
    """What happens behind a pair comes before the next norm."""
    trunk = drawn(
        lambda: AlternatingAttention(CONFIG, 3, taps=taps, dtype=jnp.float32, rngs=nnx.Rngs(0))
    )

    def run(trunk: AlternatingAttention, x: Any, execution: ExecutionConfig) -> jax.Array:
        rope = rotary_table(grid_positions(LAYOUT.grid, 2), 16)
        after = (lambda x, number: x * (1 + number).astype(x.dtype)) if conditioned else None
        given: dict[str, Any] = {"after_pair": after, "execution": execution}
        return trunk(x, LAYOUT, attend_densely, rope, **given)[0]

    compiled = jax.jit(run, static_argnums=2)
    ahead, apart = (compiled(trunk, tokens(2, 4), execution) for execution in (INFERENCE, TRAINING))
    np.testing.assert_allclose(ahead, apart, rtol=1e-4, atol=1e-4)


def test_norms_are_ahead_where_all_tokens_are_worked_on_together() -> None:
    blocks, x = stacked(2), jnp.asarray(tokens(5))
    stream, norms = streamed(blocks, x, LAYOUT, INFERENCE)
    assert norms is not None
    first = jax.tree.map(lambda leaf: leaf[0], blocks)
    assert stream.normed is not None
    np.testing.assert_allclose(stream.normed, first.norm1(x), rtol=1e-5, atol=1e-5)
    ahead, own = norm_parameters(norms), norm_parameters(blocks.norm1)
    np.testing.assert_array_equal(ahead.scale, np.asarray(own.scale)[[1, 0]])
    np.testing.assert_array_equal(ahead.bias, np.asarray(own.bias)[[1, 0]])
    for execution in (FEW, TRAINING):
        stream, norms = streamed(blocks, x, LAYOUT, execution)
        assert stream.normed is None
        assert norms is None
