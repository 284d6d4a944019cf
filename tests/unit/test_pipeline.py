"""From pixels to a reconstruction, on a tiny model."""

import copy
import pickle
import re
from dataclasses import replace
from functools import partial
from threading import Event
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import jaxrecon
from compiled_programs import programs_of, without_programs
from drawn_weights import drawn
from jaxrecon.errors import InputError
from jaxrecon.geometry import depth_normal_edges, intrinsics_from_points
from jaxrecon.images import resizing
from jaxrecon.models import PI3, PI3_RESIZE, Pi3, Pi3Config
from jaxrecon.nn.attention import TokenLayout, attend_densely
from jaxrecon.nn.dinov2 import DinoV2Config
from jaxrecon.nn.execution import ExecutionConfig
from jaxrecon.pipeline import Pipeline, ProgramKey
from jaxrecon.progress import Stages
from jaxrecon.registry import PI3_FAMILY
from jaxrecon.runtime.executor import Executor

SMALL = Pi3Config(
    encoder=DinoV2Config(width=32, depth=2, heads=2, grid=5),
    heads=2,
    pairs=2,
    head_width=32,
    head_heads=2,
    head_depth=1,
    point_width=32,
    camera_width=16,
)


@pytest.fixture(scope="module")
def pipeline() -> Pipeline:
    model = drawn(lambda: Pi3(SMALL, rngs=nnx.Rngs(0)))
    return Pipeline(model, "small", PI3_RESIZE)


@pytest.fixture(scope="module")
def pixels() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (3, 28, 42, 3), np.uint8)


