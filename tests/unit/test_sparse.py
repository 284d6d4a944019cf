"""The policy of block-sparse attention: who sees whom, budgets, order, and the whole program."""

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, cast

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import jaxrecon
from drawn_weights import drawn
from jaxrecon.errors import InputError
from jaxrecon.models.pi3.model import Pi3
from jaxrecon.nn.alternating import AlternatingAttention
from jaxrecon.nn.attention import TokenLayout, attend_densely
from jaxrecon.nn.block import BlockConfig
from jaxrecon.progress import Stages
from jaxrecon.sparse import (
    BlockLayout,
    HilbertOrder,
    PcaTreeOrder,
    Permutation,
    RasterOrder,
    SparseAttention,
    TopKTopP,
    hilbert_order,
)
from jaxrecon.sparse import attention as policy_module
from jaxrecon.sparse import layout as layout_module
from jaxrecon.sparse.replicas import own_rows
from one_program import one_program
from pallas_kernels.block_sparse_attention import BlockMask
from tiny_models import PI3_TINY, write_native

LAYOUT = TokenLayout(views=3, grid=(4, 5), leading=2, trailing=1, scene=2)
type Inputs = tuple[Any, Any, Any]

SIZES: dict[str, Any] = {"block_q": 8, "block_kv": 4}
SMALL: dict[str, Any] = SIZES | {"order": "raster"}
DROPPING: dict[str, Any] = SMALL | {"compensation_q": 0}
"""What skipped blocks would have added is dropped: smaller programs."""


def qkv(layout: TokenLayout, heads: int = 2, width: int = 8) -> Inputs:
    random = np.random.default_rng(layout.tokens)
    shape = (2, layout.tokens, heads, width)
    q, k, v = (random.normal(size=shape).astype(np.float32) for _ in range(3))
    return q, k, v


@partial(jax.jit, static_argnums=(0, 4))
def run(
    policy: SparseAttention, q: jax.Array, k: jax.Array, v: jax.Array, layout: TokenLayout
) -> jax.Array:
    return policy(q, k, v, layout)[0]


def attended(
    policy: SparseAttention, layout: TokenLayout, *inputs: np.ndarray
) -> tuple[jax.Array, jax.Array]:
    """The output, and the share of blocks that each head skips, as one program."""
    return jax.jit(partial(policy.attend, layout=layout))(*inputs)


@partial(jax.jit, static_argnums=3)
def densely(q: jax.Array, k: jax.Array, v: jax.Array, layout: TokenLayout) -> jax.Array:
    return attend_densely(q, k, v, layout)[0]


def patch_places(layout: TokenLayout) -> np.ndarray:
    """Where the patches stand in the model's order."""
    own = layout.leading + np.arange(layout.grid[0] * layout.grid[1])
    return (layout.tokens_per_view * np.arange(layout.views)[:, None] + own).reshape(-1)


