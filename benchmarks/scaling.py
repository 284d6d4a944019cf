"""What each GPU of a host adds, as one table: `python benchmarks/scaling.py --models pi3 vggt`.

Forwards of released sizes (random weights, bfloat16) on 1, 2, 4 and 8 GPUs, as many as there are:
the second of two runs, the share of a third run under JAX's profiler in which NCCL's kernels ran,
and in which none but these did, peaks and plans. Each model and number of GPUs is a process of its
own, and as many run side by side as there are GPUs for; after `--seconds` no more are started and
what still runs is ended. Views above `--most-alone` run on all GPUs only.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

COLUMNS = ("seconds", "to one", "exchange", "alone", "peak", "plan", "compile")


@dataclass(frozen=True)
class Job:
    """A process."""

    model: str
    devices: int
    views: tuple[int, ...]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    add("--models", nargs="+", default=["pi3", "vggt", "mapanything"], help="released models")
    add("--views", type=int, nargs="+", default=[400, 1000])
    add("--size", type=int, nargs=2, default=[392, 518], help="height and width")
    add("--ratios", type=float, nargs="+", default=[0.75, 0.0], help="shares of key blocks to skip")
    add("--devices", type=int, nargs="+", default=[1, 2, 4, 8], help="of these, what is there")
    add("--most-alone", type=int, default=400, help="most views on fewer than all GPUs")
    add("--seconds", type=float, default=530, help="limit for the whole table")
    add("--json", type=Path, help="file for the rows")
    add("--job", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.job:
        measure(options, Job(**json.loads(options.job)))
        return
    there = len(gpus())
    if not there:
        parser.error("no GPUs found")
    counts = sorted({count for count in options.devices if count <= there}, reverse=True)
    jobs = [
        Job(model, count, tuple(views))
        for count in counts
        for model in options.models
        if (views := [v for v in options.views if count == there or v <= options.most_alone])
    ]
    with tempfile.TemporaryDirectory() as folder:
        rows = run_all(jobs, options, Path(folder))
    show(rows)
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1))


def gpus() -> list[str]:
    """What CUDA_VISIBLE_DEVICES may name."""
    told = os.environ.get("CUDA_VISIBLE_DEVICES")
    if told is not None:
        return [name for name in told.split(",") if name]
    listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, check=True)
    return [str(number) for number in range(len(listed.stdout.splitlines()))]


def run_all(jobs: list[Job], options: argparse.Namespace, folder: Path) -> list[dict[str, Any]]:
    """Rows of all jobs; the widest start first, and others where GPUs are left."""
    free, waiting, begin = gpus(), list(jobs), time.monotonic()
    running: list[tuple[Job, subprocess.Popen[bytes], Path, list[str]]] = []
    rows: list[dict[str, Any]] = []
    while waiting or running:
        late = time.monotonic() - begin > options.seconds
        if late and waiting:
            print("not started in time:", *waiting, sep="\n  ")
            waiting.clear()
        for job in [job for job in waiting if job.devices <= len(free)]:
            if job.devices <= len(free):
                mine, free = free[: job.devices], free[job.devices :]
                waiting.remove(job)
                output = folder / f"{job.model} {job.devices}"
                running.append((job, start(job, mine, output), output, mine))
        for each in list(running):
            job, process, output, mine = each
            if late:
                process.kill()
            if process.poll() is None:
                continue
            lines = output.read_text().splitlines()
            rows += [json.loads(line) for line in lines if line.startswith("{")]
            if process.returncode:
                print(f"{job}: ended with status {process.returncode}")
            running.remove(each)
            free += mine
        time.sleep(0.2)
    return rows


def start(job: Job, mine: list[str], output: Path) -> subprocess.Popen[bytes]:
    """Its process on these GPUs, which prints its rows into a file."""
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": ",".join(mine)}
    command = [sys.executable, *sys.argv, "--job", json.dumps(vars(job))]
    with output.open("w") as file:
        return subprocess.Popen(command, stdout=file, env=environment)


def measure(options: argparse.Namespace, job: Job) -> None:
    """Prints a row for each of the job's programs."""
    from benchmark_exchange import exchanging
    from benchmark_models import memory, prepared

    given = {"orders": ["pca_tree"], "ways": [], "offload": False, "float8": False}
    for told, program, once in prepared(argparse.Namespace(**vars(options) | vars(job) | given)):
        once()
        begin = time.perf_counter()
        once()
        row = told | {"model": job.model, "devices": job.devices} | memory(program)
        row["seconds"] = time.perf_counter() - begin
        if job.devices > 1:
            _, row["exchange"], row["alone"] = exchanging(once)
        print(json.dumps(row), flush=True)


def show(rows: list[dict[str, Any]]) -> None:
    """Prints the table, with the ratios to one GPU."""
    program = ("model", "views", "ratio")
    alone = {tuple(row[name] for name in program): row for row in rows if row["devices"] == 1}
    print("model        views  skipped  GPUs", *(f"{name:>8}" for name in COLUMNS))
    for row in sorted(rows, key=lambda row: [row[name] for name in (*program, "devices")]):
        if one := alone.get(tuple(row[name] for name in program)):
            row["to one"] = one["seconds"] / row["seconds"]
        numbers = (f"{row.get(name, float('nan')):8.3f}" for name in COLUMNS)
        told = f"{row['model']:11} {row['views']:6} {row['ratio']:8.0%} {row['devices']:5}"
        print(told, *numbers)


if __name__ == "__main__":
    main()
