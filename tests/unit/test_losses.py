"""Losses of training: zero at the truth, blind to scale and frame, and hand-computed values."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrecon.evaluation import depth_errors
from jaxrecon.geometry.transforms import rigid, transform_points
from jaxrecon.models import Prediction
from jaxrecon.scenes import RenderedScenes
from jaxrecon.training import LossWeights, losses
from jaxrecon.training.losses import Target

align = jax.jit(losses.align)
loss = jax.jit(losses.loss, static_argnums=2)
relative_poses = jax.jit(losses.relative_poses)
target = jax.jit(losses.target)

TERMS = ("points", "normals", "rotation", "translation")


def turn(axis: int, degrees: float) -> np.ndarray:
    """Rotation about a coordinate axis."""
    a, b = [i for i in range(3) if i != axis]
    matrix = np.eye(3)
    cosine, sine = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
    matrix[a, a] = matrix[b, b] = cosine
    matrix[a, b], matrix[b, a] = (-sine, sine) if axis != 1 else (sine, -sine)
    return matrix


def scenes(views: int = 3) -> RenderedScenes:
    """Slanted planes seen by cameras in general position; a corner of each image is sky."""
    random = np.random.default_rng(0)
    height, width = 6, 8
    rows, columns = np.mgrid[:height, :width]
    depth = np.stack([2 + 0.1 * rows + 0.05 * view * columns for view in range(views)])
    mask = np.ones_like(depth, bool)
    mask[:, :2, :2] = False
    pose = np.tile(np.eye(4), (views, 1, 1))
    for view in range(views):
        pose[view, :3, :3] = turn(view % 3, 10.0 * view)
        pose[view, :3, 3] = random.normal(size=3)
    intrinsics = np.array([[7.0, 0, 3.5], [0, 7.0, 2.5], [0, 0, 1]])
    return RenderedScenes(
        images=jnp.zeros((1, views, height, width, 3)),
        depth_z=jnp.asarray(np.where(mask, depth, 0)[None], jnp.float32),
        mask=jnp.asarray(mask[None]),
        world_from_camera=jnp.asarray(pose[None], jnp.float32),
        intrinsics=jnp.asarray(np.tile(intrinsics, (1, views, 1, 1)), jnp.float32),
    )


@jax.jit
def perfect(truth: Target) -> Prediction:
    """What a model that knows the truth would say."""
    pose = truth.world_from_camera
    return Prediction(
        points_world=transform_points(pose[:, :, None, None], truth.points_camera),
        points_camera=truth.points_camera,
        confidence=jnp.where(truth.mask, 1.0, 0.0),
        confidence_logits=jnp.where(truth.mask, 20.0, -20.0),
        world_from_camera=pose,
    )


def test_the_truth_has_no_loss_and_perfect_metrics() -> None:
    truth = target(scenes())
    total, found = loss(perfect(truth), truth, LossWeights(rotation=1.0))
    assert abs(float(total)) < 2e-3  # the smoothed norms start at 1e-3
    assert all(float(found[name]) < 2e-3 for name in TERMS)
    assert float(found["confidence"]) < 1e-5
    assert float(found["abs_rel"]) < 1e-6
    assert float(found["delta125"]) == float(found["auc30"]) == 1


def test_depth_beside_edges_counts_as_evaluation_counts_it() -> None:
    """A box before the planes of one view, and depths that are off by a tenth and more."""
    given = scenes()
    near = given.depth_z.at[0, 1, 3:, 4:].set(1.0)
    truth = target(replace(given, depth_z=near))
    right = perfect(truth)
    off = jnp.linspace(0.8, 1.3, 8).reshape(1, 1, 1, 8, 1)
    found = replace(right, points_camera=right.points_camera * off)
    weights = LossWeights(edges=2.0)
    total, terms = loss(found, truth, weights)
    without = loss(found, truth, LossWeights())
    mask = np.asarray(truth.mask[0])
    scale = np.asarray(align(found.points_camera, truth))
    guess, true = (np.asarray(x.points_camera[0, ..., 2], np.float64) for x in (found, truth))
    errors = depth_errors(scale * guess, true, mask, alignment="metric")
    assert float(terms["edges"]) == pytest.approx(errors.abs_rel_edges, rel=1e-5)
    assert float(total - without[0]) == pytest.approx(2 * errors.abs_rel_edges, rel=1e-4)
    assert "edges" not in without[1]


def test_scenes_without_edges_have_no_error_beside_them() -> None:
    given = scenes()
    truth = target(replace(given, depth_z=jnp.where(given.mask, 2.0, 0.0)))
    terms = loss(noisy(truth), truth, LossWeights(edges=1.0))[1]
    assert float(terms["edges"]) == 0 < float(terms["abs_rel"])


def test_a_target_lies_at_a_mean_distance_of_one() -> None:
    truth = target(scenes())
    distance = np.linalg.norm(truth.points_camera, axis=-1)[np.asarray(truth.mask)]
    assert distance.mean() == pytest.approx(1, abs=1e-6)


def test_scale_and_frame_of_the_prediction_do_not_count() -> None:
    truth = target(scenes())
    before = loss(noisy(truth), truth, LossWeights())[1]
    frame = rigid(jnp.asarray(turn(1, 40.0), jnp.float32), jnp.array([3.0, -1, 2]))
    moved = noisy(truth)
    pose = jnp.einsum("ij,bvjk->bvik", frame, moved.world_from_camera)
    pose = pose.at[..., :3, 3].multiply(2.5)
    moved = replace(moved, points_camera=2.5 * moved.points_camera, world_from_camera=pose)
    after = loss(moved, truth, LossWeights())[1]
    for name in before:
        assert float(after[name]) == pytest.approx(float(before[name]), rel=2e-4, abs=2e-6), name


def test_the_order_of_the_views_does_not_count() -> None:
    truth, order = target(scenes()), jnp.array([2, 0, 1])
    before = loss(noisy(truth), truth, LossWeights())[1]
    guess, true = jax.tree.map(lambda x: x[:, order] if x.ndim > 1 else x, (noisy(truth), truth))
    after = loss(guess, true, LossWeights())[1]
    for name in before:
        assert float(after[name]) == pytest.approx(float(before[name]), rel=1e-5, abs=1e-6), name


def test_scenes_count_alike_wherever_they_are() -> None:
    """The loss of a batch is the mean of its scenes', so devices may share them in any way."""
    one = target(scenes())
    sky = replace(one, mask=one.mask & (jnp.arange(8) < 5)[None, None, None])
    both = jax.tree.map(lambda *x: jnp.concatenate(x), one, sky)
    guess = jax.tree.map(lambda x: jnp.concatenate([x, x]), noisy(one))
    each = [loss(noisy(one), truth, LossWeights())[1] for truth in (one, sky)]
    assert float(each[0]["normals"]) != pytest.approx(float(each[1]["normals"]), rel=1e-3)
    for name, value in loss(guess, both, LossWeights())[1].items():
        mean = (float(each[0][name]) + float(each[1][name])) / 2
        assert float(value) == pytest.approx(mean, rel=1e-5), name


