"""Float8 products: against their numbers rounded by hand, in kernels, in models, where refused."""

import re
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from flax import nnx

import jaxrecon
from abstract_devices import here_is
from drawn_weights import drawn
from jaxrecon.benchmark import load_for_timing
from jaxrecon.checkpoint import flatten
from jaxrecon.cli import common, main
from jaxrecon.cli.parser import Parser
from jaxrecon.compiling import compiled
from jaxrecon.errors import InputError
from jaxrecon.models import Model
from jaxrecon.nn.attention import TokenLayout, attend_densely
from jaxrecon.nn.block import Block, BlockConfig, MlpKind, scan_blocks, stack_blocks
from jaxrecon.nn.execution import TRAINING
from jaxrecon.nn.float8 import Float8Linear, power_of_two
from jaxrecon.nn.float8_blocks import float8_candidates, in_float8
from jaxrecon.nn.layers import linear
from jaxrecon.progress import Stages
from jaxrecon.registry import load_abstract
from one_program import one_program
from pallas_kernels.bias_gelu import bias_gelu
from pallas_kernels.bias_gelu import triton as gelu_triton
from pallas_kernels.float8 import E4M3, LARGEST, saturated
from pallas_kernels.norm import Norm
from pallas_kernels.platform import computes_float8
from pallas_kernels.qk_norm_rope import qk_norm_rope
from pallas_kernels.qk_norm_rope import reference as rope_plain
from pallas_kernels.qk_norm_rope import triton as rope_triton
from pallas_kernels.residual_norm import reference as norm_plain
from pallas_kernels.residual_norm import residual_norm, residual_sum
from pallas_kernels.residual_norm import triton as norm_triton
from tiny_families import FAMILIES, saved_tiny
from triton_marks import lowers_triton, needs_triton

pytestmark = lowers_triton

QUIET = Stages(quiet=True)
GROUPS, TOKENS, WIDTH, HEADS = 2, 7, 64, 2
LAYOUT = TokenLayout(1, (1, TOKENS))


def normal(*shape: int, seed: int = 0) -> Any:
    return np.random.default_rng((seed, *shape)).normal(size=shape).astype(np.float32)


def rounded(x: np.ndarray, scale: float) -> np.ndarray:
    """What e4m3 keeps of `x` with that scale."""
    kept = np.clip(scale * x, -LARGEST, LARGEST).astype(ml_dtypes.float8_e4m3fn)
    return kept.astype(np.float32) / np.float32(scale)


def distance(found: Any, wanted: Any) -> float:
    """Of two arrays, in parts of the second one."""
    found, wanted = np.float64(found), np.float64(wanted)
    return float(np.linalg.norm(found - wanted) / np.linalg.norm(wanted))


def blocks(depth: int = 1, mlp: MlpKind = "gelu", dtype: Any = jnp.float32) -> Any:
    config = BlockConfig(WIDTH, HEADS, qk_norm=True, layer_scale=0.5, mlp=mlp)
    return drawn(lambda: stack_blocks(config, depth, dtype=dtype, rngs=nnx.Rngs(0)))


def test_a_scale_is_the_largest_power_of_two_that_fits() -> None:
    largest = jnp.asarray([448, 447.9, 448.1, 1, 1e-3, 7e4, 3.5])
    found = np.asarray(jax.vmap(power_of_two)(largest))
    assert found.tolist() == [1, 1, 0.5, 256, 2.0**18, 2.0**-8, 128]
    for number in (0.0, 1e-45, 3e38):
        scale = float(power_of_two(jnp.asarray(number)))
        assert 0 < scale < np.inf and 0 < 1 / scale < np.inf


def test_what_is_too_large_becomes_the_largest() -> None:
    found = saturated(jnp.asarray([1e9, 460, -1e9, 0.3]), E4M3).astype(jnp.float32)
    assert found.tolist() == [LARGEST, LARGEST, -LARGEST, 0.3125]


