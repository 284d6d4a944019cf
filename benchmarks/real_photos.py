"""Errors on photos whose cameras are known: `python benchmarks/real_photos.py DIR ...`.

Each folder holds `images/` and `condition.npz` with `poses`, camera to world, and, if known,
`intrinsics` and `depths`, which may be sparse (docs/training.md says which folders gave its table).
All photos of a folder go through the model at once, in float32, the longest side 224 pixels. Poses
are compared over the pairs of views turned against each other by at most 60 degrees, since sparse
depth does not tell which overlap.
"""

import argparse
import time
from pathlib import Path

import jaxrecon
from jaxrecon.evaluation import Report, Settings, evaluate, open_dataset


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    add("folders", nargs="+", type=Path, metavar="DIR", help="photos with known cameras")
    add("--weights", nargs="+", default=["pi3-mini"], help="a model's name, or checkpoint folders")
    add("--resolution", type=int, default=224, help="longest side of the processed images")
    add("--max-angle", type=float, default=60.0, help="between two views, in degrees")
    add("--summaries", type=Path, help="folder for a summary picture of each reconstruction")
    options = parser.parse_args()

    print("| weights | set | views | pairs | AUC@30 | rotation | direction | abs-rel | seconds |")
    print("|---|---|---|---|---|---|---|---|---|")
    for weights in options.weights:
        for folder in options.folders:
            print(row(weights, folder, options), flush=True)


def row(weights: str, folder: Path, options: argparse.Namespace) -> str:
    """One line of the table; angles are medians in degrees."""
    model = jaxrecon.load(weights, dtype="float32")
    settings = Settings(min_overlap=0, max_angle=options.max_angle, max_points=0)
    begin = time.perf_counter()
    report = evaluate(
        model, open_dataset("folder", folder), settings=settings, resolution=options.resolution
    )
    took = time.perf_counter() - begin
    if options.summaries:
        recon = model.reconstruct(folder / "images", resolution=options.resolution)
        name = f"{Path(weights).parent.name}-{Path(weights).name}-{folder.name}.jpg"
        options.summaries.mkdir(parents=True, exist_ok=True)
        recon.save_summary(options.summaries / name)
    return f"| {weights} | {folder.name} | {numbers(report)} | {took:.0f} |"


def numbers(report: Report) -> str:
    """Views, pairs, AUC@30, median errors of rotation and direction, and depth error."""
    scene, mean = report.scenes[0], report.mean()
    wanted = ("auc_30", "rotation_median", "translation_median", "abs_rel")
    shown = " | ".join(f"{mean[name]:.3f}" if name in mean else "-" for name in wanted)
    return f"{scene.views} | {scene.pairs} | {shown}"


if __name__ == "__main__":
    main()
