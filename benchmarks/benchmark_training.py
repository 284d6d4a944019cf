"""Speed of rendering and of training: `python benchmarks/benchmark_training.py [--bucket 0]`.

One device; times are the median of several blocks of calls. Programs are compiled as by `jaxrecon
train`, which is timed by itself. `--peak` is the device's peak arithmetic in TFLOP/s (989: dense
bfloat16 of an H100 or H200).
"""

import argparse
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxrecon.compiling import compiled
from jaxrecon.models import Pi3Config
from jaxrecon.training import MINI, Bucket, TrainConfig
from jaxrecon.training.flops import step_flops
from jaxrecon.training.state import initial_state, initial_weights
from jaxrecon.training.step import (
    each_scene,
    everywhere,
    make_data_mesh,
    make_render,
    make_step,
    training_key,
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    add("--bucket", type=int, default=0, help="which shape of batch of the config")
    add("--scenes", type=int, help="scenes in the batch; those of the bucket if not given")
    add("--set", nargs="+", default=[], help="changes to the config, name=value")
    add("--repeat", type=int, default=10, help="calls a block")
    add("--blocks", type=int, default=3, help="blocks")
    add("--peak", type=float, default=989.0, help="peak TFLOP/s of the device")
    options = parser.parse_args()
    config = MINI.with_overrides(options.set)
    bucket = config.buckets[options.bucket]
    if options.scenes:
        bucket = Bucket(options.scenes, bucket.views, bucket.height, bucket.width)
    print(f"jax {jax.__version__}, {jax.devices()[0].device_kind}, {bucket}")
    measure(config, bucket, options)


def measure(config: TrainConfig, bucket: Bucket, options: argparse.Namespace) -> None:
    mesh = make_data_mesh(jax.local_devices()[:1])
    time_calls = partial(seconds, repeat=options.repeat, blocks=options.blocks)
    number = jax.device_put(np.int32(0), everywhere(mesh))
    render = timed_program(
        "render", make_render(config, bucket, mesh, training_key(config)), number
    )
    took = time_calls(lambda: render(number))
    print(f"render: {1e3 * took:.2f} ms, {bucket.images / took:,.0f} images/s")

    scenes = jax.device_put(render(number), each_scene(mesh))
    state = jax.device_put(initial_state(config, initial_weights(config)), everywhere(mesh))
    step = timed_program("step", make_step(config, mesh), state, scenes)
    memory = step.memory_analysis().temp_size_in_bytes / 2**30
    kept = [state]

    def advance() -> Any:
        kept[0], metrics = step(kept[0], scenes)
        return metrics

    took = time_calls(advance)
    assert isinstance(config.model, Pi3Config)
    flops = step_flops(config.model, bucket)
    used = flops / took / 1e12
    print(
        f"step: {1e3 * took:.2f} ms, {bucket.images / took:,.0f} images/s, {used:.0f} TFLOP/s, "
        f"{used / options.peak:.1%} of {options.peak:.0f}, temporaries {memory:.1f} GiB"
    )


def timed_program(name: str, function: Any, *arguments: Any) -> Any:
    start = time.perf_counter()
    lowered = function.lower(*arguments)
    traced = time.perf_counter()
    program = compiled(lowered, jax.local_devices()[0])
    done = time.perf_counter()
    print(f"{name}: traced in {traced - start:.1f} s, compiled in {done - traced:.1f} s")
    return program


def seconds(call: Callable[[], Any], *, repeat: int, blocks: int) -> float:
    """Time of one call, the median of several blocks."""
    jax.block_until_ready(call())
    times = []
    for _ in range(blocks):
        start = time.perf_counter()
        jax.block_until_ready([call() for _ in range(repeat)][-1])
        times.append((time.perf_counter() - start) / repeat)
    return float(jnp.median(jnp.asarray(times)))


if __name__ == "__main__":
    main()
