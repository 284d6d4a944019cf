"""What a model in training is told of its scenes, and that a small MapAnything learns from it."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxrecon
from jaxrecon import InputError
from jaxrecon.models import MAPANYTHING_MINI, Prediction
from jaxrecon.nn.dinov2 import DinoV2Config
from jaxrecon.training import LossWeights, TrainConfig, losses, step, train
from jaxrecon.training.config import CONFIGS, PriorShares
from jaxrecon.training.told import Told, draw_told, priors_of, told_nothing
from one_program import one_program
from plane_scenes import render_planes, small_config

SMALL = replace(
    MAPANYTHING_MINI,
    encoder=DinoV2Config(width=32, depth=0, heads=2, registers=0, grid=3),
    width=32,
    heads=2,
    pairs=2,
    taps=(1, 2, 3),
    dense_widths=(16, 16, 16),
    vector_widths=(16, 16, 16),
    channels=(16, 16, 16, 16),
    features=16,
    pose_width=16,
    scale_width=16,
)


def told(step: int = 0, count: int = 4096, views: int = 4, **shares: float) -> Told:
    config = small_config(model=SMALL, priors=PriorShares(**shares))
    found = draw_told(config, jax.random.key(0), jnp.int32(step), count, views)
    assert found is not None
    return found


def share(flags: Any) -> float:
    return float(np.mean(flags))


def test_each_kind_is_told_as_often_as_was_asked_for() -> None:
    found = told(metric=0.25)
    # Of 0.75 scenes a half, and there of all views in a half and of half the views in the others.
    assert share(found.depth) == pytest.approx(0.75 * 0.5 * 0.75, abs=0.02)
    assert share(found.metric) == pytest.approx(0.25, abs=0.02)
    assert share(found.pose[:, 1:]) == pytest.approx(0.75 * 0.5 * 0.75, abs=0.02)
    assert share(found.intrinsics & found.depth) == share(found.depth)
    assert share(found.depth.all(axis=1)) > 0.75 * 0.5 * 0.5 - 0.02


def test_poses_are_told_of_the_first_view_wherever_they_are_told_at_all() -> None:
    pose = np.asarray(told().pose)
    assert pose.any() and not pose.all()
    np.testing.assert_array_equal(pose[:, 0], pose.any(axis=1))


def test_steps_differ_and_a_step_can_be_drawn_again() -> None:
    first, again, second = told(0), told(0), told(1)
    assert all((a == b).all() for a, b in zip(*map(jax.tree.leaves, (first, again)), strict=True))
    assert not (first.pose == second.pose).all()


@pytest.mark.parametrize(("value", "expected"), [(0.0, False), (1.0, True)])
def test_nothing_and_everything(value: float, expected: bool) -> None:
    found = told(count=8, **dict.fromkeys(("scenes", "kinds", "all_views", "metric"), value))
    assert all(bool((flags == expected).all()) for flags in jax.tree.leaves(found))


def test_a_share_is_one_and_pi3_is_told_nothing() -> None:
    with pytest.raises(InputError, match="kinds"):
        PriorShares(kinds=1.5)
    assert draw_told(small_config(), jax.random.key(0), jnp.int32(0), 4, 2) is None
    assert told_nothing(small_config(), 4, 2) is None


def test_what_is_not_seen_is_not_told() -> None:
    everything = Told(*[np.ones((2, 2), bool)] * 4)

    @one_program
    def told_of_planes(groups: jax.Array, told: Told) -> Any:
        scenes = render_planes(groups, scenes=2, views=2, height=28, width=42, config=None)
        blind = replace(scenes, mask=scenes.mask.at[0, 1].set(False))
        return priors_of(blind, told)

    priors = told_of_planes(jax.random.split(jax.random.key(0), 1), everything)
    np.testing.assert_array_equal(priors.has_depth, [[True, False], [True, True]])
    assert not priors.depth_z[0, 1].any() and priors.has_pose.all()


@pytest.mark.thorough
def test_the_mask_and_the_scale_have_losses_where_a_model_tells_them() -> None:
    scenes = render_planes(
        jax.random.split(jax.random.key(0), 1), scenes=2, views=2, height=28, width=42, config=None
    )
    truth = losses.target(scenes)
    found = Prediction(
        points_world=truth.points_camera,
        points_camera=truth.points_camera * truth.unit[:, None, None, None, None],
        confidence=jnp.ones(truth.mask.shape),
        confidence_logits=jnp.full(truth.mask.shape, 20.0),
        world_from_camera=scenes.world_from_camera,
    )
    terms = losses.loss(found, truth, LossWeights())[1]
    assert "mask" not in terms and "scale" not in terms
    # In metres, with whatever scale: the points are right, and so is the scale.
    said = replace(found, mask_logits=jnp.zeros(truth.mask.shape), metric_scale=jnp.full(2, 3.0))
    terms = losses.loss(said, truth, LossWeights())[1]
    assert float(terms["mask"]) == pytest.approx(np.log(2), rel=1e-5)
    assert float(terms["scale"]) < 1e-5

    def scale_term(metric: jax.Array) -> jax.Array:
        far = replace(said, points_camera=2 * found.points_camera, metric_scale=metric)
        return losses.loss(far, truth, LossWeights())[1]["scale"]

    value, slope = jax.value_and_grad(scale_term)(jnp.full(2, 3.0))
    assert float(value) == pytest.approx(np.log(2), rel=1e-4)
    np.testing.assert_allclose(slope, 1 / 3 / 2, rtol=1e-4)


@pytest.mark.thorough
def test_a_small_mapanything_learns_resumes_and_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(step, "render_groups", render_planes)
    config = small_config(model=SMALL, steps=4, warmup_steps=1)
    assert TrainConfig.from_json(_written(config, tmp_path / "train.json")) == config
    weights = train(config, tmp_path / "run")
    assert weights is not None
    model = jaxrecon.load(weights)
    assert model.resize.sizes == ((42 / 28, 42, 28),)  # pyright: ignore[reportAttributeAccessIssue]
    photos = np.zeros((2, 28, 42, 3), np.uint8)
    cameras = np.array([[42, 0, 20.5], [0, 42, 13.5], [0, 0, 1.0]])
    recon = model.reconstruct(photos, intrinsics=cameras)
    assert recon.metric_scale is not None and np.isfinite(recon.points_world).all()


def _written(config: TrainConfig, path: Path) -> Path:
    path.write_text(config.to_json())
    return path


def test_the_named_run_trains_the_small_mapanything() -> None:
    config = CONFIGS["mapanything-mini"]
    assert config.model == MAPANYTHING_MINI
    assert config.with_overrides(["model.pairs=5", "model.taps=[3,5,9]"]).model.pairs == 5
    with pytest.raises(InputError, match="pears"):
        config.with_overrides(["model.pears=3"])
