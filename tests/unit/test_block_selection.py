"""The choice of key blocks against a plain sort in float64."""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import golden_data
from abstract_devices import here_is
from one_program import one_program
from pallas_kernels.block_selection import (
    Candidates,
    api,
    pool_blocks,
    select_blocks,
    triton,
    triton_tiles,
)
from pallas_kernels.block_selection.choice import score_gaps, threshold
from pallas_kernels.block_selection.scoring import Queries, block_scores
from pallas_kernels.block_selection.scoring_triton import block_scores_triton
from pallas_kernels.block_selection.triton import list_blocks_triton
from pallas_kernels.block_selection.xla import list_blocks_xla
from pallas_kernels.block_sparse_attention import BlockMask
from pallas_kernels.errors import UnfitError
from triton_marks import REFUSED_ON_CPU, TRITON, lowers_triton, needs_triton

pytestmark = lowers_triton

SLACK = 1e-5
ON_CPU: dict[str, Callable[..., tuple[jax.Array, jax.Array]]] = {
    name: one_program(run, "first", "blocks")
    for name, run in (
        ("xla", list_blocks_xla),
        ("triton", partial(list_blocks_triton, interpret=True)),
    )
}


def chosen(name: str, scores: np.ndarray, top_k: int, top_p: float | None) -> np.ndarray:
    """Dense meaning (rows, blocks) of what a backend lists for rows of scores."""
    rows, blocks = scores.shape
    budget = np.full((1, rows), -1.0 if top_p is None else top_p, np.float32)
    least = np.full((1, rows), top_k, np.int32)
    made = ON_CPU[name](np.float32(scores)[None], least, budget, first=0, blocks=blocks)
    counts, lists = (np.asarray(x)[0] for x in made)
    dense = np.zeros((rows, blocks), bool)
    for row, (count, listed) in enumerate(zip(counts, lists, strict=True)):
        assert (np.diff(listed[:count]) > 0).all()
        dense[row, listed[:count]] = True
    return dense


def by_sorting(scores: np.ndarray, top_k: int, top_p: float | None) -> np.ndarray:
    """Sort, cumulative sum, count: the rule as the paper words it."""
    order = np.argsort(-scores, axis=-1, kind="stable")
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    weights /= weights.sum(-1, keepdims=True)
    reached = np.cumsum(np.take_along_axis(weights, order, -1), -1)
    within = 0 if top_p is None else (reached <= top_p + SLACK).sum(-1)
    ranks = np.argsort(order, axis=-1)
    return ranks < np.maximum(within, max(1, top_k))[..., None]


@pytest.mark.parametrize("name", ["xla", TRITON])
@pytest.mark.parametrize(("top_k", "top_p"), [(1, None), (7, None), (1, 0.5), (5, 0.9), (1, 1.0)])
@pytest.mark.parametrize("spread", [0.0, 1.0, 40.0])
def test_the_best_are_chosen(name: str, top_k: int, top_p: float | None, spread: float) -> None:
    scores = spread * np.random.default_rng(3).normal(size=(6, 21)).astype(np.float32)
    expected = by_sorting(scores.astype(np.float64), top_k, top_p)
    np.testing.assert_array_equal(chosen(name, scores, top_k, top_p), expected)


@pytest.mark.parametrize("name", ["xla", TRITON])
def test_hand_computed_choices(name: str) -> None:
    # Shares of the softmax: 0.5, 0.25, 0.125, 0.125.
    scores = np.log(np.array([[0.125, 0.5, 0.25, 0.125]]))
    for top_k, top_p, expected in (
        (1, None, [False, True, False, False]),
        (3, None, [True, True, True, False]),  # of equal scores the first
        (1, 0.49, [False, True, False, False]),  # at least one
        (1, 0.75, [False, True, True, False]),  # the block that crosses is left out
        (1, 0.875, [True, True, True, False]),
        (1, 1.0, [True, True, True, True]),
        (3, 0.5, [True, True, True, False]),  # the larger of the two
    ):
        np.testing.assert_array_equal(chosen(name, scores, top_k, top_p), [expected])


