"""A state that is sharded over devices takes the steps of one that lies whole on each."""

import subprocess
import sys

import jax
import pytest
from jax.sharding import PartitionSpec

from jaxrecon.models import PI3
from jaxrecon.training import Bucket, TrainConfig, plan
from jaxrecon.training.plan import is_sharded
from jaxrecon.training.sharding import SCENE_AXIS, sharded_axis, spec_of
from jaxrecon.training.step import make_data_mesh
from places import BENCHMARKS, fresh_process

SCRIPT = """
import sys
import jax, numpy as np
sys.path.insert(0, sys.argv[1])
import released_step as bench
from dataclasses import replace
from functools import partial
from plane_scenes import SMALL
from jaxrecon.training import Bucket
from jaxrecon.training.plan import abstract_state
from jaxrecon.training.sharding import placed
from jaxrecon.training.state import initial_state, initial_weights
from jaxrecon.training.step import each_scene, make_data_mesh
from jaxrecon.runtime.memory import needs_of

bucket, mesh = Bucket(4, 2, 28, 28), make_data_mesh()
assert mesh.size == 2
model = replace(SMALL, pairs=1, head_depth=1, encoder=replace(SMALL.encoder, depth=0))
config = bench.config_for(model, bucket, 1)
scenes = jax.device_put(bench.random_scenes(bucket), each_scene(mesh))
found, needed = [], []
for sharded in (False, True):
    program = bench.planned(config, mesh, sharded=sharded)
    needed.append(needs_of(program).arguments)
    where = placed(abstract_state(config), mesh, sharded=sharded)
    start = jax.jit(partial(initial_state, config), out_shardings=where)
    state = start(initial_weights(config))
    kernel = state.weights["point_head.kernel"]
    assert kernel.sharding.is_fully_replicated == (not sharded)
    for _ in range(2):
        state, metrics = program(state, scenes)
    assert state.weights["point_head.kernel"].sharding.is_equivalent_to(kernel.sharding, 2)
    found.append((jax.device_get(state.average), jax.device_get(metrics)))
(whole, losses), (parts, others) = found
for name in losses:
    np.testing.assert_allclose(others[name], losses[name], rtol=1e-4, atol=1e-5, err_msg=name)
for path in whole:
    np.testing.assert_allclose(parts[path], whole[path], rtol=0, atol=2e-4, err_msg=path)
assert needed[1] < 0.75 * needed[0], needed
"""


@pytest.mark.thorough
def test_a_sharded_step_is_the_step_and_takes_less_memory() -> None:
    ended = subprocess.run(
        [sys.executable, "-c", SCRIPT, BENCHMARKS],
        env=fresh_process(2, JAX_DISABLE_MOST_OPTIMIZATIONS="1"),
        capture_output=True,
        text=True,
    )
    assert ended.returncode == 0, ended.stderr[-3000:]
    assert "the step, planned: " in ended.stdout


@pytest.mark.parametrize(
    ("shape", "axis"),
    [((1024, 4096), 1), ((36, 4096, 1024), 1), ((1024,), None), ((8192,), 0), ((3, 5001), None)],
)
def test_the_longest_axis_that_divides_is_sharded(shape: tuple[int, ...], axis: int | None) -> None:
    assert sharded_axis(shape, 2) == axis
    assert sharded_axis(shape, 1) is None
    wanted = PartitionSpec() if axis is None else PartitionSpec(*[None] * axis, SCENE_AXIS)
    assert spec_of(shape, 2, sharded=True) == wanted
    assert spec_of(shape, 2, sharded=False) == PartitionSpec()


@pytest.mark.usefixtures("without_shape_checks")
def test_large_states_are_sharded_by_themselves(monkeypatch: pytest.MonkeyPatch) -> None:
    config = TrainConfig(model=PI3, buckets=(Bucket(4, 2, 28, 28),))

    class Two:
        size = 2
        devices = make_data_mesh(jax.local_devices()[:1]).devices

    mesh, gib = Two(), 2**30
    for limit, expected in ((80 * gib, False), (24 * gib, True), (None, False)):
        monkeypatch.setattr(plan, "bytes_limit", lambda device, limit=limit: limit)
        assert is_sharded(config, mesh) is expected  # pyright: ignore[reportArgumentType]