@jax.jit
def noisy(truth: Target) -> Prediction:
    keys = jax.random.split(jax.random.key(1), 3)
    guess = perfect(truth)
    pose = guess.world_from_camera
    turned = jnp.einsum("bvij,jk->bvik", pose[..., :3, :3], jnp.asarray(turn(0, 3.0), jnp.float32))
    pose = pose.at[..., :3, :3].set(turned.at[:, 0].set(pose[:, 0, :3, :3]))
    pose = pose.at[..., :3, 3].add(0.05 * jax.random.normal(keys[0], (*pose.shape[:-2], 3)))
    points = guess.points_camera * (1 + 0.1 * jax.random.normal(keys[1], guess.points_camera.shape))
    logits = jax.random.normal(keys[2], guess.confidence.shape)
    return replace(guess, points_camera=points, confidence_logits=logits, world_from_camera=pose)


def test_alignment_is_the_weighted_median_of_the_ratios() -> None:
    """Three points on the optical axis; ratios 1, 2 and 4 with weights 1, 0.5 and 0.25 times z."""
    truth = Target(
        points_camera=jnp.array([[0, 0, 1.0], [0, 0, 2.0], [0, 0, 4.0]]).reshape(1, 1, 1, 3, 3),
        mask=jnp.ones((1, 1, 1, 3), bool),
        world_from_camera=jnp.eye(4).reshape(1, 1, 4, 4),
        unit=jnp.ones(1),
    )
    guess = jnp.zeros((1, 1, 1, 3, 3)).at[..., 2].set(1.0)
    # Weights |p| / z are 1, 1/2, 1/4: half of their sum, 0.875, is reached by the first ratio.
    assert float(align(guess, truth)[0]) == 1.0
    # With p = (1, 2, 2) the ratios are 1, 1, 2 and s = 1 still; p = (0.5, 1, 2) gives 2 exactly.
    halves = guess.at[..., 2].set(jnp.array([0.5, 1.0, 2.0]))
    assert float(align(halves, truth)[0]) == 2.0