@pytest.mark.parametrize("name", ["xla", TRITON])
def test_hard_scores(name: str) -> None:
    one = np.full((1, 8), -1e30, np.float32)
    one[0, 5] = 1e30
    assert chosen(name, one, 1, 0.9)[0].nonzero()[0].tolist() == [5]
    assert chosen(name, one, 3, 0.9)[0].nonzero()[0].tolist() == [0, 1, 5]
    # Weights that underflow are still told apart by their scores.
    far = np.array([[0.0, -300.0, -200.0, -400.0]], np.float32)
    assert chosen(name, far, 3, None)[0].tolist() == [True, True, True, False]
    assert chosen(name, far, 2, None)[0].tolist() == [True, False, True, False]


@pytest.mark.parametrize("name", ["xla", TRITON])
@settings(max_examples=12, deadline=None, derandomize=True)
@given(
    shape=st.sampled_from([(1, 1), (2, 16), (6, 21), (3, 40)]),
    top_k=st.integers(1, 45),
    top_p=st.one_of(st.none(), st.floats(0.01, 1)),
    seed=st.integers(0, 99),
)
def test_any_shape(
    name: str, shape: tuple[int, int], top_k: int, top_p: float | None, seed: int
) -> None:
    # Whole numbers of quarters: many ties, and no two sums of weights nearly meet the budget.
    scores = np.random.default_rng(seed).integers(-8, 8, shape) / 4
    reached = by_sorting(scores, 1, top_p)
    if top_p is not None and _nearly(scores, top_p):
        return
    expected = reached | by_sorting(scores, top_k, None)
    np.testing.assert_array_equal(chosen(name, scores, top_k, top_p), expected)


def _nearly(scores: np.ndarray, top_p: float) -> bool:
    weights = -np.sort(-np.exp(scores), axis=-1)
    reached = np.cumsum(weights, -1) / weights.sum(-1, keepdims=True)
    return bool((np.abs(reached - top_p - SLACK) < 1e-6).any())


