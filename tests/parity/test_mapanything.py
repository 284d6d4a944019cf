"""MapAnything: priors, masks, layout of the trunk, precision and compilation."""

import time
from dataclasses import fields, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import golden_data
from drawn_weights import drawn
from golden_data import Golden
from jaxrecon import InputError, geometry
from jaxrecon.images import PixelTransform
from jaxrecon.models import MAPANYTHING_RESIZE, Prediction
from jaxrecon.models.mapanything.model import MAPANYTHING, MAPANYTHING_V1, MapAnything
from jaxrecon.models.mapanything.output import MapAnythingOutput, intrinsics_from_rays
from jaxrecon.models.mapanything.priors import geometry_of, relative_poses
from jaxrecon.nn.alternating import GlobalFirstAttention
from jaxrecon.nn.attention import TokenLayout, attend_densely
from jaxrecon.nn.block import BlockConfig, Stream
from jaxrecon.priors import PriorArrays, ViewPriors, prior_arrays
from mapanything_masks import multiview_confidence, points_to_keep
from mapanything_stages import (
    MAPANYTHING_TINY,
    MAPANYTHING_V1_TINY,
    build_mapanything,
    decoded,
    images_of,
    priors_of,
)
from one_program import one_program

IMAGES_ONLY = golden_data.case("mapanything_v1_tiny_56x70_v3_b1_img")
EPS = golden_data.case("eps_mapanything_v11_tiny_56x70_v3")
FLAGS = [field.name for field in fields(PriorArrays) if field.name.startswith("has_")]
TRACED: list[bool] = []


@jax.jit
def forward(model: MapAnything, images: jax.Array, priors: PriorArrays | None) -> Prediction:
    TRACED.append(priors is not None)
    return model(images, priors=priors)


def everything(priors: PriorArrays) -> PriorArrays:
    """Arrays of the same shapes in which all is known of all views."""
    views, (height, width) = priors.has_pose.shape[1], priors.depth_z.shape[2:]
    poses = np.tile(np.eye(4, dtype=np.float32), (1, views, 1, 1))
    poses[0, :, 0, 3] = np.arange(views)
    matrix = np.array([[60, 0, width / 2], [0, 60, height / 2], [0, 0, 1]], np.float32)
    known = {name: jnp.asarray(np.ones((1, views), bool)) for name in FLAGS}
    return replace(
        priors,
        **known,
        intrinsics=jnp.asarray(np.tile(matrix, (1, views, 1, 1))),
        depth_z=jnp.asarray(np.full((1, views, height, width), 2, np.float32)),
        world_from_camera=jnp.asarray(poses),
    )


def nothing(priors: PriorArrays) -> PriorArrays:
    """The same arrays, of which nothing is known."""
    masks = {name: jnp.asarray(np.zeros(priors.has_pose.shape, bool)) for name in FLAGS}
    return replace(priors, **masks)


def views_first(x: np.ndarray) -> jax.Array:
    return jnp.asarray(np.swapaxes(x, 0, 1))


@pytest.fixture(scope="module")
def output(golden: Golden) -> MapAnythingOutput:
    """What the post-processing of upstream was given."""
    given = {key: views_first(x) for key, x in golden.inputs().items() if key != "rotmats"}
    depth, rays = given["depth_along_ray"][..., 0], given["ray_directions"]
    return MapAnythingOutput(
        points_world=given["pts3d"],
        points_camera=rays * depth[..., None],
        ray_directions=rays,
        depth_along_ray=depth,
        translations=given["cam_trans"],
        quaternions=given["cam_quats"],
        metric_scale=jnp.ones(len(depth)),
        confidence=given["conf"],
        confidence_logits=jnp.log(given["conf"] - 1),
        mask_logits=jnp.where(given["non_ambiguous_mask"] > 0, 1.0, -1.0),
    )


