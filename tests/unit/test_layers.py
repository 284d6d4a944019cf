"""Stacked layers."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxrecon.nn.execution import INFERENCE, TRAINING, ExecutionConfig
from jaxrecon.nn.layers import Mlp, scan_layers, stack


@pytest.fixture(scope="module")
def layers() -> Mlp:
    return stack(lambda keys: Mlp(6, 12, dtype=jnp.float32, rngs=keys), 3, nnx.Rngs(0))


def scanned(layers: Mlp, x: jax.Array, execution: ExecutionConfig = INFERENCE) -> jax.Array:
    def step(carry: jax.Array, layer: Mlp) -> tuple[jax.Array, None]:
        return carry + layer(carry), None

    return scan_layers(step, x, layers, execution=execution)[0]


def looped(layers: Mlp, x: jax.Array) -> jax.Array:
    for number in range(3):
        x = x + jax.tree.map(lambda leaf, number=number: leaf[number], layers)(x)
    return x


def test_scanned_layers_are_layers_one_after_another(layers: Mlp) -> None:
    x = jnp.asarray(np.random.default_rng(1).normal(size=(4, 6)), jnp.float32)
    found, wanted = (jax.jit(run)(layers, x) for run in (scanned, looped))
    np.testing.assert_allclose(found, wanted, rtol=1e-6, atol=1e-6)


def test_so_are_their_gradients(layers: Mlp) -> None:
    x = jnp.asarray(np.random.default_rng(1).normal(size=(4, 6)), jnp.float32)
    ours, theirs = (
        jax.jit(jax.grad(lambda layers, run=run: jnp.sum(run(layers, x) ** 2)))(layers)
        for run in (scanned, looped)
    )
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def test_only_matrix_products_are_kept_for_the_backward_pass(layers: Mlp) -> None:
    """What the forward scan stacks up: the carry and the product before the GELU, not its parts."""
    x = jnp.ones((4, 6))
    run = jax.make_jaxpr(lambda layers: jax.vjp(lambda w: scanned(w, x, TRAINING), layers))
    jaxpr = run(layers)
    scans = [equation for equation in jaxpr.eqns if equation.primitive.name == "scan"]
    kept = [leaf.aval.str_short() for scan in scans for leaf in scan.outvars]
    stacked = [shape for shape in kept if shape.startswith("float32[3,")]
    assert sorted(stacked) == ["float32[3,4,12]", "float32[3,4,6]"]


def test_a_turn_fetches_its_vectors_together() -> None:
    """Those of a dtype; matrices and whole numbers stay arrays of their own."""
    leaves = {
        "matrix": np.ones((3, 4, 2), np.float32),
        "vectors": [np.arange(3.0 * size, dtype=np.float32).reshape(3, size) for size in (4, 1)],
        "factors": np.arange(3, dtype=np.float32),
        "halves": [np.full((3, size), size, jnp.bfloat16) for size in (2, 5)],
        "number": np.arange(3, dtype=np.int32),
    }

    def step(total: jax.Array, layer: Any) -> tuple[jax.Array, Any]:
        return total + layer["factors"], layer

    def run(leaves: Any) -> Any:
        return scan_layers(step, jnp.float32(0), leaves)

    (scan,) = (e for e in jax.make_jaxpr(run)(leaves).eqns if e.primitive.name == "scan")
    names = [operand.aval.str_short() for operand in scan.invars]
    fetched = [name for name in names if "[3" in name]
    assert sorted(fetched) == ["bfloat16[3,7]", "float32[3,4,2]", "float32[3,6]", "int32[3]"]
    total, passed = jax.jit(run)(leaves)
    assert total == 3
    jax.tree.map(np.testing.assert_array_equal, passed, leaves)
    kept, given = (jax.tree.map(lambda x: jnp.dtype(x.dtype), tree) for tree in (passed, leaves))
    assert kept == given
