"""What skipped blocks would have added, against dense attention and against plain sums."""

from dataclasses import replace
from functools import partial
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from abstract_devices import here_is
from jaxrecon import SparseAttention
from jaxrecon.errors import InputError
from jaxrecon.nn.attention import TokenLayout, attend_densely
from one_program import one_program
from pallas_kernels.block_selection import (
    attend_to_skipped,
    compensation,
    merged_with_skipped,
    select_blocks,
)
from pallas_kernels.block_selection.compensation_triton import skipped_triton
from pallas_kernels.block_sparse_attention import (
    BlockMask,
    attention_reference,
    block_sparse_attention,
    full_mask,
)
from pallas_kernels.errors import UnfitError
from triton_marks import REFUSED_ON_CPU, lowers_triton, needs_triton

pytestmark = lowers_triton

SIZES: dict[str, Any] = {"block_q": 8, "block_kv": 4}
type Inputs = tuple[Any, Any, Any]


def qkv(queries: int, keys: int, *, alike: tuple[int, int] = (1, 1), width: int = 8) -> Inputs:
    """Random inputs; so many neighbouring queries, and so many keys and values, are equal."""
    random = np.random.default_rng(0)
    lengths = (queries, keys, keys)
    repeats = (alike[0], alike[1], alike[1])
    drawn = [
        random.normal(size=(2, -(-n // r), 3, width)) for n, r in zip(lengths, repeats, strict=True)
    ]
    q, k, v = (
        np.repeat(x, r, axis=1)[:, :n].astype(np.float32)
        for x, r, n in zip(drawn, repeats, lengths, strict=True)
    )
    return q, k, v


def some_lists(queries: int, keys: int) -> BlockMask:
    shape = (2, 3, -(-queries // 8), -(-keys // 4))
    array = np.random.default_rng(1).random(shape) < 0.4
    array[..., 0] = True
    array[0, 0, 0] = True  # a row that skips nothing
    return BlockMask.from_array(array, **SIZES, q_length=queries, kv_length=keys)


def compensated(q: jax.Array, k: jax.Array, v: jax.Array, mask: BlockMask, group: int) -> jax.Array:
    out, sums = block_sparse_attention(q, k, v, mask, return_logsumexp=True)
    return merged_with_skipped(out, sums, attend_to_skipped(q, k, v, mask, group=group), group)


joined = one_program(compensated, "group")
as_array = one_program(BlockMask.as_array)
densely = one_program(partial(attention_reference, mask=None, scale=8**-0.5))
sparsely = one_program(block_sparse_attention)


@pytest.mark.parametrize(
    ("group", "queries", "keys"),
    [
        (2, 29, 23),
        (8, 29, 23),
        (2, 5, 41),
        pytest.param(8, 5, 41, marks=pytest.mark.thorough),
        *(pytest.param(group, 32, 24, marks=pytest.mark.thorough) for group in (2, 8)),
    ],
)
def test_exact_where_blocks_are_uniform(group: int, queries: int, keys: int) -> None:
    q, k, v = qkv(queries, keys, alike=(group, 4))
    mask = some_lists(queries, keys)
    dense = densely(q, k, v)[0]
    np.testing.assert_allclose(joined(q, k, v, mask, group=group), dense, rtol=0, atol=2e-6)
    dropped = sparsely(q, k, v, mask)
    assert np.abs(dropped - dense).max() > 0.1


@pytest.mark.parametrize("group", [1, 4, pytest.param(8, marks=pytest.mark.thorough)])
def test_plain_sums(group: int) -> None:
    q, k, v = qkv(21, 23)
    mask = some_lists(21, 23)
    skipped = ~as_array(mask)
    found = joined(q, k, v, mask, group=group)
    for batch, head, query in ((0, 0, 3), (0, 1, 9), (1, 2, 20)):
        own = np.asarray(q, np.float64)[batch, :, head]
        keys, values = (np.asarray(x, np.float64)[batch, :, head] for x in (k, v))
        together = own[query // group * group :][:group].mean(0)
        weights, total = np.zeros(8), 0.0
        for block, out in enumerate(skipped[batch, head, query // 8]):
            mine, theirs = keys[4 * block :][:4], values[4 * block :][:4]
            if out:
                weight = np.array([len(mine) * np.exp(together @ mine.mean(0) / 8**0.5)])
                theirs = theirs.mean(0)[None]
            else:
                weight = np.exp(mine @ own[query] / 8**0.5)
            weights, total = weights + weight @ theirs, total + weight.sum()
        np.testing.assert_allclose(found[batch, query, head], weights / total, atol=1e-6)


def test_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    q, k, v = qkv(61, 23)
    mask = some_lists(61, 23)
    whole = one_program(partial(attend_to_skipped, group=4))(q, k, v, mask)
    monkeypatch.setattr(compensation, "SCORE_BYTES_LIMIT", 3 * 4 * 2 * mask.key_blocks)
    cut = one_program(partial(attend_to_skipped, group=4))(q, k, v, mask)
    np.testing.assert_allclose(cut.values, whole.values, atol=1e-6)
    np.testing.assert_allclose(cut.logsumexp, whole.logsumexp, atol=1e-6)


@needs_triton
@pytest.mark.parametrize(
    ("group", "real", "width"),
    [
        (1, None, 8),
        pytest.param(8, None, 8, marks=pytest.mark.thorough),
        (2, 411, 8),
        (4, None, 72),
    ],
)
def test_the_kernel_is_the_chunks(
    group: int, real: int | None, width: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three tiles of 64 blocks, the last one short; a row that skips nothing."""
    monkeypatch.setattr(compensation, "skipped_triton", partial(skipped_triton, interpret=True))
    q, k, v = (x.astype(jnp.float16) for x in qkv(61, 601, width=width))
    mask = some_lists(61, 601)
    if real is not None:
        listed = as_array(mask) & (np.arange(mask.key_blocks) < -(-real // 4))
        mask = BlockMask.from_array(listed, **SIZES, q_length=61, kv_length=601)
        mask = replace(mask, num_valid_keys=jnp.int32(real))
    ours, theirs = (
        one_program(partial(attend_to_skipped, group=group, implementation=name))(q, k, v, mask)
        for name in ("triton", "xla")
    )
    assert np.isneginf(np.asarray(theirs.logsumexp)[0, 0, : 8 // group]).all()
    np.testing.assert_allclose(ours.logsumexp, theirs.logsumexp, rtol=0, atol=2e-3)
    np.testing.assert_allclose(ours.values, theirs.values, rtol=0, atol=2e-3)


@needs_triton
@pytest.mark.parametrize("width", [64, 96, 128])
def test_the_kernel_lowers_for_an_h100(width: int) -> None:
    tokens = 20 * 1041
    sizes: dict[str, Any] = {"block_q": 128, "block_kv": 64, "q_length": tokens}
    x = jax.ShapeDtypeStruct((1, tokens, 4, width), jnp.bfloat16)

    def run(q: jax.Array, k: jax.Array, v: jax.Array) -> Any:
        mask = full_mask(1, 4, **sizes, kv_length=tokens)
        return attend_to_skipped(q, k, v, mask, group=8, implementation="triton")

    with here_is():
        text = jax.jit(run).trace(x, x, x).lower(lowering_platforms=("cuda",)).as_text()
    assert "triton" in text


def test_what_the_kernel_cannot_do_is_refused() -> None:
    inputs = *qkv(16, 16), some_lists(16, 16)
    attend = partial(attend_to_skipped, group=8)
    with pytest.raises(ValueError, match="implementation='cuda' is unknown; choose one of triton"):
        jax.eval_shape(partial(attend, implementation="cuda"), *inputs)
    with pytest.raises(NotImplementedError, match=REFUSED_ON_CPU):
        jax.eval_shape(partial(attend, implementation="triton"), *inputs)
    run: Any = skipped_triton
    means = jnp.zeros((1, 2, 1, 8)), *2 * (jnp.zeros((1, 4, 8)),), jnp.ones(4)
    lists = jnp.ones((1, 2), jnp.int32), jnp.zeros((1, 2, 4), jnp.int32)
    with pytest.raises(UnfitError, match="needs bfloat16 or float16, found float32"):
        run(*means, *lists, dtype=jnp.float32, interpret=True)
    wide = jnp.zeros((1, 2, 1, 160)), *2 * (jnp.zeros((1, 4, 160)),), jnp.ones(4)
    with pytest.raises(UnfitError, match="1 pooled queries a block of width 160 are beyond 128"):
        run(*wide, *lists, dtype=jnp.float16, interpret=True)


@needs_triton
@pytest.mark.gpu
@pytest.mark.parametrize("group", [8, 64])
def test_backends_on_the_gpu(group: int) -> None:
    random = np.random.default_rng(0)
    shape = (1, 20 * 1041, 4, 64)
    q, k, v = (jnp.asarray(random.normal(size=shape), jnp.bfloat16) for _ in range(3))
    mask = select_blocks(q, k, top_k=50)
    ours, theirs = (
        attend_to_skipped(q, k, v, mask, group=group, implementation=name)
        for name in ("triton", "xla")
    )
    np.testing.assert_allclose(ours.logsumexp, theirs.logsumexp, rtol=0, atol=2e-2)
    np.testing.assert_allclose(ours.values, theirs.values, rtol=0, atol=1e-2)


LAYOUT = TokenLayout(views=3, grid=(4, 5), leading=2, trailing=1, scene=2)


@pytest.mark.parametrize(
    "special_tokens", [pytest.param("aligned", marks=pytest.mark.thorough), "packed"]
)
def test_padding_views_change_nothing(special_tokens: Any) -> None:
    sizes = SIZES | {"pool_q": 4, "compensation_q": 2, "order": "raster"}
    attend = SparseAttention(0.5, None, special_tokens=special_tokens, **sizes)
    random = np.random.default_rng(2)
    padded = replace(LAYOUT, views=5)
    inputs = random.normal(size=(3, 1, padded.tokens, 2, 8)).astype(np.float32)
    place, spare = 3 * LAYOUT.tokens_per_view, 2 * LAYOUT.tokens_per_view
    short = [np.concatenate([x[:, :place], x[:, place + spare :]], axis=1) for x in inputs]
    expected, skipped = jax.jit(partial(attend.attend, layout=LAYOUT))(*short)
    some = replace(padded, num_valid_views=jnp.int32(3))
    found, same = jax.jit(partial(attend.attend, layout=some))(*inputs)
    found = np.concatenate([found[:, :place], found[:, place + spare :]], axis=1)
    np.testing.assert_allclose(found, expected, rtol=0, atol=2e-6)
    np.testing.assert_allclose(same, skipped, atol=1e-6)


def test_closer_to_dense_attention_than_without() -> None:
    random = np.random.default_rng(3)
    smooth = np.repeat(random.normal(size=(3, 1, 20, 2, 8)), 4, axis=2)[:, :, : LAYOUT.tokens]
    q, k, v = (smooth + 0.5 * random.normal(size=smooth.shape)).astype(np.float32)
    dense = one_program(partial(attend_densely, layout=LAYOUT))(q, k, v)[0]
    errors = {}
    for group in (0, 4):
        attend = SparseAttention(0.7, None, order="raster", pool_q=2, compensation_q=group, **SIZES)
        found = one_program(partial(attend.attend, layout=LAYOUT))(q, k, v)[0]
        errors[group] = np.linalg.norm(found - dense)
    assert errors[4] < 0.7 * errors[0]


def test_wrong_arguments_are_refused(without_shape_checks: None) -> None:
    q, k, v = qkv(16, 16)
    with pytest.raises(ValueError, match="group=3 must divide the mask's block_q=8"):
        attend_to_skipped(q, k, v, some_lists(16, 16), group=3)
    for name, part in (
        ("pool_q", 0),
        ("pool_q", 48),
        ("compensation_q", -4),
        ("compensation_q", 48),
    ):
        with pytest.raises(InputError, match=f"{name}={part} must divide block_q=128"):
            SparseAttention(**cast(Any, {name: part}))


def test_what_is_not_given_suits_the_block() -> None:
    """Groups of four, but no more than 32 a block; none for upstream's layout."""
    found = {size: SparseAttention(block_q=size).compensated_queries for size in (16, 30, 128, 256)}
    assert found == {16: 4, 30: 2, 128: 4, 256: 8}
    assert SparseAttention(special_tokens="packed").compensated_queries == 0
    assert SparseAttention(compensation_q=0).compensated_queries == 0
    assert SparseAttention(special_tokens="packed", compensation_q=8).compensated_queries == 8


def test_a_thousand_views_fit() -> None:
    tokens = 1000 * 1041
    sizes: dict[str, Any] = {"block_q": 128, "block_kv": 64, "q_length": tokens}
    x = jax.ShapeDtypeStruct((1, tokens, 4, 64), jnp.bfloat16)

    def run(q: jax.Array, k: jax.Array, v: jax.Array) -> Any:
        return attend_to_skipped(q, k, v, full_mask(1, 4, **sizes, kv_length=tokens), group=8)

    analysis = jax.jit(run).lower(x, x, x).compile().memory_analysis()
    assert analysis is not None
    lists = 2 * 4 * 8133 * 16266
    assert analysis.temp_size_in_bytes - lists <= 2**30
