"""π³ on an NVIDIA GPU: run with `python3 -m pytest -m gpu`."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.typing import DTypeLike

import golden_data
from compiled_programs import programs_of
from convert.engine import plan, stream
from convert.pi3 import IGNORED, RULES
from jaxrecon import checkpoint
from jaxrecon.compiling import compiled
from jaxrecon.models import PI3, Pi3, Prediction
from jaxrecon.nn.attention import attend_densely
from jaxrecon.pipeline import Pipeline, ProgramKey
from jaxrecon.registry import PI3_FAMILY
from jaxrecon.runtime.executor import Executor
from jaxrecon.runtime.memory import needs_of
from jaxrecon.scenes import render_scene
from pi3_stages import build_pi3
from tiny_families import FAMILIES, FIELDS, whole_and_streamed
from tiny_models import PI3_TINY
from upstream_state import InMemory
from vggt_stages import channels_last

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize("name", ["pi3_tiny_84x42_n2_b2", "eps_pi3_tiny_56x70_n3"])
def test_float32_agrees_with_the_golden_numbers(name: str) -> None:
    golden = golden_data.case(name)
    model = build_pi3(PI3_TINY, golden.weights())
    images = channels_last(golden.inputs()["images"])
    out = jax.jit(lambda m, x: m(x))(model, images)
    expected = golden.outputs()
    golden.check("local_points", np.asarray(out.points_camera), expected["local_points"])
    golden.check("camera_poses", np.asarray(out.world_from_camera), expected["camera_poses"])


def test_bfloat16_attention_is_cudnn() -> None:
    model = build_pi3(PI3_TINY, golden_data.case("pi3_tiny_84x42_n2_b2").weights())
    weights = ((path, np.asarray(leaf)) for path, leaf in checkpoint.flatten(model).items())
    half = checkpoint.restore(PI3_FAMILY.abstract(PI3_TINY, jnp.bfloat16), weights)
    text = Executor(half).lower((3, 56, 70, 3), ProgramKey(), attend_densely).as_text()
    assert "__cudnn$fmhaSoftmax" in text
    assert "callback" not in text


def test_bfloat16_agrees_with_float32_at_released_size() -> None:
    """Weights by the golden rule, which are far harsher on rounding than trained ones."""
    listing = golden_data.GOLDEN / "statedict" / "pi3_full.json"
    source = InMemory(golden_data.state_dict(listing))
    images = render_scene(4, views=8, height=294, width=518).images[None]

    def predict(dtype: DTypeLike) -> Prediction:
        abstract = PI3_FAMILY.abstract(PI3, dtype)
        planned = plan(source.specs, RULES, IGNORED, checkpoint.shapes(abstract))
        model: Pi3 = checkpoint.restore(abstract, stream(planned, source))
        execution = Executor(model).execution  # as reconstruction runs it
        run = jax.jit(lambda m, x: m(x, execution=execution))
        program = compiled(run.lower(model, images), jax.devices()[0])
        return jax.tree.map(np.asarray, program(model, images))

    half, full = predict(jnp.bfloat16), predict(jnp.float32)
    gap = np.linalg.norm(half.points_camera - full.points_camera, axis=-1)
    relative = gap / np.linalg.norm(full.points_camera, axis=-1)
    percentiles = (1, 10, 25, 50, 75, 90, 99, 99.9)
    for share, value in zip(percentiles, np.percentile(relative, percentiles), strict=True):
        print(f"points, relative error, {share:5} %: {value:.2e}")  # noqa: T201
    turn = np.einsum("bvji,bvjk->bvik", half.world_from_camera, full.world_from_camera)[..., :3, :3]
    angle = np.degrees(np.arccos(np.clip((np.trace(turn, axis1=-2, axis2=-1) - 1) / 2, -1, 1)))
    print(f"rotation, degrees: median {np.median(angle):.3f}, most {angle.max():.3f}")  # noqa: T201
    assert np.median(relative) <= 2e-2


@pytest.mark.parametrize("name", FAMILIES)
def test_features_wait_on_the_host(name: str, tmp_path: Path) -> None:
    """Where they lie changes no result beyond rounding, of the whole program or view by view.

    π³'s are made behind the trunk, once: where all views are decoded together, as here, XLA leaves
    out the way to the host and back.
    """
    make, resize = FAMILIES[name]
    model = jax.jit(make)()
    found = []
    for offload in (False, True):
        pipeline = Pipeline(model, name, resize, offload=offload)
        found.append(whole_and_streamed(pipeline, tmp_path / str(offload)))
        needs = needs_of(next(iter(programs_of(pipeline).values())))
        assert needs is not None
        assert name == "pi3" or (needs.host > 0) == offload
    for field in FIELDS:
        for plain, offloaded in zip(*found, strict=True):
            here, there = np.asarray(getattr(plain, field)), np.asarray(getattr(offloaded, field))
            assert np.abs(there - here).max() <= 3e-5 * np.abs(here).max(), field
