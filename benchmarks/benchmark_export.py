"""Seconds and memory of writing a reconstruction: `python benchmarks/benchmark_export.py`.

A smooth surface of noisy depth seen by 200 views of 518x392, with photos of 12 megapixels, is
written in each format. Each format is written by a process of its own, so that its peak memory is
its own; the share of the arrays is what that peak adds to what the reconstruction holds already.
"""

import argparse
import multiprocessing
import resource
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from jaxrecon.images import PixelTransform
from jaxrecon.progress import Stages
from jaxrecon.reconstruction import Reconstruction

ARRAYS = ("points_world", "points_camera", "confidence", "mask", "colors")
PHOTO = (4032, 3024)
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "npz": ("scene.npz", {}),
    "ply": ("scene.ply", {}),
    "glb": ("scene.glb", {}),
    "colmap": ("colmap", {"format": "colmap", "images": "link"}),
    "nerfstudio": ("nerfstudio", {"format": "nerfstudio", "images": "link"}),
    "depth": ("depth", {"format": "depth"}),
    "splats": ("splats.ply", {"format": "splats"}),
    "trajectory": ("trajectory.txt", {"format": "trajectory"}),
    "rerun": ("scene.rrd", {"format": "rerun"}),
    "mesh": ("mesh.glb", {"format": "mesh"}),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    add("--views", type=int, default=200)
    add("--size", type=int, nargs=2, default=(518, 392), metavar=("WIDTH", "HEIGHT"))
    add("--formats", nargs="+", default=[name for name in CASES if name != "mesh"], choices=CASES)
    options = parser.parse_args()

    print("| format | seconds | CPU seconds | peak above the arrays, of their size |")
    print("|---|---|---|---|")
    for name in options.formats:
        process = multiprocessing.get_context("spawn").Process(
            target=measure, args=(name, options.views, tuple(options.size))
        )
        process.start()
        process.join()
        if process.exitcode:
            sys.exit(f"{name}: the process ended with {process.exitcode}")


def measure(name: str, views: int, size: tuple[int, int]) -> None:
    """Prints the line of one format."""
    with tempfile.TemporaryDirectory() as folder:
        recon = surface(views, size, Path(folder))
        held = sum(getattr(recon, array).nbytes for array in ARRAYS)
        path, options = CASES[name]
        before, wall, cpu = peak(), time.perf_counter(), time.process_time()
        recon.save(Path(folder) / path, stages=Stages(quiet=True), **options)
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        share = (peak() - before) / held
        print(f"| {name} | {wall:.1f} | {cpu:.1f} | {share:.2f} |", flush=True)


def peak() -> int:
    """Bytes of the process's largest resident set."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def surface(views: int, size: tuple[int, int], folder: Path) -> Reconstruction:
    """A wavy surface with noise, and cameras in a row before it."""
    width, height = size
    rng = np.random.default_rng(0)
    slopes = np.stack(np.meshgrid(np.linspace(-1, 1, width), np.linspace(-1, 1, height)), -1)
    points = np.empty((views, height, width, 3), np.float32)
    points[..., 2] = 3 + np.sin(5 * slopes[..., 0])
    points[..., 2] += 0.01 * rng.standard_normal((views, height, width), np.float32)
    points[..., :2] = slopes * points[..., 2:]
    poses = np.tile(np.eye(4, dtype=np.float32), (views, 1, 1))
    poses[:, 0, 3] = 0.05 * np.arange(views)
    intrinsics = np.array([[width, 0, width], [0, width, height], [0, 0, 2]], np.float32) / 2
    confidence = rng.random((views, height, width), np.float32)
    names = photos(views, folder / "photos", rng)
    scale = (width / PHOTO[0], height / PHOTO[1])
    return Reconstruction(
        points_world=points + poses[:, None, None, :3, 3],
        points_camera=points,
        confidence=confidence,
        mask=confidence > 0.1,
        colors=rng.integers(0, 255, (views, height, width, 3), np.uint8),
        world_from_camera=poses,
        intrinsics=np.tile(intrinsics, (views, 1, 1)),
        names=tuple(path.name for path in names),
        transforms=(PixelTransform(PHOTO, size, scale),) * views,
        files=tuple(map(str, names)),
    )


def photos(views: int, folder: Path, rng: np.random.Generator) -> list[Path]:
    """One picture under many names."""
    folder.mkdir()
    first = folder / "photo_0000.jpg"
    coarse = Image.fromarray(rng.integers(0, 255, (30, 40, 3), np.uint8))
    coarse.resize(PHOTO).save(first)
    paths = [folder / f"photo_{index:04}.jpg" for index in range(views)]
    for path in paths[1:]:
        path.hardlink_to(first)
    return paths


if __name__ == "__main__":
    main()
