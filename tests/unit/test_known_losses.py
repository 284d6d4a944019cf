"""Losses of scenes that are known in part: zero at the truth, and no gradient by the unknown."""

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrecon.geometry import unproject_depth
from jaxrecon.models import Prediction
from jaxrecon.training import LossWeights, losses
from jaxrecon.training.known_losses import known_loss, known_target, shown
from jaxrecon.training.own import KnownScenes
from plane_scenes import render_planes

WEIGHTS = LossWeights()
TERMS = ("points", "normals", "confidence", "rotation", "translation", "rays")


def known(rendered: Any) -> KnownScenes:
    batch = rendered.images.shape[:2]
    return KnownScenes(
        images=(255 * rendered.images).astype(jnp.uint8),
        gain=jnp.ones((*batch, 3)),
        depth_z=rendered.depth_z,
        is_dense=jnp.ones(batch, bool),
        world_from_camera=rendered.world_from_camera,
        has_pose=jnp.ones(batch, bool),
        intrinsics=rendered.intrinsics,
        has_rays=jnp.ones(batch, bool),
    )


@pytest.fixture(scope="module")
def rendered() -> Any:
    """Two scenes of three views."""
    keys = jax.random.split(jax.random.key(5), 1)
    return jax.jit(
        lambda keys: render_planes(keys, scenes=2, views=3, height=8, width=12, config=None)
    )(keys)


@pytest.fixture(scope="module")
def noisy(rendered: Any) -> Prediction:
    """What a model says that is about right."""
    truth = losses.target(rendered)
    random = np.random.default_rng(0)
    points = truth.points_camera * (1 + 0.1 * random.normal(size=truth.points_camera.shape))
    pose = truth.world_from_camera.at[..., :3, 3].add(0.1 * random.normal(size=(2, 3, 3)))
    logits = jnp.asarray(random.normal(size=points.shape[:-1]), jnp.float32)
    return Prediction(
        points_world=points.astype(jnp.float32),
        points_camera=points.astype(jnp.float32),
        confidence=jax.nn.sigmoid(logits),
        confidence_logits=logits,
        world_from_camera=pose.astype(jnp.float32),
    )


@jax.jit
def found(prediction: Prediction, scenes: KnownScenes) -> tuple[Any, Any]:
    """Terms and metrics, and the gradient of the whole."""

    def total(prediction: Prediction) -> Any:
        return known_loss(prediction, scenes, WEIGHTS)

    gradient, pairs = jax.grad(total, has_aux=True)(prediction)
    return shown(pairs), gradient


def test_where_all_is_known_the_loss_is_that_of_rendered_scenes(
    rendered: Any, noisy: Prediction
) -> None:
    ours, _ = found(noisy, known(rendered))
    whole = jax.jit(losses.loss, static_argnums=2)
    theirs = whole(noisy, losses.target(rendered), WEIGHTS)[1]
    for name, value in theirs.items():
        assert float(ours[name]) == pytest.approx(float(value), rel=1e-4, abs=1e-6), name
    assert np.isnan(ours["rays"])


def test_unknown_poses_carry_no_loss(rendered: Any, noisy: Prediction) -> None:
    scenes = replace(known(rendered), has_pose=jnp.zeros((2, 3), bool))
    values, gradient = found(noisy, scenes)
    assert np.isnan(values["rotation"]) and np.isnan(values["auc30"])
    assert not gradient.world_from_camera.any()
    assert gradient.points_camera.any() and values["points"] > 0


def test_a_view_without_pose_takes_part_in_no_pair(rendered: Any, noisy: Prediction) -> None:
    scenes = known(rendered)
    scenes = replace(
        scenes,
        has_pose=scenes.has_pose.at[:, 1].set(False),
        world_from_camera=scenes.world_from_camera.at[:, 1].set(jnp.eye(4)),
    )
    _, gradient = found(noisy, scenes)
    touched = np.asarray(jnp.abs(gradient.world_from_camera).sum(axis=(2, 3)) > 0)
    assert touched.tolist() == [[True, False, True]] * 2