@pytest.fixture
def small_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows of more than 64 blocks are done a tile of 64 at a time."""
    monkeypatch.setattr(triton, "LONGEST", 64)
    monkeypatch.setattr(triton_tiles, "TILE", 64)


def rows_of_all_kinds(blocks: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Scores (1, rows, blocks), top_k (1, rows) and top_p (1, rows) whose choice is beyond doubt.

    No sum of weights comes near the budget: it ends in the middle of a weight.
    """
    random = np.random.default_rng(blocks)
    normal = random.normal(size=blocks)
    hard = np.where(np.arange(blocks) == blocks // 2, 1e30, -1e30)
    infinitely_far = np.where(np.arange(blocks) % 3, -3e38, 3e38)
    quarters = random.integers(-8, 8, blocks) / 4
    kinds = (normal, 40 * normal, quarters, np.zeros(blocks), hard, infinitely_far)
    # Half of equal scores, but for less than the slack.
    rows: list[tuple[np.ndarray, int, float]] = [(np.zeros(blocks), 1, 0.5 - SLACK / 2)]
    for scores in kinds:
        for top_k in (1, 7, blocks // 2, blocks + 20):
            for top_p in (-1.0, _within_a_weight(scores, random), 1.0):
                rows.append((scores, top_k, top_p))
    scores, top_k, top_p = zip(*rows, strict=True)
    return (
        np.asarray(scores, np.float32)[None],
        np.asarray(top_k, np.int32)[None],
        np.asarray(top_p, np.float32)[None],
    )


def _within_a_weight(scores: np.ndarray, random: np.random.Generator) -> float:
    """A budget that some block crosses by half of its share, which is not small."""
    shares = -np.sort(-np.exp(scores - scores.max()))
    shares /= shares.sum()
    place = random.integers((shares > 0.5 / len(shares)).sum())
    return max(float(shares[:place].sum() + shares[place] / 2 - SLACK), 1e-6)


type Lists = tuple[np.ndarray, np.ndarray]


def tiled_and_whole(*inputs: np.ndarray, **options: Any) -> tuple[Lists, Lists]:
    """Counts and lists of the kernel, and those of XLA."""
    ways = partial(list_blocks_triton, interpret=True), list_blocks_xla
    kernel, plain = (jax.jit(partial(way, **options))(*inputs) for way in ways)
    return jax.device_get((kernel, plain))


def same_lists(one: tuple[Any, Any], other: tuple[Any, Any], blocks: int) -> None:
    """The lists agree, and the second's rest holds the blocks that were not chosen."""
    np.testing.assert_array_equal(one[0], other[0])
    listed = np.arange(blocks) < np.asarray(one[0])[..., None]
    np.testing.assert_array_equal(np.where(listed, one[1], -1), np.where(listed, other[1], -1))
    every = np.broadcast_to(np.arange(blocks), other[1].shape)
    np.testing.assert_array_equal(np.sort(other[1], axis=-1), every)


@needs_triton
@pytest.mark.parametrize("around", [pytest.param((0, 0), marks=pytest.mark.thorough), (70, 3)])
def test_long_rows_are_done_in_tiles(around: tuple[int, int], small_tiles: None) -> None:
    inputs = rows_of_all_kinds(300)
    blocks = 300 + sum(around)
    options = {"first": around[0], "blocks": blocks}
    tiled, whole = tiled_and_whole(*inputs, **options)
    assert tiled[1].dtype == jnp.int16
    same_lists(whole, tiled, blocks)


def with_marks(scores: np.ndarray, around: tuple[int, int]) -> np.ndarray:
    """These scores between blocks that all see and padding; the last two rows have none."""
    marked = np.pad(scores, ((0, 0), (0, 0), around), constant_values=-np.inf)
    marked[..., : around[0]] = np.inf
    marked[:, -2:, around[0] :] = -np.inf
    return marked


@needs_triton
def test_long_rows_with_marks_are_done_in_tiles(small_tiles: None) -> None:
    scores, *budgets = rows_of_all_kinds(230)
    options = {"first": 0, "blocks": 320, "marked": True}
    tiled, whole = tiled_and_whole(with_marks(scores, (70, 20)), *budgets, **options)
    np.testing.assert_array_equal(tiled[0][0, -2:], [70, 70])
    same_lists(whole, tiled, 320)


@needs_triton
def test_rows_without_numbers_end(small_tiles: None) -> None:
    scores, one = np.full((1, 1, 300), np.nan, np.float32), np.ones((1, 1), np.float32)
    run = jax.jit(partial(list_blocks_triton, first=0, blocks=300, interpret=True))
    counts, lists = jax.device_get(run(scores, np.int32(one), one))
    assert 0 <= int(counts[0, 0]) <= 300
    np.testing.assert_array_equal(np.sort(lists[0, 0]), np.arange(300))


def test_several_thresholds_at_once_take_fewer_passes() -> None:
    gaps = score_gaps(jnp.asarray(np.random.default_rng(2).normal(size=2000), jnp.float32))
    order = np.sort(np.asarray(gaps).view(np.int32))
    sums = np.cumsum([0.0, *np.exp(-np.sort(gaps))], dtype=np.float32)

    def passes(halvings: int) -> tuple[int, int]:
        made = []

        def totals(guesses: tuple[jax.Array, ...]) -> list[tuple[jax.Array, jax.Array]]:
            made.append(guesses)
            counts = [np.searchsorted(order, guess, side="right") for guess in guesses]
            return [(jnp.asarray(sums[count]), jnp.asarray(count, jnp.int32)) for count in counts]

        with jax.disable_jit():
            budget, top_k = jnp.asarray(0.9 * sums[-1:]), jnp.asarray([100])
            low = threshold(totals, gaps.max(keepdims=True), 2000, budget, top_k, halvings)
        return totals((low,))[0][1].item(), len(made) - 1

    (taken, many), *others = [passes(halvings) for halvings in (1, 2, 3)]
    assert all(own == taken for own, _ in others)
    assert all(few <= many / halvings + 2 for halvings, (_, few) in enumerate(others, 2))


@needs_triton
@pytest.mark.parametrize("blocks", [40_000, 70_000])
@pytest.mark.parametrize("padded", [False, True])
def test_kernels_of_long_rows_lower(blocks: int, padded: bool) -> None:
    q, k = (jax.ShapeDtypeStruct((1, size, 2, 64), jnp.bfloat16) for size in (999, 64 * blocks))
    real = api.NumValid(jnp.int32(900), jnp.int32(64 * blocks - 99)) if padded else None
    select = partial(select_blocks, top_k=20, top_p=0.9, pool_q=32, num_valid=real)
    with here_is():
        lowered = jax.jit(select).trace(q, k).lower(lowering_platforms=("cuda",))
    assert lowered.out_info.indices.dtype == jnp.int32
    assert all(f'"{kernel}"' in lowered.as_text() for kernel in ("block_scores", "block_selection"))


def test_pooling_by_hand() -> None:
    @jax.jit
    def pools(x: jax.Array) -> list[jax.Array]:
        mean, most = pool_blocks(x, 2), pool_blocks(x, 2, "max")
        return [mean, most, *(pool_blocks(x, size, start=1) for size in (1, 3))]

    x = np.array([3, 5, -1, 1, 7], np.float32)[None, :, None, None]
    mean, most, each, threes = (np.asarray(pooled)[0, 0, :, 0] for pooled in pools(x))
    np.testing.assert_array_equal(mean, [4, 0, 7])
    np.testing.assert_array_equal(most, [5, 1, 7])
    np.testing.assert_array_equal(each, [5, -1, 1, 7])
    np.testing.assert_allclose(threes, [5 / 3, 7], rtol=1e-7)
    half = jax.ShapeDtypeStruct(x.shape, jnp.bfloat16)
    assert jax.eval_shape(lambda x: pool_blocks(x, 2), half).dtype == jnp.float32


def qk(queries: int, keys: int, heads: int = 2, width: int = 8) -> tuple[Any, Any]:
    random = np.random.default_rng(queries + keys)
    q, k = (np.float32(2 * random.normal(size=(2, size, heads, width))) for size in (queries, keys))
    return q, k


SMALL: dict[str, Any] = {"block_q": 4, "block_kv": 2}


def selected(q: np.ndarray, k: np.ndarray, **options: Any) -> np.ndarray:
    """The dense meaning of what is chosen, in one program; the lists are looked at."""

    @jax.jit
    def select(q: jax.Array, k: jax.Array) -> tuple[BlockMask, jax.Array]:
        mask = select_blocks(q, k, **SMALL, **options)
        return mask, mask.as_array()

    mask, dense = jax.device_get(select(q, k))
    dataclasses.replace(mask)  # what the constructor refuses is refused here
    np.testing.assert_array_equal(mask.counts, dense.sum(-1))
    return dense


def test_scores_are_those_of_pooled_queries_and_keys() -> None:
    q, k = qk(10, 13)
    found = selected(q, k, top_k=3, top_p=0.6)
    pooled_q = [np.asarray(q, np.float64)[:, at : at + 4].mean(1) for at in (0, 4, 8)]
    pooled_k = [np.asarray(k, np.float64)[:, at : at + 2].mean(1) for at in range(0, 13, 2)]
    scores = np.einsum("tbnk,sbnk->bnts", pooled_q, pooled_k) / np.sqrt(8)
    np.testing.assert_array_equal(found, by_sorting(scores, 3, 0.6))


@pytest.mark.parametrize("part", [1, 2])
def test_scores_of_several_pooled_queries_are_their_mean_softmax(part: int) -> None:
    q, k = qk(10, 13)
    found = selected(q, k, top_k=2, top_p=0.6, pool_q=part)
    parts = [np.asarray(q, np.float64)[:, at : at + part].mean(1) for at in range(0, 10, part)]
    pooled_k = [np.asarray(k, np.float64)[:, at : at + 2].mean(1) for at in range(0, 13, 2)]
    weights = np.exp(np.einsum("tbnk,sbnk->bnts", parts, pooled_k) / np.sqrt(8))
    weights /= weights.sum(-1, keepdims=True)
    of_block = np.arange(10 // part) * part // 4
    mean = np.stack([weights[:, :, of_block == row].mean(2) for row in range(3)], axis=2)
    np.testing.assert_array_equal(found, by_sorting(np.log(mean), 2, 0.6))


@pytest.mark.parametrize("part", [1, 4])
def test_parts_of_blocks_with_padding_and_dense_rows(part: int) -> None:
    q, k = qk(19, 13)
    options: dict[str, Any] = {"top_k": 2, "top_p": 0.6, "dense_queries": 4, "pool_q": part}
    short = selected(q[:, :10], k[:, :9], candidates=Candidates(2, 9), **options)
    real = api.NumValid(jnp.int32(10), jnp.int32(9))
    padded = selected(q, k, candidates=Candidates(2, 9), num_valid=real, **options)
    assert short[:, :, 0].all()
    np.testing.assert_array_equal(padded[:, :, :3, :5], short)
    assert not padded[..., 5:].any()


ALWAYS, NEVER = float("inf"), float("-inf")


@needs_triton
@pytest.mark.parametrize(
    ("shape", "marks"),
    [
        ((2, 21, 4, 150, 64), None),
        ((2, 21, 4, 150, 64), [ALWAYS] * 3 + [0.0] * 140 + [NEVER] * 7),
        ((1, 2, 4, 130, 32), [ALWAYS] * 66 + [0.0] * 64),  # the first step has none that compete
        ((1, 3, 3, 5, 8), [ALWAYS, 0.0, 0.0, 0.0, NEVER]),
        ((1, 2, 128, 64, 16), None),
        ((2, 3, 2, 64, 16), [ALWAYS] * 64),
    ],
)
def test_one_kernel_scores_as_xla_does(shape: tuple[int, ...], marks: list[float] | None) -> None:
    groups, rows, parts, candidates, width = shape
    random = np.random.default_rng(candidates)
    pooled = 3 * random.normal(size=(groups, rows, parts, width))
    weight = np.log(random.dirichlet(np.ones(parts), (groups, rows)))
    weight[:, -1, :1], weight[:, -1, 1:] = 0.0, -np.inf  # the other parts are empty
    k = np.float32(random.normal(size=(groups, candidates, width)))
    marked = None if marks is None else np.array(marks, np.float32)

    @jax.jit
    def both(q: Queries, k: jax.Array, marks: jax.Array | None) -> tuple[jax.Array, jax.Array]:
        return block_scores_triton(q, k, marks, interpret=True), block_scores(q, k, marks)

    scores, plain = both(Queries(*cast(Any, (np.float32(pooled), np.float32(weight)))), k, marked)
    # Numbers are up to about 100, in products of three bfloat16 products.
    np.testing.assert_allclose(scores, plain, rtol=1e-5, atol=1e-3)


@needs_triton
@pytest.mark.parametrize(
    ("name", "part", "padded", "kernels"),
    [
        (None, 32, False, ["block_scores", "block_selection"]),
        ("triton", 32, True, ["block_scores", "block_selection"]),
        ("triton", 8, False, ["block_scores", "block_selection"]),
        (None, 128, False, ["block_selection"]),
        ("xla", 32, False, []),
    ],
)
def test_kernels_lower(name: str | None, part: int, padded: bool, kernels: list[str]) -> None:
    x = jax.ShapeDtypeStruct((1, 40 * 1041, 16, 64), jnp.bfloat16)
    real = api.NumValid(jnp.int32(41000), jnp.int32(40000)) if padded else None
    select = partial(
        select_blocks, top_k=20, top_p=0.9, pool_q=part, implementation=name, num_valid=real
    )
    with here_is():
        text = jax.jit(select).trace(x, x).lower(lowering_platforms=("cuda",)).as_text()
    found = [kernel for kernel in ("block_scores", "block_selection") if f'"{kernel}"' in text]
    assert found == kernels


@needs_triton
def test_what_the_scoring_kernel_cannot_do_xla_does() -> None:
    x = jax.ShapeDtypeStruct((1, 600, 2, 8), jnp.bfloat16)
    select = partial(select_blocks, top_k=2, block_q=256, pool_q=1)
    with here_is():
        assert jax.eval_shape(select, x, x).counts.shape == (1, 2, 3)
        with pytest.raises(UnfitError, match="256 pooled queries a block are more than 128"):
            jax.eval_shape(partial(select, implementation="triton"), x, x)
        wide = jax.ShapeDtypeStruct((1, 600, 2, 200), jnp.bfloat16)
        with pytest.raises(UnfitError, match="head width 200 is beyond 128"):
            jax.eval_shape(partial(select, implementation="triton", pool_q=32), wide, wide)


def test_chunks_repeat_little() -> None:
    assert [api._even(16, most) for most in (16, 20, 12, 5, 3, 1)] == [16, 16, 8, 4, 3, 1]


def test_opposite_queries_do_not_cancel_in_parts() -> None:
    """Half of a block looks at the first keys, half at the last; their mean looks nowhere."""
    q = np.array([9, 9, -9, -9], np.float32).reshape(1, 4, 1, 1)
    k = np.array([3, 3, 1, 1, 1, 1, -3, -3], np.float32).reshape(1, 8, 1, 1)
    chosen = selected(q, k, top_k=2, pool_q=2)
    assert chosen[0, 0, 0].tolist() == [True, False, False, True]
    chosen = selected(q, k, top_k=2)
    assert chosen[0, 0, 0].tolist() == [True, True, False, False]


def test_budgets_may_differ_from_head_to_head() -> None:
    @jax.jit
    def select(q: jax.Array, k: jax.Array, top_k: jax.Array, top_p: jax.Array) -> jax.Array:
        return select_blocks(q, k, top_k=top_k, top_p=top_p, **SMALL).as_array()

    top_k, top_p = np.array([1, 5], np.int32), np.array([0.9, 0.2], np.float32)
    both = np.asarray(select(*qk(10, 13), top_k, top_p))
    for head in range(2):
        alone = selected(*qk(10, 13), top_k=int(top_k[head]), top_p=float(top_p[head]))
        np.testing.assert_array_equal(both[:, head], alone[:, head])


def test_only_candidates_compete() -> None:
    q, k = qk(12, 13)
    options: dict[str, Any] = {"top_k": 2, "candidates": Candidates(4, 9), "dense_queries": 4}
    mask = selected(q, k, **options)
    assert mask[:, :, 0].all()
    assert mask[:, :, 1:, [0, 1, 5, 6]].all()
    np.testing.assert_array_equal(mask[:, :, 1:, 2:5].sum(-1), 2)
    # The block that `stop` cuts is pooled over its tokens before `stop`.
    k[:, 9:] = 100.0
    np.testing.assert_array_equal(selected(q, k, **options), mask)


def test_without_candidates_all_is_seen() -> None:
    q, k = qk(12, 13)
    ways: list[dict[str, Any]] = [{"candidates": Candidates(14, 13)}, {"dense_queries": 12}]
    for options in ways:
        assert selected(q, k, top_k=1, **options).all()


@pytest.mark.parametrize(
    ("part", "limits"),
    [
        (2, [2, 7]),
        (4, [1]),
        pytest.param(2, [1, 8], marks=pytest.mark.thorough),
        pytest.param(4, [2, 7, 8], marks=pytest.mark.thorough),
    ],
)
def test_chunks_change_nothing(
    part: int, limits: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    q, k = qk(10, 13, heads=3)
    whole = selected(q, k, top_k=2, top_p=0.7, pool_q=part)
    for rows_at_once in limits:
        monkeypatch.setattr(api, "SCORE_BYTES_LIMIT", rows_at_once * 4 * 7 * (4 // part))
        cut = selected(q, k, top_k=2, top_p=0.7, pool_q=part)
        np.testing.assert_array_equal(cut, whole)


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("pooling", ["mean", "max"])
def test_padding_does_not_change_pools(pooling: Any, padded: bool) -> None:
    x = np.random.default_rng(0).normal(size=(2, 23, 3, 4)).astype(np.float32)
    junk = np.where(np.arange(23)[:, None, None] < 13, x, np.float32("nan"))
    cuts = (0, 4), (4, 4), (1, 5), (12, 3), (3, 1), (13, 2)

    @jax.jit
    def pools(x: jax.Array, stop: jax.Array | None) -> list[jax.Array]:
        return [pool_blocks(x, block, pooling, start=start, stop=stop) for start, block in cuts]

    made = pools(*(junk, jnp.int32(13)) if padded else (x[:, :13], None))
    for (start, block), pooled in zip(cuts, jax.device_get(made), strict=True):
        own = [x[:, at : min(13, at + block)] for at in range(start, 13, block)]
        fold = np.mean if pooling == "mean" else np.max
        for place, tokens in enumerate(own):
            np.testing.assert_allclose(pooled[:, :, place], fold(tokens, axis=1), rtol=1e-5)
        assert not pooled[:, :, len(own) :].any()


@pytest.mark.parametrize("padded", [pytest.param(False, marks=pytest.mark.thorough), True])
def test_a_thousand_views_fit(padded: bool) -> None:
    patches, keys = 1000 * 1036, 1000 * 1041
    q = jax.ShapeDtypeStruct((1, patches, 16, 64), jnp.bfloat16)
    k = jax.ShapeDtypeStruct((1, keys, 16, 64), jnp.bfloat16)
    number = jax.ShapeDtypeStruct((), jnp.int32)
    real = api.NumValid(cast(Any, number), cast(Any, number)) if padded else None
    select = jax.jit(lambda q, k, real: select_blocks(q, k, top_k=4000, top_p=0.9, num_valid=real))
    analysis = select.lower(q, k, real).compile().memory_analysis()
    assert analysis is not None
    assert analysis.temp_size_in_bytes <= 1.5 * 2**30


@pytest.mark.parametrize("name", ["xla", TRITON])
def test_upstream_probabilities_lead_to_upstream_masks(name: str) -> None:
    golden = golden_data.case("sparse_attn_n4_b2_exact")
    expected = golden.outputs()
    scores = np.log(expected["pooled_prob"])
    blocks = scores.shape[-1]
    for mode in golden.info["modes"]:
        top_k = 0 if mode["ratio"] is None else int(blocks * (1 - mode["ratio"]))
        mask = chosen(name, scores.reshape(-1, blocks), max(1, top_k), mode["cdf"])
        wanted = expected[f"{mode['tag']}.mask"][..., :blocks].astype(bool)
        np.testing.assert_array_equal(mask, wanted.reshape(-1, blocks))


def test_wrong_arguments_are_refused(without_shape_checks: None) -> None:
    q, k = qk(10, 13)
    for call, message in (
        (lambda: select_blocks(q, k[:1], top_k=1), "disagree"),
        (lambda: select_blocks(q, k, top_k=1, dense_queries=3, **SMALL), "multiple of block_q=4"),
        (lambda: select_blocks(q, k, top_k=1, candidates=Candidates(3, 9), **SMALL), "start at"),
        (lambda: select_blocks(q, k, top_k=1, candidates=Candidates(2, 14), **SMALL), "13 keys"),
        (lambda: select_blocks(q, k, top_k=1, block_q=0), "block_q=0"),
        (lambda: select_blocks(q, k, top_k=1, pool_q=3, **SMALL), "pool_q=3 must divide"),
        (lambda: select_blocks(q, k, top_k=1, implementation="magic"), "one of triton, xla"),
        (
            lambda: select_blocks(q, k, top_k=1, dense_queries=128, implementation="magic"),
            "one of triton, xla",
        ),
        (lambda: select_blocks(q, k, top_k=1, top_p=1.5), r"top_p=1\.5 must lie in \(0, 1\]"),
        (lambda: select_blocks(q, k, top_k=1, top_p=0.0), "top_p=0.0 must lie in"),
        (lambda: select_blocks(q, k, top_k=1, top_p=float("nan")), "top_p=nan must lie in"),
        (lambda: select_blocks(q, k, top_k=1, top_p=jnp.array([0.5, 2.0])), "must lie in"),
        (lambda: select_blocks(q, k, top_k=1, top_p=jnp.ones(3)), "one for each of 2 heads"),
        (lambda: select_blocks(q, k, top_k=-1), "top_k=-1 must be whole numbers of at least 0"),
        (lambda: select_blocks(q, k, top_k=cast(Any, 1.5)), "top_k=1.5 must be whole numbers"),
        (lambda: select_blocks(q, k, top_k=jnp.array([3, -2])), "must be whole numbers"),
        (lambda: select_blocks(q, k, top_k=1, scale=0.0), "scale=0.0 must be positive"),
        (lambda: select_blocks(q, k, top_k=1, scale=float("nan")), "scale=nan must be positive"),
        (lambda: select_blocks(q, k, top_k=1, pooling=cast(Any, "median")), "one of mean, max"),
        (lambda: pool_blocks(q, 2, cast(Any, "median")), "one of mean, max"),
        (lambda: select_blocks(q.astype(int), k.astype(int), top_k=1), "one floating dtype, found"),
        (lambda: select_blocks(q, k.astype(jnp.bfloat16), top_k=1), "one floating dtype, found"),
        (lambda: select_blocks(q[:, :0], k, top_k=1), "no axis may be empty"),
    ):
        with pytest.raises(ValueError, match=message):
            call()
    with pytest.raises(NotImplementedError, match=REFUSED_ON_CPU):
        jax.eval_shape(partial(select_blocks, top_k=1, implementation="triton"), q, k)


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["xla", TRITON])
@pytest.mark.parametrize("part", [32, 128])
@pytest.mark.parametrize("views", [1, 40])
def test_backends_on_the_gpu(name: str, part: int, views: int) -> None:
    random = np.random.default_rng(0)
    q, k = (
        jnp.asarray(random.normal(size=(1, views * 1041, 16, 64)), jnp.bfloat16) for _ in range(2)
    )
    run = jax.jit(
        partial(select_blocks, top_k=20, top_p=0.9, pool_q=part, scale=1.0, implementation=name)
    )
    mask, again = run(q, k), run(q, k)
    with jax.default_device(jax.devices("cpu")[0]):
        pooled_q, pooled_k = (
            np.asarray(pool_blocks(jnp.asarray(x), size), np.float64)
            for x, size in ((q, part), (k, 64))
        )
    wrong = (
        np.asarray(mask.as_array()) != by_sorting(_scores(pooled_q, pooled_k, q, part), 20, 0.9)
    ).mean()
    assert wrong <= 1e-5  # float32 rounding may swap blocks of nearly equal scores
    np.testing.assert_array_equal(mask.as_array(), again.as_array())


def _scores(pooled_q: np.ndarray, pooled_k: np.ndarray, q: jax.Array, part: int) -> np.ndarray:
    """Log of the mean softmax of the pooled queries of each 128, by their numbers of queries."""
    products = pooled_q @ pooled_k.swapaxes(-1, -2)
    shares = np.exp(products - products.max(-1, keepdims=True))
    shares /= shares.sum(-1, keepdims=True)
    starts = np.arange(0, q.shape[1], part)
    shares *= np.minimum(part, q.shape[1] - starts)[:, None]
    return np.log(np.add.reduceat(shares, np.flatnonzero(starts % 128 == 0), axis=2))


@needs_triton
@pytest.mark.gpu
@pytest.mark.parametrize("blocks", [32_768, 40_000, 70_000])
@pytest.mark.parametrize("marked", [False, True])
def test_long_rows_on_the_gpu(blocks: int, marked: bool) -> None:
    scores, *budgets = rows_of_all_kinds(blocks - 13)
    scores = with_marks(scores, (8, 5)) if marked else scores
    inputs = [jnp.asarray(x) for x in (scores, *budgets)]
    options = {"first": 0 if marked else 8, "blocks": blocks, "marked": marked}
    kernel, plain = (
        jax.jit(partial(list_blocks, **options))(*inputs)
        for list_blocks in (list_blocks_triton, list_blocks_xla)
    )
    same_lists(plain, kernel, blocks)
