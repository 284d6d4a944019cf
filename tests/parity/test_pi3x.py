"""π³-X: what is known of the views, heads, metres, precision and compilation."""

import time
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import golden_data
from jaxrecon import SparseAttention
from jaxrecon.errors import InputError
from jaxrecon.geometry import nearest_rotation, rigid
from jaxrecon.images import PixelTransform
from jaxrecon.models import PI3_RESIZE, PI3X, Encoded, Pi3X
from jaxrecon.models.pi3x.conditioning import CameraFrames
from jaxrecon.models.pi3x.heads import placed
from jaxrecon.models.pi3x.model import points_from_raw
from jaxrecon.models.pi3x.priors import STATIC, known_geometry, slopes, spread
from jaxrecon.nn.attention import TokenLayout
from jaxrecon.nn.execution import INFERENCE
from jaxrecon.priors import PriorArrays, ViewPriors, prior_arrays, prior_world
from one_program import one_program
from pi3x_stages import PI3X_TINY, build_pi3x, priors_of
from vggt_stages import channels_last

PARTIAL = golden_data.case("pi3x_tiny_56x70_n3_b1_partial")
IMAGES = channels_last(PARTIAL.inputs()["images"])
PRIORS: PriorArrays = priors_of(PARTIAL)  # pyright: ignore[reportAssignmentType]
KINDS = ("has_intrinsics", "has_depth", "has_pose")
geometry_of = one_program(known_geometry)
world_of = one_program(prior_world, "first_view_is_world")


def only(priors: PriorArrays, **known: Any) -> PriorArrays:
    """The same arrays, of which the kinds named are known in these views, and nothing else."""
    flags = {kind: jnp.asarray(np.zeros(priors.has_pose.shape, bool)) for kind in KINDS}
    return replace(priors, **flags | {kind: jnp.asarray([views]) for kind, views in known.items()})


def with_views(x: jax.Array, view: Any, values: Any) -> jax.Array:
    """`x` (B, V, ...) with other numbers in one of its views, or in several."""
    changed = np.array(x)
    changed[:, view] = values
    return jnp.asarray(changed)


def moved_by(poses: jax.Array, factor: float) -> jax.Array:
    """The poses with translations `factor` times as long."""
    changed = np.array(poses)
    changed[..., :3, 3] *= factor
    return jnp.asarray(changed)


def turned() -> np.ndarray:
    """A rigid motion (4, 4)."""
    cosine, sine = np.cos(0.7), np.sin(0.7)
    motion = np.eye(4, dtype=np.float32)
    motion[:3, 0] = cosine, sine * sine, -sine * cosine
    motion[:3, 1] = 0, cosine, sine
    motion[:3, 2] = sine, -sine * cosine, cosine * cosine
    motion[:3, 3] = 0, 1, 2
    return motion


@pytest.fixture(scope="module")
def model() -> Pi3X:
    return build_pi3x(PI3X_TINY, PARTIAL.weights())


class Counted:
    """The whole model as one program; counts how often it is traced."""

    def __init__(self) -> None:
        self.traces = 0
        self.run = jax.jit(self._run)

    def _run(
        self, model: Pi3X, images: jax.Array, priors: PriorArrays | None, views: Any
    ) -> tuple[Any, ...]:
        self.traces += 1
        out = model(images, priors=priors, num_valid_views=views)
        return out.points_world, out.confidence, out.world_from_camera, out.metric_scale


@pytest.fixture(scope="module")
def forward() -> Counted:
    return Counted()


def gap(a: Any, b: Any) -> float:
    """The largest difference of any array, by its largest value."""
    pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    return max(
        float(np.abs(np.asarray(x) - np.asarray(y)).max() / np.abs(x).max()) for x, y in pairs
    )


def with_two_views() -> PriorArrays:
    """Priors of the first two views, and none of the third."""
    known = only(PRIORS, has_pose=[True, True, False], has_intrinsics=[True, False, False])
    return replace(known, depth_z=with_views(known.depth_z, 2, 0))


def first_two(found: tuple[Any, ...]) -> tuple[Any, ...]:
    """What `Counted` returns, without the views behind the second."""
    return *(np.asarray(x)[:, :2] for x in found[:3]), found[3]


