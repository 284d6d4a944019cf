"""Every backend of block-sparse attention against the formula in float64."""

import math
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.experimental.pallas import mosaic_gpu as plgpu
from jax.experimental.pallas import tpu as pltpu
from jax.sharding import AbstractDevice
from jax.typing import DTypeLike

from abstract_devices import H100, here_is
from one_program import one_program
from pallas_kernels.block_sparse_attention import (
    BlockMask,
    attention_reference,
    block_sparse_attention,
    full_mask,
    mosaic_gpu,
    triton,
)
from pallas_kernels.block_sparse_attention.mosaic_gpu import attention_mosaic_gpu
from pallas_kernels.block_sparse_attention.mosaic_tpu import attention_mosaic_tpu
from pallas_kernels.block_sparse_attention.triton import attention_triton
from pallas_kernels.block_sparse_attention.xla import attention_xla
from pallas_kernels.dense_attention import dense_attention
from pallas_kernels.errors import UnfitError
from pallas_kernels.pallas_triton import REFUSAL
from triton_marks import REFUSED_ON_CPU, TRITON, lowers_triton

pytestmark = lowers_triton

type Inputs = tuple[Any, Any, Any]
type Run = Callable[..., tuple[Any, Any]]


def mosaic_gpu_on_cpu(*args: Any, **options: Any) -> tuple[jax.Array, jax.Array]:
    """JAX's interpreter of GPU kernels.

    Its threads wait for each other: it may hang where the CPU still has other work under way, and
    with four warpgroups on two cores, so that three consumers are tested on a GPU only.
    """
    interpret = plgpu.InterpretGPUParams()
    args = jax.block_until_ready(jax.tree.map(jnp.asarray, args))
    return jax.block_until_ready(attention_mosaic_gpu(*args, interpret=interpret, **options))


mosaic_tpu_on_cpu = partial(attention_mosaic_tpu, interpret=pltpu.InterpretParams())
reference = one_program(attention_reference, "scale")

ON_CPU: dict[str, tuple[Run, DTypeLike, float]] = {
    "xla": (one_program(attention_xla, "scale"), jnp.float32, 1e-6),
    "xla_bf16": (one_program(attention_xla, "scale"), jnp.bfloat16, 1e-2),
    "triton": (
        one_program(partial(attention_triton, interpret=True), "scale"),
        jnp.float32,
        1e-6,
    ),
    "mosaic_tpu": (one_program(mosaic_tpu_on_cpu, "scale"), jnp.float32, 1e-6),
    "mosaic_gpu": (mosaic_gpu_on_cpu, jnp.bfloat16, 1e-2),
}
"""Each backend as the CPU can run it, the dtype, and the relative error allowed."""

BACKENDS = [TRITON if name == "triton" else name for name in ON_CPU]

SHAPES = [(1, 130, 257, 1, 64), (1, 70, 700, 1, 40), (1, 128, 64, 2, 128)]
"""(B, T, S, N, K): a last key block of one token; a padded head; one key block."""

TPU = AbstractDevice(device_kind="TPU v5e", num_cores=1, platform="tpu")


def qkv(shape: tuple[int, ...], dtype: DTypeLike, scale: float = 1.0) -> Inputs:
    batch, queries, keys, heads, width = shape
    random = np.random.default_rng(sum(shape))

    def normal(tokens: int) -> np.ndarray:
        values = scale * random.normal(size=(batch, tokens, heads, width))
        return values.astype(np.float32).astype(dtype)

    return normal(queries), normal(keys), normal(keys)


