"""Errors on photos whose cameras are known: `python benchmarks/real_photos.py DIR ...`.

Each folder holds `images/` and beside it `condition.npz` with `poses`, camera to world, and, if
known, `intrinsics` and `depths`, which may be sparse; or else a `transforms.json` or a COLMAP model
(docs/pi3-mini.md says which folders gave its tables).
All photos of a folder go through the model at once, in float32, the longest side 224 pixels. Poses
are compared over the pairs of views turned against each other by at most 60 degrees, since sparse
depth does not tell which overlap. `--ways 0.5 0.75` adds a row for each way of skipping key blocks
(see jaxrecon/sparse/notation.py).
"""

import argparse
import time
from pathlib import Path

import jaxrecon
from jaxrecon import SparseAttention
from jaxrecon.evaluation import Report, Settings, evaluate, open_dataset
from jaxrecon.pipeline import Pipeline
from jaxrecon.sparse.notation import policy_of


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    add("folders", nargs="+", type=Path, metavar="DIR", help="photos with known cameras")
    add("--weights", nargs="+", default=["pi3-mini"], help="a model's name, or checkpoint folders")
    add("--resolution", type=int, default=224, help="longest side of the processed images")
    add("--max-angle", type=float, default=60.0, help="between two views, in degrees")
    add("--summaries", type=Path, help="folder for a summary picture of each reconstruction")
    add("--ways", nargs="+", default=[], help="ratios of key blocks to skip, each a row of its own")
    add("--float8", action="store_true", help="blocks multiply 8-bit numbers")
    options = parser.parse_args()

    ways = {"dense": None, **{way: policy_of(way) for way in options.ways}}
    columns = [
        "weights",
        "attention",
        "set",
        "views",
        "pairs",
        "AUC@30",
        "rotation",
        "direction",
        "abs-rel",
        "seconds",
    ]
    print(f"| {' | '.join(columns)} |")
    print("|---|---|---|---|---|---|---|---|---|---|")
    for weights in options.weights:
        model = jaxrecon.load(weights, dtype="float32", float8=options.float8)
        for folder in options.folders:
            for way, attention in ways.items():
                figures = row(model, folder, attention, options)
                print(f"| {weights} | {way} | {figures} |", flush=True)
            if options.summaries:
                save_summary(model, folder, Path(weights), options)


def row(
    model: Pipeline, folder: Path, attention: SparseAttention | None, options: argparse.Namespace
) -> str:
    """The figures of a line; angles are medians in degrees."""
    settings = Settings(min_overlap=0, max_angle=options.max_angle, max_points=0)
    begin = time.perf_counter()
    report = evaluate(
        model,
        open_dataset("folder", folder),
        settings=settings,
        resolution=options.resolution,
        attention=attention,
    )
    return f"{folder.name} | {numbers(report)} | {time.perf_counter() - begin:.0f}"


def save_summary(model: Pipeline, folder: Path, weights: Path, options: argparse.Namespace) -> None:
    recon = model.reconstruct(folder / "images", resolution=options.resolution)
    options.summaries.mkdir(parents=True, exist_ok=True)
    name = f"{weights.parent.name}-{weights.name}-{folder.name}.jpg"
    recon.save_summary(options.summaries / name)


def numbers(report: Report) -> str:
    """Views, pairs, AUC@30, median errors of rotation and direction, and depth error."""
    scene, mean = report.scenes[0], report.mean()
    wanted = ("auc_30", "rotation_median", "translation_median", "abs_rel")
    shown = " | ".join(f"{mean[name]:.3f}" if name in mean else "-" for name in wanted)
    return f"{scene.views} | {scene.pairs} | {shown}"


if __name__ == "__main__":
    main()