def test_photos_are_read_while_the_program_compiles(
    pipeline: Pipeline, pixels: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiled, resize, compile_program = Event(), resizing._resize, Executor.compile
    shapes: list[tuple[int, ...]] = []

    def read_late(*args: Any) -> Any:
        assert compiled.wait(60)
        return resize(*args)

    def compile_first(self: Executor, shape: tuple[int, ...], *rest: Any) -> Any:
        program = compile_program(self, shape, *rest)
        shapes.append(shape)
        compiled.set()
        return program

    monkeypatch.setattr(resizing, "_resize", read_late)
    monkeypatch.setattr(Executor, "compile", compile_first)
    recon = pipeline.reconstruct(pixels, resolution=42)
    assert len(recon.names) == 3
    assert shapes == [(3, 28, 42, 3)] * 2


def test_everything_a_reconstruction_promises(pipeline: Pipeline, pixels: np.ndarray) -> None:
    stages = Stages(quiet=True)
    recon = pipeline.reconstruct(pixels, resolution=42, min_confidence=0.0, stages=stages)
    assert isinstance(recon, jaxrecon.Reconstruction)
    assert recon.points_world.shape == (3, 28, 42, 3)
    np.testing.assert_array_equal(recon.colors, pixels)
    assert recon.names == ("view_0000", "view_0001", "view_0002")
    assert recon.model == "small"
    assert sorted(recon.seconds) == ["compile", "read", "run"] == sorted(stages.seconds)
    turned = np.einsum("vij,vhwj->vhwi", recon.world_from_camera[:, :3, :3], recon.points_camera)
    moved = turned + np.asarray(recon.world_from_camera)[:, None, None, :3, 3]
    np.testing.assert_allclose(recon.points_world, moved, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(recon.depth_z, recon.points_camera[..., 2])
    assert (np.asarray(recon.depth_z) > 0).all()
    np.testing.assert_allclose(
        recon.intrinsics,
        intrinsics_from_points(jnp.asarray(recon.points_camera)),
        rtol=1e-3,
        atol=1e-3,
    )
    confident = jnp.asarray(recon.confidence) > 0
    edges = depth_normal_edges(jnp.asarray(recon.points_camera), mask=confident)
    np.testing.assert_array_equal(recon.mask, confident & ~edges)


def test_one_photo_is_good_input(pipeline: Pipeline, pixels: np.ndarray) -> None:
    recon = pipeline.reconstruct(pixels[0], resolution=42)
    assert len(recon) == 1
    assert np.isfinite(recon.points_world).all()


def test_photos_of_other_shapes_have_margins(pipeline: Pipeline, pixels: np.ndarray) -> None:
    """None is stretched, and margins count for nothing; photos of one shape are as ever."""
    upright = np.ascontiguousarray(pixels[1].transpose(1, 0, 2))
    images = [pixels[0], upright, pixels[2]]
    recon = pipeline.reconstruct(images, resolution=42, min_confidence=0.0, edge_rtol=None)
    assert [transform.shown for transform in recon.transforms] == [
        (0, 0, 42, 28),
        (11, 0, 30, 28),
        (0, 0, 42, 28),
    ]
    mask = np.asarray(recon.mask)
    assert mask[[0, 2]].all()
    assert mask[1, :, 11:30].all()
    assert mask[1].sum() == 28 * 19
    np.testing.assert_array_equal(recon.colors[[0, 2]], pixels[[0, 2]])
    scale = np.array(recon.transforms[1].scale)
    assert scale == pytest.approx([28 / 42, 28 / 42], rel=0.02)
    focal = np.asarray(recon.intrinsics)[1, [0, 1], [0, 1]]
    original = recon.to_original().intrinsics[1, [0, 1], [0, 1]]
    np.testing.assert_allclose(original, focal / scale, rtol=1e-5)
    points, columns = np.asarray(recon.points_camera[1], np.float64), np.arange(11, 30)
    slope = (points[..., 0] / points[..., 2])[:, columns].reshape(-1)
    fitted = np.polyfit(slope, np.tile(columns, 28), 1)
    np.testing.assert_allclose(recon.intrinsics[1, 0, [0, 2]], fitted, rtol=1e-3)


@pytest.mark.parametrize("by", ["copy", pytest.param("cut", marks=pytest.mark.thorough)])
def test_one_camera_for_photos_of_one_scale_alone(
    pipeline: Pipeline, pixels: np.ndarray, by: str
) -> None:
    taller = np.repeat(pixels[1], 2, axis=0)
    message = r"photos of one shape, found view_0000 \(42x28\) and view_0001 \(42x56\); leave it"
    with pytest.raises(InputError, match=message):
        pipeline.reconstruct([pixels[0], taller], resolution=42, intrinsics="shared")
    cut = pixels[1, :, 14:28]  # of the same scale
    copy = np.repeat(np.repeat(pixels[1], 2, axis=0), 2, axis=1)
    other = {"cut": cut, "copy": copy}[by]
    recon = pipeline.reconstruct([pixels[0], other], resolution=42, intrinsics="shared")
    np.testing.assert_array_equal(recon.intrinsics[0], recon.intrinsics[1])


def test_portrait_and_landscape_have_one_camera(pipeline: Pipeline, pixels: np.ndarray) -> None:
    upright = np.ascontiguousarray(pixels[1].transpose(1, 0, 2))
    photos = [pixels[0], upright, pixels[2]]
    given: dict[str, Any] = {"resolution": 42, "edge_rtol": None}
    recon = pipeline.reconstruct(photos, **given, intrinsics="shared")
    lying, standing, also = recon.to_original().intrinsics
    np.testing.assert_allclose(also, lying, rtol=1e-6)
    np.testing.assert_allclose(standing[[0, 1], [0, 1]], lying[[1, 0], [1, 0]], rtol=1e-5)
    off, turned_off = lying[:2, 2] - [20.5, 13.5], standing[:2, 2] - [13.5, 20.5]
    np.testing.assert_allclose(np.abs(turned_off), np.abs(off[::-1]), atol=1e-3)
    free = pipeline.reconstruct(photos, **given)
    np.testing.assert_array_equal(free.points_world, recon.points_world)
    assert (np.asarray(free.intrinsics) != np.asarray(recon.intrinsics)).any()


def test_the_mask_follows_its_arguments(pipeline: Pipeline, pixels: np.ndarray) -> None:
    def mask(**arguments: Any) -> np.ndarray:
        defaults: dict[str, Any] = {"edge_rtol": None, "min_confidence": 0.0, "resolution": 42}
        return np.asarray(pipeline.reconstruct(pixels, **(defaults | arguments)).mask)

    assert mask().all()
    assert not mask(min_confidence=1.0).any()
    kept = mask(confidence_quantile=0.25)
    assert kept.mean() == pytest.approx(0.75, abs=0.01)
    confidence = np.asarray(pipeline.reconstruct(pixels, resolution=42).confidence)
    assert confidence[kept].min() >= confidence[~kept].max()


def test_each_view_loses_its_own_share(pipeline: Pipeline, pixels: np.ndarray) -> None:
    """With padding views too; upstream leaves out what equals the quantile."""
    many = np.concatenate([pixels] * 6)[:17]
    given: dict[str, Any] = {"edge_rtol": None, "min_confidence": 0.0, "resolution": 42}
    fresh = without_programs(pipeline)
    for share in (0.25, 0.5):
        recon = fresh.reconstruct(many, **given, view_confidence_quantile=share).numpy()
        least = np.quantile(recon.confidence, share, axis=(1, 2), keepdims=True)
        np.testing.assert_array_equal(recon.mask, recon.confidence > least)
    assert fresh.compilations == 1


def test_thresholds_do_not_compile_again(pipeline: Pipeline, pixels: np.ndarray) -> None:
    pipeline = without_programs(pipeline)
    program = pipeline.executor.compile(pixels.shape, ProgramKey(), pipeline.attention)
    pipeline.reconstruct(pixels, resolution=42, min_confidence=0.3, edge_rtol=0.1)
    assert list(programs_of(pipeline).values()) == [program]
    pipeline.reconstruct(pixels[0], resolution=42)
    assert len(programs_of(pipeline)) == 2


def test_a_replaced_pipeline_shares_programs_that_stay_the_same(
    pipeline: Pipeline, pixels: np.ndarray
) -> None:
    pipeline = without_programs(pipeline)
    pipeline.reconstruct(pixels, resolution=42)
    for same in (
        {"name": "other"},
        {"attention": jaxrecon.SparseAttention()},
        {"resize": PI3_RESIZE},
    ):
        assert replace(pipeline, **same).executor is pipeline.executor
    model = jax.tree.map(lambda x: x, pipeline.model)
    for other in ({"exact_views": True}, {"offload": True}, {"model": model}):
        changed = replace(pipeline, **other)
        assert changed.compilations == 0
        assert {name: getattr(changed.executor, name) for name in other} == other


def test_padded_numbers_of_views_share_a_program(pipeline: Pipeline) -> None:
    """37 to 40 views run as 40, 33 to 36 as 36."""
    pixels = np.random.default_rng(1).integers(0, 256, (40, 14, 14, 3), np.uint8)
    pipeline = without_programs(pipeline)
    for views, compilations in ((37, 1), (38, 1), (40, 1), (36, 2), (39, 2)):
        assert len(pipeline.reconstruct(pixels[:views], resolution=14)) == views
        assert pipeline.compilations == compilations


def test_attention_goes_by_name(pipeline: Pipeline, pixels: np.ndarray) -> None:
    named = pipeline.reconstruct(pixels, resolution=42, attention="sparse")
    given = pipeline.reconstruct(pixels, resolution=42, attention=jaxrecon.SparseAttention())
    dense = pipeline.reconstruct(pixels, resolution=42, attention="xla")
    assert named.stats.sparsity is not None and dense.stats.sparsity is None
    np.testing.assert_array_equal(named.points_world, given.points_world)


@pytest.mark.thorough
def test_heads_in_turns_change_nothing(pipeline: Pipeline, pixels: np.ndarray) -> None:
    images = jnp.asarray(pixels[None], jnp.float32) / 255
    whole = pipeline.model(images, attention=pipeline.attention)
    few = ExecutionConfig(chunk_tokens=11)  # one view at a time
    in_turns = pipeline.model(images, attention=pipeline.attention, execution=few)
    for ours, theirs in zip(jax.tree.leaves(in_turns), jax.tree.leaves(whole), strict=True):
        largest = np.abs(theirs).max()
        np.testing.assert_allclose(ours / largest, theirs / largest, rtol=0, atol=1e-5)


def test_shared_intrinsics(pipeline: Pipeline, pixels: np.ndarray) -> None:
    recon = pipeline.reconstruct(
        pixels, resolution=42, intrinsics="shared", principal_point="centre"
    )
    np.testing.assert_array_equal(recon.intrinsics[0], recon.intrinsics[2])
    np.testing.assert_allclose(recon.intrinsics[:, :2, 2], [[20.5, 13.5]] * 3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"confidence_quantile": 1.0}, "confidence_quantile=1.0 must be"),
        ({"view_confidence_quantile": -0.1}, "view_confidence_quantile=-0.1 must be"),
        ({"multiview_confidence": True}, "lengths of small have no unit in which views could"),
        ({"min_confidence": float("nan")}, "min_confidence=nan must be a number"),
        ({"attention": "fastest"}, "attention='fastest' is unknown; choose one of auto, fast"),
        ({"attention": 3}, "attention: found int; give a name or a function"),
        ({"attention": "cudnn"}, r"attention: cannot run here \(cudnn: needs an NVIDIA GPU, found"),
        ({"attention": jaxrecon.SparseAttention(implementation="mosaic_tpu")}, "needs a TPU"),
        ({"edge_rtol": -1.0}, "edge_rtol=-1.0 must be at least 0"),
        ({"edge_rtol": float("nan")}, "edge_rtol=nan must be"),
        ({"intrinsics": "none"}, "intrinsics='none' is unknown; choose one of per_view, shared"),
        ({"principal_point": "left"}, "principal_point='left' is unknown"),
        ({"stride": 0}, "stride=0"),
        ({"resolution": 3}, "resolution=3"),
    ],
)
@pytest.mark.usefixtures("without_shape_checks")
def test_bad_arguments_are_named(
    pipeline: Pipeline, pixels: np.ndarray, arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message) as caught:
        defaults: dict[str, Any] = {"resolution": 42}
        pipeline.reconstruct(pixels, **(defaults | arguments))
    assert "\n" not in str(caught.value)