def upstream_normal_edges(normals: np.ndarray, mask: np.ndarray, *, mistaken: bool) -> np.ndarray:
    """Pixels near which two normals differ by more than 5 degrees, in float32.

    If `mistaken`, in both ways that upstream is. Where rounding makes the cosine of an angle of
    nearly zero exceed 1, its arc cosine is NaN, which hides all the pixel's other angles. And rows
    and columns of the window that tells which neighbours have a normal are exchanged.
    """
    height, width = mask.shape
    normals = unit(normals)
    around = np.pad(normals, ((1, 1), (1, 1), (0, 0)), mode="edge")
    has_normal = np.pad(mask, 1, mode="edge")
    angles = []
    for row, column in np.ndindex(3, 3):
        cosine = (normals * around[row : row + height, column : column + width]).sum(axis=-1)
        with np.errstate(invalid="ignore"):
            angle = np.arccos(cosine if mistaken else np.clip(cosine, -1, 1))
        down, right = (column, row) if mistaken else (row, column)
        known = has_normal[down : down + height, right : right + width]
        angles.append(np.where(known, angle, 0))
    largest = np.max(angles, axis=0)
    seen = np.pad(np.where(np.isnan(largest), -1, largest), 1, constant_values=-1)
    windows = np.lib.stride_tricks.sliding_window_view(seen, (3, 3))
    return windows.max(axis=(-2, -1)) > np.deg2rad(5.0)