def test_a_product_is_that_of_the_rounded_numbers() -> None:
    x, largest = 3 * normal(5, 3, WIDTH), 4.0
    layer = linear(WIDTH, 48, dtype=jnp.float32, rngs=nnx.Rngs(0))
    narrow = Float8Linear(layer, jnp.float32(largest))
    entering, own = 64.0, float(1 / (narrow.scale[...] * 64))
    assert float(narrow.entering[...]) == entering
    kernel = np.asarray(layer.kernel[...])
    assert LARGEST / 2 < own * np.abs(kernel).max() <= LARGEST
    wanted = rounded(x, entering) @ rounded(kernel, own)
    assert np.abs(x).max() > LARGEST / entering  # some are cut off
    found = np.asarray(narrow.product(jnp.asarray(x)))
    assert found.shape == (128, 48)  # 15 rows
    np.testing.assert_allclose(found[:15], wanted.reshape(15, 48), rtol=0, atol=2e-5)
    assert 0.01 < distance(found[:15], (x @ kernel).reshape(15, 48)) < 0.1


def by_hand(block: Any, x: np.ndarray) -> np.ndarray:
    """A block of plain layers, all that its four products take rounded to e4m3."""

    def product(layer: nnx.Linear, x: np.ndarray, scale: Any) -> np.ndarray:
        kernel = np.asarray(layer.kernel[...])
        return rounded(x, float(scale)) @ rounded(
            kernel, float(power_of_two(jnp.abs(jnp.asarray(kernel)).max()))
        )

    def bias(layer: Any) -> np.ndarray:
        return np.asarray(layer.bias[...])

    narrow = jax.tree.map(lambda leaf: leaf[0], jax.vmap(in_float8)(block))
    block = jax.tree.map(lambda leaf: leaf[0], block)
    own, mlp = block.attention, block.mlp
    scales = narrow.attention, narrow.mlp
    entering = [getattr(scales[0], name).entering[...] for name in ("qkv", "out")]
    entering += [getattr(scales[1], name).entering[...] for name in ("fc1", "fc2")]
    qkv = product(own.qkv, np.asarray(block.norm1(x)), entering[0]).reshape(*x.shape[:2], 3, -1)
    q, k, v = rope_plain.qk_norm_rope_xla(
        rope_plain.Inputs(
            jnp.asarray(qkv.reshape(GROUPS, TOKENS, 3, HEADS, -1)),
            own.qkv.bias[...].reshape(3, HEADS, -1),
            Norm(own.q_norm.scale[...], own.q_norm.bias[...]),
            Norm(own.k_norm.scale[...], own.k_norm.bias[...]),
            None,
        ),
        eps=1e-5,
    )
    attended = np.asarray(attend_densely(q, k, v, LAYOUT)[0]).reshape(x.shape)
    update = product(own.out, attended, entering[1]) + bias(own.out)
    x = x + np.asarray(block.scale1.gamma[...]) * update
    hidden = product(mlp.fc1, np.asarray(block.norm2(x)), entering[2]) + bias(mlp.fc1)
    hidden = np.asarray(jax.nn.gelu(hidden, approximate=False))
    update = product(mlp.fc2, hidden, entering[3]) + bias(mlp.fc2)
    return x + np.asarray(block.scale2.gamma[...]) * update


def test_a_block_is_that_of_the_rounded_numbers() -> None:
    x, plain = normal(GROUPS, TOKENS, WIDTH), blocks()

    @one_program
    def run(plain: Block, x: jax.Array) -> Any:
        narrow = jax.vmap(in_float8)(plain)
        return [scan_blocks(each, x, LAYOUT, attend_densely) for each in (narrow, plain)]

    narrowly, plainly = run(plain, x)
    # Numbers half-way between two of e4m3 may fall to either side.
    assert distance(narrowly - x, by_hand(plain, x) - x) < 3e-3
    assert 0.01 < distance(narrowly - x, plainly - x) < 0.06


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("qk_norm", [True, False])
def test_attention_is_told_where_norms_keep_scores_small(dtype: Any, qk_norm: bool) -> None:
    seen: list[TokenLayout] = []

    def watched(q: jax.Array, k: jax.Array, v: jax.Array, layout: TokenLayout) -> Any:
        seen.append(layout)
        return attend_densely(q, k, v, layout)

    watched.takes_scale = True  # pyright: ignore[reportFunctionMemberAccess]
    config = BlockConfig(WIDTH, HEADS, qk_norm=qk_norm)
    narrow = in_float8(Block(config, dtype=dtype, rngs=nnx.Rngs(0)))
    jax.eval_shape(lambda x: narrow(x, LAYOUT, watched), normal(GROUPS, TOKENS, WIDTH))
    assert [layout.float8 for layout in seen] == [qk_norm]