class TestPriors:
    @pytest.mark.thorough
    def test_one_program_serves_every_combination(self, model: Pi3X, forward: Counted) -> None:
        every, yes, no = PRIORS, [True] * 3, [False] * 3
        combinations = [
            only(every),
            only(every, has_intrinsics=yes),
            only(every, has_pose=yes),  # poses without rays
            only(every, has_depth=[False, True, False]),
            only(every, has_intrinsics=yes, has_pose=[False, True, True]),
            only(every, has_intrinsics=yes, has_depth=yes, has_pose=no),
            every,
        ]
        found = [forward.run(model, IMAGES, each, jnp.int32(3)) for each in combinations]
        assert forward.traces == 1
        assert all(np.isfinite(x).all() for x in jax.tree.leaves(found))
        assert len({float(points.sum()) for points, *_ in found}) == len(combinations)

    def test_a_single_pose_counts_as_none(self, model: Pi3X, forward: Counted) -> None:
        none, one = only(PRIORS), only(PRIORS, has_pose=[False, True, False])
        ran = [forward.run(model, IMAGES, each, jnp.int32(3)) for each in (none, one)]
        assert gap(*ran) == 0

    def test_numbers_are_upstreams(self, model: Pi3X, forward: Counted) -> None:
        """Where of some views some kinds are known; the activations on the way: test_parity.py."""
        points, confidence, poses, metres = forward.run(model, IMAGES, PRIORS, jnp.int32(3))
        expected = PARTIAL.outputs()
        exact = np.asarray(confidence, np.float64)
        found = {
            "points": points,
            "camera_poses": poses,
            "metric": metres,
            "conf": np.log(exact / (1 - exact))[..., None],
        }
        for key, value in found.items():
            PARTIAL.check(key, np.asarray(value), expected[key])

    def test_padding_changes_nothing(self, model: Pi3X, forward: Counted) -> None:
        """Of two views and a third of noise behind them, the first two are as without it."""
        known = with_two_views()
        noise = with_views(IMAGES, 2, np.flip(IMAGES[:, 1]))
        ran = [forward.run(model, images, known, jnp.int32(2)) for images in (IMAGES, noise)]
        assert gap(*(first_two(some) for some in ran)) <= 1e-6

    @pytest.mark.thorough
    def test_two_views_alone_are_as_with_padding(self, model: Pi3X, forward: Counted) -> None:
        known = with_two_views()
        padded = forward.run(model, IMAGES, known, jnp.int32(2))
        alone = jax.tree.map(lambda x: x[:, :2], known)
        assert gap(Counted().run(model, IMAGES[:, :2], alone, None), first_two(padded)) <= 2e-5

    @pytest.mark.thorough
    def test_nothing_known_is_no_priors(self, model: Pi3X, forward: Counted) -> None:
        """So the golden numbers of priors speak for images alone as well; and for fewer views."""
        unknown = forward.run(model, IMAGES, only(PRIORS), jnp.int32(2))
        without = Counted().run(model, jnp.asarray(np.asarray(IMAGES)[:, :2]), None, None)
        assert gap(without, first_two(unknown)) <= 2e-5

    def test_numbers_of_unknown_views_are_not_looked_at(self) -> None:
        known = geometry_of(
            replace(
                only(PRIORS, has_pose=[True, False, True]),
                world_from_camera=with_views(PRIORS.world_from_camera, 1, np.nan),
                intrinsics=with_views(PRIORS.intrinsics, slice(None), np.nan),
                depth_z=with_views(PRIORS.depth_z, 1, np.nan),
            )
        )
        assert all(np.isfinite(x).all() for x in jax.tree.leaves(known))

    def test_no_unit_is_left(self) -> None:
        """Depth and translations in other units are the same: they do not anchor the scale."""
        whole = only(PRIORS, has_depth=[True] * 3, has_pose=[True] * 3)
        move = moved_by(PRIORS.world_from_camera, 7)
        seven = jnp.asarray(7 * np.asarray(whole.depth_z))
        scaled = replace(whole, depth_z=seven, world_from_camera=move)
        for one, other in ((whole, scaled), (only(whole, has_pose=[True] * 3), None)):
            if other is None:
                other = replace(one, world_from_camera=move)
            one, other = (
                replace(p, depth_z=jnp.asarray(np.where(seen, p.depth_z, 0)))
                for p in (one, other)
                for seen in [np.asarray(p.has_depth)[..., None, None]]
            )
            for a, b in zip(
                jax.tree.leaves(geometry_of(one)), jax.tree.leaves(geometry_of(other)), strict=True
            ):
                np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)

    def test_depth_and_poses_in_two_units_are_scaled_apart(self) -> None:
        whole = only(PRIORS, has_depth=[True] * 3, has_pose=[True] * 3)
        apart = replace(whole, metric_poses=with_views(whole.metric_poses, slice(None), False))
        move = moved_by(whole.world_from_camera, 7)
        found = [
            geometry_of(replace(apart, world_from_camera=poses)).world_from_camera
            for poses in (whole.world_from_camera, move)
        ]
        np.testing.assert_allclose(found[0], found[1], rtol=1e-5, atol=1e-6)
        one_unit = geometry_of(whole).world_from_camera
        assert np.abs(one_unit - found[0]).max() > 1e-2

    def test_the_world_of_the_poses_does_not_matter(self) -> None:
        """Poses are relative to the first view that has one, be it the scene's first or not."""
        posed = only(PRIORS, has_pose=[False, True, True])
        there = jnp.asarray(turned() @ np.asarray(posed.world_from_camera))
        moved = replace(posed, world_from_camera=there)
        found = [geometry_of(p).world_from_camera for p in (posed, moved)]
        np.testing.assert_allclose(found[0], found[1], atol=1e-5)
        np.testing.assert_allclose(found[0][0, :2], np.stack([np.eye(4)] * 2), atol=1e-6)

    def test_cameras_that_stand_still_keep_their_places(self) -> None:
        places = np.array([[[0, 0, 0], [STATIC / 2, 0, 0], [0, STATIC / 2, 0]]], np.float32)
        posed, extent = np.ones((1, 3), bool), one_program(spread)
        np.testing.assert_array_equal(extent(places, posed), [1])
        np.testing.assert_allclose(extent(4 * places, posed), [2 * STATIC], rtol=1e-5)

    def test_rays_in_place_of_intrinsics(self) -> None:
        expected = geometry_of(PRIORS).slopes
        rays = np.concatenate([expected, np.ones((1, 3, 56, 70, 1), np.float32)], -1)
        own = geometry_of(PRIORS, rays).slopes
        np.testing.assert_allclose(own, expected, atol=3e-6)
        z = 1 / (1 + 1e-6)
        np.testing.assert_allclose(slopes(jnp.asarray([2.0, -1.0, 1.0])), [2 * z, -z], rtol=1e-7)
        np.testing.assert_allclose(slopes(jnp.asarray([2.0, -1.0, 0.0])), [2e6, -1e6], rtol=1e-6)

    def test_intrinsics_follow_images_as_upstreams_do(self) -> None:
        """Upstream scales each axis and then looks at pixel centres at + 0.5."""
        transform = PixelTransform.stretch((640, 480), (98, 70))
        matrix = np.array([[600.0, 0, 310], [0, 620, 250], [0, 0, 1]])
        known = prior_arrays(
            ViewPriors(intrinsics=matrix), [transform], PI3_RESIZE.resized_intrinsics
        )
        upstream = matrix.copy()
        upstream[:2, 2] += 0.5  # its pixels count from the corner of the image
        upstream[0] *= 98 / 640
        upstream[1] *= 70 / 480
        x, y = np.meshgrid(np.arange(98) + 0.5, np.arange(70) + 0.5)
        rays = np.stack([x, y, np.ones_like(x)], -1) @ np.linalg.inv(upstream).T
        np.testing.assert_allclose(geometry_of(known).slopes[0, 0], rays[..., :2], atol=1e-6)

    def test_depth_is_resized_to_the_nearest_and_unknown_is_zero(self) -> None:
        depth = np.array([[1, np.nan, 3, np.inf], [5, 6, 7, 0]], np.float32)
        transform = PixelTransform.stretch((4, 2), (2, 2))
        known = prior_arrays(ViewPriors(depths=[depth]), [transform], independent=True)
        np.testing.assert_array_equal(known.depth_z[0, 0], [[1, 3], [5, 7]])
        seen = geometry_of(known).depth[0, 0]
        np.testing.assert_allclose(seen[..., 0], np.array([[1, 3], [5, 7]]) / 4, rtol=1e-6)
        np.testing.assert_array_equal(seen[..., 1], np.ones((2, 2)))
        wider = PixelTransform.stretch((4, 2), (4, 2))
        known = prior_arrays(ViewPriors(depths=[depth]), [wider], independent=True)
        np.testing.assert_array_equal(
            geometry_of(known).depth[0, 0, ..., 1], [[1, 0, 1, 0], [1, 1, 1, 0]]
        )

    def test_images_have_the_area_of_the_first(self) -> None:
        """255,000 pixels, of which both sides are whole patches."""
        fit = PI3_RESIZE.fit(4000, 3000)
        assert fit.transform((4000, 3000)).size == fit.transform((300, 900)).size == (574, 434)

    def test_without_the_branch(self) -> None:
        bare = jax.eval_shape(lambda: Pi3X(replace(PI3X_TINY, priors=False), rngs=nnx.Rngs(0)))
        assert bare.conditioning is None
        with pytest.raises(ValueError, match="built without the branch that takes them"):
            jax.eval_shape(lambda m: m(IMAGES, priors=PRIORS), bare)
        with pytest.raises(ValueError, match="rays: give priors too"):
            jax.eval_shape(lambda m: m(IMAGES, rays=jnp.ones_like(IMAGES)), bare)

    def test_the_result_lies_where_the_first_known_camera_is(self) -> None:
        found = np.asarray(PRIORS.world_from_camera)[:, ::-1]
        origin = jnp.asarray(np.ones((1, 3, 3), np.float32))
        known = replace(only(PRIORS, has_pose=[False, True, True]), origin=origin)
        world = world_of(found, known, first_view_is_world=False)
        placed_at = (world[:, None] @ found)[0, 1]
        expected = np.array(known.world_from_camera)[0, 1]
        expected[:3, 3] += 1
        np.testing.assert_allclose(placed_at, expected, atol=1e-5)
        none = only(PRIORS)
        np.testing.assert_array_equal(
            world_of(found, none, first_view_is_world=False)[0], np.eye(4)
        )