def test_sparse_depth_tells_points_and_no_normals(rendered: Any, noisy: Prediction) -> None:
    """Known pixels that happen to lie beside one another are of different surfaces."""
    scenes = known(rendered)
    values, _ = found(noisy, replace(scenes, is_dense=jnp.zeros((2, 3), bool)))
    assert np.isnan(values["normals"])
    whole, _ = found(noisy, scenes)
    assert whole["normals"] > 0
    assert values["points"] == whole["points"]
    some, _ = found(noisy, replace(scenes, is_dense=scenes.is_dense.at[:, 0].set(False)))
    assert some["normals"] > 0 and some["normals"] != whole["normals"]


def test_unknown_intrinsics_leave_depth_up_to_scale(rendered: Any, noisy: Prediction) -> None:
    scenes = known(rendered)
    blind = replace(
        scenes,
        has_rays=jnp.zeros((2, 3), bool),
        intrinsics=jnp.broadcast_to(jnp.eye(3), (2, 3, 3, 3)),
    )
    values, gradient = found(noisy, blind)
    assert not gradient.points_camera[..., :2].any()
    assert gradient.points_camera[..., 2].any()
    assert np.isnan(values["normals"]) and np.isnan(values["rays"])
    longer = replace(noisy, points_camera=3 * noisy.points_camera)
    pose = noisy.world_from_camera.at[..., :3, 3].multiply(3)
    again, _ = found(replace(longer, world_from_camera=pose), blind)
    for name in ("points", "abs_rel", "translation"):
        assert float(again[name]) == pytest.approx(float(values[name]), rel=1e-4), name


def test_without_depth_rays_and_cameras_are_learnt(rendered: Any, noisy: Prediction) -> None:
    scenes = replace(known(rendered), depth_z=jnp.zeros_like(rendered.depth_z))
    values, gradient = found(noisy, scenes)
    assert all(np.isnan(values[name]) for name in ("points", "normals", "confidence", "abs_rel"))
    assert not gradient.confidence_logits.any()
    assert values["rays"] > 0 and gradient.points_camera.any()
    assert values["rotation"] > 0 and gradient.world_from_camera.any()
    truth = known_target(scenes)
    rays = unproject_depth(jnp.ones_like(scenes.depth_z), scenes.intrinsics)
    right = replace(
        noisy,
        points_camera=rays * noisy.points_camera[..., 2:],
        world_from_camera=truth.world_from_camera.at[..., :3, 3].multiply(7),
    )
    values, _ = found(right, scenes)
    assert abs(float(values["rays"])) < 1e-5
    assert abs(float(values["translation"])) < 1e-3


def test_scenes_of_which_a_term_is_unknown_do_not_thin_its_mean(
    rendered: Any, noisy: Prediction
) -> None:
    scenes = known(rendered)
    half = replace(scenes, depth_z=scenes.depth_z.at[1].set(0))
    alone = jax.tree.map(lambda x: x[:1], (noisy, scenes))
    both, one = found(noisy, half)[0], found(*alone)[0]
    for name in ("points", "normals", "confidence", "abs_rel", "delta125"):
        assert float(both[name]) == pytest.approx(float(one[name]), rel=1e-5), name
    assert not np.isnan(both["rays"])


def test_nothing_known_is_a_loss_of_zero_with_no_gradient(rendered: Any, noisy: Prediction) -> None:
    none = jnp.zeros((2, 3), bool)
    scenes = replace(known(rendered), depth_z=0 * rendered.depth_z, has_pose=none, has_rays=none)
    values, gradient = found(noisy, scenes)
    assert float(values["loss"]) == 0
    assert all(not leaf.any() for leaf in jax.tree.leaves(gradient))
    assert all(np.isnan(values[name]) for name in TERMS)
