"""The parts of a DPT against upstream's numbers, and views in groups."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import golden_data
from convert.transforms import TRANSFORMS
from drawn_weights import drawn
from golden_data import golden_weight
from jaxrecon import checkpoint
from jaxrecon.nn.dpt import (
    ConvTranspose,
    DenseHead,
    DPTConfig,
    Fusion,
    add_position,
    resize_bilinear,
)
from jaxrecon.nn.views import map_views
from one_program import one_program

UNITS = golden_data.case("units")
resized = one_program(resize_bilinear, "size")
SMALL = DPTConfig(width=8, channels=(4, 8, 8, 12), features=12, features_out=8)


@pytest.fixture(scope="module")
def given() -> Mapping[str, np.ndarray]:
    return UNITS.inputs()


@pytest.fixture(scope="module")
def expected() -> Mapping[str, np.ndarray]:
    return UNITS.outputs()


def last(maps: np.ndarray) -> jax.Array:
    return jnp.asarray(np.moveaxis(maps, 1, -1))


def first(maps: jax.Array) -> np.ndarray:
    return np.moveaxis(np.asarray(maps), -1, 1)


@pytest.fixture(scope="module")
def fusion() -> Fusion:
    """Upstream's fusion block of the units, with its weights."""
    names = {"skip": "resConfUnit1", "refine": "resConfUnit2"}
    weights, listing = {}, UNITS.info["weights"]["unit_fusion."]

    def read(name: str) -> np.ndarray:
        entry = listing[name]
        shape = tuple(entry["shape"])
        return golden_weight(name, shape, entry["mean"], entry["std"], "unit_fusion.")

    for ours, theirs in names.items():
        for conv in ("conv1", "conv2"):
            kernel = TRANSFORMS["convolution"](read(f"{theirs}.{conv}.weight"), 4)
            weights[f"{ours}.{conv}.kernel"] = kernel
            weights[f"{ours}.{conv}.bias"] = read(f"{theirs}.{conv}.bias")
    weights["out.kernel"] = TRANSFORMS["pointwise"](read("out_conv.weight"), 2)
    weights["out.bias"] = read("out_conv.bias")
    config = DPTConfig(width=8, features=8)
    make = lambda: Fusion(config, skip=True, dtype=jnp.float32, rngs=nnx.Rngs(0))  # noqa: E731
    return checkpoint.restore(jax.eval_shape(make), weights.items())


@pytest.mark.parametrize(("key", "size"), [("x2", (6, 8)), ("size_5x9", (5, 9))])
def test_fusion(
    key: str,
    size: tuple[int, int],
    fusion: Fusion,
    given: Mapping[str, np.ndarray],
    expected: Mapping[str, np.ndarray],
) -> None:
    run = one_program(lambda fusion, *maps: fusion(*maps, size))
    out = run(fusion, last(given["fusion_x"]), last(given["fusion_skip"]))
    UNITS.check(f"fusion_out_{key}", first(out), expected[f"fusion_out_{key}"])


def test_residual_convolution(
    fusion: Fusion, given: Mapping[str, np.ndarray], expected: Mapping[str, np.ndarray]
) -> None:
    out = one_program(lambda fusion, x: fusion.refine(x))(fusion, last(given["fusion_x"]))
    UNITS.check("resconv_unit2", first(out), expected["resconv_unit2"])


def test_bilinear_resize(
    given: Mapping[str, np.ndarray], expected: Mapping[str, np.ndarray]
) -> None:
    key = "bilinear_ac_true_13x20"
    UNITS.check(key, first(resized(last(given["interp"]), size=(13, 20))), expected[key])


def test_bilinear_resize_by_hand() -> None:
    x = np.array([0.0, 2.0, 10.0], np.float32).reshape(1, 1, 3, 1)
    wider = resized(x, size=(2, 5))  # places 0, 0.5, 1, 1.5, 2; the single row twice
    np.testing.assert_array_equal(wider[0, :, :, 0], [[0, 1, 2, 6, 10]] * 2)
    np.testing.assert_array_equal(resized(x, size=(1, 2))[0, 0, :, 0], [0, 10])
    np.testing.assert_array_equal(resized(x, size=(1, 1))[0, 0, :, 0], [0])


@pytest.mark.parametrize("size", [(7, 9), (3, 4), (2, 11), (1, 1)])
def test_gradient_of_the_resize_is_its_adjoint(size: tuple[int, int]) -> None:
    """For all `x` and `y`: the products of `resize(x)` with `y` and of `x` with the gradient sum to
    the same."""
    random = np.random.default_rng(0)
    x = random.normal(size=(2, 3, 5, 4)).astype(np.float32)
    y = random.normal(size=(2, *size, 4)).astype(np.float32)

    def product(x: jax.Array) -> jax.Array:
        return jnp.sum(resize_bilinear(x, size) * y)

    value, gradient = one_program(jax.value_and_grad(product))(x)
    np.testing.assert_allclose(np.sum(gradient * x), value, rtol=1e-5, atol=1e-5)
    text = jax.jit(jax.grad(product)).lower(x).as_text()
    assert "scatter" not in text


