"""Convolutions behind the linear heads of π³."""

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from drawn_weights import drawn
from jaxrecon import checkpoint
from jaxrecon.errors import InputError, WeightsError
from jaxrecon.models import Pi3, Prediction
from jaxrecon.nn.execution import INFERENCE, ExecutionConfig
from jaxrecon.nn.patches import fold, unfold
from jaxrecon.nn.refine import PixelRefiner
from jaxrecon.training.config import Bucket, TrainConfig
from jaxrecon.training.flops import step_flops
from jaxrecon.training.state import initial_weights, starting_weights
from one_program import one_program
from tiny_models import PI3_TINY

REFINED = replace(PI3_TINY, refine_width=8)
SHAPE = (1, 3, 28, 42, 3)


@pytest.fixture(scope="module")
def model() -> Pi3:
    return drawn(lambda: Pi3(REFINED, rngs=nnx.Rngs(0)))


@pytest.fixture(scope="module")
def images() -> jax.Array:
    return jax.device_put(np.random.default_rng(1).random(SHAPE, np.float32))


def features_of(model: Pi3) -> np.ndarray:
    """What the trunk might find: the refiner stands behind it."""
    tokens, width = model.layout(SHAPE).tokens, 2 * PI3_TINY.encoder.width
    features = np.random.default_rng(2).normal(size=(*SHAPE[:2], tokens, width))
    return 0.1 * features.astype(np.float32)


def decoded(
    model: Pi3, features: jax.Array, images: jax.Array, execution: ExecutionConfig = INFERENCE
) -> Prediction:
    seen = () if model.refiner is None else (images,)
    return model.decode(features, *seen, layout=model.layout(SHAPE), execution=execution)


decode = one_program(decoded, "execution")


def predict(model: Pi3, images: Any, **options: Any) -> Prediction:
    return decode(model, features_of(model), images, **options)


def without_refiner(model: Pi3) -> Pi3:
    plain = jax.eval_shape(lambda: Pi3(PI3_TINY, rngs=nnx.Rngs(0)))
    weights = checkpoint.flatten(model)
    return checkpoint.unflatten(plain, {path: weights[path] for path in checkpoint.flatten(plain)})


def test_cells_are_folded_and_unfolded() -> None:
    x = np.arange(2 * 4 * 6 * 3, dtype=np.float32).reshape(2, 4, 6, 3)
    folded = one_program(fold, "side")(x, side=2)
    assert folded.shape == (2, 2, 3, 12)
    np.testing.assert_array_equal(folded[1, 1, 2].reshape(2, 2, 3), x[1, 2:4, 4:6])
    np.testing.assert_array_equal(one_program(unfold, "side")(folded, side=2), x)


def test_features_of_a_patch_reach_its_own_cells() -> None:
    """With convolutions that look at the middle alone, a patch changes its own pixels."""
    options: dict[str, Any] = {"channels": 1, "patch": 4, "width_in": 5, "dtype": jnp.float32}
    refiner = drawn(lambda: PixelRefiner(4, **options, rngs=nnx.Rngs(0)))
    make = one_program(lambda *x: _centre_only(refiner)(*x)[0])
    maps, images = (np.zeros((1, 8, 12, channels), np.float32) for channels in (1, 3))
    patches = np.random.default_rng(0).normal(size=(1, 6, 5)).astype(np.float32)
    more = patches.copy()
    more[0, 4] += 1
    changed = (make(maps, images, more) - make(maps, images, patches))[0, ..., 0] != 0
    assert changed[4:, 4:8].all()
    assert changed.sum() == 16


def _centre_only(refiner: PixelRefiner) -> PixelRefiner:
    def centre(x: jax.Array) -> jax.Array:
        return x if x.ndim != 4 else jnp.zeros_like(x).at[1, 1].set(x[1, 1])

    return jax.tree.map(centre, refiner)


def test_it_changes_points_and_confidence_but_no_pose(model: Pi3, images: jax.Array) -> None:
    refined, plain = predict(model, images), predict(without_refiner(model), images)
    np.testing.assert_array_equal(refined.world_from_camera, plain.world_from_camera)
    for name in ("points_camera", "confidence"):
        assert (getattr(refined, name) != getattr(plain, name)).mean() > 0.9