def upstream_normals(points: np.ndarray, keep: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """`geometry.normals_from_points` in numpy, rounded as upstream rounds."""
    height, width = keep.shape
    padded, valid = np.pad(points, ((1, 1), (1, 1), (0, 0))), np.pad(keep, 1)
    around = []
    for row, column in ((0, 1), (1, 0), (2, 1), (1, 2)):
        near = slice(row, row + height), slice(column, column + width)
        around.append((padded[near] - points, valid[near]))
    corners, known = [], []
    for (one, has_one), (other, has_other) in zip(around, around[1:] + around[:1], strict=True):
        known.append(has_one & has_other & keep)
        corners.append(unit(np.cross(one, other)) * known[-1][..., None])
    has_normal = np.any(known, axis=0)
    return np.where(has_normal[..., None], unit(np.sum(corners, axis=0)), 0), has_normal


def unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / (np.linalg.norm(vectors, axis=-1, keepdims=True) + np.float32(1e-12))


def masks_by_hand(
    output: MapAnythingOutput, options: dict[str, Any], *, mistaken: bool
) -> np.ndarray:
    """`points_to_keep` with its normals and their edges as upstream has them."""

    def kept_and_jumps(output: MapAnythingOutput) -> tuple[jax.Array, jax.Array]:
        keep = points_to_keep(output, **options, edges=False)
        depth = output.points_camera[..., 2]
        return keep, geometry.depth_edges(depth, rtol=0.03, mask=keep)

    keep, jumps = one_program(kept_and_jumps)(output)
    bends = np.zeros_like(keep)
    for place in np.ndindex(keep.shape[:2]):
        normals, has_normal = upstream_normals(np.asarray(output.points_world[place]), keep[place])
        edges = upstream_normal_edges(normals, has_normal, mistaken=mistaken)
        bends[place] = edges | ~has_normal
    return keep & ~(jumps & bends)


@pytest.fixture(scope="module")
def model() -> MapAnything:
    return build_mapanything(MAPANYTHING_V1_TINY, IMAGES_ONLY.weights())


class TestModel:
    def test_no_priors_are_priors_of_which_none_is_known(self, model: MapAnything) -> None:
        """And both are upstream's; the activations on the way: test_parity.py."""
        images = images_of(IMAGES_ONLY.inputs())
        without = forward(model, images, None)
        unknown = forward(model, images, priors_of(IMAGES_ONLY))
        for a, b in zip(jax.tree.leaves(without), jax.tree.leaves(unknown), strict=True):
            np.testing.assert_allclose(a, b, rtol=0, atol=2e-5 * np.abs(a).max())
        for key, value in (("pts3d", without.points_world), ("conf", without.confidence)):
            expected = IMAGES_ONLY.outputs()[key]
            IMAGES_ONLY.check(key, np.swapaxes(np.asarray(value), 0, 1), expected)

    def test_one_program_serves_every_combination(self, model: MapAnything) -> None:
        images, known = images_of(IMAGES_ONLY.inputs()), everything(priors_of(IMAGES_ONLY))
        first = jnp.asarray([[True, False, False]])
        combinations = known, nothing(known), replace(known, has_pose=first)
        found = [forward(model, images, each).points_world for each in combinations]
        assert TRACED.count(True) == 1
        assert len({float(np.sum(x)) for x in found}) == 3

    @pytest.mark.thorough
    @pytest.mark.parametrize("place", ["encoder", "trunk", "encoders", "norm"])
    def test_a_wrong_norm_epsilon_fails(self, place: str, monkeypatch: pytest.MonkeyPatch) -> None:
        if place in ("encoder", "trunk"):
            owner = type(MAPANYTHING.encoder) if place == "encoder" else type(MAPANYTHING)
            name = "block" if place == "encoder" else "trunk_block"
            right = vars(owner)[name].fget
            wrong = property(lambda config: replace(right(config), norm_eps=1e-5))
            monkeypatch.setattr(owner, name, wrong)
        elif place == "encoders":
            monkeypatch.setattr("jaxrecon.models.mapanything.encoders.NORM_EPS", 1e-5)
        model = build_mapanything(MAPANYTHING_TINY, EPS.weights())
        if place == "norm":
            model.norm.epsilon = 1e-5
        inputs, expected = EPS.inputs(), EPS.outputs()
        out = jax.jit(lambda m, x, c: decoded(m, m.features(x, priors=c), m.layout(x.shape)))(
            model, images_of(inputs), priors_of(EPS)
        )
        with pytest.raises(AssertionError, match="off by"):
            for key, value in {
                "pts3d": out.points_world,
                "conf": out.confidence,
                "cam_quats": out.quaternions,
            }.items():
                EPS.check(key, np.swapaxes(np.asarray(value), 0, 1), expected[key])

    def test_dtypes(self) -> None:
        model = jax.eval_shape(
            lambda: MapAnything(MAPANYTHING_TINY, dtype=jnp.bfloat16, rngs=nnx.Rngs(0))
        )
        matrices = (model.encoder.blocks.mlp, model.trunk.global_blocks.attention.qkv)
        halves = {x.dtype for x in jax.tree.leaves(matrices)}
        assert halves == {jnp.dtype(jnp.bfloat16)}
        exact = (model.geometry, model.pose_head, model.scale_head, model.dense_head.out)
        assert {x.dtype for x in jax.tree.leaves(exact)} == {jnp.dtype(jnp.float32)}
        images = jax.ShapeDtypeStruct((1, 2, 28, 42, 3), jnp.float32)
        out = jax.eval_shape(lambda m, x: m(x), model, images)
        assert out.mask is not None
        assert out.mask.dtype == bool
        rest = [leaf for leaf in jax.tree.leaves(out) if leaf is not out.mask]
        assert {leaf.dtype for leaf in rest} == {jnp.dtype(jnp.float32)}

    @pytest.mark.parametrize(
        "config", [MAPANYTHING, pytest.param(MAPANYTHING_V1, marks=pytest.mark.thorough)]
    )
    def test_layers_are_traced_once(self, config: Any) -> None:
        model = jax.eval_shape(lambda: MapAnything(config, rngs=nnx.Rngs(0)))
        images = jax.ShapeDtypeStruct((1, 2, 28, 42, 3), jnp.float32)
        start = time.perf_counter()
        text = jax.jit(lambda m, x: m(x)).lower(model, images).as_text()
        assert text.count("stablehlo.while") >= 3
        # Two scans of the trunk and the encoder hold four projections of two kinds each.
        assert text.count("dot_general") < 90
        assert time.perf_counter() - start < 30

    def test_last_block_must_be_tapped(self) -> None:
        with pytest.raises(ValueError, match="must end with the last block, 5"):
            MapAnything(replace(MAPANYTHING_TINY, taps=(1, 2, 3)), rngs=nnx.Rngs(0))


def small_trunk(taps: tuple[int, ...]) -> GlobalFirstAttention:
    return drawn(
        lambda: GlobalFirstAttention(
            BlockConfig(8, 2), 2, taps=taps, dtype=jnp.float32, rngs=nnx.Rngs(0)
        )
    )


class TestTrunk:
    def test_layouts_that_the_attention_is_told(self) -> None:
        seen = []

        def attention(q: jax.Array, k: jax.Array, v: jax.Array, layout: TokenLayout) -> Any:
            seen.append((layout, q.shape[0], q.shape[1]))
            return attend_densely(q, k, v, layout)

        trunk = small_trunk((0, 3))
        layout = TokenLayout(1, (2, 3), trailing=1, layers=2)
        tokens, scene = (jax.ShapeDtypeStruct(x, jnp.float32) for x in ((2, 5, 7, 8), (2, 1, 8)))
        taps, after, _ = jax.eval_shape(
            lambda tokens, scene: trunk(tokens, layout, attention, scene), tokens, scene
        )
        joined = TokenLayout(5, (2, 3), trailing=1, scene=1, layers=2)
        assert seen == [(joined, 2, 36), (layout, 10, 7)]
        assert joined.tokens == 36
        assert taps.shape == (2, 2, 5, 7, 8)
        assert after.shape == scene.shape

    def test_scene_tokens_pass_frame_blocks_unchanged(self) -> None:
        trunk, layout = small_trunk((2, 3)), TokenLayout(1, (2, 3))
        random = np.random.default_rng(0)
        tokens, scene = (
            random.normal(size=x).astype(np.float32) for x in ((1, 2, 6, 8), (1, 1, 8))
        )

        def by_hand(
            trunk: GlobalFirstAttention, x: jax.Array, s: jax.Array
        ) -> tuple[jax.Array, ...]:
            across = x
            for pair in range(2):
                block, frame = (
                    jax.tree.map(lambda leaf, i=pair: leaf[i], blocks)
                    for blocks in (trunk.global_blocks, trunk.frame_blocks)
                )
                across, s, _ = trunk.across_scene(block, x, layout, attend_densely, s)
                x = trunk.within_views(frame, Stream(across), layout, attend_densely, None).x
            return across, x, s

        taps, after, _ = one_program(lambda m, x, s: m(x, layout, attend_densely, s))(
            trunk, tokens, scene
        )
        across, x, s = one_program(by_hand)(trunk, tokens, scene)
        np.testing.assert_allclose(taps[0], across, atol=1e-5)
        np.testing.assert_allclose(taps[1], x, atol=1e-5)
        np.testing.assert_allclose(after, s, atol=1e-5)

    @pytest.mark.parametrize("taps", [(3, 1), (1, 4)])
    def test_taps(self, taps: tuple[int, ...]) -> None:
        with pytest.raises(ValueError, match=r"must rise within 0 \.\. 3"):
            small_trunk(taps)


@pytest.mark.golden_of("postprocess", "mapanything")
class TestMasks:
    @pytest.mark.parametrize(
        ("name", "options"),
        [
            ("noedge", {"edges": False}),
            ("conf", {"percentile": 20.0}),
            ("default", {}),
            ("mv", {}),
        ],
    )
    def test_masks_are_upstreams(
        self, name: str, options: dict[str, Any], output: MapAnythingOutput, golden: Golden
    ) -> None:
        """With upstream's two mistakes in the angles of normals (`upstream_normal_edges`) the masks
        are upstream's in every pixel; without them, ours in every pixel. So the five pixels in 7056
        that differ are those, and not of our making. Confidence by itself masks nothing ("mv").
        """
        ours = np.asarray(jax.jit(lambda x: points_to_keep(x, **options))(output))
        upstream = views_first(golden.outputs()[f"{name}_mask"])[..., 0] > 0
        if options.get("edges", True):
            np.testing.assert_array_equal(masks_by_hand(output, options, mistaken=False), ours)
            masks = masks_by_hand(output, options, mistaken=True)
            assert (ours != masks).mean() <= 1e-3
        else:
            masks = ours
        np.testing.assert_array_equal(masks, upstream)

    def test_edges_of_the_first_view_are_upstreams(
        self, output: MapAnythingOutput, golden: Golden
    ) -> None:
        """What the mask is made of; where there is no normal, our angles are not looked at."""

        def found(output: MapAnythingOutput) -> tuple[jax.Array, ...]:
            keep, depth = output.unambiguous[0, 0], output.points_camera[0, 0, ..., 2]
            normals, has_normal = geometry.normals_from_points(output.points_world[0, 0], keep)
            jumps = geometry.depth_edges(depth, rtol=0.03, mask=keep)
            return normals, has_normal, jumps, geometry.normal_edges(normals, mask=has_normal)

        expected = golden.outputs()
        normals, has_normal, jumps, ours = one_program(found)(output)
        np.testing.assert_array_equal(has_normal, expected["normals_mask_v0b0"] > 0)
        golden.check("normals_v0b0", normals, expected["normals_v0b0"])
        np.testing.assert_array_equal(jumps, expected["depth_edge_v0b0"] > 0)
        stored, known = expected["normals_v0b0"], has_normal
        bends = expected["normals_edge_v0b0"] > 0
        np.testing.assert_array_equal(upstream_normal_edges(stored, known, mistaken=True), bends)
        right = upstream_normal_edges(stored, known, mistaken=False)
        np.testing.assert_array_equal(np.where(known, right, False), ours)
        assert (known & (ours != bends)).mean() < 1e-2

    def test_masked_geometry(self, output: MapAnythingOutput, golden: Golden) -> None:
        """Upstream stores zero where its mask is not set."""
        expected = golden.outputs()
        mask = views_first(expected["default_mask"])
        for key, value in {
            "default_depth_z": output.points_camera[..., 2:] * mask,
            "default_pts3d": (output.points_world * mask)[:, :, ::3, ::3],
        }.items():
            golden.check(key, np.swapaxes(value, 0, 1), expected[key])

    def test_multiview_confidence_is_upstreams(
        self, output: MapAnythingOutput, golden: Golden
    ) -> None:
        confidence = jax.jit(multiview_confidence)(output)
        np.testing.assert_allclose(confidence, views_first(golden.outputs()["mv_conf"]), atol=1e-6)
        assert len(np.unique(confidence)) > 2

    def test_cameras(self, output: MapAnythingOutput, golden: Golden) -> None:
        expected = golden.outputs()
        intrinsics, poses, quaternions = one_program(
            lambda output, rotations: (
                intrinsics_from_rays(output.ray_directions),
                output.world_from_camera,
                geometry.quaternion_from_rotation(rotations),
            )
        )(output, golden.inputs()["rotmats"])
        golden.check(
            "default_intrinsics", np.swapaxes(intrinsics, 0, 1), expected["default_intrinsics"]
        )
        golden.check("K_geometric", intrinsics[:, 0], expected["K_geometric"])
        poses = np.swapaxes(poses, 0, 1)
        golden.check("default_camera_poses", poses, expected["default_camera_poses"])
        golden.check("rotmat_to_quat", quaternions, expected["rotmat_to_quat"])


def test_intrinsics_of_a_large_image_from_some_of_its_rays() -> None:
    matrix = np.array([[[[300.0, 0, 160], [0, 280, 60], [0, 0, 1]]]], np.float32)
    found = one_program(lambda x: intrinsics_from_rays(geometry.unproject_depth(*x)))
    np.testing.assert_allclose(
        found((np.ones((1, 1, 120, 310), np.float32), matrix)), matrix, rtol=1e-4
    )


@one_program
def corners_and_overlap(*given: jax.Array) -> tuple[jax.Array, jax.Array]:
    corners = geometry.frustum_corners(*given)
    return corners, geometry.frustums_overlap(corners)


class TestFrustums:
    @pytest.mark.parametrize(
        ("x", "z", "turned", "meets"),
        [
            (0.0, 0.0, False, True),
            (3.9, 0.0, False, True),  # each is 4 wide at depth 2
            (4.1, 0.0, False, False),
            (0.0, -0.9, False, True),
            (0.0, -1.1, False, False),  # the one ends at 2, the other starts at 1
            (0.0, 2.9, True, True),
            (0.0, 4.1, True, False),
        ],
    )
    def test_by_hand(self, x: float, z: float, turned: bool, meets: bool) -> None:
        pose = np.diag([-1.0, 1, -1, 1] if turned else [1.0, 1, 1, 1]).astype(np.float32)
        pose[:3, 3] = x, 0, z
        poses = np.stack([np.eye(4, dtype=np.float32), pose])
        matrix = np.tile(np.array([[5.0, 0, 5], [0, 5, 5], [0, 0, 1]], np.float32), (2, 1, 1))
        corners, overlap = corners_and_overlap(
            matrix, poses, np.ones(2, np.float32), np.full(2, 2.0, np.float32)
        )
        np.testing.assert_array_equal(corners[0, 0], [1, 1, 1])
        np.testing.assert_array_equal(corners[0, 6], [-2, -2, 2])
        np.testing.assert_array_equal(overlap, [[True, meets], [meets, True]])


WIDE = PixelTransform.stretch((60, 40), (42, 28))
MATRIX = np.array([[50.0, 0, 29.5], [0, 48.0, 19.5], [0, 0, 1]])
SKEW = np.array([[0.0, 1, 0], [0, 0, 0], [0, 0, 0]])
POSE = np.eye(4)
DEPTH = np.full((40, 60), 2.0)


def known(**given: Any) -> PriorArrays:
    return prior_arrays(ViewPriors(**given), [WIDE, WIDE], MAPANYTHING_RESIZE.resized_intrinsics)


class TestInputs:
    def test_what_is_given_arrives(self) -> None:
        moved = POSE.copy()
        moved[:3, 3] = 0, 3, 4
        depth = DEPTH.copy()
        depth[:, :30] = np.nan
        made = known(
            intrinsics={1: MATRIX}, poses=[POSE, moved], depths=[None, depth], metric_poses=False
        )
        assert made.has_intrinsics.tolist() == [[False, True]] == made.has_depth.tolist()
        assert made.has_pose.tolist() == [[True, True]]
        assert made.metric_depth.tolist() == [[True, True]]
        assert made.metric_poses.tolist() == [[False, False]]
        # Both images shrink by 0.7; the middle of the first is at 29.5, of the second at 20.5.
        expected = [[35.0, 0, 20.5], [0, 33.6, 13.5], [0, 0, 1]]
        np.testing.assert_allclose(made.intrinsics[0, 1], expected, rtol=1e-6)
        assert made.depth_z.shape == (1, 2, 28, 42)
        assert set(np.unique(made.depth_z[0, 1, :, :21])) == {0.0}
        assert set(np.unique(made.depth_z[0, 1, :, 21:])) == {2.0}
        known_to_model = one_program(geometry_of)(made)
        np.testing.assert_allclose(
            known_to_model.translation_scale[0, :, 0], np.log(5.0), rtol=1e-6
        )
        np.testing.assert_allclose(
            known_to_model.translations[0], [[0, 0, 0], [0, 0.6, 0.8]], atol=1e-6
        )
        assert not known_to_model.has_pose_scale.any()
        assert known_to_model.has_depth_scale.tolist() == [[False, True]]

    def test_poses_are_relative_to_the_first(self) -> None:
        turn = np.array([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]])
        first, second = np.eye(4), np.eye(4)
        first[:3, :3], first[:3, 3], second[:3, 3] = turn, (1, 2, 3), (1, 5, 3)
        poses = np.stack([first, second])[None].astype(np.float32)
        quaternions, translations = one_program(relative_poses)(poses)
        # Three along y, seen from a camera that is turned by +90 degrees about z, is along x.
        np.testing.assert_allclose(translations[0], [[0, 0, 0], [3, 0, 0]], atol=1e-6)
        half = np.sqrt(0.5)
        np.testing.assert_allclose(quaternions[0], [[0, 0, 0, 1], [0, 0, -half, half]], atol=1e-6)

    def test_depth_is_scaled_by_its_own_mean(self) -> None:
        made = one_program(geometry_of)(known(intrinsics=[MATRIX, MATRIX], depths={0: DEPTH}))
        rays = geometry.unproject_depth(
            jnp.full((28, 42), 2.0), jnp.asarray(known(intrinsics=[MATRIX, None]).intrinsics[0, 0])
        )
        distance = np.linalg.norm(rays, axis=-1)
        np.testing.assert_allclose(
            made.depth[0, 0, ..., 0], np.log1p(distance / distance.mean()), rtol=1e-5
        )
        np.testing.assert_allclose(made.depth_scale[0, 0, 0], np.log(distance.mean()), rtol=1e-5)
        assert not made.depth[0, 1].any()

    def test_a_pose_without_the_first_is_left_out(self) -> None:
        both = known(poses=[POSE, POSE])
        made = one_program(geometry_of)(replace(both, has_pose=jnp.array([[False, True]])))
        assert not made.has_pose.any()

    @pytest.mark.parametrize(
        ("given", "message"),
        [
            ({"intrinsics": {2: MATRIX}}, "there is no view 2; the 2 views count from 0 to 1"),
            ({"intrinsics": [MATRIX]}, "intrinsics: found 1 for 2 views"),
            ({"poses": {1: POSE}}, "view 1 has one, but the first view.* has none"),
            ({"depths": {1: DEPTH}}, "view 1 has a depth map but no intrinsics"),
            ({"intrinsics": {0: MATRIX * [-1, 1, 1]}}, "must be positive"),
            ({"intrinsics": {0: np.eye(3)}}, r"for an image of 60x40; give them in pixels"),
            ({"intrinsics": {0: MATRIX.T}}, r"expected \[fx 0 cx\]"),
            ({"intrinsics": {0: MATRIX + SKEW}}, "the skew 1; rectify"),
            ({"intrinsics": {0: np.eye(4)}}, r"of shape \(4, 4\); expected \(3, 3\)"),
            ({"intrinsics": {0: MATRIX * np.nan}}, "no finite numbers"),
            ({"poses": {0: 2 * POSE}}, r"last row \[0. 0. 0. 2.\]"),
            ({"poses": {0: np.diag([2.0, 2, 2, 1])}}, "is not rigid.*off by 3.*without scale"),
            ({"poses": {0: np.diag([1.0, 1, -1, 1])}}, "is not rigid.*a reflection"),
            ({"poses": {0: POSE[:3]}}, r"found an array of shape \(3, 4\); expected \(4, 4\)"),
        ],
    )  # fmt: skip
    def test_refused(self, given: dict[str, Any], message: str) -> None:
        with pytest.raises(InputError, match=message) as caught:
            known(**given)
        assert "\n" not in str(caught.value)

    @pytest.mark.parametrize(
        ("depth", "message"),
        [
            (DEPTH[:20], r"shape \(20, 60\), but its image is 60x40; give one of shape \(40, 60\)"),
            (DEPTH.astype(np.uint16), "type uint16; give floats, in metres"),
            (-DEPTH, "found the depth -2; give the distance along the optical axis"),
            (0 * DEPTH, "no pixel has a depth"),
        ],
    )
    def test_depth_refused(self, depth: np.ndarray, message: str) -> None:
        with pytest.raises(InputError, match=f"depths: view 0: .*{message}"):
            known(intrinsics={0: MATRIX}, depths={0: depth})
