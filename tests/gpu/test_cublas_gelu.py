"""GELU within cuBLAS's products, on an NVIDIA GPU: run with `python3 -m pytest -m gpu`."""

import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxrecon.compiling import compiled
from jaxrecon.nn.attention import TokenLayout, attend_densely
from jaxrecon.nn.block import BlockConfig, scan_blocks, stack_blocks
from jaxrecon.nn.execution import ExecutionConfig
from jaxrecon.nn.float8_blocks import in_float8
from jaxrecon.nn.layers import Mlp

pytestmark = pytest.mark.gpu

CUBLAS = ExecutionConfig(cublas_gelu=True)


def run(function: Any, *arguments: Any) -> tuple[np.ndarray, list[str]]:
    """What it makes, and what cuBLAS does behind its products, as reconstruction compiles it."""
    program = compiled(jax.jit(function).lower(*arguments), jax.devices()[0])
    found = np.asarray(program(*arguments).astype(jnp.float32))
    return found, re.findall(r'"epilogue":"(\w+)"', program.as_text())


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
@pytest.mark.parametrize("tokens", [1041, 1040])
def test_it_is_nearer_to_the_exact_form_than_a_pass_of_its_own(dtype: Any, tokens: int) -> None:
    """The kernel behind a product is exact, but of sums that were rounded to 16 bits."""
    mlp = Mlp(256, 1024, dtype=dtype, rngs=nnx.Rngs(0))
    mlp.fc1.bias = nnx.Param(0.5 * jax.random.normal(jax.random.key(2), (1024,), dtype))
    x = jax.random.normal(jax.random.key(1), (3, tokens, 256), dtype)

    def exact(mlp: Mlp, x: jax.Array) -> jax.Array:
        wide = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), (mlp, x))
        kernel, bias = wide[0].fc1.kernel[...], wide[0].fc1.bias[...]
        product = jnp.matmul(wide[1], kernel, precision="highest")
        return jax.nn.gelu(product + bias[None, None], approximate=False)

    expected, _ = run(exact, mlp, x)
    passes, none = run(lambda m, x: m.hidden(x), mlp, x)
    found, epilogues = run(lambda m, x: m.hidden(x, execution=CUBLAS), mlp, x)
    assert (none, epilogues) == (["DEFAULT"], ["BIAS_GELU"])
    of_passes, own = (np.sqrt(np.mean((made - expected) ** 2)) for made in (passes, found))
    assert own < of_passes
    assert np.abs(found - expected).max() <= 5e-4 + np.abs(expected).max() * jnp.finfo(dtype).eps


@pytest.mark.parametrize("float8", [False, True])
def test_blocks_have_no_other_pass(float8: bool) -> None:
    blocks = stack_blocks(
        BlockConfig(256, 4, layer_scale=0.5), 3, dtype=jnp.bfloat16, rngs=nnx.Rngs(0)
    )
    if float8:
        blocks = jax.jit(jax.vmap(in_float8))(blocks)
    x = jax.random.normal(jax.random.key(1), (2, 1041, 256))
    layout = TokenLayout(views=1, leading=5, grid=(28, 37))

    def through(execution: ExecutionConfig) -> Any:
        return lambda blocks, x: scan_blocks(blocks, x, layout, attend_densely, execution=execution)

    expected, none = run(through(ExecutionConfig()), blocks, x)
    found, epilogues = run(through(CUBLAS), blocks, x)
    assert "BIAS_GELU" not in none and epilogues.count("BIAS_GELU") == 1
    gap = np.linalg.norm(found - expected) / np.linalg.norm(expected)
    assert gap <= (3e-2 if float8 else 5e-3)