@pytest.mark.parametrize(("replicas", "real"), [(2, None), (3, 50), (4, 9)])
def test_the_rows_of_replicas_are_all_rows(replicas: int, real: int | None) -> None:
    q = qkv(LAYOUT)[0]
    tokens = q.shape[1]
    lists = np.random.default_rng(0).integers(0, 2, (2, 2, -(-tokens // 8), 9)).astype(bool)
    lists[..., 4] = True
    sizes = {"block_q": 8, "block_kv": 8, "q_length": tokens, "kv_length": 9 * 8}
    mask = BlockMask.from_array(lists, **sizes)

    def of_all(q: jax.Array, mask: BlockMask) -> list[tuple[Any, ...]]:
        parts = [own_rows(q, mask, real, replicas, rank) for rank in range(replicas)]
        return [(part.q, part.mask.as_array(), part.num_valid) for part in parts]

    rows, seen, valid = zip(*one_program(of_all)(q, mask), strict=True)
    assert {part.shape[1] for part in rows} == {8 * -(-mask.query_blocks // replicas)}
    found = (
        np.concatenate(rows, axis=1)[:, :tokens],
        np.concatenate(seen, axis=2)[:, :, : lists.shape[2]],
        sum(map(int, valid)),
    )
    for part, whole in zip(found, (q, lists, tokens if real is None else real), strict=True):
        np.testing.assert_array_equal(part, whole)


@pytest.mark.parametrize(
    ("order", "special_tokens"),
    [
        ("raster", "packed"),
        ("pca_tree", "aligned"),
        pytest.param("hilbert", "aligned", marks=pytest.mark.thorough),
        pytest.param("raster", "aligned", marks=pytest.mark.thorough),
        pytest.param("hilbert", "packed", marks=pytest.mark.thorough),
        pytest.param("pca_tree", "packed", marks=pytest.mark.thorough),
    ],
)
def test_keeping_all_blocks_is_dense_attention(order: Any, special_tokens: Any) -> None:
    options = SMALL | {"order": order, "special_tokens": special_tokens}
    attend = SparseAttention(sparse_ratio=0.0, cdf_threshold=None, **options)
    inputs = qkv(LAYOUT)
    out, skipped = attended(attend, LAYOUT, *inputs)
    np.testing.assert_allclose(out, densely(*inputs, LAYOUT), rtol=0, atol=2e-6)
    np.testing.assert_allclose(skipped, np.zeros((2, 2)), atol=1e-6)


@pytest.mark.parametrize(
    ("order", "special_tokens", "pooling"),
    [
        pytest.param("raster", "aligned", "mean", marks=pytest.mark.thorough),
        pytest.param("raster", "packed", "max", marks=pytest.mark.thorough),
        pytest.param("hilbert", "aligned", "max", marks=pytest.mark.thorough),
        pytest.param("hilbert", "packed", "mean", marks=pytest.mark.thorough),
        ("pca_tree", "aligned", "mean"),
        pytest.param("pca_tree", "packed", "max", marks=pytest.mark.thorough),
    ],
)
def test_padding_views_change_nothing(order: Any, special_tokens: Any, pooling: Any) -> None:
    options = SMALL | {"order": order, "special_tokens": special_tokens, "pooling": pooling}
    attend = SparseAttention(sparse_ratio=(0.3, 0.6), cdf_threshold=0.5, **options)
    layout = replace(LAYOUT, layers=2, layer=1)
    inputs = qkv(layout)
    padded = replace(layout, views=5)
    place = layout.views * layout.tokens_per_view
    spare = padded.tokens - layout.tokens

    def with_junk(x: np.ndarray) -> np.ndarray:
        junk = 9 * np.sin(np.arange(spare)[:, None, None] * np.ones(x.shape[2:], np.float32))
        parts = [x[:, :place], np.broadcast_to(junk, (2, *junk.shape)), x[:, place:]]
        return np.concatenate(parts, axis=1, dtype=np.float32)

    expected, skipped = attended(attend, layout, *inputs)

    def run_padded(num_valid_views: jax.Array, *qkv: jax.Array) -> tuple[jax.Array, ...]:
        q, k, v = qkv
        given = replace(padded, num_valid_views=num_valid_views)
        return *attend.attend(q, k, v, given), attend_densely(q, k, v, given)[0]

    found = jax.jit(run_padded)(jnp.int32(layout.views), *(with_junk(x) for x in inputs))
    own = np.r_[:place, place + spare : padded.tokens]
    np.testing.assert_allclose(found[0][:, own], expected, rtol=0, atol=2e-6)
    np.testing.assert_allclose(found[1], skipped, rtol=0, atol=1e-6)
    np.testing.assert_allclose(found[2][:, own], densely(*inputs, layout), rtol=0, atol=2e-6)


@pytest.mark.parametrize("order", ["raster", "hilbert", "pca_tree"])
def test_the_way_back_undoes_the_layout(order: Any) -> None:
    made = SparseAttention(**SMALL | {"order": order}).block_layout(LAYOUT)
    packed = replace(made, special_tokens="packed")
    x, k, _ = qkv(LAYOUT)

    @one_program
    def there_and_back(x: jax.Array, k: jax.Array) -> tuple[jax.Array, ...]:
        orders = made.orders(x, k)
        assert (orders.queries is None) == (order != "pca_tree")
        back = made.restore(made.queries(x, orders), orders)
        return back, made.queries(x), made.keys(x), packed.keys(x)

    back, queries, keys, packed_keys = there_and_back(x, k)
    np.testing.assert_array_equal(back, x)
    # 11 specials fill two blocks of 8 queries; they are the first keys.
    assert (made.specials, made.dense_queries) == (11, 16)
    specials = np.setdiff1d(np.arange(LAYOUT.tokens), patch_places(LAYOUT))
    np.testing.assert_array_equal(queries[:, :11], x[:, specials])
    np.testing.assert_array_equal(keys[:, :11], x[:, specials])
    np.testing.assert_array_equal(packed_keys[:, -11:], x[:, specials])


HEADS = [(2, 3), (1, 3)]
"""Number and width of heads; the latter have no pairs of numbers."""


def gathered(heads: tuple[int, int]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Tokens, numbers of some, and these."""
    x = np.random.default_rng(0).normal(size=(2, 9, *heads)).astype(jnp.bfloat16)
    order = np.array([[3, 3, 9, 0, 8], [12, 1, 7, 7, 2]], np.int32)
    expected = np.zeros((2, 5, *heads), x.dtype)
    for scene, place in zip(*np.nonzero(order < 9), strict=True):
        expected[scene, place] = x[scene, order[scene, place]]
    return x, order, expected


@pytest.mark.parametrize("heads", HEADS)
def test_for_a_gpu_pairs_of_numbers_are_moved(heads: tuple[int, int], monkeypatch: Any) -> None:
    x, order, expected = gathered(heads)
    monkeypatch.setattr(layout_module, "target_platform", lambda: "gpu")
    text = str(jax.make_jaxpr(layout_module._taken)(x, order))
    assert ("uint32" in text) == (heads == (2, 3))
    np.testing.assert_array_equal(jax.jit(layout_module._taken)(x, order), expected)


@pytest.mark.gpu
@pytest.mark.parametrize("heads", HEADS)
def test_a_gpu_moves_pairs_of_numbers(heads: tuple[int, int]) -> None:
    x, order, expected = gathered(heads)
    np.testing.assert_array_equal(jax.jit(layout_module._taken)(x, order), expected)


@pytest.mark.parametrize("grid", [(5, 7), (8, 8), (28, 37), (37, 28), (1, 6), (6, 1), (2, 2)])
def test_a_hilbert_curve_visits_all_patches_by_small_steps(grid: tuple[int, int]) -> None:
    order = hilbert_order(grid)
    np.testing.assert_array_equal(np.sort(order), np.arange(grid[0] * grid[1]))
    y, x = np.divmod(order, grid[1])
    steps = np.maximum(np.abs(np.diff(y)), np.abs(np.diff(x)))
    assert steps.max() == 1


def test_specials_see_and_are_seen_by_all() -> None:
    attend = SparseAttention(sparse_ratio=0.9, cdf_threshold=None, **SMALL)
    q, k, v = qkv(LAYOUT)
    out = np.asarray(run(attend, q, k, v, LAYOUT))
    dense = np.asarray(densely(q, k, v, LAYOUT))
    specials = np.setdiff1d(np.arange(LAYOUT.tokens), patch_places(LAYOUT))
    np.testing.assert_allclose(out[:, specials], dense[:, specials], rtol=0, atol=2e-6)
    assert np.abs((out - dense)[:, patch_places(LAYOUT)]).max() > 1e-2
    for place in specials:
        changed = run(attend, q, k, v + one_at(place, LAYOUT), LAYOUT)
        assert (np.abs(changed - out).max((-1, -2)) > 0).all()


def one_at(token: Any, layout: TokenLayout) -> np.ndarray:
    """(T, 1, 1): one at a token, zero elsewhere."""
    return (np.arange(layout.tokens) == token).astype(np.float32)[:, None, None]


def test_packed_specials_may_be_hidden() -> None:
    # 63 patches and 3 specials: the block of the last three patches holds the first special.
    layout = replace(LAYOUT, grid=(3, 7), leading=1, trailing=0, scene=0)
    attend = SparseAttention(0.99, None, special_tokens="packed", **SMALL)
    q, k, v = qkv(layout)
    out = np.asarray(run(attend, q, k, v, layout))
    changed = run(attend, q, k, v + one_at(0, layout), layout)
    unseen = np.abs(changed - out).max((-1, -2)) == 0
    assert unseen.any()
    assert not unseen[:, [0, 22, 44]].any()


def test_attention_within_a_view_is_dense() -> None:
    layout = replace(LAYOUT, views=1, scene=0)
    inputs = qkv(layout)
    found = run(SparseAttention(0.9, None, **SMALL), *inputs, layout)
    np.testing.assert_array_equal(found, densely(*inputs, layout))


def test_like_patches_share_blocks_unless_the_layout_is_upstream_s() -> None:
    assert SparseAttention().patch_order == PcaTreeOrder()
    assert SparseAttention(special_tokens="packed").patch_order == RasterOrder()
    assert SparseAttention(order="hilbert").patch_order == HilbertOrder()
    assert SparseAttention(order=RasterOrder()).patch_order == RasterOrder()


def test_blocks_are_scored_by_quarters() -> None:
    """By the whole block where it is upstream's layout, or 4 does not divide it."""
    assert TopKTopP().pooled(128, "aligned") == 32
    assert TopKTopP(pool_q=128).pooled(128, "aligned") == 128
    assert TopKTopP().pooled(128, "packed") == 128
    assert TopKTopP().pooled(6, "aligned") == 6
    layout = TokenLayout(views=6, grid=(4, 4))
    q, k, _ = qkv(layout)

    @one_program
    def chosen(q: jax.Array, k: jax.Array) -> list[jax.Array]:
        ways = [SparseAttention(0.5, None, pool_q=x, **SMALL) for x in (None, 2, 8)]
        return [attention.select(q, k, layout).as_array() for attention in ways]

    given, quarters, whole = chosen(q, k)
    np.testing.assert_array_equal(given, quarters)
    assert (given != whole).any()


def test_shares_skipped_are_counted() -> None:
    layout = TokenLayout(views=4, grid=(4, 4))
    fine = SparseAttention(0.75, None, **SMALL)
    coarse = SparseAttention(0.8, None, block_q=8, block_kv=8, order="raster")

    @one_program
    def skipped(*inputs: jax.Array) -> list[jax.Array]:
        q, k, v = inputs
        return [policy.attend(q, k, v, layout)[1] for policy in (fine, coarse)]

    of_fine, of_coarse = skipped(*qkv(layout))
    np.testing.assert_allclose(of_fine, np.full((2, 2), 0.75))
    np.testing.assert_allclose(of_coarse, np.full((2, 2), 7 / 8))  # int(8 * 0.2) is 1


def test_budgets_by_layer_and_head() -> None:
    layout = TokenLayout(views=4, grid=(4, 4), layers=2)
    by_layer = SparseAttention((0.75, 0.0), None, **SMALL)
    by_head = SparseAttention(((0.75, 0.5), (0.0, 0.25)), None, **SMALL)

    @jax.jit
    def skipped(
        layer: jax.Array, q: jax.Array, k: jax.Array, v: jax.Array
    ) -> tuple[jax.Array, ...]:
        here = replace(layout, layer=layer)
        return tuple(attend.attend(q, k, v, here)[1] for attend in (by_layer, by_head))

    for layer, one, rows in ((0, 0.75, [0.75, 0.5]), (1, 0.0, [0.0, 0.25])):
        alike, each = skipped(jnp.int32(layer), *qkv(layout))
        np.testing.assert_allclose(alike, np.full((2, 2), one))
        np.testing.assert_allclose(each, [rows, rows])


def test_the_scanned_trunk_tells_its_layer() -> None:
    config = BlockConfig(width=16, heads=2)
    make = partial(AlternatingAttention, config, dtype=jnp.float32, pairs=2, taps=(0, 1))
    trunk = drawn(lambda: make(rngs=nnx.Rngs(0)))
    layout = TokenLayout(views=1, grid=(4, 4))
    tokens = jnp.asarray(np.random.default_rng(0).normal(size=(1, 4, 16, 16)), jnp.float32)
    forward = jax.jit(lambda attention: trunk(tokens, layout, attention)[0], static_argnums=0)
    dense = forward(attend_densely)
    late = forward(SparseAttention((0.0, 0.9), None, **DROPPING))
    np.testing.assert_allclose(late[0], dense[0], rtol=0, atol=1e-5)
    assert np.abs(np.asarray(late[1] - dense[1])).max() > 1e-3
    uniform = forward(SparseAttention(0.9, None, **DROPPING))
    same = forward(SparseAttention((0.9, 0.9), None, **DROPPING))
    np.testing.assert_array_equal(uniform, same)


def test_heads_in_turns_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    attend = SparseAttention(((0.5, 0.9, 0.1, 0.7),), 0.3, **SMALL)
    inputs = qkv(LAYOUT, heads=4)
    whole = attended(attend, LAYOUT, *inputs)
    monkeypatch.setattr(policy_module, "LIST_BYTES_LIMIT", 1)
    for ours, theirs in zip(attended(attend, LAYOUT, *inputs), whole, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sparse_ratio": 1.0}, r"sparse_ratio=1.0 must be numbers in \[0, 1\)"),
        ({"sparse_ratio": -0.1}, "sparse_ratio=-0.1"),
        ({"sparse_ratio": (0.5, float("nan"))}, "sparse_ratio"),
        ({"cdf_threshold": 0.0}, r"cdf_threshold=0.0 must be numbers in \(0, 1\]"),
        ({"cdf_threshold": 1.1}, "cdf_threshold=1.1"),
        ({"sparse_ratio": None, "cdf_threshold": None}, "both None"),
        ({"sparse_ratio": ()}, "sparse_ratio"),
        ({"sparse_ratio": ((0.1, 0.2), (0.3,))}, "rows of one length"),
        ({"sparse_ratio": "half"}, "sparse_ratio: give a number"),
        ({"sparse_ratio": "0.5"}, "sparse_ratio: give a number"),
        ({"sparse_ratio": False}, "sparse_ratio: give a number"),
        ({"cdf_threshold": [0.5, True]}, "cdf_threshold: give a number"),
        ({"block_q": True}, "block_q=True must be a whole number"),
        ({"pool_q": True}, "pool_q=True must divide block_q=128"),
        ({"block_q": 0}, "block_q=0 must be a whole number of at least 1"),
        ({"block_kv": -64}, "block_kv=-64 must be a whole number of at least 1"),
        ({"block_q": 12.5}, r"block_q=12\.5 must be a whole number"),
        ({"pool_q": 2.0}, r"pool_q=2\.0 must divide block_q=128"),
        ({"implementation": "cuda"}, "implementation='cuda' is unknown; choose one of mosaic_gpu"),
        ({"order": "zigzag"}, "order='zigzag' is unknown; choose one of pca_tree, raster, hilbert"),
        ({"special_tokens": "none"}, "choose one of aligned, packed"),
        ({"pooling": "median"}, "choose one of mean, max"),
    ],
)
def test_wrong_options_are_refused(
    without_shape_checks: None, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        SparseAttention(**options)


@pytest.mark.parametrize("given", [[0.5, 0.25], np.array([0.5, 0.25]), jnp.array([0.5, 0.25])])
def test_budgets_are_kept_as_tuples(without_shape_checks: None, given: Any) -> None:
    """So that a policy can be the static argument of a program."""
    policy = SparseAttention(sparse_ratio=given, cdf_threshold=cast(Any, np.float32(0.5)), **SMALL)
    same = SparseAttention(sparse_ratio=(0.5, 0.25), cdf_threshold=0.5, **SMALL)
    assert (policy, hash(policy)) == (same, hash(same))
    rows = SparseAttention(sparse_ratio=np.full((2, 3), 0.5))
    assert rows.sparse_ratio == ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    layout = replace(LAYOUT, layers=2)
    assert run.eval_shape(policy, *qkv(layout), layout).shape == (2, layout.tokens, 2, 8)


def test_inputs_of_another_layout_are_refused(without_shape_checks: None) -> None:
    attend, (q, k, v) = SparseAttention(**SMALL), qkv(LAYOUT)
    longer = replace(LAYOUT, views=4)
    with pytest.raises(InputError, match=r"layout has 94 tokens, found q \(2, 71, 2, 8\)"):
        attend(q, k, v, longer)
    with pytest.raises(InputError, match=r"layout has 94 tokens"):
        attend.select(q, k, longer)
    for wrong in ((q, k[:, 1:], v), (q, k, v[..., 1:]), (q[:, :, :1], k, v), (q, k, v[0])):
        with pytest.raises(InputError, match="must have one shape"):
            attend(*wrong, LAYOUT)


def test_budgets_of_another_model_are_refused() -> None:
    q, k, v = (jnp.asarray(x) for x in qkv(LAYOUT))
    with pytest.raises(InputError, match="given for 3 layers, the model has 1 global"):
        SparseAttention((0.1, 0.2, 0.3), **SMALL)(q, k, v, LAYOUT)
    with pytest.raises(InputError, match="given for 3 heads, found 2 heads"):
        SparseAttention(0.5, ((0.1, 0.2, 0.3),), **SMALL)(q, k, v, LAYOUT)


def test_a_model_with_it_is_one_program_that_can_be_exported() -> None:
    encoder = replace(PI3_TINY.encoder, depth=0)
    config = replace(PI3_TINY, encoder=encoder, head_depth=1)
    model = drawn(lambda: Pi3(config, dtype=jnp.float32, rngs=nnx.Rngs(0)))
    attention = SparseAttention(0.5, 0.5, **SIZES, order="hilbert", compensation_q=0)
    images = np.random.default_rng(0).random((1, 3, 56, 70, 3), np.float32)
    forward = jax.jit(lambda x: model(x, attention=attention).points_camera)
    exported = jax.export.export(forward)(jax.ShapeDtypeStruct(images.shape, images.dtype))
    assert "callback" not in exported.mlir_module()
    again = jax.jit(exported.call)(images)
    np.testing.assert_array_equal(again, forward(images))


@pytest.mark.parametrize("padded", [pytest.param(False, marks=pytest.mark.thorough), True])
@pytest.mark.parametrize(
    ("compensation_q", "spare"), [pytest.param(0, 0.4, marks=pytest.mark.thorough), (None, 1.5)]
)
@pytest.mark.parametrize("order", ["raster", pytest.param("pca_tree", marks=pytest.mark.thorough)])
def test_a_thousand_views_fit(
    order: Any, compensation_q: int | None, spare: float, padded: bool
) -> None:
    """Beside q, k and v rearranged and the output before its way back, 2.0 GiB each, a layer needs
    0.3 GiB: the lists of one head. What skipped blocks tell takes float32 copies of a head on a CPU
    (and no more room on a GPU, where they are fused).
    """
    layout = TokenLayout(views=1000, grid=(28, 37), leading=5)
    shape = jax.ShapeDtypeStruct((1, layout.tokens, 16, 64), jnp.bfloat16)

    def attend(q: jax.Array, k: jax.Array, v: jax.Array, views: jax.Array) -> Any:
        given = replace(layout, num_valid_views=views) if padded else layout
        return SparseAttention(compensation_q=compensation_q, order=order).attend(q, k, v, given)

    views = jax.ShapeDtypeStruct((), jnp.int32)
    analysis = jax.jit(attend).lower(shape, shape, shape, views).compile().memory_analysis()
    assert analysis is not None
    arranged = 2 * layout.tokens * 16 * 64
    assert analysis.temp_size_in_bytes <= 4 * arranged + spare * 2**30


def test_lists_of_wide_indices_take_twice_the_room(monkeypatch: pytest.MonkeyPatch) -> None:
    for blocks, size in ((32_000, 2), (33_000, 4)):
        layout = TokenLayout(views=blocks, grid=(1, 4))
        made = SparseAttention(**SMALL).block_layout(layout)
        assert made.key_blocks == blocks
        head = size * made.query_blocks * blocks
        for heads in (1, 2, 4):
            monkeypatch.setattr(policy_module, "LIST_BYTES_LIMIT", heads * head)
            assert policy_module._heads_at_once(made, 1, 4) == heads


@partial(jax.jit, static_argnums=1)
def share_skipped(counts: jax.Array, layout: TokenLayout, valid: jax.Array | None) -> jax.Array:
    made = SparseAttention(**SMALL).block_layout(replace(layout, num_valid_views=valid))
    indices = jnp.zeros((*counts.shape, 1), jnp.int32)
    lengths = (made.dense_queries + made.patches, layout.tokens)
    mask = BlockMask(counts, indices, made.block_q, made.block_kv, *lengths)
    return policy_module._share_skipped(mask, made)


def counts_of(layout: TokenLayout, kept: int) -> jax.Array:
    rows = SparseAttention(**SMALL).block_layout(layout).query_blocks
    return jnp.full((1, 1, rows), kept, jnp.int32)


def test_more_pairs_of_blocks_than_int32_counts() -> None:
    layout = TokenLayout(views=70_000, grid=(1, 4))
    found = share_skipped(counts_of(layout, 7_000), layout, jnp.int32(70_000))
    np.testing.assert_allclose(found, [[0.9]], rtol=1e-5)


@pytest.mark.parametrize("views", [1, 3, 7, 41, 49])
@pytest.mark.parametrize("padded", [False, True])
def test_where_all_blocks_are_kept_none_is_skipped(views: int, padded: bool) -> None:
    """1 less a mean would be off by the rounding of the mean."""
    layout = TokenLayout(views=views + 2 * padded, grid=(1, 4))
    valid = jnp.int32(views) if padded else None
    assert share_skipped(counts_of(layout, views), layout, valid) == 0


@pytest.mark.thorough
def test_models_load_with_it(tmp_path: Path) -> None:
    """Everything kept equals dense attention, through the whole pipeline."""
    folder = write_native(tmp_path / "tiny")
    photos = np.random.default_rng(0).integers(0, 256, (4, 56, 70, 3), np.uint8)
    quiet = Stages(quiet=True)
    dense, kept = (
        jaxrecon.load(folder, attention=attention, stages=quiet).reconstruct(photos, resolution=70)
        for attention in (None, jaxrecon.SparseAttention(sparse_ratio=0.0))
    )
    np.testing.assert_allclose(kept.points_world, dense.points_world, rtol=1e-3, atol=1e-4)
    few = jaxrecon.SparseAttention(sparse_ratio=0.9, cdf_threshold=None, **SMALL)
    sparse = jaxrecon.load(folder, attention=few, stages=quiet).reconstruct(photos, resolution=70)
    assert np.abs(np.asarray(sparse.points_world) - np.asarray(dense.points_world)).max() > 1e-3


@dataclass(frozen=True)
class FirstBlocks:
    """A selector: every block of queries sees the first key blocks alone."""

    count: int

    def select(self, q: jax.Array, k: jax.Array, layout: BlockLayout) -> BlockMask:
        seen = np.zeros((q.shape[0], q.shape[2], layout.query_blocks, layout.key_blocks), bool)
        seen[..., : self.count] = True
        sizes: dict[str, Any] = {"block_q": layout.block_q, "block_kv": layout.block_kv}
        lengths = {"q_length": q.shape[1], "kv_length": k.shape[1]}
        return BlockMask.from_array(seen, **sizes, **lengths)


@dataclass(frozen=True)
class Backwards:
    """An order: the last patch of each view first."""

    def order(self, q: jax.Array, k: jax.Array, layout: BlockLayout) -> Permutation:
        height, width = layout.layout.grid
        return Permutation(within_view=np.arange(height * width)[::-1])


def test_a_selector_and_an_order_of_ones_own() -> None:
    layout = TokenLayout(views=2, grid=(4, 4))
    q, k, v = qkv(layout)
    attend = SparseAttention(selector=FirstBlocks(1), order=Backwards(), compensation_q=0, **SIZES)
    out, skipped = attended(attend, layout, q, k, v)
    first = np.arange(15, 11, -1)  # the first key block: the last four patches of the first view
    expected = densely(q, k[:, first], v[:, first], layout)
    np.testing.assert_allclose(out, expected, rtol=0, atol=2e-6)
    np.testing.assert_allclose(skipped, np.full((2, 2), 1 - 1 / 8))


def test_a_selector_sees_some_heads_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    @dataclass(frozen=True)
    class Watching(TopKTopP):
        def select(self, q: jax.Array, k: jax.Array, layout: BlockLayout) -> BlockMask:
            seen.append((q.shape[2], layout.layout.heads))
            return super().select(q, k, layout)

    monkeypatch.setattr(policy_module, "LIST_BYTES_LIMIT", 1)
    layout = TokenLayout(views=4, grid=(4, 4))
    inputs = qkv(layout, heads=4)
    found = attended(SparseAttention(selector=Watching(0.5), **DROPPING), layout, *inputs)
    expected = attended(SparseAttention(0.5, **DROPPING), layout, *inputs)
    assert seen == [(1, 4)]
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_old_names_still_work(without_shape_checks: None) -> None:
    with pytest.warns(DeprecationWarning, match='order="similar" is called order="pca_tree" now'):
        assert SparseAttention(order=cast(Any, "similar")) == SparseAttention(order="pca_tree")
    with pytest.warns(DeprecationWarning, match="rest_q is called compensation_q now"):
        assert SparseAttention(rest_q=8) == SparseAttention(compensation_q=8)


def test_a_selector_does_not_go_with_what_makes_another() -> None:
    with pytest.raises(InputError, match="do not go with another selector"):
        SparseAttention(0.5, selector=TopKTopP(0.25))