def random_mask(
    shape: tuple[int, ...], *, kept: float = 0.5, block_q: int = 128, block_kv: int = 64
) -> BlockMask:
    batch, queries, keys, heads, _ = shape
    random = np.random.default_rng(sum(shape))
    dense = random.random((batch, heads, -(-queries // block_q), -(-keys // block_kv))) < kept
    dense[..., -1] |= ~dense.any(-1)
    sizes = {"q_length": queries, "kv_length": keys}
    return BlockMask.from_array(dense, block_q=block_q, block_kv=block_kv, **sizes)


def in_float64(
    q: Any, k: Any, v: Any, mask: BlockMask | None, scale: float
) -> tuple[np.ndarray, np.ndarray]:
    q64, k64, v64 = (np.asarray(x, np.float64) for x in (q, k, v))
    scores = scale * np.einsum("btnk,bsnk->bnts", q64, k64)
    if mask is not None:
        rows = np.repeat(np.asarray(as_array(mask)), mask.block_q, 2)[:, :, : mask.q_length]
        seen = np.repeat(rows, mask.block_kv, 3)[..., : mask.kv_length].copy()
        seen[..., int(mask.keys) :] = False
        scores = np.where(seen, scores, -np.inf)
    top = scores.max(-1, keepdims=True)
    weights = np.exp(scores - top)
    total = weights.sum(-1, keepdims=True)
    return np.einsum("bnts,bsnk->btnk", weights / total, v64), (top + np.log(total))[..., 0]


as_array = one_program(BlockMask.as_array)


def relative_error(actual: Any, expected: np.ndarray) -> float:
    gap = np.asarray(actual, np.float64) - expected
    return float(np.linalg.norm(gap) / np.linalg.norm(expected))


def check(name: str, inputs: Inputs, mask: BlockMask | None, scale: float) -> None:
    run, dtype, allowed = ON_CPU[name]
    q, k, v = (x.astype(dtype) for x in inputs)
    out, sums = run(q, k, v, mask, scale=scale)
    expected, expected_sums = in_float64(q, k, v, mask, scale)
    assert out.dtype == dtype
    assert relative_error(out, expected) <= allowed
    np.testing.assert_allclose(sums, expected_sums, rtol=2e-6, atol=2e-6)


@pytest.mark.parametrize("name", BACKENDS)
@pytest.mark.parametrize("shape", SHAPES)
def test_random_lists(name: str, shape: tuple[int, ...]) -> None:
    check(name, qkv(shape, jnp.float32), random_mask(shape), 0.2)


def scaled_from(x: np.ndarray, start: int) -> np.ndarray:
    """A hundred times as large from that key on."""
    return np.concatenate([x[:, :start], x[:, start:] * x.dtype.type(100)], axis=1)


@pytest.mark.parametrize("name", BACKENDS)
@pytest.mark.parametrize("real", [150, pytest.param(192, marks=pytest.mark.thorough)])
def test_padding_keys_are_not_seen(name: str, real: int) -> None:
    run, dtype, allowed = ON_CPU[name]
    shape = (1, 130, 400, 1, 64)
    q, k, v = (x.astype(dtype) for x in qkv(shape, jnp.float32))
    k, v = (scaled_from(x, real) for x in (k, v))
    alone = random_mask((1, 130, real, 1, 64))
    mask = replace(alone, kv_length=400, num_valid_keys=jnp.int32(real))
    out, sums = run(q, k, v, mask, scale=0.2)
    expected, expected_sums = in_float64(q, k[:, :real], v[:, :real], alone, 0.2)
    assert relative_error(out, expected) <= allowed
    np.testing.assert_allclose(sums, expected_sums, rtol=2e-6, atol=2e-6)
    assert relative_error(reference(q, k, v, mask, scale=0.2)[0], expected) <= allowed


@pytest.mark.parametrize("name", BACKENDS)
@pytest.mark.parametrize("real", [pytest.param(None, marks=pytest.mark.thorough), 150, 192])
def test_what_is_not_seen_never_matters(name: str, real: int | None) -> None:
    """Not even where it is no number: padding, and blocks that a shorter list leaves out."""
    run, dtype, allowed = ON_CPU[name]
    keys = 250 if real is None else real
    dense = np.ones((1, 1, 2, -(-keys // 64)), bool)
    dense[0, 0, 1, :2] = False
    sizes = {"block_q": 64, "block_kv": 64, "q_length": 100}
    mask = BlockMask.from_array(dense, kv_length=keys, **sizes)
    q, k, v = (x.astype(dtype) for x in qkv((1, 100, 250, 1, 64), jnp.float32))
    alone = q, k[:, :keys], v[:, :keys]
    expected, expected_sums = in_float64(*alone, mask, 0.2)
    k, v = k.copy(), v.copy()
    for x in (k, v):
        x[:, :128] = np.nan
        x[:, keys:] = np.nan
    if real is not None:
        mask = replace(mask, kv_length=250, num_valid_keys=jnp.int32(real))
    out, sums = run(q, k, v, mask, scale=0.2)
    assert relative_error(out[:, 64:], expected[:, 64:]) <= allowed
    np.testing.assert_allclose(sums[..., 64:], expected_sums[..., 64:], rtol=2e-6, atol=2e-6)


@pytest.mark.parametrize("name", BACKENDS)
def test_all_blocks_are_dense_attention(name: str) -> None:
    shape = SHAPES[0]
    check(name, qkv(shape, jnp.float32), None, 0.2)
    if name != "mosaic_gpu":
        check(name, qkv(shape, jnp.float32), random_mask(shape, kept=2.0), 0.2)


@pytest.mark.parametrize(
    ("real", "options"),
    [
        (150, {"partial_sums": 8}),
        pytest.param(150, {}, marks=pytest.mark.thorough),
        pytest.param(300, {}, marks=pytest.mark.thorough),
        pytest.param(512, {"partial_sums": 8}, marks=pytest.mark.thorough),
        pytest.param(150, {"block_kv": 128}, marks=pytest.mark.thorough),
        pytest.param(390, {"block_kv": 64}, marks=pytest.mark.thorough),
    ],
)
def test_mosaic_gpu_sees_num_valid_keys_without_lists(real: int, options: dict[str, Any]) -> None:
    q, k, v = qkv((1, 130, 520, 1, 64), jnp.bfloat16)
    k, v = (scaled_from(x, real) for x in (k, v))
    config = replace(mosaic_gpu.default_config(None, 64), **options)
    options = {"num_valid_keys": jnp.int32(real), "config": config}
    out, sums = mosaic_gpu_on_cpu(q, k, v, None, scale=0.2, **options)
    expected, expected_sums = in_float64(q, k[:, :real], v[:, :real], None, 0.2)
    assert relative_error(out, expected) <= 1e-2
    np.testing.assert_allclose(sums, expected_sums, rtol=2e-6, atol=2e-6)


def dominated(shape: tuple[int, ...]) -> Inputs:
    """One key block takes nearly all the weight."""
    q, k, v = qkv(shape, jnp.float32)
    k[:, 64:128] = 4 * np.sign(q[:, :1])
    return q, k, v


def hard_inputs(kind: str, shape: tuple[int, ...]) -> Inputs:
    q, k, v = qkv(shape, jnp.float32)
    return {
        "one block dominates": lambda: dominated(shape),
        "equal scores": lambda: (np.zeros_like(q), k, v),
        "equal keys": lambda: (q, np.broadcast_to(k[:, :1], k.shape), v),
        # Powers of two, so that bfloat16 and float32 hold the scores without rounding.
        "huge scores": lambda: (1024 * np.sign(q), np.sign(k), v),
    }[kind]()


@pytest.mark.parametrize("name", BACKENDS)
@pytest.mark.parametrize(
    "kind", ["one block dominates", "equal scores", "equal keys", "huge scores"]
)
def test_hard_inputs(name: str, kind: str) -> None:
    shape = (1, 64, 257, 1, 64)
    mask = random_mask(shape, kept=0.8, block_q=64)
    check(name, hard_inputs(kind, shape), mask, 0.125)


def test_mosaic_gpu_tells_small_scores_block_by_block() -> None:
    """Small scores need no largest one subtracted; a block of others is right beside them."""
    shape = (1, 192, 257, 1, 64)
    q, k, v = qkv(shape, jnp.float32)
    q[:, 64:128] *= 512
    # Weights of the first block are 2^89 or 2^-89: about as far apart as they may be.
    q[:, :64], k[..., 0] = np.eye(64)[0] * 89 * math.log(2) / 0.125, np.sign(k[..., 0])
    k[..., 1:] *= 0.01
    q, k, v = (jnp.asarray(x, jnp.bfloat16) for x in (q, k, v))
    np.testing.assert_array_equal(mosaic_gpu._bounded(q, k, 0.125, 64), [[[1, 0, 1]]])
    mask = random_mask(shape, kept=0.8, block_q=64)
    out, sums = mosaic_gpu_on_cpu(q, k, v, mask, scale=0.125)
    expected, expected_sums = in_float64(q, k, v, mask, 0.125)
    for block in range(3):
        rows = slice(64 * block, 64 * block + 64)
        assert relative_error(out[:, rows], expected[:, rows]) <= 1e-2
    np.testing.assert_allclose(sums, expected_sums, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("broken", "expected"),
    [
        ({}, [[1, 1], [1, 1]]),
        ({"q": (0, 129, 1, 3)}, [[1, 1], [1, 0]]),
        ({"k": (0, 4, 0, 0)}, [[0, 0], [1, 1]]),
    ],
)
@pytest.mark.parametrize("value", [jnp.nan, jnp.inf, 1e6])
def test_what_is_not_small_is_not_taken_for_it(
    broken: dict[str, tuple[int, ...]], expected: list[list[int]], value: float
) -> None:
    """Of two heads, the first 128 queries and the last three."""
    inputs = {"q": jnp.ones((1, 131, 2, 64)), "k": jnp.ones((1, 7, 2, 64))}
    for name, place in broken.items():
        inputs[name] = inputs[name].at[place].set(value)
    found = mosaic_gpu._bounded(inputs["q"], inputs["k"], 0.125, 128)
    np.testing.assert_array_equal(found, [expected])


def test_mosaic_gpu_takes_scores_that_are_exponents_of_two() -> None:
    q, k, v = qkv(SHAPES[0], jnp.bfloat16)
    mask = random_mask(SHAPES[0])
    out, sums = mosaic_gpu_on_cpu(q, k, v, mask, scale=math.log(2))
    expected, expected_sums = in_float64(q, k, v, mask, math.log(2))
    assert relative_error(out, expected) <= 1e-2
    np.testing.assert_allclose(sums, expected_sums, rtol=2e-6, atol=2e-6)


@pytest.mark.parametrize("shape", [*SHAPES, (1, 70, 90, 1, 100)])
def test_mosaic_gpu_multiplies_float8(shape: tuple[int, ...]) -> None:
    q, k, v = qkv(shape, jnp.bfloat16)
    q, k = (jnp.asarray(x).astype(jnp.float8_e4m3fn) for x in (q, k))
    mask = random_mask(shape, block_q=64)  # one consumer; two wait for the CPU's threads for ever
    out, sums = mosaic_gpu_on_cpu(q, k, v, mask, scale=0.2)
    expected, expected_sums = in_float64(q, k, v, mask, 0.2)
    assert out.dtype == jnp.bfloat16
    assert relative_error(out, expected) <= 1e-2
    np.testing.assert_allclose(sums, expected_sums, rtol=2e-6, atol=2e-6)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_other_backends_multiply_the_same_numbers_as_float8(dtype: DTypeLike) -> None:
    q, k, v = (jnp.asarray(x) for x in qkv(SHAPES[0], dtype))
    q, k = q.astype(jnp.float8_e4m3fn), k.astype(jnp.float8_e4m3fn)
    mask = random_mask(SHAPES[0])
    out = block_sparse_attention(q, k, v, mask)
    wide = block_sparse_attention(q.astype(dtype), k.astype(dtype), v, mask)
    np.testing.assert_array_equal(out, wide)
    np.testing.assert_array_equal(
        dense_attention(q, k, v), dense_attention(q.astype(dtype), k.astype(dtype), v)
    )


@pytest.mark.parametrize("attend", [dense_attention, partial(block_sparse_attention, mask=None)])
@pytest.mark.parametrize("narrow", ["qkv", "q", "k", "v"])
def test_queries_and_keys_alone_may_be_float8(
    attend: Callable[..., Any], narrow: str, without_shape_checks: None
) -> None:
    inputs = dict(zip("qkv", qkv(SHAPES[0], jnp.float32), strict=True))
    inputs |= {name: inputs[name].astype(jnp.float8_e4m3fn) for name in narrow}
    with pytest.raises(ValueError, match="or q and k that of float8_e4m3fn"):
        attend(**inputs)


@pytest.mark.parametrize("name", BACKENDS)
def test_two_runs_are_equal_bit_for_bit(name: str) -> None:
    run, dtype, _ = ON_CPU[name]
    inputs, mask = qkv(SHAPES[2], dtype), random_mask(SHAPES[2])
    for first, second in zip(*(run(*inputs, mask, scale=0.2) for _ in range(2)), strict=True):
        np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize(
    ("block_q", "block_kv", "options"),
    [
        pytest.param(64, 64, {}, marks=pytest.mark.thorough),
        (128, 128, {"gather": 2}),
        pytest.param(128, 64, {"gather": 1}, marks=pytest.mark.thorough),
        pytest.param(128, 64, {"gather": 2, "stages": 3}, marks=pytest.mark.thorough),
        pytest.param(128, 64, {"partial_sums": 32}, marks=pytest.mark.thorough),
        pytest.param(64, 64, {"gather": 1, "partial_sums": 16}, marks=pytest.mark.thorough),
        (128, 128, {"gather": 1, "stages": 3, "partial_sums": 64}),
    ],
)
def test_mosaic_gpu_configurations(block_q: int, block_kv: int, options: dict[str, Any]) -> None:
    shape = (1, 200, 461, 1, 64)
    inputs = qkv(shape, jnp.float16)
    mask = random_mask(shape, kept=0.7, block_q=block_q, block_kv=block_kv)
    config = mosaic_gpu.TuningConfig(block_q, block_kv, **options)
    out, _ = mosaic_gpu_on_cpu(*inputs, mask, scale=0.1, config=config)
    assert relative_error(out, in_float64(*inputs, mask, 0.1)[0]) <= 2e-3


@pytest.mark.parametrize("listed", [(1, 2, 3), (4, 5, 2), (1, 1, 7)])
def test_mosaic_gpu_does_any_number_of_tiles(listed: tuple[int, ...]) -> None:
    """Lists of `listed` blocks for one query block after another, two to a tile."""
    dense = np.arange(7) >= 7 - np.array(listed)[:, None]
    shape = (1, 3 * 64, 7 * 64 - 3, 1, 64)
    sizes = {"block_q": 64, "block_kv": 64, "q_length": shape[1], "kv_length": shape[2]}
    inputs, mask = qkv(shape, jnp.float16), BlockMask.from_array(dense[None, None], **sizes)
    # With room for all blocks in every list: one program.
    room = np.pad(np.asarray(mask.indices), (*3 * ((0, 0),), (0, 7 - mask.capacity)))
    mask = replace(mask, indices=jnp.asarray(room))
    config = mosaic_gpu.TuningConfig(64, gather=2, stages=3)
    out, sums = mosaic_gpu_on_cpu(*inputs, mask, scale=0.1, config=config)
    expected, expected_sums = in_float64(*inputs, mask, 0.1)
    assert relative_error(out, expected) <= 2e-3
    np.testing.assert_allclose(sums, expected_sums, rtol=2e-6, atol=2e-6)


def test_tpu_hands_lists_over_in_portions(monkeypatch: pytest.MonkeyPatch) -> None:
    shape = (2, 70, 90, 2, 16)
    inputs, mask = qkv(shape, jnp.float32), random_mask(shape, block_q=16, block_kv=16)
    module = "pallas_kernels.block_sparse_attention.mosaic_tpu.SCALAR_WORDS"
    monkeypatch.setattr(module, 2 * mask.capacity)  # portions of 2, 2 and 1 of 5 query blocks
    out, sums = one_program(partial(mosaic_tpu_on_cpu, scale=0.3))(*inputs, mask)
    expected, expected_sums = in_float64(*inputs, mask, 0.3)
    assert relative_error(out, expected) <= 1e-6
    np.testing.assert_allclose(sums, expected_sums, rtol=2e-6, atol=2e-6)


@pytest.mark.parametrize("name", ["xla", TRITON])
def test_several_scenes_and_small_blocks(name: str) -> None:
    shape = (2, 37, 70, 3, 20)
    mask = random_mask(shape, kept=0.4, block_q=16, block_kv=32)
    check(name, qkv(shape, jnp.float32), mask, 0.4)


sizes = st.integers(1, 70)


@pytest.mark.thorough
@settings(max_examples=6, deadline=None, derandomize=True)
@given(
    shape=st.tuples(st.integers(1, 2), sizes, sizes, st.integers(1, 3), st.integers(1, 20)),
    blocks=st.sampled_from([(16, 16), (32, 16), (16, 32)]),
    kept=st.floats(0, 1),
)
def test_any_shape(shape: tuple[int, ...], blocks: tuple[int, int], kept: float) -> None:
    mask = random_mask(shape, kept=kept, block_q=blocks[0], block_kv=blocks[1])
    for name in ("xla",) if REFUSAL else ("xla", "triton"):
        check(name, qkv(shape, jnp.float32), mask, 0.4)


def test_the_reference_is_the_formula() -> None:
    inputs, mask = qkv(SHAPES[0], jnp.float32), random_mask(SHAPES[0])
    out, sums = reference(*inputs, mask, scale=0.2)
    expected, expected_sums = in_float64(*inputs, mask, 0.2)
    assert relative_error(out, expected) <= 1e-6
    np.testing.assert_allclose(sums, expected_sums, rtol=1e-6)


def test_xla_memory_is_bounded() -> None:
    shape = jax.ShapeDtypeStruct((1, 8192, 4, 16), jnp.float32)
    mask = jax.eval_shape(
        lambda: full_mask(1, 4, block_q=128, block_kv=64, q_length=8192, kv_length=8192)
    )
    run = partial(block_sparse_attention, implementation="xla")
    analysis = jax.jit(run).lower(shape, shape, shape, mask).compile().memory_analysis()
    assert analysis is not None
    assert analysis.temp_size_in_bytes < 0.1 * 4 * 4 * 8192**2


# The mask


def test_a_mask_means_its_array() -> None:
    dense = np.array([[[[True, False, True], [False, True, False]]]])
    mask = BlockMask.from_array(dense, block_q=4, block_kv=2, q_length=5, kv_length=6)
    np.testing.assert_array_equal(mask.counts, [[[2, 1]]])
    np.testing.assert_array_equal(mask.indices[0, 0, 0], [0, 2])
    assert int(mask.indices[0, 0, 1, 0]) == 1
    np.testing.assert_array_equal(as_array(mask), dense)
    seen = one_program(BlockMask.token_mask)(mask)[0, 0]
    np.testing.assert_array_equal(seen[3], [True, True, False, False, True, True])
    np.testing.assert_array_equal(seen[4], [False, False, True, True, False, False])


def test_a_mask_passes_through_jit_and_vmap_as_a_tree() -> None:
    mask = random_mask((2, 5, 6, 1, 1), block_q=2, block_kv=2)
    same = jax.jit(lambda m: m)(mask)
    assert jax.tree.structure(same) == jax.tree.structure(mask)
    np.testing.assert_array_equal(as_array(same), as_array(mask))


def test_a_full_mask_is_all_true() -> None:
    assert full_mask(1, 2, block_q=4, block_kv=2, q_length=5, kv_length=7).as_array().all()


def a_mask(counts: Any, indices: Any, **sizes: Any) -> BlockMask:
    sizes = {"block_q": 4, "block_kv": 2, "q_length": 4, "kv_length": 6} | sizes
    return BlockMask(jnp.asarray(counts, jnp.int32), jnp.asarray(indices, jnp.int32), **sizes)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: a_mask([[[0]]], [[[[0]]]]), "attends to nothing"),
        (lambda: a_mask([[[2]]], [[[[0]]]]), "each list must hold 1 to 1"),
        (lambda: a_mask([[[2]]], [[[[1, 0]]]]), "must rise strictly"),
        (lambda: a_mask([[[2]]], [[[[1, 1]]]]), "must rise strictly"),
        (lambda: a_mask([[[1]]], [[[[3]]]]), "must lie in 0 .. 2, found 3 to 3"),
        (lambda: a_mask([[[1]]], [[[[2]]]], num_valid_keys=jnp.int32(4)), "0 .. 1, found 2 to 2"),
        (
            lambda: a_mask([[[1]]], [[[[0]]]], num_valid_keys=jnp.int32(0)),
            "num_valid_keys=0 must lie in 1",
        ),
        (
            lambda: a_mask([[[1]]], [[[[0]]]], num_valid_keys=jnp.int32(7)),
            "must lie in 1 .. kv_length=6",
        ),
        (
            lambda: a_mask([[[1]]], [[[[0]]]], num_valid_keys=jnp.float32(2)),
            "an int32 scalar, found",
        ),
        (
            lambda: a_mask([[[1]]], [[[[0]]]], num_valid_keys=jnp.array([2], jnp.int32)),
            "int32 scalar",
        ),
        (lambda: a_mask([[[1]]], [[[[0]]]], q_length=5), "does not fit 2 query blocks"),
        (lambda: a_mask([[[1]]], [[[[0]]]], block_q=0), "block_q=0 must be at least 1"),
        (lambda: a_mask([[1]], [[[[0]]]]), "disagree"),
        (lambda: a_mask([[[1]]], [[[[0, 1, 2, 0]]]]), "does not fit"),
    ],
)
def test_impossible_masks_are_refused(
    without_shape_checks: None, make: Callable[[], BlockMask], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_an_empty_row_is_refused() -> None:
    dense = np.array([[[[True, False], [False, False]]]])
    sizes = {"block_q": 4, "block_kv": 2, "q_length": 8}
    with pytest.raises(ValueError, match="attends to nothing"):
        BlockMask.from_array(dense, kv_length=4, **sizes)
    with pytest.raises(ValueError, match=r"must be bool \(B, N, 2, 3\)"):
        BlockMask.from_array(dense, kv_length=5, **sizes)


# Dispatch


def test_a_named_backend_runs_or_raises() -> None:
    inputs, mask = qkv(SHAPES[2], jnp.float32), random_mask(SHAPES[2])
    run = one_program(block_sparse_attention, "implementation")
    named = run(*inputs, mask, implementation="xla")
    np.testing.assert_array_equal(named, run(*inputs, mask))
    refusals = {"mosaic_gpu": "mosaic_gpu: needs a Hopper", "mosaic_tpu": "mosaic_tpu: needs a TPU"}
    for name, refusal in {**refusals, "triton": REFUSED_ON_CPU}.items():
        with pytest.raises(NotImplementedError, match=refusal):
            run(*inputs, mask, implementation=name)
    with pytest.raises(ValueError, match="choose one of mosaic_gpu, triton, mosaic_tpu, xla"):
        run(*inputs, mask, implementation="magic")


@pytest.mark.parametrize("name", ["mosaic_gpu", "triton", "mosaic_tpu"])
@pytest.mark.parametrize("device", [None, "gpu", "tpu"])
def test_kernels_refuse_float64_as_the_caller_s_mistake(name: str, device: str | None) -> None:
    """On any machine; without a name XLA takes it."""
    abstract = {None: None, "gpu": H100, "tpu": TPU}[device]
    shape = (1, 9, 8, 1, 64)
    with jax.enable_x64(True), on(abstract):
        inputs, mask = qkv64(shape), random_mask(shape)
        with pytest.raises(ValueError, match=f"{name}: needs bfloat16 or float.*found float64"):
            block_sparse_attention(*inputs, mask, implementation=name)
        assert jax.eval_shape(block_sparse_attention, *inputs, mask).dtype == jnp.float64


def on(device: AbstractDevice | None) -> AbstractContextManager[Any]:
    if device is None:
        return nullcontext()
    return here_is(device)


def qkv64(shape: tuple[int, ...]) -> Inputs:
    q, k, v = (jnp.asarray(np.asarray(x, np.float64)) for x in qkv(shape, jnp.float32))
    return q, k, v


def test_disagreeing_inputs_are_refused(without_shape_checks: None) -> None:
    shape = (2, 9, 8, 2, 4)
    (q, k, v), mask = qkv(shape, jnp.float32), random_mask(shape, block_q=4, block_kv=4)
    refusals: list[tuple[Any, str]] = [
        ((q, k, v[:, 1:], mask), "k and v must have one shape"),
        ((q[:1], k, v, mask), "one batch, found 1 and 2"),
        ((q[:, :, :1], k, v, mask), "one number of heads, found 1 and 2"),
        ((q[..., :3], k, v, mask), "one head width, found 3 and 4"),
        ((q[0], k, v, mask), "need 4 axes"),
        ((q[:, :0], k, v, None), "no axis may be empty"),
        ((q.astype(jnp.bfloat16), k, v, mask), "one floating dtype"),
        ((q[:, 1:], k, v, mask), "made for 9 queries and 8 keys, found 8 and 8"),
        ((q, k[:, 1:], v[:, 1:], mask), "made for 9 queries and 8 keys, found 9 and 7"),
        ((q[:1], k[:1], v[:1], mask), "made for batch 2 and 2 heads, found 1 and 2"),
    ]
    for args, message in refusals:
        with pytest.raises(ValueError, match=message):
            block_sparse_attention(*args)
    with pytest.raises(ValueError, match="scale=0 must be positive"):
        block_sparse_attention(q, k, v, mask, scale=0)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: mosaic_gpu.TuningConfig(block_q=96), "self.block_q=96 must be"),
        (lambda: mosaic_gpu.TuningConfig(block_kv=32), "self.block_kv=32 must be"),
        (lambda: mosaic_gpu.TuningConfig(gather=8), "self.gather=8 of them at most 256"),
        (lambda: mosaic_gpu.TuningConfig(stages=1), "self.stages=1 must be at least 2"),
        (lambda: mosaic_gpu.TuningConfig(partial_sums=4), "self.partial_sums=4 must be 8, 16"),
        (lambda: triton.TuningConfig(block_q=96), "block_q=96 must be a power of two"),
        (lambda: triton.TuningConfig(warps=3), "self.warps=3 must be 4 or 8"),
    ],
)
def test_impossible_configurations_are_refused(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    ("shape", "dtype", "blocks", "message"),
    [
        ((1, 9, 8, 1, 64), jnp.float32, (128, 64), "needs bfloat16 or float16, found float32"),
        ((1, 9, 8, 1, 160), jnp.bfloat16, (128, 64), "head width 160 is beyond 128"),
        ((1, 9, 8, 1, 64), jnp.bfloat16, (96, 48), "found 96 x 48|must be a power of two"),
    ],
)
@pytest.mark.parametrize("name", ["mosaic_gpu", TRITON])
def test_gpu_kernels_refuse_what_they_cannot_do(
    name: str, shape: tuple[int, ...], dtype: DTypeLike, blocks: tuple[int, int], message: str
) -> None:
    q, k, v = (jnp.asarray(x) for x in qkv(shape, dtype))
    mask = random_mask(shape, block_q=blocks[0], block_kv=blocks[1])
    with (
        here_is(),
        pytest.raises(UnfitError, match=message) as caught,
    ):
        block_sparse_attention(q, k, v, mask, implementation=name)
    assert isinstance(caught.value, ValueError)
    assert isinstance(caught.value, NotImplementedError)


# Lowering for machines that are not here


def lowered(
    name: str | None,
    shape: tuple[int, ...],
    dtype: DTypeLike,
    *,
    device: AbstractDevice,
    padded: Any = False,
    **mask: Any,
) -> str:
    batch, queries, keys, heads, width = shape
    q, k = (
        jax.ShapeDtypeStruct((batch, length, heads, width), dtype) for length in (queries, keys)
    )
    lists = None
    if mask:
        sizes = {"q_length": queries, "kv_length": keys}
        real = jnp.int32(keys - 1) if padded else None
        lists = jax.eval_shape(
            lambda: full_mask(batch, heads, **sizes, **mask, num_valid_keys=real)
        )
    platform = "tpu" if device is TPU else "cuda"
    run = partial(block_sparse_attention, implementation=name, return_logsumexp=True)
    with here_is(device):
        return jax.jit(run).trace(q, k, k, lists).lower(lowering_platforms=(platform,)).as_text()


MADE_BY = {"mosaic_gpu": "mosaic_gpu", "triton": "triton", "mosaic_tpu": "tpu_custom_call"}


@pytest.mark.parametrize("name", ["mosaic_gpu", TRITON, "mosaic_tpu"])
@pytest.mark.parametrize(
    ("shape", "blocks"),
    [
        ((1, 10410, 10410, 16, 64), {"block_q": 128, "block_kv": 64}),
        ((2, 300, 517, 3, 128), {"block_q": 128, "block_kv": 128}),
        pytest.param(
            *((1, 77, 410, 2, 16), {"block_q": 64, "block_kv": 64}), marks=pytest.mark.thorough
        ),
        ((1, 1000, 1000, 2, 64), {"block_q": 192, "block_kv": 64}),
        ((1, 10410, 10410, 16, 64), {}),
    ],
)
def test_kernels_lower(name: str, shape: tuple[int, ...], blocks: dict[str, int]) -> None:
    if name == "triton" and blocks.get("block_q") == 192:
        pytest.skip("Triton needs powers of two")
    device = TPU if name == "mosaic_tpu" else H100
    text = lowered(name, shape, jnp.bfloat16, device=device, **blocks)
    assert text.count(MADE_BY[name]) >= 1


@pytest.mark.parametrize("name", ["mosaic_gpu", TRITON, "mosaic_tpu"])
def test_kernels_lower_with_padding_keys(name: str) -> None:
    device = TPU if name == "mosaic_tpu" else H100
    blocks = {"block_q": 128, "block_kv": 64}
    text = lowered(name, (1, 300, 517, 2, 64), jnp.bfloat16, device=device, padded=True, **blocks)
    assert text.count(MADE_BY[name]) >= 1


@pytest.mark.parametrize(
    "options",
    [
        {"fresh_accumulator": True},
        pytest.param({"partial_sums": 32, "gather": 2, "stages": 4}, marks=pytest.mark.thorough),
    ],
)
def test_the_hopper_kernel_lowers_as_tuned(options: dict[str, Any]) -> None:
    shape, config = (1, 10410, 16, 64), mosaic_gpu.TuningConfig(**options)
    q, tokens = jax.ShapeDtypeStruct(shape, jnp.bfloat16), shape[1]
    sizes: dict[str, Any] = {"block_q": 128, "block_kv": 64}
    sizes |= {"q_length": tokens, "kv_length": tokens}
    mask = jax.eval_shape(lambda: full_mask(1, 16, **sizes))
    run = jax.jit(partial(attention_mosaic_gpu, scale=0.125, config=config))
    with here_is():
        text = run.trace(q, q, q, mask).lower(lowering_platforms=("cuda",)).as_text()
    assert text.count("mosaic_gpu") >= 1


def test_the_best_backend_is_taken() -> None:
    shape, blocks = (1, 300, 517, 2, 64), {"block_q": 128, "block_kv": 64}
    ampere = AbstractDevice(device_kind="NVIDIA A100-SXM4-80GB", num_cores=108, platform="gpu")
    older = [] if REFUSAL else ["triton"]
    for device, kernels in ((H100, ["mosaic_gpu"]), (ampere, older), (TPU, ["mosaic_tpu"])):
        text = lowered(None, shape, jnp.bfloat16, device=device, **blocks)
        assert [name for name, mark in MADE_BY.items() if mark in text] == kernels
    text = lowered(None, shape, jnp.float32, device=H100, **blocks)
    assert not [name for name, mark in MADE_BY.items() if mark in text]


def test_dense_attention_reads_no_lists() -> None:
    with here_is():
        shape = jax.ShapeDtypeStruct((1, 512, 2, 64), jnp.bfloat16)
        run = partial(block_sparse_attention, mask=None, implementation="mosaic_gpu")
        assert "i32" not in str(jax.make_jaxpr(run)(shape, shape, shape).in_avals)


# On a GPU


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["mosaic_gpu", TRITON, "xla"])
@pytest.mark.parametrize("width", [40, 64, 128])
@pytest.mark.parametrize("blocks", [(128, 64), (128, 128), (64, 64)])
@pytest.mark.parametrize("dense", [False, True])
def test_backends_on_the_gpu(name: str, width: int, blocks: tuple[int, int], dense: bool) -> None:
    shape = (2, 1000, 2177, 3, width)
    inputs = qkv(shape, jnp.bfloat16)
    mask = None if dense else random_mask(shape, kept=0.3, block_q=blocks[0], block_kv=blocks[1])
    run = jax.jit(partial(block_sparse_attention, implementation=name, return_logsumexp=True))
    (out, sums), (again, _) = run(*inputs, mask), run(*inputs, mask)
    expected, expected_sums = in_float64(*inputs, mask, width**-0.5)
    assert relative_error(out, expected) <= 1e-2
    np.testing.assert_allclose(sums, expected_sums, rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(out, again)


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["mosaic_gpu", TRITON])
@pytest.mark.parametrize(
    "kind", ["one block dominates", "equal scores", "equal keys", "huge scores"]
)
def test_hard_inputs_on_the_gpu(name: str, kind: str) -> None:
    shape = (1, 300, 1025, 2, 64)
    q, k, v = (x.astype(jnp.bfloat16) for x in hard_inputs(kind, shape))
    mask = random_mask(shape, kept=0.8)
    out = jax.jit(partial(block_sparse_attention, implementation=name))(q, k, v, mask)
    assert relative_error(out, in_float64(q, k, v, mask, 0.125)[0]) <= 1e-2