def test_copies_for_other_processes_have_the_weights_alone(
    pipeline: Pipeline, pixels: np.ndarray
) -> None:
    pipeline.reconstruct(pixels, resolution=42)
    assert pipeline.compilations > 0
    for again in (pickle.loads(pickle.dumps(pipeline)), copy.deepcopy(pipeline)):
        assert again.compilations == 0
        jax.tree.map(np.testing.assert_array_equal, again.model, pipeline.model)


def test_without_compiling_nothing_runs(pipeline: Pipeline, pixels: np.ndarray) -> None:
    with jax.disable_jit(), pytest.raises(InputError, match="jax_disable_jit is set"):
        pipeline.reconstruct(pixels)


@pytest.mark.parametrize("guard", [jax.transfer_guard, jax.transfer_guard_host_to_device])
def test_without_transfers_nothing_runs(pipeline: Pipeline, pixels: np.ndarray, guard: Any) -> None:
    told = "jax_transfer_guard_host_to_device is disallow.*allow transfers here"
    with guard("disallow"), pytest.raises(InputError, match=told):
        pipeline.reconstruct(pixels)


def test_images_that_are_not_whole_patches_are_refused_by_the_model() -> None:
    model = PI3_FAMILY.abstract(SMALL)
    images = jax.ShapeDtypeStruct((1, 2, 30, 42, 3), jnp.float32)
    with pytest.raises(ValueError, match="multiples of 14, found 30x42"):
        jax.eval_shape(lambda m, x: m(x), model, images)