def test_each_view_on_its_own(model: Pi3, images: jax.Array) -> None:
    """In parts of one view the same comes out, so that chunks and streams are right."""
    one = ExecutionConfig(chunk_tokens=model.layout(SHAPE).tokens)
    whole = predict(model, images)
    parts = predict(model, images, execution=one)
    for name in ("points_world", "confidence"):
        np.testing.assert_allclose(getattr(parts, name), getattr(whole, name), rtol=1e-4, atol=2e-4)


def test_an_image_changes_its_own_view_through_the_refiner(model: Pi3, images: jax.Array) -> None:
    """What the heads get of the image itself, the trunk's features held."""
    darker = np.array(images)
    darker[:, 1] *= 0.5
    found, before = (predict(model, each).points_camera for each in (darker, images))
    same = (found == before).all(axis=(0, 2, 3, 4))
    assert same.tolist() == [True, False, True]


def test_training_sets_out_from_no_change(images: jax.Array) -> None:
    config = TrainConfig(model=REFINED)
    model = jax.eval_shape(lambda: Pi3(REFINED, rngs=nnx.Rngs(0)))
    model = checkpoint.unflatten(model, initial_weights(config))
    refined, plain = predict(model, images), predict(without_refiner(model), images)
    np.testing.assert_array_equal(refined.points_world, plain.points_world)
    inner = checkpoint.flatten(model)["refiner.blocks.0.conv1.kernel"]
    assert float(inner.std()) == pytest.approx((9 * 8) ** -0.5, rel=0.2)


class TestStart:
    """Weights that a run starts from."""

    def saved(self, model: Pi3, folder: Path) -> Path:
        header = {"family": "pi3", "model": "x", "license": "", "source": {}}
        checkpoint.save(model, folder, header | {"config": asdict(model.config)})
        return folder

    def test_without_a_refiner(self, model: Pi3, tmp_path: Path) -> None:
        """All that they have, and a fresh refiner."""
        plain, config = without_refiner(model), TrainConfig(model=REFINED)
        found = starting_weights(config, self.saved(plain, tmp_path / "plain"))
        fresh, stored = initial_weights(config), checkpoint.flatten(plain)
        for path, value in found.items():
            wanted = fresh[path] if path.startswith("refiner.") else stored[path]
            np.testing.assert_array_equal(value, wanted)
        assert found.keys() == fresh.keys()

    def test_with_one(self, model: Pi3, tmp_path: Path) -> None:
        config = TrainConfig(model=REFINED)
        found = starting_weights(config, self.saved(model, tmp_path / "refined"))
        for path, value in checkpoint.flatten(model).items():
            np.testing.assert_array_equal(found[path], value)

    def test_of_other_sizes(self, model: Pi3, tmp_path: Path) -> None:
        folder = self.saved(without_refiner(model), tmp_path / "plain")
        config = TrainConfig(model=replace(REFINED, pairs=PI3_TINY.pairs + 1))
        with pytest.raises(WeightsError, match=r"trunk\."):
            starting_weights(config, folder)

    def test_of_one_that_the_config_lacks(self, model: Pi3, tmp_path: Path) -> None:
        folder = self.saved(model, tmp_path / "refined")
        with pytest.raises(WeightsError, match=r"unexpected refiner\."):
            starting_weights(TrainConfig(model=PI3_TINY), folder)


def test_an_odd_patch_is_refused() -> None:
    with pytest.raises(
        InputError, match=r"encoder\.patch is 7; with refine_width it must be a mult"
    ):
        replace(REFINED, encoder=replace(REFINED.encoder, patch=7))


def test_its_arithmetic_counts() -> None:
    """As the compiler counts it, of the refiner alone."""
    refiner = jax.eval_shape(
        lambda: PixelRefiner(
            8, channels=4, patch=14, width_in=64, dtype=jnp.float32, rngs=nnx.Rngs(0)
        )
    )
    config = replace(PI3_TINY, refine_width=8, point_width=32)
    shapes = ((1, 140, 140, 4), (1, 140, 140, 3), (1, 100, 64))
    maps = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    cost = jax.jit(lambda refiner, *maps: refiner(*maps)).lower(refiner, *maps).cost_analysis()
    bucket = Bucket(scenes=1, views=1, height=140, width=140)
    plain = step_flops(replace(config, refine_width=0), bucket)
    counted = (step_flops(config, bucket) - plain) / 3
    assert cost is not None
    assert counted == pytest.approx(cost["flops"], rel=0.15)
