"""GELU as cuBLAS computes it with the product before it: who asks for it, and how far it is off."""

import re
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.typing import DTypeLike

from abstract_devices import here_is
from jaxrecon.compiling import has_cublas_gelu
from jaxrecon.nn.attention import TokenLayout, attend_densely
from jaxrecon.nn.block import BlockConfig, scan_blocks, stack_blocks
from jaxrecon.nn.execution import ExecutionConfig
from jaxrecon.nn.float8 import Float8Linear
from jaxrecon.nn.layers import Mlp
from jaxrecon.registry import load_abstract
from pallas_kernels.float8 import E4M3
from triton_marks import lowers_triton

CUBLAS = ExecutionConfig(cublas_gelu=True)
LAYOUT = TokenLayout(views=1, leading=3, grid=(4, 5))
H100, RADEON = "NVIDIA H100 80GB HBM3", "AMD Instinct MI300X"


@pytest.mark.parametrize(
    ("platform", "kind", "flags", "expected"),
    [
        ("gpu", H100, "", True),
        ("gpu", H100, "--xla_gpu_autotune_level=2", True),
        ("gpu", H100, "--xla_gpu_enable_triton_gemm=true", False),
        ("gpu", H100, "--xla_gpu_enable_cublaslt=false", False),
        ("gpu", H100, "--xla_disable_hlo_passes=cublas-gemm-rewriter", False),
        ("gpu", RADEON, "", False),
        ("cpu", "cpu", "", False),
        ("tpu", "TPU v5e", "", False),
    ],
)
def test_who_asks_for_it(
    monkeypatch: pytest.MonkeyPatch, platform: str, kind: str, flags: str, expected: bool
) -> None:
    monkeypatch.setenv("XLA_FLAGS", flags)
    assert has_cublas_gelu(SimpleNamespace(platform=platform, device_kind=kind)) is expected


def made(dtype: DTypeLike) -> tuple[Mlp, jax.Array]:
    """Layers whose products have about unit size, and tokens."""
    mlp = Mlp(64, 256, dtype=dtype, rngs=nnx.Rngs(0))
    mlp.fc1.bias = nnx.Param(jax.random.normal(jax.random.key(2), (256,), dtype))
    return mlp, jax.random.normal(jax.random.key(1), (2, 5, 64), dtype)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_sixteen_bits_take_the_tanh_form(dtype: DTypeLike) -> None:
    mlp, x = made(dtype)
    exact, found = mlp.hidden(x), mlp.hidden(x, execution=CUBLAS)
    assert (found.shape, found.dtype) == (exact.shape, exact.dtype) == ((2, 5, 256), dtype)
    found, exact = (np.asarray(hidden, np.float32) for hidden in (found, exact))
    # A CPU computes the formula in 16 bits; it lies within 5e-4 of the exact one.
    bound = 5e-4 + 2 * float(jnp.finfo(dtype).eps) * np.maximum(np.abs(exact), 1)
    assert np.any(found != exact) and np.all(np.abs(found - exact) <= bound)
    text = str(jax.make_jaxpr(lambda x: mlp.hidden(x, execution=CUBLAS))(x))
    assert "tanh" in text and "erf" not in text


@pytest.mark.parametrize(
    ("dtype", "execution"),
    [
        (jnp.float32, CUBLAS),
        (jnp.bfloat16, ExecutionConfig(cublas_gelu=True, training=True)),
        (jnp.bfloat16, ExecutionConfig(cublas_gelu=True, kernels=False)),
        (jnp.bfloat16, ExecutionConfig()),
    ],
)
def test_others_take_the_exact_form(dtype: DTypeLike, execution: ExecutionConfig) -> None:
    mlp, x = made(dtype)
    np.testing.assert_array_equal(mlp.hidden(x, execution=execution), mlp.hidden(x))
    text = str(jax.make_jaxpr(lambda x: mlp.hidden(x, execution=execution))(x))
    assert "erf" in text and "tanh" not in text


def test_float8_is_scaled_and_bounded_behind_it() -> None:
    """As without cuBLAS, to a number of e4m3 beside; what lies beyond the largest becomes that."""
    mlp, x = made(jnp.bfloat16)
    assert isinstance(mlp.fc1, nnx.Linear) and isinstance(mlp.fc2, nnx.Linear)
    mlp.fc1 = Float8Linear(mlp.fc1, jnp.float32(4))
    mlp.fc2 = Float8Linear(mlp.fc2, jnp.float32(1))  # GELU is larger here and there
    rows = mlp.fc1.taken(x)
    exact, found = mlp.hidden(rows), mlp.hidden(rows, execution=CUBLAS)
    assert (found.shape, found.dtype) == (exact.shape, exact.dtype) == ((128, 256), E4M3)
    exact, found = (hidden[:10].astype(np.float32) for hidden in (exact, found))
    assert found.max() == exact.max() == 448
    scale = float(mlp.fc2.entering[...])
    np.testing.assert_allclose(found, exact, rtol=2**-3, atol=4e-3 * scale)


@pytest.mark.parametrize("chunk_tokens", [2**18, 16])
def test_blocks_take_it_whole_and_in_chunks(chunk_tokens: int) -> None:
    """Rows are filled up between the norm and the sum that ends the block."""
    config = BlockConfig(32, 2, layer_scale=0.5)
    blocks = stack_blocks(config, 2, dtype=jnp.bfloat16, rngs=nnx.Rngs(0))
    x = jax.random.normal(jax.random.key(1), (3, LAYOUT.tokens, 32))

    def run(cublas_gelu: bool) -> jax.Array:
        execution = ExecutionConfig(cublas_gelu=cublas_gelu, chunk_tokens=chunk_tokens)
        return scan_blocks(blocks, x, LAYOUT, attend_densely, execution=execution)

    found, expected = run(True), run(False)
    assert found.shape == expected.shape == x.shape
    gap = jnp.linalg.norm(found - expected) / jnp.linalg.norm(expected)
    assert 0 < gap < 5e-3


@lowers_triton
@pytest.mark.parametrize("float8", [False, True])
def test_a_model_for_a_gpu_leaves_all_of_them_to_cublas(float8: bool) -> None:
    pipeline = load_abstract("pi3-mini", dtype="bfloat16", float8=float8)
    images = jax.ShapeDtypeStruct((1, 3, 70, 42, 3), jnp.float32)

    def run(model: Any, images: jax.Array) -> jax.Array:
        return model(images, execution=CUBLAS).points_world

    with here_is():
        traced = jax.jit(run).trace(pipeline.model, images)
        text = traced.lower(lowering_platforms=("cuda",)).as_text()
    assert '"bias_gelu"' not in text and "tensor<128x" in text
    # The trunk's two blocks and the three decoders'.
    assert len(re.findall(r"stablehlo.tanh .*xbf16>", text)) == 5
