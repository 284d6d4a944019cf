"""VGGT beyond its golden cases: outputs, tracks, heads against plain formulas, refusals."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import golden_data
from convert.engine import plan, stream
from convert.vggt import tracker_block_rules
from jaxrecon import InputError, checkpoint
from jaxrecon.geometry import quaternion_from_rotation, rotation_from_quaternion
from jaxrecon.models import VGGT, VGGTConfig, VGGTOutput, check_query_points
from jaxrecon.models.vggt.correlation import (
    correlate,
    embed_motion,
    embed_places,
    feature_pyramid,
    sample_features,
)
from jaxrecon.models.vggt.heads import activate_depth, activate_points, activate_pose
from jaxrecon.nn.attention import TokenLayout, attend_densely
from jaxrecon.nn.block import BlockConfig, stack_blocks
from jaxrecon.nn.dinov2 import DinoV2Config
from one_program import one_program
from upstream_state import InMemory
from vggt_stages import (
    VGGT_TINY,
    abstract_vggt,
    build_vggt,
    channels_last,
    check_iterated,
    decoded,
    features_of,
    tracked,
)

UNITS = golden_data.case("units")
EPS = golden_data.case("eps_vggt_tiny_70x56_n3")
BATCH = golden_data.case("vggt_tiny_84x42_n2_b2")


@dataclass(frozen=True)
class Scene:
    """A model with its golden inputs, and what its trunk makes of them."""

    model: VGGT
    images: jax.Array
    points: jax.Array
    layout: TokenLayout
    features: jax.Array

    @property
    def output(self) -> VGGTOutput:
        return jax.jit(lambda m, x: decoded(m, x, self.layout))(self.model, self.features)


def run_trunk(golden: golden_data.Golden) -> Scene:
    model = build_vggt(VGGT_TINY, golden.weights())
    images = channels_last(golden.inputs()["images"])
    features = jax.jit(features_of)(model, images)
    points = jnp.asarray(golden.inputs()["query_points"])
    return Scene(model, images, points, model.layout(images.shape), features)


@pytest.fixture(scope="module")
def scene() -> Scene:
    """The golden case, but for angles of view near 1, where its own are zero or above pi."""
    scene = run_trunk(BATCH)
    layer = scene.model.camera_head.pose.fc2
    assert layer.bias is not None
    kernel, bias = np.array(layer.kernel[...]), np.array(layer.bias[...])
    kernel[:, 7:] *= 0.05
    bias[7:] = 0.25
    layer.kernel[...], layer.bias[...] = jnp.asarray(kernel), jnp.asarray(bias)
    return scene


@pytest.fixture(scope="module")
def output(scene: Scene) -> VGGTOutput:
    return scene.output


# Cameras and points.


def test_decoded_depth_and_points_are_upstreams(output: VGGTOutput) -> None:
    actual = {
        "depth": output.depth_z[..., None],
        "depth_conf": output.depth_confidence,
        "world_points": output.points_world,
        "world_points_conf": output.points_confidence,
    }
    for key, value in actual.items():
        BATCH.check(key, np.asarray(value), BATCH.outputs()[key])


def test_depth_lies_along_the_rays_of_the_cameras(output: VGGTOutput) -> None:
    prediction = jax.jit(lambda o: o.prediction("depth"))(output)
    assert (np.abs(np.asarray(output.pose_encodings[-1, ..., 7:]) - 1) < 0.5).all()
    encoding = np.asarray(output.pose_encodings[-1, 1, 1], np.float64)
    depth, intrinsics = np.asarray(output.depth_z[1, 1]), np.asarray(prediction.intrinsics[1, 1])
    assert np.allclose(intrinsics[:2, 2], (21, 42))  # half of 42 x 84
    assert np.allclose(intrinsics[1, 1], 42 / np.tan(encoding[7] / 2), rtol=1e-5)
    assert np.allclose(intrinsics[0, 0], 21 / np.tan(encoding[8] / 2), rtol=1e-5)
    pixel = np.array([5.0, 70.0, 1.0])
    camera = np.linalg.inv(intrinsics.astype(np.float64)) @ pixel * depth[70, 5]
    np.testing.assert_allclose(prediction.points_camera[1, 1, 70, 5], camera, rtol=1e-5)
    pose = np.asarray(prediction.world_from_camera[1, 1], np.float64)
    np.testing.assert_allclose(pose[:3, :3] @ pose[:3, :3].T, np.eye(3), atol=1e-5)
    np.testing.assert_allclose(pose[:3, :3].T @ -pose[:3, 3], encoding[:3], atol=1e-5)
    world = pose[:3, :3] @ camera + pose[:3, 3]
    np.testing.assert_allclose(prediction.points_world[1, 1, 70, 5], world, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(prediction.confidence, output.depth_confidence)


def test_point_map_in_the_frames_of_the_cameras(output: VGGTOutput) -> None:
    prediction = jax.jit(lambda o: o.prediction("pointmap"))(output)
    np.testing.assert_array_equal(prediction.points_world, output.points_world)
    np.testing.assert_array_equal(prediction.confidence, output.points_confidence)
    pose = np.asarray(prediction.world_from_camera[0, 1], np.float64)
    camera = np.asarray(prediction.points_camera[0, 1], np.float64)
    world = camera @ pose[:3, :3].T + pose[:3, 3]
    np.testing.assert_allclose(world, output.points_world[0, 1], atol=2e-5)


to_quaternion, to_rotation = map(one_program, (quaternion_from_rotation, rotation_from_quaternion))


@pytest.mark.parametrize("axis", [0, 1, 2, 3])
def test_quaternions_of_half_turns_and_of_none(axis: int) -> None:
    diagonal = np.full(3, -1.0 if axis < 3 else 1.0, np.float32)
    diagonal[axis if axis < 3 else 0] = 1.0  # a half turn keeps its axis
    rotation, expected = np.diag(diagonal), np.eye(4, dtype=np.float32)[axis]
    np.testing.assert_array_equal(to_quaternion(rotation), expected)
    np.testing.assert_array_equal(to_rotation(-3 * expected), rotation)


@pytest.mark.parametrize("points", ["depth", pytest.param("pointmap", marks=pytest.mark.thorough)])
def test_the_head_that_is_not_asked_for_is_not_run(points: Any) -> None:
    model, layout = abstract_vggt(VGGT_TINY), TokenLayout(1, (2, 3), leading=5)
    features = jax.ShapeDtypeStruct((4, 1, 2, 11, 128), jnp.float32)

    both = str(jax.make_jaxpr(lambda m, x: decoded(m, x, layout))(model, features))
    one = jax.jit(lambda m, x: decoded(m, x, layout).prediction(points))
    compiled = one.lower(model, features).compile().as_text()
    assert compiled is not None
    assert compiled.count(" convolution(") == both.count("conv_general_dilated[") / 2 > 0


def test_only_the_first_view_is_special(scene: Scene) -> None:
    tokens = jax.jit(lambda m, x: m.tokens(x))(scene.model, scene.images[:, [0, 1, 1]])
    specials = np.asarray(tokens[:, :, :5])
    ours = np.concatenate([scene.model.camera_tokens[...], scene.model.register_tokens[...]], 1)
    for batch in range(2):
        np.testing.assert_array_equal(specials[batch], ours[[0, 1, 1]])


def test_permuting_the_other_views_permutes_the_output(scene: Scene) -> None:
    images = np.concatenate([scene.images[:1], scene.images[1:]], axis=1)  # four views
    order = np.array([0, 3, 1, 2])
    forward = one_program(lambda m, x: m(x))
    straight, permuted = forward(scene.model, images), forward(scene.model, images[:, order])
    for a, b in zip(jax.tree.leaves(straight), jax.tree.leaves(permuted), strict=True):
        assert np.abs(a[:, order] - b).max() <= 2e-5 * np.abs(a).max()


def test_attention_is_told_what_it_attends_to(scene: Scene) -> None:
    seen = set()

    def attention(q: jax.Array, k: jax.Array, v: jax.Array, layout: TokenLayout) -> Any:
        seen.add((layout, q.shape[:2]))
        return attend_densely(q, k, v, layout)

    jax.eval_shape(lambda m, x: m(x, attention=attention), scene.model, scene.images)
    frame = TokenLayout(1, (6, 3), leading=5, layers=4)
    assert seen == {(frame, (4, 23)), (frame.joined(2), (2, 46))}


def rough_run(model: VGGT, images: jax.Array) -> tuple[jax.Array, VGGTOutput]:
    features = features_of(model, images)
    return features, decoded(model, features, model.layout(images.shape))


def test_dtypes() -> None:
    model = jax.eval_shape(lambda: VGGT(VGGT_TINY, dtype=jnp.bfloat16, rngs=nnx.Rngs(0)))
    matrices = (model.encoder.blocks.mlp, model.trunk.global_blocks.attention.qkv)
    assert {leaf.dtype for leaf in jax.tree.leaves(matrices)} == {jnp.dtype(jnp.bfloat16)}
    kinds = {leaf.dtype for leaf in jax.tree.leaves(model.camera_head)}
    assert kinds == {jnp.dtype(jnp.float32)}
    images = jax.ShapeDtypeStruct((1, 2, 28, 42, 3), jnp.float32)
    features, output = jax.eval_shape(rough_run, model, images)
    assert features.dtype == jnp.bfloat16
    assert {value.dtype for value in vars(output).values()} == {jnp.dtype(jnp.float32)}


@pytest.mark.thorough
def test_bfloat16_is_near_float32(scene: Scene, output: VGGTOutput) -> None:
    abstract = jax.eval_shape(lambda: VGGT(VGGT_TINY, dtype=jnp.bfloat16, rngs=nnx.Rngs(0)))
    weights = {path: np.asarray(x) for path, x in checkpoint.flatten(scene.model).items()}
    model = checkpoint.restore(abstract, weights.items())
    _, rough = jax.jit(rough_run)(model, scene.images)
    for name, exact in vars(output).items():
        value = getattr(rough, name)
        gap = np.abs(np.asarray(value) - np.asarray(exact))
        assert 0 < gap.mean() <= 0.02 * np.abs(exact).mean(), name


@pytest.mark.parametrize("taps", [(0, 1, 2, 2), (0, 1, 2, 4), (2, 1, 0, 3), (-1, 0, 1, 3)])
def test_wrong_taps(taps: tuple[int, int, int, int]) -> None:
    with pytest.raises(ValueError, match="taps"):
        abstract_vggt(replace(VGGT_TINY, taps=taps))


def test_images_of_broken_patches() -> None:
    images = jax.ShapeDtypeStruct((1, 2, 28, 30, 3), jnp.float32)
    with pytest.raises(ValueError, match="multiples of 14, found 28x30"):
        jax.eval_shape(lambda m, x: m(x), abstract_vggt(VGGT_TINY), images)


# Epsilons of the norms: the cases of this golden have variances near them.


@pytest.fixture(scope="module")
def small_variances() -> Scene:
    return run_trunk(EPS)


def cameras(scene: Scene) -> Mapping[str, jax.Array]:
    tokens = scene.features[-1, :, :, 0]
    return {"pose_enc_iters": jax.jit(lambda m, x: m.camera_head(x))(scene.model, tokens)}


def first_patches(scene: Scene) -> Mapping[str, jax.Array]:
    patches = scene.features[0, 0, :, scene.layout.leading :]
    normed = scene.model.depth_head.dpt.normed(patches, scene.layout.grid)
    return {"depth_dpt_norm_first": normed.reshape(patches.shape)}


def first_tracks(scene: Scene) -> Mapping[str, jax.Array]:
    def run(model: VGGT, features: jax.Array, points: jax.Array) -> jax.Array:
        assert model.track_head is not None
        maps = model.track_head.maps(features, scene.layout, model.size(scene.layout))
        tracker = model.track_head.tracker
        pyramid = feature_pyramid(tracker.map_norm(maps), tracker.config.levels)
        _, places, targets = tracker.start(pyramid, points)
        window = correlate(pyramid, targets, places, tracker.config.radius)
        return window.swapaxes(1, 2).reshape(-1, window.shape[1], window.shape[3])

    return {"track_corr_mlp_in": jax.jit(run)(scene.model, scene.features, scene.points)}


EPSILONS = {
    "camera token norm": ("models.vggt.heads.NORM_EPS", 1e-6, cameras),
    "adaptive norm": ("models.vggt.heads.ADAPTIVE_EPS", 1e-5, cameras),
    "feature maps of tracks": ("models.vggt.tracks.NORM_EPS", 1e-6, first_tracks),
    "patches of the heads": ("nn.dpt.NORM_EPS", 1e-6, first_patches),
}


@pytest.mark.thorough
@pytest.mark.parametrize("place", EPSILONS)
def test_a_wrong_epsilon_of_a_head_fails(
    place: str, small_variances: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    name, wrong, run = EPSILONS[place]
    monkeypatch.setattr(f"jaxrecon.{name}", wrong)
    mistaken = replace(small_variances, model=build_vggt(VGGT_TINY, EPS.weights()))
    with pytest.raises(AssertionError, match="off by"):
        for key, value in run(mistaken).items():
            EPS.check(key, np.asarray(value), EPS.outputs()[key])


BLOCKS = {
    "encoder": (DinoV2Config, "block", 1e-5),
    "trunk": (VGGTConfig, "trunk_block", 1e-6),
}


@pytest.mark.thorough
@pytest.mark.parametrize("place", ["encoder", "trunk", "qk_norm"])
def test_a_wrong_epsilon_of_the_trunk_fails(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if place == "qk_norm":
        monkeypatch.setattr("jaxrecon.nn.attention.QK_NORM_EPS", 1e-6)
    else:
        owner, name, epsilon = BLOCKS[place]
        right = vars(owner)[name].fget
        wrong = property(lambda config: replace(right(config), norm_eps=epsilon))
        monkeypatch.setattr(owner, name, wrong)
    last = np.asarray(run_trunk(EPS).features[-1])
    with pytest.raises(AssertionError, match="off by"):
        EPS.check("agg_last", last, EPS.outputs()["agg_last"])


def test_epsilon_of_the_cameras_blocks() -> None:
    """No golden case sees it: their blocks add little to what enters them."""
    assert VGGTConfig().camera_block.norm_eps == 1e-5


# Tracks.


def test_tracks_start_at_the_query_points(scene: Scene) -> None:
    tracks = jax.jit(lambda m, x, q: tracked(m, x, scene.layout, q))(
        scene.model, scene.features, scene.points
    )
    expected = BATCH.outputs()
    np.testing.assert_array_equal(tracks.positions[:, 0], scene.points)
    moved = np.abs(np.asarray(tracks.positions[:, 1]) - np.asarray(scene.points)).max()
    assert moved > 0.01
    for key, value in (
        ("track", tracks.positions),
        ("vis", tracks.visibility),
        ("conf", tracks.confidence),
    ):
        check_iterated(BATCH, key, np.asarray(value), expected[key])


def test_rounds_change_the_tracks() -> None:
    expected = BATCH.outputs()
    for before, after in ((0, 1), (1, 2), (2, 3)):
        change = expected[f"track_iter{after}"] - expected[f"track_iter{before}"]
        assert np.abs(change).max() > 0.01  # ten times what the golden rule lets pass


def test_a_model_without_track_head() -> None:
    model = abstract_vggt(replace(VGGT_TINY, track=False))
    features = jax.ShapeDtypeStruct((4, 1, 2, 23, 128), jnp.float32)
    points = jax.ShapeDtypeStruct((1, 3, 2), jnp.float32)
    with pytest.raises(ValueError, match="no track head"):
        jax.eval_shape(
            lambda m, x, q: tracked(m, x, TokenLayout(1, (6, 3), 5), q), model, features, points
        )


def test_images_that_are_too_small_for_tracks() -> None:
    assert VGGT_TINY.tracker.smallest_image == 16
    assert VGGTConfig().tracker.smallest_image == 128
    with pytest.raises(ValueError, match="too small for 4 levels"):
        feature_pyramid(jnp.zeros((1, 2, 9, 7, 3)), 4)
    maps = jax.ShapeDtypeStruct((1, 2, 9, 8, 3), jnp.float32)
    pyramid = jax.eval_shape(lambda x: feature_pyramid(x, 4), maps)
    assert [x.shape[2:4] for x in pyramid] == [
        (9, 8),
        (4, 4),
        (2, 2),
        (1, 1),
    ]


@pytest.mark.parametrize("shape", [(3,), (3, 3), (0, 2), (1, 1, 1, 2)])
def test_query_points_of_another_shape(shape: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match=r"query_points has shape .*; expected \(Q, 2\) or"):
        check_query_points(np.zeros(shape), 28, 42)


@pytest.mark.parametrize(
    ("point", "message"),
    [
        ((42.0, 3.0), r"query_points\[1\] = \(42, 3\) is outside the image; give x from 0 to 41"),
        ((3.0, 27.5), r"\(3, 27\.5\) is outside the image; .* y from 0 to 27"),
        ((-0.5, 3.0), r"\(-0\.5, 3\) is outside"),
        ((np.nan, 3.0), r"\(nan, 3\) is not finite"),
        ((3.0, np.inf), r"\(3, inf\) is not finite"),
    ],
)
def test_query_points_outside(point: tuple[float, float], message: str) -> None:
    corners = np.array([[0.0, 0.0], [41.0, 27.0]])
    check_query_points(corners, 28, 42)
    check_query_points(corners[None], 28, 42, smallest=28)
    with pytest.raises(InputError, match=message):
        check_query_points(np.array([[1.0, 1.0], point, point]), 28, 42)


def test_query_points_in_a_small_image() -> None:
    with pytest.raises(InputError, match="at least 128 pixels a side, found 140x126; give a high"):
        check_query_points(np.zeros((1, 2)), 126, 140, smallest=128)


# Parts, against upstream's units and plain formulas.


def plain_window(
    features: np.ndarray, target: np.ndarray, place: np.ndarray, radius: int
) -> np.ndarray:
    """Likeness to the whole map, zero around it, then bilinear samples; x moves first."""
    height, width, channels = features.shape
    likeness = features @ target / np.sqrt(channels)

    def at(x: float, y: float) -> float:
        if width == 1:
            x = 0.0
        if height == 1:
            y = 0.0
        left, top, total = int(np.floor(x)), int(np.floor(y)), 0.0
        for column, row in ((left, top), (left + 1, top), (left, top + 1), (left + 1, top + 1)):
            if 0 <= column < width and 0 <= row < height:
                total += (1 - abs(x - column)) * (1 - abs(y - row)) * likeness[row, column]
        return total

    steps = range(-radius, radius + 1)
    return np.array([at(place[0] + dx, place[1] + dy) for dx in steps for dy in steps])


def test_windows_inside_and_far_outside_the_map() -> None:
    rng = np.random.default_rng(0)
    maps = rng.normal(size=(2, 2, 5, 9, 3))
    targets, places = rng.normal(size=(2, 2, 6, 3)), rng.uniform(-4, 12, (2, 2, 6, 2))
    places[0, 0, 0], places[0, 0, 1] = (3.0, 2.0), (-50.0, 400.0)
    pyramid = one_program(feature_pyramid, "levels")(np.float32(maps), levels=3)  # to 2 x 1
    actual = one_program(lambda *x: correlate(*x, radius=2))(
        pyramid, np.float32(targets), np.float32(places)
    )
    for index in np.ndindex(2, 2, 6):
        levels = [np.asarray(level[index[:2]], np.float64) for level in pyramid]
        expected = [
            plain_window(level, targets[index], places[index] / 2**depth, 2)
            for depth, level in enumerate(levels)
        ]
        np.testing.assert_allclose(actual[index], np.concatenate(expected), atol=2e-5)


def test_windows_are_upstreams() -> None:
    given, expected = UNITS.inputs(), UNITS.outputs()
    maps = np.moveaxis(given["corr_fmaps"], 2, -1)
    windows = one_program(
        lambda maps, targets, places: correlate(feature_pyramid(maps, 3), targets, places, 2)
    )
    actual = windows(maps, given["corr_targets"], given["corr_coords"])
    UNITS.check("corr_l3_r2", actual, expected["corr_l3_r2"])


@pytest.mark.parametrize("cross", [False, True])
def test_blocks_of_the_tracker_are_upstreams(cross: bool) -> None:
    prefix = "unit_crossblock." if cross else "unit_attnblock."
    state = {
        f"unit.0.{name}": golden_data.golden_weight(
            name, tuple(entry["shape"]), entry["mean"], entry["std"], prefix
        )
        for name, entry in UNITS.info["weights"][prefix].items()
    }
    config = BlockConfig(16, 4, norm_eps=1e-5, normed_residual=True, cross=cross)
    abstract = jax.eval_shape(lambda: stack_blocks(config, 1, dtype=jnp.float32, rngs=nnx.Rngs(0)))
    targets = {f"block.{path}": shape for path, shape in checkpoint.shapes(abstract).items()}
    source = InMemory(state)
    streamed = stream(plan(source.specs, tracker_block_rules("unit", "block"), (), targets), source)
    blocks = checkpoint.restore(abstract, ((k.removeprefix("block."), v) for k, v in streamed))
    block = jax.tree.map(lambda x: x[0], blocks)
    given, key = UNITS.inputs(), "track_cross_block" if cross else "track_attn_block"
    context = jnp.asarray(given["track_ctx"]) if cross else None
    x, layout = jnp.asarray(given["track_x"]), TokenLayout(1, (1, 5))
    actual = jax.jit(lambda b, x, c: b(x, layout, attend_densely, context=c))(block, x, context)
    UNITS.check(key, np.asarray(actual), UNITS.outputs()[key])


def test_samples_and_embeddings_are_upstreams() -> None:
    given, expected = UNITS.inputs(), UNITS.outputs()
    maps = np.moveaxis(given["samp_fmap"], 1, -1)
    y, x = np.indices((3, 5), np.float32)
    grid, outside = (
        np.stack([x, y], axis=-1).reshape(1, -1, 2),
        np.array([[[1.25, 9.0]]], np.float32),
    )

    @one_program
    def embedded(*x: jax.Array) -> tuple[jax.Array, ...]:
        return *(embed_places(points, (3, 5), 16) for points in x[:2]), embed_motion(x[2], 8)

    places, between, motion = embedded(grid, outside, given["flow"])
    table, between = places.reshape(3, 5, 16), between[0, 0]
    actual = {
        "sample_features4d_border": one_program(sample_features)(maps, given["samp_xy"]),
        "get_2d_embedding_c8": motion,
        "sincos_c16": np.moveaxis(table[None], -1, 1),
    }
    for key, value in actual.items():
        UNITS.check(key, value, expected[key])
    mixed = np.concatenate([0.75 * table[2, 1, :8] + 0.25 * table[2, 2, :8], table[2, 1, 8:]])
    np.testing.assert_allclose(between, mixed, rtol=0, atol=1e-6)


def test_activations_are_upstreams() -> None:
    given, expected = UNITS.inputs(), UNITS.outputs()
    raw = np.moveaxis(given["act"], 1, -1)
    points, confidence = one_program(activate_points)(raw)
    depth, depth_confidence = one_program(activate_depth)(raw[..., 2:])
    actual = {
        "act_inv_log": points,
        "act_conf_expp1": confidence,
        "pose_act": one_program(activate_pose)(given["pose_act"]),
    }
    for key, value in actual.items():
        UNITS.check(key, value, expected[key])
    np.testing.assert_allclose(depth, expected["act_exp"][..., 2], rtol=1e-6)
    np.testing.assert_array_equal(depth_confidence, confidence)