class TestParts:
    def test_frames_of_cameras_see_relative_poses(self) -> None:
        """Scores and outputs depend on one camera relative to another, and on no world."""
        random = np.random.default_rng(0)
        q, k = (np.float32(random.normal(size=(1, 12, 2, 16))) for _ in "qk")
        poses = one_program(lambda x, y: rigid(nearest_rotation(x), y))(
            np.float32(random.normal(size=(1, 2, 3, 3))), np.float32(random.normal(size=(1, 2, 3)))
        )
        turn = poses[0, 0]

        @one_program
        def scores(poses: jax.Array) -> tuple[jax.Array, jax.Array]:
            frames = CameraFrames.of(poses, (2, 3), 16)
            asked, kept = frames.of_queries(jnp.asarray(q)), frames.of_keys(jnp.asarray(k))
            return jnp.einsum("btnk,bsnk->bnts", asked, kept), frames.back(kept)

        one, other = scores(poses), scores(turn @ poses)
        np.testing.assert_allclose(one[0], other[0], atol=2e-4)
        # What a patch takes from itself comes back as it was.
        np.testing.assert_allclose(one[1], k, atol=1e-5)

    def test_places_are_centred(self) -> None:
        x = one_program(placed, "aspect")(np.zeros((1, 3, 4, 2), np.float32), aspect=2.0)
        assert x.shape == (1, 3, 4, 4)
        np.testing.assert_allclose(x[0, 0, :, 2], np.linspace(-1, 1, 4) * 0.75 * 2 / 5**0.5, 1e-6)
        np.testing.assert_allclose(x[0, :, 0, 3], np.linspace(-1, 1, 3) * 2 / 3 / 5**0.5, 1e-6)

    def test_depth_is_held_below_exp_15(self) -> None:
        raw = np.array([[0.5, -1, 14], [0.5, -1, 15], [0.5, -1, 99]], np.float32)
        z = np.exp([14.0, 15.0, 15.0])
        expected = np.stack([0.5 * z, -z, z], -1)
        np.testing.assert_allclose(one_program(points_from_raw)(raw), expected, rtol=1e-5)

    @pytest.mark.thorough
    def test_heads_do_not_depend_on_how_many_views_go_together(self, model: Pi3X) -> None:
        """Upstream's go 64 at a time; here as many as `ExecutionConfig.head_views`."""
        features = jnp.asarray(
            np.random.default_rng(0).normal(size=(1, 5, 4 + 5, 128)), jnp.float32
        )
        layout = TokenLayout(1, (2, 2), 5)

        def decode(head_views: int) -> Any:
            execution = replace(INFERENCE, head_views=head_views, chunk_tokens=20)
            encoded = Encoded(views=(features,), metric_scale=jnp.full((1,), 2.0))

            @one_program
            def decoded(model: Pi3X) -> tuple[jax.Array, jax.Array]:
                out = model.predict(encoded, layout, execution=execution).points_world
                turned = model.rope(layout, PI3X_TINY.metric_block)
                return out, model.metric(features, layout, turned, execution=execution)

            return decoded(model)

        assert gap(decode(2), decode(8)) <= 1e-5

    def test_dtypes(self) -> None:
        model = jax.eval_shape(lambda: Pi3X(PI3X_TINY, dtype=jnp.bfloat16, rngs=nnx.Rngs(0)))
        assert model.conditioning is not None
        halves = (
            model.encoder.blocks.mlp,
            model.trunk.global_blocks.attention.qkv,
            model.conditioning.pose_blocks.attention.qkv,
            model.metric.blocks.key,
            model.point_decoder.out,
        )
        assert {x.dtype for x in jax.tree.leaves(halves)} == {jnp.dtype(jnp.bfloat16)}
        exact = (
            model.point_head,
            model.confidence_head,
            model.camera_head,
            model.metric.log_scale,
            model.conditioning.ray_embed,
        )
        assert {x.dtype for x in jax.tree.leaves(exact)} == {jnp.dtype(jnp.float32)}
        out = jax.eval_shape(lambda m: m(IMAGES, priors=PRIORS), model)
        assert {leaf.dtype for leaf in jax.tree.leaves(out)} == {jnp.dtype(jnp.float32)}
        known = jax.eval_shape(known_geometry, PRIORS)
        assert {known.slopes.dtype, known.depth.dtype} == {jnp.dtype(jnp.float32)}

    def test_layers_are_traced_once(self) -> None:
        model = jax.eval_shape(lambda: Pi3X(PI3X, rngs=nnx.Rngs(0)))
        start = time.perf_counter()
        text = jax.jit(lambda m, x, p: m(x, priors=p)).lower(model, IMAGES, PRIORS).as_text()
        assert text.count("dot_general") < 120
        assert time.perf_counter() - start < 30

    @pytest.mark.parametrize(
        ("wrong", "message"),
        [
            ({"upsampled": (64, 32, 30)}, "upsampled is .* multiples of 16"),
            ({"posed_pairs": (1, 0)}, "posed_pairs .* must rise"),
            ({"posed_pairs": (0, 2)}, "posed_pairs is 2"),
            ({"heads": 16}, "heads is 16"),
            ({"metric_heads": 3}, "metric_heads is 3"),
        ],
    )
    def test_sizes_out_of_range(self, wrong: dict[str, Any], message: str) -> None:
        with pytest.raises(InputError, match=message):
            replace(PI3X_TINY, **wrong)


@pytest.mark.thorough
def test_sparse_attention(model: Pi3X, forward: Counted) -> None:
    """The trunk's global blocks are sparse, or dense where they skip nothing.

    Views with poses exchange exactly in either case.
    """
    dense = forward.run(model, IMAGES, PRIORS, jnp.int32(3))[0]

    def run(ratio: float) -> tuple[jax.Array, jax.Array]:
        sparse = SparseAttention(ratio, None, block_q=8, block_kv=4)
        out = jax.jit(lambda m, x, p: m(x, attention=sparse, priors=p))(model, IMAGES, PRIORS)
        assert out.skipped is not None
        assert out.skipped.shape == (1, PI3X_TINY.pairs, PI3X_TINY.heads)
        return out.points_world, out.skipped

    (every, none_skipped), (some, skipped) = run(0.0), run(0.7)
    assert float(none_skipped.max()) == 0 and float(skipped.min()) > 0.3
    assert gap(dense, every) <= 1e-5
    assert gap(dense, some) > 1e-3
