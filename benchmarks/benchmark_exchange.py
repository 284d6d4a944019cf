"""What share of a run several GPUs spend in exchanging.

    python benchmarks/benchmark_exchange.py --model pi3 --views 400 --ratios 0.75 0 --devices 4

Each program of `benchmark_models.py` runs twice, is timed, and runs once more under JAX's
profiler. Of the first GPU: how long NCCL's kernels ran, and for how much of that no other kernel
did. NCCL's kernels also wait for slower GPUs: what the GPUs differ by counts as exchange.
"""

import argparse
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import jax
import numpy as np
from benchmark_models import memory, prepared
from jax.profiler import ProfileData

type Spans = list[tuple[float, float]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    add("--model", default="pi3", help="a released model's name")
    add("--views", type=int, nargs="+", default=[400])
    add("--size", type=int, nargs=2, default=[392, 518], help="height and width")
    add("--ratios", type=float, nargs="+", default=[0.75, 0.0], help="shares of key blocks to skip")
    add("--devices", type=int, default=2, help="GPUs to shard views over")
    parser.set_defaults(orders=["pca_tree"], ways=[], offload=False, float8=False)
    options = parser.parse_args()
    print("views  skipped  seconds    peak    plan  exchange  share  alone (GiB, seconds)")
    for told, program, once in prepared(options):
        once()
        start = time.perf_counter()
        once()
        seconds, needs = time.perf_counter() - start, memory(program)
        row = f"{told['views']:5}  {told['ratio']:7.0%}  {seconds:7.3f}"
        print(f"{row}  {needs['peak']:6.2f}  {needs['plan']:6.2f}", end="  ", flush=True)
        waited, share, alone = exchanging(once)
        print(f"{waited:8.3f}  {share:5.1%}  {alone:5.1%}", flush=True)


def exchanging(run: Callable[[], None]) -> tuple[float, float, float]:
    """Seconds that NCCL's kernels ran, their share of the run, and that of them running alone."""
    exchange, rest = exchange_of(run)
    whole, waited = covered([*exchange, *rest]), covered(exchange)
    return waited, waited / whole, (whole - covered(rest)) / whole


def exchange_of(run: Callable[[], None]) -> tuple[Spans, Spans]:
    """When NCCL's kernels ran on the first GPU, and when all others, in seconds."""
    exchange: Spans = []
    rest: Spans = []
    for name, start, end in kernels_of(run):
        (exchange if "nccl" in name.lower() else rest).append((start, end))
    if not exchange or not rest:
        raise SystemExit(f"profiled {len(exchange)} kernels of NCCL and {len(rest)} others")
    return exchange, rest


def kernels_of(run: Callable[[], None]) -> list[tuple[str, float, float]]:
    """Name, start and end in seconds of each kernel on the first GPU."""
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            run()
        (file,) = Path(folder).rglob("*.xplane.pb")
        plane = ProfileData.from_file(str(file)).find_plane_with_name("/device:GPU:0")
    lines = [line for line in (plane.lines if plane else ()) if line.name.startswith("Stream")]
    return [(e.name, e.start_ns / 1e9, e.end_ns / 1e9) for line in lines for e in line.events]


def covered(spans: Iterable[tuple[float, float]]) -> float:
    """Seconds in which at least one of them ran."""
    starts, ends = np.array(sorted(spans)).T
    reached = np.maximum.accumulate(ends)
    until = np.concatenate([[starts[0]], reached[:-1]])
    return float(np.maximum(reached - np.maximum(starts, until), 0).sum())


if __name__ == "__main__":
    main()