@pytest.mark.parametrize("mlp", [pytest.param("gelu", marks=pytest.mark.thorough), "swiglu"])
def test_a_block_of_bfloat16_has_its_dtype(mlp: MlpKind) -> None:
    plain = blocks(2, mlp, dtype=jnp.bfloat16)
    narrow = jax.jit(jax.vmap(in_float8))(plain)
    x = normal(GROUPS, TOKENS, WIDTH)
    assert narrow.attention.qkv.kernel.shape == (2, 3 * WIDTH, WIDTH)
    one = jax.tree.map(lambda leaf: leaf[0], narrow)
    assert jax.eval_shape(one.mlp.fc1.product, x).dtype == jnp.bfloat16
    run = one_program(lambda blocks, x: scan_blocks(blocks, x, LAYOUT, attend_densely))
    assert 0.01 < distance(run(narrow, x) - x, run(plain, x) - x) < 0.1


@pytest.mark.parametrize("mlp", ["gelu", "swiglu"])
def test_no_input_is_larger_than_what_scales_are_made_for(mlp: MlpKind) -> None:
    """The inputs that make one number as large as can be reach half of the bounds at least."""
    plain = jax.tree.map(lambda leaf: leaf[0], blocks(mlp=mlp))
    plain.norm1.scale[...] = jnp.asarray(1 + 0.3 * normal(WIDTH, seed=3))
    narrow: Any = in_float8(plain)
    (values,) = np.split(np.asarray(plain.attention.qkv.kernel[...]), 3, axis=1)[2:]
    scale, bias = (np.asarray(x[...]) for x in (plain.norm1.scale, plain.norm1.bias))
    worst = np.concatenate([np.eye(WIDTH), (values * scale[:, None]).T]).astype(np.float32)
    for x in (worst, -worst):
        normed = np.asarray(plain.norm1(x))
        assert np.abs(normed).max() <= LARGEST / float(narrow.attention.qkv.entering[...])
        made = normed @ values + np.asarray(plain.attention.qkv.bias[...])[2 * WIDTH :]
        limit = LARGEST / float(narrow.attention.out.entering[...])
        assert limit / 4 < np.abs(made).max() <= limit
    assert bias.any()
    hidden = np.abs(np.asarray(plain.mlp.hidden(plain.norm2(worst))))
    limit = LARGEST / np.asarray(narrow.mlp.fc2.entering[...])
    assert (hidden <= limit).all()
    assert limit.shape == (() if mlp == "gelu" else hidden.shape[1:])


@needs_triton
def test_residual_norm_of_the_kernel_writes_float8_in_whole_rows() -> None:
    rows, width = 37, 320
    inputs = norm_plain.Inputs(
        normal(rows, width) + 3,
        normal(128, width, seed=1),
        normal(width, seed=2),
        normal(width, seed=3),
        Norm(200 * normal(width, seed=4), normal(width, seed=5)),
    )
    options: dict[str, Any] = {"eps": 1e-5, "dtype": E4M3, "fill_up": True}

    @one_program
    def run(inputs: Any) -> Any:
        found = norm_triton.residual_norm_triton(inputs, **options, interpret=True)
        return found, norm_plain.residual_norm_xla(inputs, **options)

    (total, normed), (wanted, wanted_normed) = run(inputs)
    np.testing.assert_allclose(total, wanted, rtol=1e-6)
    assert normed.shape == wanted_normed.shape == (128, width)
    assert normed.dtype == wanted_normed.dtype == E4M3
    normed, wanted = (np.asarray(x, np.float32) for x in (normed, wanted_normed[:rows]))
    assert np.isfinite(normed).all()
    assert np.abs(wanted).max() == LARGEST  # some are cut off
    assert distance(normed[:rows], wanted) < 1e-3
    assert (normed[:rows] != wanted).mean() < 1e-3