@pytest.mark.gpu
@pytest.mark.parametrize("width", [40, 64, 128])
@pytest.mark.parametrize("dense", [False, True])
@pytest.mark.parametrize("size", [1, 40])
def test_float8_on_the_gpu(width: int, dense: bool, size: float) -> None:
    """Small scores and large ones, which take a largest one off."""
    shape = (2, 1000, 2177, 3, width)
    q, k, v = qkv(shape, jnp.bfloat16)
    q, k = ((size * x).astype(jnp.float8_e4m3fn) for x in (q, k))
    mask = None if dense else random_mask(shape, kept=0.3)
    run = partial(block_sparse_attention, implementation="mosaic_gpu", return_logsumexp=True)
    scale = width**-0.5 / size**1.5
    out, sums = jax.jit(partial(run, scale=scale))(q, k, v, mask)
    expected, expected_sums = in_float64(q, k, v, mask, scale)
    assert relative_error(out, expected) <= 1e-2
    # Hopper sums products of float8 with about 14 bits.
    np.testing.assert_allclose(sums, expected_sums, rtol=1e-3, atol=1e-3)


@pytest.mark.gpu
@pytest.mark.parametrize("sizes", [(1, 1), (600, 1), (1, 600)])
def test_small_and_large_scores_on_the_gpu(sizes: tuple[float, float]) -> None:
    """The first blocks of queries and the others, each small or large."""
    shape = (1, 1000, 2177, 2, 64)
    q, k, v = (np.asarray(x, np.float32) for x in qkv(shape, jnp.bfloat16))
    q[:, :512], q[:, 512:] = sizes[0] * q[:, :512], sizes[1] * q[:, 512:]
    q, k, v = (jnp.asarray(x, jnp.bfloat16) for x in (q, k, v))
    mask = random_mask(shape, kept=0.3)
    out = jax.jit(partial(block_sparse_attention, implementation="mosaic_gpu"))(q, k, v, mask)
    expected = in_float64(q, k, v, mask, 0.125)[0]
    for rows in (slice(512), slice(512, None)):
        assert relative_error(out[:, rows], expected[:, rows]) <= 1e-2


