"""Times π³'s dense forward against upstream's PyTorch code on the same GPU.

    python examples/benchmark_pi3.py --views 50 100 200 --peer path/to/Pi3

Released sizes with random weights, bfloat16; every time is the median of `--repeats` runs after a
warm-up, with the device synchronised. Ours runs from 8-bit pixels to points, cameras, intrinsics
and mask; upstream's from float pixels to points and cameras, under its autocast. Each side runs
in a process of its own. `--peer` is a checkout of github.com/yyfz/Pi3; without it only ours runs.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from statistics import median

PATCH = 14


def main() -> None:
    parser = argparse.ArgumentParser(description="Times our dense π³ against upstream's.")
    parser.add_argument("--views", type=int, nargs="+", default=[50, 100, 200])
    parser.add_argument("--size", default="518x392", help="width x height of the images")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--devices", type=int, default=1, help="GPUs that our side spreads over")
    parser.add_argument("--peer", help="checkout of upstream's code")
    parser.add_argument("--side", choices=("ours", "torch"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    width, height = (int(n) for n in options.size.split("x"))
    if options.side:
        run = {"ours": time_ours, "torch": time_torch}[options.side]
        for views in options.views:
            row = json.dumps(run(views, height, width, options))
            print(row, flush=True)
            print(options.side, row, file=sys.stderr, flush=True)
        return
    sides = ["ours", "torch"] if options.peer else ["ours"]
    results = {side: _in_own_process(side) for side in sides}
    print(f"{'views':>5}  {'side':6} {'seconds':>8} {'peak GiB':>8} {'compile s':>9}")
    for index, views in enumerate(options.views):
        for side in sides:
            row = results[side][index]
            print(
                f"{views:5}  {side:6} {row['seconds']:8.3f} {row['peak']:8.2f} "
                f"{row['compile']:9.1f}"
            )
        if options.peer:
            ratio = results["torch"][index]["seconds"] / results["ours"][index]["seconds"]
            print(f"{views:5}  ours is {ratio:.2f}x as fast")


def time_ours(views: int, height: int, width: int, options: argparse.Namespace) -> dict:
    """Our program, compiled ahead of time."""
    import jax
    import jax.numpy as jnp
    from flax import nnx

    from jaxrecon.images import PI3_RESIZE
    from jaxrecon.models import PI3, Pi3
    from jaxrecon.pipeline import Options, Pipeline, thresholds
    from jaxrecon.sharding import by_view, make_mesh, replicated

    mesh = make_mesh(jax.devices()[: options.devices])
    key = jax.random.key(0, impl="rbg")
    model = jax.jit(lambda: Pi3(PI3, dtype=jnp.bfloat16, rngs=nnx.Rngs(params=key)))()
    model = jax.device_put(model, replicated(mesh))
    pipeline = Pipeline(model, "pi3", PI3_RESIZE, mesh=mesh if options.devices > 1 else None)
    start = time.perf_counter()
    program = pipeline.compile((views, height, width, 3), Options())
    compile_seconds = time.perf_counter() - start
    shape = (1, views, height, width, 3)
    pixels = jax.random.randint(jax.random.key(1), shape, 0, 256).astype(jnp.uint8)
    pixels = jax.device_put(pixels, by_view(mesh))
    limits = thresholds(0.1, 0.0, 0.03)

    def once() -> float:
        start = time.perf_counter()
        jax.block_until_ready(program(model, pixels, limits))
        return time.perf_counter() - start

    once()
    seconds = median(once() for _ in range(options.repeats))
    stats = jax.devices()[0].memory_stats() or {}
    peak = stats.get("peak_bytes_in_use", 0) / 2**30
    return {"views": views, "seconds": seconds, "peak": peak, "compile": compile_seconds}


def time_torch(views: int, height: int, width: int, options: argparse.Namespace) -> dict:
    """Upstream's model under bfloat16 autocast, as its example runs it."""
    import torch  # pyright: ignore[reportMissingImports]

    sys.path.insert(0, options.peer)
    from pi3.models.pi3 import Pi3  # pyright: ignore[reportMissingImports]

    with torch.device("cuda"):
        model = Pi3().eval()
        images = torch.rand(1, views, 3, height, width)
    torch.cuda.reset_peak_memory_stats()

    @torch.no_grad()
    def once() -> float:
        torch.cuda.synchronize()
        start = time.perf_counter()
        with torch.amp.autocast("cuda", dtype=torch.bfloat16):
            model(images)
        torch.cuda.synchronize()
        return time.perf_counter() - start

    once()
    seconds = median(once() for _ in range(options.repeats))
    peak = torch.cuda.max_memory_allocated() / 2**30
    return {"views": views, "seconds": seconds, "peak": peak, "compile": 0.0}


def _in_own_process(side: str) -> list[dict]:
    command = [sys.executable, *sys.argv, "--side", side]
    environment = os.environ | {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=environment)
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


if __name__ == "__main__":
    main()