@needs_triton
def test_bias_gelu_of_the_kernel_writes_scaled_float8() -> None:
    x, bias, scale = 4 * normal(37, 320), normal(320), np.float32(64)

    @one_program
    def run(*arguments: jax.Array) -> Any:
        found = gelu_triton.bias_gelu_triton(*arguments, dtype=E4M3, interpret=True)
        return found, bias_gelu(*arguments[:2], scale=arguments[2], dtype=E4M3)

    found, wanted = run(x, bias, scale)
    assert found.dtype == wanted.dtype == E4M3
    found, wanted = np.float32(found), np.float32(wanted)
    assert wanted.max() == LARGEST
    assert distance(found, wanted) < 1e-3
    exact = 64 * np.asarray(jax.nn.gelu(x + bias, approximate=False))
    assert distance(found, np.minimum(exact, LARGEST)) < 0.03


@needs_triton
def test_qk_norm_rope_of_the_kernel_takes_whole_rows() -> None:
    qkv, norm = normal(128, 3, 5, 64), Norm(1 + normal(64), normal(64, seed=1))
    inputs = rope_plain.Inputs(qkv, normal(3, 5, 64), norm, norm, None)

    @one_program
    def run(inputs: Any) -> Any:
        options: dict[str, Any] = {"eps": 1e-5, "sequences": (2, 21)}
        found = rope_triton.qk_norm_rope_triton(inputs, **options, interpret=True)
        cut = inputs._replace(qkv=inputs.qkv[:42].reshape(2, 21, 3, 5, 64))
        plainly = rope_plain.qk_norm_rope_xla(inputs, **options)
        return found, plainly, rope_plain.qk_norm_rope_xla(cut, eps=1e-5)

    found, plainly, wanted = run(inputs)
    for one, other, third in zip(found, plainly, wanted, strict=True):
        np.testing.assert_allclose(one, third, atol=2e-5)
        np.testing.assert_array_equal(other, third)


def test_rows_that_are_not_filled_up_are_refused(without_shape_checks: None) -> None:
    x, vector = jnp.zeros((2, 9, 64)), jnp.ones(64)
    with pytest.raises(ValueError, match=r"one shape, found \(2, 9, 64\) and \(18, 64\)"):
        residual_sum(x, x.reshape(18, 64))
    with pytest.raises(ValueError, match=r"qkv must have shape \(128, 3, N, K\) for sequences"):
        qk_norm_rope(jnp.zeros((18, 3, 1, 64)), sequences=(2, 9))
    with pytest.raises(ValueError, match=r"scale must be one number, found the shape \(64,\)"):
        bias_gelu(x, vector, scale=vector)


def test_there_is_no_gradient() -> None:
    x, vector = jnp.ones((2, 9, 64)), jnp.ones(64)
    norm = Norm(vector, vector)

    def refused(function: Any, *arguments: Any) -> None:
        with pytest.raises(NotImplementedError, match="no gradient"):
            jax.eval_shape(jax.grad(lambda *x: jnp.sum(function(*x).astype(float))), *arguments)

    refused(lambda x: residual_norm(x, norm=norm, fill_up=True)[1], x)
    refused(lambda x: residual_norm(x, norm=norm, dtype=E4M3)[1], x)
    refused(lambda x: residual_sum(x, jnp.ones((128, 64))), x)
    refused(lambda x: bias_gelu(x, vector, scale=jnp.float32(2)), x)
    refused(lambda x: bias_gelu(x, vector, dtype=E4M3), x)
    refused(lambda x: qk_norm_rope(x, sequences=(2, 9))[0], jnp.ones((128, 3, 1, 64)))
    narrow = jax.eval_shape(jax.vmap(in_float8), blocks())
    run = partial(scan_blocks, layout=LAYOUT, attention=attend_densely, execution=TRAINING)
    with pytest.raises(NotImplementedError, match="float8 products have no gradient"):
        jax.eval_shape(run, narrow, x[:, :TOKENS])


