"""Float32 products by parts in bfloat16: as precise as float32, and where they are chosen."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from abstract_devices import here_is
from jaxrecon.nn.exact import (
    apply_for,
    in_parts,
    parts_of,
    plainly,
    product_in_parts,
    product_of_parts,
)
from jaxrecon.nn.execution import INFERENCE, TRAINING
from jaxrecon.nn.layers import linear
from one_program import one_program


@pytest.mark.parametrize("columns", [6, 42, 196])
def test_as_precise_as_float32(columns: int) -> None:
    """The columns are no multiple of eight; sizes of the numbers differ by a thousand."""
    random = np.random.default_rng(0)
    sizes = 10 ** random.uniform(-3, 0, (512,))
    x = jnp.asarray(random.normal(size=(3, 50, 512)) * sizes, jnp.bfloat16)
    kernel = random.normal(size=(512, columns)).astype(np.float32)
    given = np.asarray(x, np.float64)
    true = given @ kernel
    found = one_program(product_in_parts)(x, kernel)
    assert found.dtype == np.float32
    whole = np.asarray(jnp.matmul(x.astype(jnp.float32), kernel, precision="highest"))
    error, usual = (np.sqrt(np.mean((y - true) ** 2) / np.mean(true**2)) for y in (found, whole))
    # Another order of summing makes as much of a difference.
    assert error < 2 * usual < 1e-6


def test_two_parts_of_each_side() -> None:
    """Numbers that bfloat16 does not hold, on both sides; one product of three times the depth."""
    random = np.random.default_rng(3)
    x = random.normal(size=(3, 50, 784)).astype(np.float32)
    kernel = random.normal(size=(784, 20)).astype(np.float32)
    true = x.astype(np.float64) @ kernel
    error, rounded = (
        np.sqrt(np.mean((np.asarray(y, np.float64) - true) ** 2) / np.mean(true**2))
        for y in (
            one_program(product_of_parts)(x, kernel),
            x.astype(jnp.bfloat16).astype(np.float64) @ kernel,
        )
    )
    assert error < 2.0**-16
    assert rounded > 2.0**-10


def test_three_parts_are_the_number() -> None:
    x = np.random.default_rng(1).normal(size=1000).astype(np.float32)
    parts = one_program(parts_of)(x)
    assert [part.dtype for part in parts] == [jnp.bfloat16] * 3
    np.testing.assert_array_equal(sum(part.astype(np.float64) for part in parts), x)


def test_a_layer_has_its_bias() -> None:
    layer = linear(16, 5, dtype=jnp.float32, rngs=nnx.Rngs(0))
    layer.bias = nnx.Param(jnp.arange(5.0))
    x = jnp.asarray(np.random.default_rng(2).normal(size=(2, 3, 16)), jnp.bfloat16)
    np.testing.assert_allclose(in_parts(layer, x), plainly(layer, x), rtol=1e-6, atol=1e-6)
    exact = x.astype(jnp.float32) / 3
    np.testing.assert_allclose(in_parts(layer, exact), plainly(layer, exact), rtol=0, atol=5e-5)


def test_chosen_behind_bfloat16_on_a_gpu_alone() -> None:
    assert apply_for(jnp.bfloat16, INFERENCE) is plainly
    with here_is():
        assert apply_for(jnp.bfloat16, INFERENCE) is in_parts
        assert apply_for(jnp.bfloat16, TRAINING) is plainly
        assert apply_for(jnp.float32, INFERENCE) is plainly


@pytest.mark.parametrize(
    ("given", "columns", "count", "shapes"),
    [
        (jnp.bfloat16, 44, 3, "tensor<4x64xbf16>, tensor<64x48xbf16>"),
        (jnp.bfloat16, 12, 1, "tensor<4x64xbf16>, tensor<64x48xbf16>"),
        (jnp.float32, 12, 1, "tensor<4x192xbf16>, tensor<192x12xbf16>"),
    ],
)
def test_a_program_for_a_gpu_has_them(given: Any, columns: int, count: int, shapes: str) -> None:
    layer = linear(64, columns, dtype=jnp.float32, rngs=nnx.Rngs(0))

    def run(layer: nnx.Linear, x: jax.Array) -> jax.Array:
        return apply_for(jnp.bfloat16, INFERENCE)(layer, x)

    x = jnp.ones((4, 64), given)
    with here_is():
        text = jax.jit(run).trace(layer, x).lower(lowering_platforms=("cuda",)).as_text()
    products = [line for line in text.splitlines() if "dot_general" in line]
    assert len(products) == count
    assert all(shapes in line for line in products)
