"""Every backend of dense attention against the formula."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.typing import DTypeLike

from abstract_devices import here_is
from one_program import one_program
from pallas_kernels.dense_attention import (
    IMPLEMENTATIONS,
    api,
    attention_reference,
    dense_attention,
    xla,
)

SHAPES = [(1, 7, 7, 2, 16), (2, 33, 50, 3, 8), (1, 1, 5, 1, 64)]


def qkv(shape: tuple[int, ...], dtype: DTypeLike, scale: float = 1.0) -> tuple[jax.Array, ...]:
    batch, queries, keys, heads, width = shape
    random = np.random.default_rng(sum(shape))
    drawn = (scale * random.normal(size=(batch, n, heads, width)) for n in (queries, keys, keys))
    return tuple(jnp.asarray(x.astype(np.float32).astype(dtype)) for x in drawn)


attend = one_program(dense_attention, "scale", "implementation")


def in_float64(q: jax.Array, k: jax.Array, v: jax.Array, scale: float) -> np.ndarray:
    q64, k64, v64 = (np.asarray(x, np.float64) for x in (q, k, v))
    scores = scale * np.einsum("btnk,bsnk->bnts", q64, k64)
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    weights /= weights.sum(-1, keepdims=True)
    return np.einsum("bnts,bsnk->btnk", weights, v64)


def relative_error(actual: Any, expected: np.ndarray) -> float:
    gap = np.asarray(actual, np.float64) - expected
    return float(np.linalg.norm(gap) / np.linalg.norm(expected))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("size", [1.0, 4.0])
def test_float32_equals_the_formula(shape: tuple[int, ...], size: float) -> None:
    q, k, v = qkv(shape, jnp.float32, size)
    expected = in_float64(q, k, v, 0.3)
    assert relative_error(attend(q, k, v, scale=0.3), expected) <= 3e-6


def test_the_default_scale_is_the_root_of_the_head_width() -> None:
    q, k, v = qkv(SHAPES[0], jnp.float32)
    assert relative_error(attend(q, k, v), in_float64(q, k, v, 16**-0.5)) <= 1e-6


def test_bfloat16_is_near_the_formula_on_the_rounded_inputs() -> None:
    q, k, v = qkv(SHAPES[1], jnp.bfloat16)
    out = attend(q, k, v)
    assert out.dtype == jnp.bfloat16
    assert relative_error(out, in_float64(q, k, v, 8**-0.5)) <= 1e-2


def test_chunks_of_queries_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    q, k, v = qkv((2, 33, 50, 3, 8), jnp.float32)
    whole = attend(q, k, v)
    for limit in (1, 4 * 2 * 3 * 50 * 10):  # one query at a time, then ten
        monkeypatch.setattr(xla, "SCORE_BYTES_LIMIT", limit)
        cut = jax.jit(partial(dense_attention))(q, k, v)  # traced anew
        np.testing.assert_allclose(cut, whole, rtol=0, atol=1e-6)


def test_memory_is_bounded() -> None:
    shape = jax.ShapeDtypeStruct((1, 8192, 4, 16), jnp.float32)
    compiled = jax.jit(dense_attention).lower(shape, shape, shape).compile()
    scores = 4 * 4 * 8192**2
    analysis = compiled.memory_analysis()
    assert analysis is not None
    assert analysis.temp_size_in_bytes < 0.6 * scores


def test_a_named_backend_runs_or_raises() -> None:
    q, k, v = qkv(SHAPES[0], jnp.float32)
    np.testing.assert_array_equal(attend(q, k, v, implementation="xla"), attend(q, k, v))
    with pytest.raises(NotImplementedError, match="cudnn: needs"):
        dense_attention(q, k, v, implementation="cudnn")
    with pytest.raises(NotImplementedError, match="mosaic_gpu: needs a Hopper GPU"):
        dense_attention(q, k, v, implementation="mosaic_gpu")
    with pytest.raises(ValueError, match="is unknown; choose one of mosaic_gpu, cudnn, xla"):
        dense_attention(q, k, v, implementation="magic")


def test_disagreeing_inputs_are_refused(without_shape_checks: None) -> None:
    q, k, v = qkv(SHAPES[1], jnp.float32)
    with pytest.raises(ValueError, match="disagree"):
        dense_attention(q, k, v[:, :-1])
    with pytest.raises(ValueError, match="disagree"):
        dense_attention(q[:1], k, v)
    with pytest.raises(ValueError, match="one dtype"):
        dense_attention(q, k, v.astype(jnp.bfloat16))


MADE_BY = {"mosaic_gpu": "mosaic_gpu", "cudnn": "__cudnn$fmhaSoftmax"}


def lowered(tokens: int, width: int, function: Callable[..., Any], *rest: jax.Array) -> set[str]:
    """Which kernels the program for an H100 calls."""
    shape = jax.ShapeDtypeStruct((1, tokens, 2, width), jnp.bfloat16)
    with here_is():
        traced = jax.jit(function).trace(shape, shape, shape, *rest)
    text = traced.lower(lowering_platforms=("cuda",)).as_text()
    return {name for name, call in MADE_BY.items() if call in text}


@pytest.mark.parametrize("padded", [False, True])
def test_long_sequences_are_for_our_kernel(padded: bool) -> None:
    def attend(q: jax.Array, k: jax.Array, v: jax.Array, *real: jax.Array) -> jax.Array:
        return dense_attention(q, k, v, num_valid_keys=real[0] if padded else None)

    keys = (jnp.int32(5),) if padded else ()
    assert lowered(api.LONG, 64, attend, *keys) == {"mosaic_gpu"}
    assert "mosaic_gpu" not in lowered(api.LONG - 1, 64, attend, *keys)
    assert "mosaic_gpu" not in lowered(api.LONG, 128, attend, *keys)


def test_a_gradient_is_cudnn() -> None:
    def loss(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
        return dense_attention(q, k, v).astype(jnp.float32).sum()

    # Of cuDNN, or of XLA where cuDNN's library is not on this machine.
    short = lowered(64, 64, dense_attention)
    assert short <= {"cudnn"}
    assert lowered(api.LONG, 64, jax.grad(loss, (0, 1, 2))) == short


@pytest.mark.gpu
@pytest.mark.parametrize("tokens", [1000, api.LONG + 7])
def test_our_kernel_and_padding_keys_on_the_gpu(tokens: int) -> None:
    q, k, v = qkv((1, 300, tokens, 2, 64), jnp.bfloat16)
    real = jnp.int32(tokens - 333)
    run = jax.jit(partial(dense_attention, implementation="mosaic_gpu"))
    out = run(q, k, v, num_valid_keys=real)
    expected = in_float64(q, k[:, : int(real)], v[:, : int(real)], 64**-0.5)
    assert relative_error(out, expected) <= 1e-2
    np.testing.assert_array_equal(out, run(q, k, v, num_valid_keys=real))


@pytest.mark.gpu
@pytest.mark.parametrize("implementation", list(IMPLEMENTATIONS))
def test_backends_on_the_gpu(implementation: str) -> None:
    q, k, v = qkv((2, 300, 517, 4, 64), jnp.bfloat16)
    out = jax.jit(lambda *a: dense_attention(*a, implementation=implementation))(q, k, v)
    assert relative_error(out, in_float64(q, k, v, 64**-0.5)) <= 1e-2


@pytest.mark.gpu
def test_float32_on_the_gpu_is_not_tf32() -> None:
    q, k, v = qkv((2, 300, 517, 4, 64), jnp.float32)
    out = jax.jit(dense_attention)(q, k, v)
    assert relative_error(out, in_float64(q, k, v, 64**-0.5)) <= 2e-6


def test_the_reference_is_the_formula() -> None:
    q, k, v = qkv((2, 33, 50, 3, 8), jnp.float32)
    reference = jax.jit(partial(attention_reference, scale=0.3))(q, k, v)
    assert relative_error(reference, in_float64(q, k, v, 0.3)) <= 1e-6
    np.testing.assert_allclose(attend(q, k, v, scale=0.3), reference, rtol=0, atol=2e-6)