def test_transposed_convolution(
    given: Mapping[str, np.ndarray], expected: Mapping[str, np.ndarray]
) -> None:
    kernel = TRANSFORMS["transposed_convolution"](given["convT_w"], 4)
    layer = drawn(lambda: ConvTranspose(3, 3, 4, dtype=jnp.float32, rngs=nnx.Rngs(0)))
    layer.kernel, layer.bias = nnx.Param(jnp.asarray(kernel)), nnx.Param(jnp.arange(5.0))
    out = first(one_program(lambda layer, x: layer(x))(layer, last(given["convT_x"])))
    bias = np.arange(5, dtype=np.float32)[:, None, None]
    UNITS.check("convT_k4_s4", out - bias, expected["convT_k4_s4"])


@pytest.mark.parametrize(("width", "height"), [(5, 3), (11, 9)])
def test_position_embedding(width: int, height: int, expected: Mapping[str, np.ndarray]) -> None:
    key = f"w{width}_h{height}_c12"
    grid = expected[f"uv_grid_w{width}_h{height}"]
    # The grid's corner is at (w - 1) / w of the span across, which tells the aspect ratio.
    aspect = (grid[0, -1, 0] * width / (width - 1)) / (grid[-1, 0, 1] * height / (height - 1))
    maps = jnp.ones((1, height, width, 12), jnp.bfloat16)
    added = one_program(add_position, "aspect")(maps, aspect=float(aspect))
    assert added.dtype == jnp.float32
    UNITS.check(f"uv_embed_{key}", np.asarray(added[0] - 1) * 10, expected[f"uv_embed_{key}"])


@pytest.mark.parametrize("views", [1, 7, 8, 9, 16, 21, 23])
def test_groups_of_views_cover_each_view_once(views: int) -> None:
    patches = np.arange(4.0 * views * 2 * 3, dtype=np.float32).reshape(4, views, 2, 3)
    groups = []

    def double(x: jax.Array) -> jax.Array:
        groups.append(x.shape[1])
        return 2 * x[1, :, :, :2]

    out = one_program(lambda x: map_views(double, x, at_once=8, axis=1))(patches)
    np.testing.assert_array_equal(out, 2 * patches[1, :, :, :2])
    assert groups == [{1: 1, 7: 7, 8: 8, 9: 3, 16: 8, 21: 7, 23: 8}[views]]


def test_memory_of_a_dense_head_does_not_grow_with_the_views() -> None:
    head = jax.eval_shape(lambda: DenseHead(SMALL, 2, dtype=jnp.float32, rngs=nnx.Rngs(0)))

    def temporaries(views: int) -> int:
        patches = jax.ShapeDtypeStruct((4, views, 8 * 8, 8), jnp.float32)
        run = jax.jit(
            lambda h, x: map_views(lambda p: h(p, (8, 8), (112, 112)), x, at_once=8, axis=1)
        )
        analysis = run.lower(head, patches).compile().memory_analysis()
        assert analysis is not None
        return analysis.temp_size_in_bytes

    outputs = 4 * 2 * 112 * 112
    assert temporaries(64) - temporaries(16) <= 48 * outputs


def test_bfloat16_head_ends_in_float32() -> None:
    head = jax.eval_shape(lambda: DenseHead(SMALL, 3, dtype=jnp.bfloat16, rngs=nnx.Rngs(0)))
    patches = jax.ShapeDtypeStruct((4, 2, 6, 8), jnp.bfloat16)
    out = jax.eval_shape(lambda h, x: h(x, (2, 3), (28, 42)), head, patches)
    assert (out.dtype, out.shape) == (jnp.float32, (2, 28, 42, 3))
    kinds = {leaf.dtype for leaf in jax.tree.leaves(head.dpt.fusion1)}
    assert kinds == {jnp.dtype(jnp.bfloat16)}
    assert {leaf.dtype for leaf in jax.tree.leaves(head.out)} == {jnp.dtype(jnp.float32)}
    assert {leaf.dtype for leaf in jax.tree.leaves(head.dpt.norm)} == {jnp.dtype(jnp.float32)}


def test_channels_that_no_position_fits() -> None:
    with pytest.raises(ValueError, match=r"self\.channels=\(4, 6, 8, 8\).* multiples of 4"):
        DPTConfig(width=8, channels=(4, 6, 8, 8))