def test_masked_points_neither_align_nor_count() -> None:
    truth = target(scenes())
    spoilt = perfect(truth)
    wild = jnp.where(truth.mask[..., None], spoilt.points_camera, 1e3)
    found = loss(replace(spoilt, points_camera=wild), truth, LossWeights())[1]
    assert float(found["points"]) < 1e-6
    assert float(found["abs_rel"]) < 1e-6


def test_relative_poses_are_camera_i_from_camera_j() -> None:
    pose = scenes().world_from_camera
    found = np.asarray(relative_poses(pose))[0, 0, 2]
    expected = np.linalg.inv(np.asarray(pose[0, 0], float)) @ np.asarray(pose[0, 2], float)
    np.testing.assert_allclose(found, expected, atol=2e-6)


def test_a_turned_camera_is_measured_in_its_angle() -> None:
    """One of two cameras turned by 6 degrees: every pair is off by the chord of 6 degrees."""
    truth = target(scenes(2))
    guess = perfect(truth)
    turned = jnp.asarray(np.asarray(guess.world_from_camera[0, 1, :3, :3]) @ turn(0, 6.0))
    pose = guess.world_from_camera.at[0, 1, :3, :3].set(turned.astype(jnp.float32))
    found = loss(replace(guess, world_from_camera=pose), truth, LossWeights())[1]
    chord = 2 * np.sin(np.deg2rad(3.0))
    assert float(found["rotation"]) == pytest.approx(chord, rel=1e-3)
    assert float(found["rotation_degrees"]) == pytest.approx(6.0, rel=1e-3)
    # Seen from the turned camera the direction is off by at most 6 degrees too, so the pairs pass
    # the thresholds 7 to 30 in both directions.
    assert 24 / 30 - 1e-6 <= float(found["auc30"]) <= 27 / 30


def test_a_wrong_baseline_costs_relative_to_its_length() -> None:
    """Cameras one unit apart, predicted 1.5 units apart: (0.5 - 0.02 rounded off) / (1 + 0.1)."""
    truth = target(scenes(2))
    eye = jnp.broadcast_to(jnp.eye(4), (1, 2, 4, 4))
    truth = replace(truth, world_from_camera=eye.at[0, 1, 0, 3].set(1.0))
    guess = replace(perfect(truth), world_from_camera=eye.at[0, 1, 0, 3].set(1.5))
    found = loss(guess, truth, LossWeights())[1]
    expected = (np.sqrt(0.5**2 + 0.02**2) - 0.02) / 1.1
    assert float(found["translation"]) == pytest.approx(expected, rel=1e-5)
    assert float(found["direction_degrees"]) < 0.1


def test_confidence_is_right_where_points_are_and_sky_is_not() -> None:
    """Probability 0.8 everywhere: -log 0.8 on right points, -log 0.2 on wrong ones and on sky."""
    truth = target(scenes())
    guess = perfect(truth)
    points = guess.points_camera.at[0, 0].multiply(1.5)
    logits = jnp.full_like(guess.confidence, np.log(0.8 / 0.2))
    guess = replace(guess, points_camera=points, confidence_logits=logits)
    found = loss(guess, truth, LossWeights())[1]
    right = float(truth.mask[0, 1:].sum() / truth.mask.size)
    expected = -(right * np.log(0.8) + (1 - right) * np.log(0.2))
    assert float(found["confidence"]) == pytest.approx(expected, rel=1e-4)


def test_a_confidence_that_is_certain_and_wrong_still_learns() -> None:
    """Logits of 30 on sky: the probability is one in float32, the slope is one a pixel."""
    truth = target(scenes())
    sure = replace(perfect(truth), confidence_logits=jnp.full(truth.mask.shape, 30.0))

    def term(guess: Prediction) -> jax.Array:
        return loss(guess, truth, LossWeights())[1]["confidence"]

    slope = jax.jit(jax.grad(term))(sure).confidence_logits
    np.testing.assert_allclose(slope[~truth.mask] * truth.mask.size, 1.0, rtol=1e-5)


def test_gradients_are_finite_at_the_truth() -> None:
    truth = target(scenes())

    def total(guess: Prediction) -> jax.Array:
        return loss(guess, truth, LossWeights())[0]

    gradients = jax.jit(jax.grad(total))(perfect(truth))
    assert all(bool(np.isfinite(leaf).all()) for leaf in jax.tree.leaves(gradients))


def test_weights_scale_their_terms() -> None:
    truth = target(scenes())
    only = LossWeights(points=0.0, normals=0.0, confidence=0.0, rotation=2.0, translation=0.0)
    total, found = loss(noisy(truth), truth, only)
    assert float(total) == pytest.approx(2 * float(found["rotation"]), rel=1e-6)