@pytest.mark.gpu
def test_three_consumers_on_the_gpu() -> None:
    shape = (1, 1000, 2177, 3, 64)
    inputs = qkv(shape, jnp.bfloat16)
    mask = random_mask(shape, kept=0.3, block_q=192)
    out = jax.jit(partial(block_sparse_attention, implementation="mosaic_gpu"))(*inputs, mask)
    assert relative_error(out, in_float64(*inputs, mask, 0.125)[0]) <= 1e-2


@pytest.mark.gpu
@pytest.mark.parametrize("kept", [0.02, 0.1, 2.0])
@pytest.mark.parametrize("options", [{}, {"gather": 1}, {"gather": 2, "stages": 4}])
@pytest.mark.parametrize("sums", [8, 32])
def test_tuned_mosaic_gpu_on_the_gpu(options: dict[str, Any], kept: float, sums: int) -> None:
    shape = (2, 5000, 2177, 3, 64)
    q, k, v = qkv(shape, jnp.bfloat16)
    mask = random_mask(shape, kept=kept)
    config = mosaic_gpu.TuningConfig(**options, partial_sums=sums)
    out, found = jax.jit(partial(attention_mosaic_gpu, scale=0.125, config=config))(q, k, v, mask)
    expected, expected_sums = in_float64(q, k, v, mask, 0.125)
    assert relative_error(out, expected) <= 1e-2
    np.testing.assert_allclose(found, expected_sums, rtol=1e-4, atol=1e-4)


@pytest.mark.gpu
def test_float32_on_the_gpu_is_not_tf32() -> None:
    shape = (1, 300, 517, 2, 64)
    inputs, mask = qkv(shape, jnp.float32), random_mask(shape)
    out = jax.jit(block_sparse_attention)(*inputs, mask)
    assert relative_error(out, in_float64(*inputs, mask, 0.125)[0]) <= 2e-6
