"""One step of training the released π³, its state sharded: `python benchmarks/released_step.py`.

The weights are random: nothing is downloaded. The plan, made from shapes before there are any, is
printed beside the most memory that the step took of each device.
"""

import argparse
import time
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from jaxrecon import checkpoint
from jaxrecon.compiling import compiled
from jaxrecon.models import PI3, Pi3Config
from jaxrecon.runtime.memory import bytes_limit, needs_of, readable
from jaxrecon.scenes import SceneConfig
from jaxrecon.training import Bucket, TrainConfig
from jaxrecon.training.own import KnownScenes
from jaxrecon.training.own.known import abstract_known
from jaxrecon.training.plan import abstract_state, plan_state
from jaxrecon.training.sharding import abstract_placed, placed
from jaxrecon.training.state import TrainState, abstract_model, initial_state
from jaxrecon.training.step import each_scene, make_data_mesh, make_step


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    add("--devices", type=int, default=2, help="over which the state and the scenes are sharded")
    add("--scenes", type=int, default=2, help="of the step, on all devices together")
    add("--views", type=int, default=4, help="of each scene")
    add("--size", type=int, nargs=2, default=(224, 224), help="height and width of the views")
    add(
        "--accumulate", type=int, default=1, help="parts in which a device's scenes are learnt from"
    )
    add("--whole", action="store_true", help="the whole state on every device instead")
    options = parser.parse_args()
    mesh = make_data_mesh(jax.local_devices()[: options.devices])
    bucket = Bucket(options.scenes, options.views, *options.size)
    config = config_for(PI3, bucket, options.accumulate)
    begin = time.perf_counter()
    program = planned(config, mesh, sharded=not options.whole)
    print(f"compiled in {time.perf_counter() - begin:.0f} s", flush=True)
    measure(config, mesh, program, sharded=not options.whole)


def config_for(model: Pi3Config, bucket: Bucket, accumulate: int) -> TrainConfig:
    """A run of one shape of batch."""
    return TrainConfig(
        model=model,
        scenes=SceneConfig(samples=1, outdoor_every=0),
        buckets=(bucket,),
        accumulate=accumulate,
    )


def planned(config: TrainConfig, mesh: Mesh, *, sharded: bool) -> Any:
    """The compiled step, of which only shapes are known; prints what it will need."""
    like = abstract_placed(abstract_state(config), mesh, sharded=sharded)
    batch = abstract_known(config.buckets[0], each_scene(mesh))
    program = compiled(
        make_step(config, mesh, sharded=sharded).lower(like, batch), mesh.devices.flat[0]
    )
    plan, needs = plan_state(config, mesh.size, sharded=sharded), needs_of(program)
    print(f"state on each of {mesh.size} devices: {readable(plan.state)}")
    print(f"a checkpoint: {readable(plan.checkpoint)}")
    if needs is not None:
        limit = bytes_limit(mesh.devices.flat[0])
        of = "" if limit is None else f" of {readable(limit)}"
        print(f"the step, planned: {readable(needs.total)}{of} on each device")
    return program


def measure(config: TrainConfig, mesh: Mesh, program: Any, *, sharded: bool) -> None:
    """Takes two steps; prints the loss, the time of the second, and peaks of memory."""
    state = random_state(config, mesh, sharded=sharded)
    scenes = jax.device_put(random_scenes(config.buckets[0]), each_scene(mesh))
    for number in range(2):
        begin = time.perf_counter()
        state, metrics = program(state, scenes)
        loss = float(metrics["loss"])
        print(f"step {number}: loss {loss:.4f}, {time.perf_counter() - begin:.3f} s")
    for device in mesh.devices.flat:
        stats = device.memory_stats()
        if stats is not None:
            print(f"{device}: peak {readable(stats['peak_bytes_in_use'])}")


def random_state(config: TrainConfig, mesh: Mesh, *, sharded: bool) -> TrainState:
    """A state of random weights, made where it lies."""
    shapes = checkpoint.shapes(abstract_model(config))

    def draw() -> TrainState:
        keys = jax.random.split(jax.random.key(0), len(shapes))
        weights = {
            path: jnp.ones(shape)
            if path.endswith("scale")
            else 0.02 * jax.random.normal(key, shape)
            for key, (path, shape) in zip(keys, sorted(shapes.items()), strict=True)
        }
        return initial_state(config, weights)

    where = placed(abstract_state(config), mesh, sharded=sharded)
    return jax.jit(draw, out_shardings=where)()


def random_scenes(bucket: Bucket) -> KnownScenes:
    """Noise at a depth of 2, seen by cameras side by side."""
    random, shapes = np.random.default_rng(0), abstract_known(bucket)
    focal, (height, width) = bucket.width, (bucket.height, bucket.width)
    matrix = np.array([[focal, 0, (width - 1) / 2], [0, focal, (height - 1) / 2], [0, 0, 1]])
    poses = np.tile(np.eye(4), (*shapes.has_pose.shape, 1, 1))
    poses[..., 0, 3] = np.arange(bucket.views)
    full = partial(np.full, dtype=np.float32)
    return KnownScenes(
        images=random.integers(0, 256, shapes.images.shape, np.uint8),
        gain=full(shapes.gain.shape, 1),
        depth_z=full(shapes.depth_z.shape, 2),
        is_dense=np.ones(shapes.is_dense.shape, bool),
        world_from_camera=poses.astype(np.float32),
        has_pose=np.ones(shapes.has_pose.shape, bool),
        intrinsics=np.broadcast_to(matrix, shapes.intrinsics.shape).astype(np.float32),
        has_rays=np.ones(shapes.has_rays.shape, bool),
    )


if __name__ == "__main__":
    main()