@needs_triton
@pytest.mark.gpu
@pytest.mark.parametrize("mlp", ["gelu", "swiglu"])
def test_a_gpu_multiplies_float8(mlp: MlpKind) -> None:
    """With matrix units for it, and to what the CPU makes of the same numbers."""
    if not computes_float8(jax.devices()[0]):
        pytest.skip(f"{jax.devices()[0].device_kind} has no units for float8")
    narrow, x = jax.vmap(in_float8)(blocks(2, mlp, jnp.bfloat16)), normal(3, TOKENS, WIDTH)
    run = partial(scan_blocks, layout=LAYOUT, attention=attend_densely)
    program = compiled(jax.jit(run).lower(narrow, x), jax.devices()[0])
    assert program.as_text().count('"__cublas$lt$matmul$f8"') == 4
    with jax.default_device(jax.devices("cpu")[0]):
        wanted = jax.jit(partial(run))(jax.tree.map(np.asarray, narrow), x)
    # Float8 and bfloat16 are 0.06 and 0.08 apart. Where bfloat16 is rounded otherwise, by 2^-10,
    # some numbers half-way between two of e4m3 fall to the other side: 0.04 and 0.05 on a CPU.
    assert distance(program(narrow, x) - x, wanted - x) < 0.05


TRUNK = ["encoder.blocks", "trunk.frame_blocks", "trunk.global_blocks"]
DECODERS = ["camera_decoder.blocks", "confidence_decoder.blocks", "point_decoder.blocks"]


@pytest.mark.parametrize(
    ("family", "wanted"),
    [
        ("pi3-mini", DECODERS + TRUNK[1:]),
        ("vggt", TRUNK),
        pytest.param("pi3", DECODERS + TRUNK, marks=pytest.mark.thorough),
        pytest.param("mapanything", TRUNK, marks=pytest.mark.thorough),
    ],
)
def test_which_blocks_are_converted(family: str, wanted: list[str]) -> None:
    """Not those that are float32 in any case, nor blocks of other kinds."""
    model = load_abstract(family, dtype="bfloat16", tracks=family == "vggt").model
    assert sorted(float8_candidates(model)) == sorted(wanted)


@needs_triton
def test_a_model_for_a_gpu_multiplies_float8_in_whole_rows() -> None:
    pipeline = load_abstract("pi3-mini", dtype="bfloat16", float8=True)
    images = jax.ShapeDtypeStruct((1, 3, 70, 42, 3), jnp.float32)

    def run(model: Any, images: jax.Array) -> jax.Array:
        return model(images).points_world

    with here_is():
        traced = jax.jit(run).trace(pipeline.model, images)
        text = traced.lower(lowering_platforms=("cuda",)).as_text()
    narrow = r"tensor<(\d+)x\d+xf8E4M3FN>"
    products = re.findall(rf"dot_general .*\({narrow}, {narrow}\) -> tensor<\d+x\d+x(\w+)>", text)
    assert {(rows, dtype) for rows, _, dtype in products} == {("128", "bf16")}
    # Four products in each of the trunk's two blocks and the three decoders'; 3 views, 15 patches.
    assert len(products) == 20
    for kernel in ("residual_norm", "qk_norm_rope", "bias_gelu"):
        assert f'"{kernel}"' in text


