"""Long sequences in chunks: `python benchmarks/benchmark_sequences.py WHAT`.

- `accuracy`: a walk through six connected rooms (`jaxrecon.scenes.walks`), once in one pass over as
  many views as `--single` says, spread over the walk, and once in chunks for each way of joining:
  errors of the trajectory after a Sim(3) alignment, in metres and degrees.
- `loops`: the same walk a tenth further than once round, in chunks: how far the views of the
  second visit are from where they should be as seen from the first one, over the length of the
  path, with the loops closed and without.
- `memory`: the process's peak of resident memory for each number of `--views`, each in a process of
  its own. Frames of a short walk are repeated to and fro in a video file.
- `speed`: frames a second for such a video, end to end, files included.

The video codec is PyAV's. Everything runs on JAX's default device.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import av
import jax
import numpy as np

import jaxrecon
from jaxrecon.evaluation.metrics.trajectory import trajectory_errors
from jaxrecon.formats.chunk_files import read_chunks
from jaxrecon.geometry import umeyama
from jaxrecon.pipeline import Pipeline
from jaxrecon.scenes.walks import Walk, draw_walk

HEIGHT, WIDTH = 168, 224


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    add("what", metavar="WHAT", choices=("accuracy", "loops", "memory", "speed", "once"))
    add("--model", default="pi3-mini")
    add("--views", type=int, nargs="+", help="default: 400; 200 2000; 7200")
    add("--single", type=int, default=64, help="views of the single pass")
    add("--chunk", type=int, default=24)
    add("--overlap", type=int, default=12)
    add("--resolution", type=int, help="default: 224; 112 for memory and speed")
    add("--share", type=float, default=1.0, help="how much of the way round is walked")
    add("--seed", type=int, default=0)
    add("--joins", nargs="+", default=["poses", "points", "poses:se3"])
    add("--video", help="of `once`, which the others call")
    options = parser.parse_args()
    commands = {
        "accuracy": accuracy,
        "loops": loops,
        "memory": memory,
        "speed": speed,
        "once": once,
    }
    commands[options.what](options)


def accuracy(options: argparse.Namespace) -> None:
    (views,) = options.views or [400]
    walk = draw_walk(options.seed, views=views, share=options.share)
    images = rendered(walk)
    model = jaxrecon.load(options.model)
    resolution, true = options.resolution or 224, walk.world_from_camera
    print(f"{jax.devices()[0].device_kind}; {walk.length:.1f} m in {views} views, {resolution} px")
    print("| views | way | ATE | RPE | RPE degrees | gaps | least inliers | scale | seconds |")
    print("|---|---|---|---|---|---|---|---|---|")
    chosen = np.linspace(0, views - 1, options.single).round().astype(int)
    start = time.perf_counter()
    single = model.reconstruct(images[chosen], resolution=resolution)
    row(
        f"{options.single}",
        "single pass",
        np.asarray(single.world_from_camera),
        true[chosen],
        start,
    )
    for join in options.joins:
        way, _, group = join.partition(":")
        start = time.perf_counter()
        found = model.reconstruct_sequence(
            images,
            chunk=options.chunk,
            overlap=options.overlap,
            join=way,
            group=group or None,
            allow_gaps=True,
            resolution=resolution,
        )
        sound = [each for each in found.joins if not each.doubt]
        scale = float(np.prod([each.scale for each in sound]))
        more = (len(found.segments) - 1, min(each.inliers for each in sound), scale)
        row(f"{views}", join, found.world_from_camera, true, start, *more)


def loops(options: argparse.Namespace) -> None:
    (round_views,) = options.views or [400]
    views = round_views + round_views // 10
    walk = draw_walk(options.seed, views=views, share=views / round_views)
    images, true = rendered(walk), walk.world_from_camera
    model = jaxrecon.load(options.model)
    start = time.perf_counter()
    found = model.reconstruct_sequence(
        images,
        chunk=options.chunk,
        overlap=options.overlap,
        resolution=options.resolution or 224,
        allow_gaps=True,
        loops=True,
    )
    took = time.perf_counter() - start
    print(f"{jax.devices()[0].device_kind}; {walk.length:.1f} m, {views} views in {took:.0f} s")
    for loop in found.loops:
        print(f"loop: {loop}")
    records = read_chunks(found.folder)
    rows = [(record, np.arange(*record.kept) - record.start) for record in records]
    off = np.concatenate([record.poses()[own] for record, own in rows])
    for name, poses in (("off", off), ("on", found.world_from_camera)):
        errors = trajectory_errors(poses, true)
        gaps = return_gaps(poses, true, round_views) / walk.length
        told = f"median {np.median(gaps):.2%}, least {gaps.min():.2%}, most {gaps.max():.2%}"
        print(f"loops {name}: ATE {errors.ate:.3f} m, gap of the path: {told}", flush=True)


def return_gaps(poses: np.ndarray, true: np.ndarray, period: int) -> np.ndarray:
    """How far each view of the second visit is from its place as seen from the first, in metres."""
    scale = umeyama(poses[:, :3, 3], true[:, :3, 3]).scale

    def seen(poses: np.ndarray) -> np.ndarray:
        return (np.linalg.inv(poses[:-period]) @ poses[period:])[:, :3, 3]

    return np.linalg.norm(scale * seen(poses) - seen(true), axis=1)


def row(
    views: str,
    way: str,
    poses: np.ndarray,
    true: np.ndarray,
    start: float,
    gaps: int = 0,
    inliers: float = float("nan"),
    scale: float = 1.0,
) -> None:
    took, errors = time.perf_counter() - start, trajectory_errors(poses, true)
    figures = (
        *(f"{errors.ate:.3f}", f"{errors.rpe_translation:.3f}", f"{errors.rpe_rotation:.2f}"),
        *(f"{gaps}", f"{inliers:.2f}", f"{scale:.2f}", f"{took:.0f}"),
    )
    print(f"| {views} | {way} | {' | '.join(figures)} |", flush=True)


def memory(options: argparse.Namespace) -> None:
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        for views in options.views or [200, 2000]:
            found[views] = in_a_process(options, film(Path(folder), views), views)
    least = next(iter(found.values()))["peak"]
    for views, told in found.items():
        print(f"{views} frames: {told['peak'] / 2**20:.0f} MiB, {told['peak'] / least - 1:+.1%}")


def speed(options: argparse.Namespace) -> None:
    (views,) = options.views or [7200]
    with tempfile.TemporaryDirectory() as folder:
        told = in_a_process(options, film(Path(folder), views), views)
    print(
        f"{told['device']}: {views} frames in {told['seconds']:.0f} s, "
        f"{views / told['seconds']:.2f} a second, peak {told['peak'] / 2**20:.0f} MiB"
    )


def in_a_process(options: argparse.Namespace, video: Path, views: int) -> dict[str, float]:
    """Seconds and peak memory of a run of its own."""
    sizes = ["--chunk", options.chunk, "--overlap", options.overlap, "--model", options.model]
    sizes += ["--resolution", options.resolution or 112, "--views", views, "--video", video]
    command = [sys.executable, __file__, "once", *map(str, sizes)]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)


def once(options: argparse.Namespace) -> None:
    model: Pipeline = jaxrecon.load(options.model)
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        found = model.reconstruct_sequence(
            options.video,
            Path(folder) / "out",
            stride=1,
            chunk=options.chunk,
            overlap=options.overlap,
            resolution=options.resolution,
            allow_gaps=True,
        )
        seconds = time.perf_counter() - start
    assert len(found) == options.views[0], f"{len(found)} views"
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    device = jax.devices()[0].device_kind
    print(json.dumps({"seconds": seconds, "peak": peak, "device": device}))


def rendered(walk: Walk) -> np.ndarray:
    """The walk's pictures, 8 bits a channel."""
    parts = walk.render(height=HEIGHT, width=WIDTH)
    return np.concatenate([(np.clip(p.images, 0, 1) * 255 + 0.5).astype(np.uint8) for p in parts])


def film(folder: Path, views: int) -> Path:
    """A video of so many frames: 96 of a walk, to and fro."""
    kept = folder / "walk.npy"
    if not kept.exists():
        np.save(kept, rendered(draw_walk(1, views=96, share=0.25)))
    images = np.load(kept)
    images = np.concatenate([images, images[-2:0:-1]])
    path = folder / f"{views}.mp4"
    with av.open(os.fspath(path), "w") as container:
        stream = container.add_stream("libx264", rate=2)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        for view in range(views):
            frame = av.VideoFrame.from_ndarray(images[view % len(images)], format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


if __name__ == "__main__":
    main()
