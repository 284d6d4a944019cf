"""Errors of two photos at a time: `python benchmarks/pairs_of_photos.py DIR ... --resolution 252`.

Of each folder of photos with known cameras (see `real_photos.py`) every pair that is turned by 20
to 60 degrees goes through the model by itself, in float32: wide baselines, without other views that
would help.
"""

import argparse
from pathlib import Path

import numpy as np

import jaxrecon
from jaxrecon.evaluation import open_dataset
from jaxrecon.evaluation.metrics.pose import (
    PairErrors,
    pose_scores,
    relative_pose_errors,
    turned_angles,
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    add("folders", nargs="+", type=Path, metavar="DIR", help="photos with known cameras")
    add("--weights", nargs="+", default=["pi3-mini"], help="a model's name, or checkpoint folders")
    add("--resolution", type=int, help="longest side of the processed images")
    add("--angles", type=float, nargs=2, default=(20.0, 60.0), help="between two views, in degrees")
    options = parser.parse_args()

    print("| weights | set | pairs | AUC@30 | rotation | direction |\n|---|---|---|---|---|---|")
    for weights in options.weights:
        model = jaxrecon.load(weights, dtype="float32")
        for folder in options.folders:
            (truth,) = open_dataset("folder", folder)
            poses = truth.world_from_camera
            assert poses is not None, f"{folder}: no poses are known"
            pairs = np.triu_indices(len(truth), 1)
            low, high = options.angles
            turned = turned_angles(poses, *pairs)
            errors = []
            for pair in np.stack(pairs, axis=1)[(low <= turned) & (turned <= high)]:
                images = [truth.images[view] for view in pair]
                recon = model.reconstruct(images, resolution=options.resolution)
                found = np.asarray(recon.world_from_camera, np.float64)
                errors.append(relative_pose_errors(found, poses[pair]))
            pooled = PairErrors.pooled(errors)
            scores = pose_scores(pooled)
            angles = f"{scores.rotation_median:.1f} | {scores.translation_median:.1f}"
            row = f"{weights} | {folder.name} | {len(pooled)} | {scores.auc_30:.3f} | {angles}"
            print(f"| {row} |", flush=True)


if __name__ == "__main__":
    main()
