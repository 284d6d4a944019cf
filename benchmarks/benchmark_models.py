"""Times a model's forward against upstream's PyTorch code on the same GPU.

    python benchmarks/benchmark_models.py --model pi3 --views 50 100 200 --peer path/to/Pi3

Released sizes with random weights, bfloat16; every time is the median of `--repeats` runs after a
warm-up. Ours runs from 8-bit pixels to points, cameras, intrinsics and mask, dense (ratio 0) or
with that share of key blocks skipped (`--orders ORDER:compensation_q`), or by `--ways`; upstream's
from floats.
"""

import argparse
import itertools
import json
import math
import os
import subprocess
import sys
import tempfile
import time
import timeit
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    add("--model", default="pi3", help="a released model's name")
    add("--views", type=int, nargs="+", default=[50, 100, 200])
    add("--size", type=int, nargs=2, default=[392, 518], help="height and width")
    add("--ratios", type=float, nargs="*", default=[0.0], help="shares of key blocks to skip")
    add("--orders", nargs="+", default=["pca_tree"], help="of patches; :N for compensation_q")
    add("--ways", nargs="+", default=[], help="policies as well, as `jaxrecon bench` takes them")
    add("--repeats", type=int, default=5, help="after a warm-up; 0: the first run counts")
    add("--devices", type=int, default=1, help="GPUs that our side shards views over")
    add("--offload", action="store_true", help="our features wait in the host's memory")
    add("--float8", action="store_true", help="our blocks multiply 8-bit numbers")
    add("--peer", help="checkout of upstream's code")
    add("--ours-alone", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.ours_alone:
        for row in time_ours(options):
            print(json.dumps(row), flush=True)
        return
    columns = ("seconds", "peak", "plan", "host", "compile")
    wide = max(8, *(len(way) for way in [*options.orders, *options.ways]))
    print(f"views  {'side':{wide}} skipped", *(f"{name:>8}" for name in columns), "(GiB, seconds)")
    commands: list[list[Any]] = [[*sys.argv, "--ours-alone"]]
    if options.peer:
        peers, same = Path(__file__).with_name("peers.py"), ("views", "size", "repeats")
        given = [[f"--{name}", *np.ravel(getattr(options, name))] for name in same]
        commands.append([peers, options.model, options.peer, *itertools.chain(*given)])
    for command in commands:
        for row in _in_own_process(command):
            told = f"{row['views']:5}  {row['side']:{wide}} {row['ratio']:7.0%}"
            print(told, *(f"{row.get(name, math.nan):8.3f}" for name in columns), flush=True)


def time_ours(options: argparse.Namespace) -> Iterator[dict]:
    """Our programs, each compiled and run before the next."""
    for told, program, once in prepared(options):
        times = timeit.repeat(once, number=1, repeat=1 + options.repeats)
        seconds = median(times[1:] or times)
        yield told | {"seconds": seconds} | memory(program)


def memory(program: Any) -> dict[str, float]:
    """GiB: the first device's most ever in use, and what this program plans for it and the host."""
    import jax

    from jaxrecon.runtime.memory import needs_of

    needs, statistics = needs_of(program), jax.devices()[0].memory_stats() or {}
    plan, host = (needs.total / 2**30, needs.host / 2**30) if needs else (math.nan, math.nan)
    return {"peak": statistics.get("peak_bytes_in_use", 0) / 2**30, "plan": plan, "host": host}


def prepared(options: argparse.Namespace) -> Iterator[tuple[dict, Any, Callable[[], None]]]:
    """What a program is, itself, and what runs it once; what XLA learns of kernels is shared."""
    import jax
    import jax.numpy as jnp

    from jaxrecon import SparseAttention, registry
    from jaxrecon.benchmark import random_weight
    from jaxrecon.nn.float8_blocks import float8_weights
    from jaxrecon.pipeline import MaskConfig, Request, resolve
    from jaxrecon.runtime.sharding import by_view, make_mesh, replicated
    from jaxrecon.sparse.notation import policy_of

    mesh = make_mesh(options.devices)
    entry, key = registry.model_entry(options.model), jax.random.key(0, impl="rbg")
    request = Request(mask=MaskConfig(confidence_quantile=0.0))
    program_key, inputs = resolve(entry.family.defaults, request, options.model)

    def policy(ratio: float, order: str) -> Any:
        if order in options.ways:
            return policy_of(order)
        order, _, rest = order.partition(":")
        fields: Any = {"order": order, "compensation_q": int(rest) if rest else None}
        return SparseAttention(ratio, None, **fields) if ratio else None

    def compiled(views: int, ratio: float, order: str) -> Any:
        attention = policy(ratio, order)
        given: Any = {"attention": attention, "offload": options.offload}
        given["mesh"] = mesh if options.devices > 1 else None
        given["float8"] = options.float8
        pipeline = registry.load_abstract(options.model, dtype="bfloat16", **given)
        shape = (views, *options.size, 3)
        return pipeline.executor.compile(shape, program_key, pipeline.attention)

    ways = [(ratio, order) for ratio in options.ratios for order in options.orders]
    ways = [way for way in ways if way[0] or way[1] == options.orders[0]]
    ways += [(math.nan, way) for way in options.ways]
    shapes = registry.load_abstract(options.model, dtype="bfloat16").model
    model = jax.device_put(jax.tree.map(random_weight, shapes), replicated(mesh))
    if options.float8:
        narrow = registry.load_abstract(options.model, dtype="bfloat16", float8=True).model
        model = float8_weights(model, narrow)
    learned = tempfile.TemporaryDirectory()
    jax.config.update("jax_compilation_cache_dir", learned.name)
    for views, (ratio, order) in itertools.product(options.views, ways):
        started = time.perf_counter()
        program, took = compiled(views, ratio, order), time.perf_counter() - started
        pixels = jax.random.bits(key, (1, views, *options.size, 3), jnp.uint8)
        pixels = jax.device_put(pixels, by_view(mesh))

        def once(program: Any = program, pixels: Any = pixels) -> None:
            jax.block_until_ready(program(model, pixels, inputs, None))

        side = order if ratio else "dense"  # NaN is true
        yield {"views": views, "ratio": ratio, "side": side, "compile": took}, program, once


def _in_own_process(command: list[Any]) -> Iterator[dict]:
    command = [sys.executable, *map(str, command)]
    environment = os.environ | {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as child:
        assert child.stdout is not None
        yield from (json.loads(line) for line in child.stdout if line.startswith("{"))
    if child.returncode:
        sys.exit(child.returncode)


if __name__ == "__main__":
    main()