def test_attention_is_told_where_it_is(pixels: np.ndarray) -> None:
    layouts: list[TokenLayout] = []

    def spy(q: jax.Array, k: jax.Array, v: jax.Array, layout: TokenLayout) -> Any:
        assert layout.layers == SMALL.pairs
        layouts.append(replace(layout, layers=1, layer=0))
        assert q.shape[1] == layout.tokens
        return attend_densely(q, k, v, layout)

    model = PI3_FAMILY.abstract(SMALL)
    images = jax.ShapeDtypeStruct((1, 3, 28, 42, 3), jnp.float32)
    jax.eval_shape(lambda m, x: m(x, attention=spy), model, images)
    frame = TokenLayout(views=1, grid=(2, 3), leading=5)
    # One trace of a pair, whatever the number of pairs: the trunk is scanned.
    assert layouts == [frame, replace(frame, views=3)]


def test_released_model_is_one_executable_without_host_callback() -> None:
    model = PI3_FAMILY.abstract(PI3)
    assert sum(leaf.size for leaf in jax.tree.leaves(model)) == 958_696_732
    lowered = Executor(model).lower((8, 126, 224, 3), ProgramKey(), attend_densely)
    text = lowered.as_text()
    assert "callback" not in text
    assert text.count("module @") == 1
    # Scans, not copies: one loop for the encoder, the trunk, each decoder and the camera head.
    assert text.count("stablehlo.while") == 6
    calls = re.findall(r'custom_call_target="([^"]+)"', lowered.compile().as_text())
    assert not [name for name in calls if "callback" in name]


def test_bfloat16_keeps_norms_and_heads_in_float32() -> None:
    model = PI3_FAMILY.abstract(SMALL, jnp.bfloat16)
    assert model.trunk.frame_blocks.attention.qkv.kernel.dtype == jnp.bfloat16
    for leaf in (
        model.trunk.frame_blocks.norm1.scale,
        model.trunk.frame_blocks.scale1.gamma,
        model.encoder.position_embedding,
        model.point_head.kernel,
        model.camera_head.rotation.kernel,
    ):
        assert leaf.dtype == jnp.float32
    images = jax.ShapeDtypeStruct((1, 2, 28, 42, 3), jnp.float32)
    out = jax.eval_shape(lambda m, x: m(x), model, images)
    assert {leaf.dtype for leaf in jax.tree.leaves(out)} == {jnp.dtype(jnp.float32)}


def test_a_mask_that_keeps_next_to_nothing_is_noted(
    pipeline: Pipeline, pixels: np.ndarray, capsys: pytest.CaptureFixture[str]
) -> None:
    noisy = Stages(quiet=False)
    reconstruct = partial(pipeline.reconstruct, pixels, resolution=42, stages=noisy)
    reconstruct(min_confidence=2.0)
    assert "the mask keeps 0.0% of the pixels (median confidence" in capsys.readouterr().err
    reconstruct(min_confidence=0.0, edge_rtol=None)
    assert "the mask keeps" not in capsys.readouterr().err