@pytest.mark.parametrize(
    "family",
    ["pi3", *(pytest.param(x, marks=pytest.mark.thorough) for x in FAMILIES if x != "pi3")],
)
def test_a_loaded_model(family: str, tmp_path: Path) -> None:
    folder = saved_tiny(family, tmp_path / family)
    pipeline, plain = (
        jaxrecon.load(folder, dtype="float32", float8=float8, stages=QUIET)
        for float8 in (True, False)
    )
    shapes = load_abstract(folder, dtype="float32", float8=True)
    assert shapes.with_weights(pipeline.model).model is pipeline.model
    converted = {path: leaf for path, leaf in flatten(pipeline.model).items() if leaf.dtype == E4M3}
    assert len(converted) >= 9 and all(path.endswith(".kernel") for path in converted)
    images = np.abs(normal(1, 2, 28, 42, 3)) / 3

    @one_program
    def run(narrow: Model, plain: Model, images: jax.Array) -> Any:
        found = [model.encode(images) for model in (narrow, plain)]
        return [jax.tree.leaves((each.views, each.stacked)) for each in found]

    narrowly, plainly = run(pipeline.model, plain.model, images)
    for found, wanted in zip(narrowly, plainly, strict=True):
        assert found.dtype == wanted.dtype
        assert distance(found, wanted) < 0.1
    assert any(not np.array_equal(*pair) for pair in zip(narrowly, plainly, strict=True))
    if family == "pi3":
        with pytest.raises(InputError, match="float8: a program in a file has no such weights"):
            jaxrecon.export_program(pipeline, tmp_path / "out", views=2, size=(42, 28))


@pytest.mark.thorough
def test_pi3_mini_finds_the_same_points() -> None:
    images = np.random.default_rng(0).integers(0, 256, (2, 70, 84, 3), np.uint8)
    found = []
    for float8 in (True, False):
        pipeline = jaxrecon.load("pi3-mini", dtype="float32", float8=float8, stages=QUIET)
        found.append(pipeline.reconstruct(list(images), stages=QUIET).points_world)
    assert 1e-4 < distance(*found) < 0.05


@pytest.mark.thorough
def test_each_device_has_a_part_of_float8_weights(tmp_path: Path) -> None:
    given: Any = {"mesh": jaxrecon.make_mesh(1), "shard_weights": True, "float8": True}
    model = jaxrecon.load(saved_tiny("pi3", tmp_path / "pi3"), **given, stages=QUIET).model
    kernel = flatten(model)["trunk.global_blocks.mlp.fc1.kernel"]
    assert kernel.dtype == E4M3
    assert kernel.sharding.spec == jax.sharding.PartitionSpec(None, None, "views")


@pytest.mark.thorough
def test_random_weights_are_converted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jaxrecon.benchmark.is_here", lambda entry: False)
    pipeline, own = load_for_timing("pi3-mini", float8=True)
    assert not own
    kernel = np.float32(flatten(pipeline.model)["trunk.frame_blocks.attention.qkv.kernel"])
    assert LARGEST / 2 <= np.abs(kernel).max() <= LARGEST


def device(platform: str, capability: str | None = None) -> Any:
    return SimpleNamespace(platform=platform, device_kind="GPU", compute_capability=capability)


def test_devices_without_units_for_it_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    for here in (device("cpu"), device("gpu", "8.9"), device("gpu", "9.0"), device("cuda", "10.0")):
        assert computes_float8(here)
    for other in (device("gpu", "8.6"), device("tpu"), device("rocm", "gfx942"), device("gpu")):
        assert not computes_float8(other)
        monkeypatch.setattr("jaxrecon.registry.loading.default_device", lambda other=other: other)
        for load in (jaxrecon.load, load_abstract):
            with pytest.raises(InputError, match="float8: it needs an NVIDIA GPU of compute"):
                load("pi3-mini", float8=True)


def test_on_the_command_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    parser, given = Parser(), []
    common.add_computing(parser)
    monkeypatch.setattr("jaxrecon.registry.load", lambda *_, **named: given.append(named["float8"]))
    for arguments in ([], ["--float8"]):
        options = parser.parse_args(arguments)
        vars(options).update(model="pi3-mini", weights=None, revision=None)
        common.load_pipeline(options, QUIET)
    assert given == [False, True]


def test_a_program_in_a_file_is_refused_before_weights_are_read(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(common, "load_pipeline", None)
    arguments = [
        "compile",
        "-m",
        "pi3-mini",
        "-o",
        str(tmp_path / "out"),
        "--views",
        "2",
        "--size",
        "42x28",
    ]
    assert main([*arguments, "--float8"]) == 2
    assert "--float8: a program in a file has no such weights" in capsys.readouterr().err
