"""Reconstructs a bundled scene, offline: `python examples/demo.py [-o demo_output]`.

Eight views of a rendered scene on which `pi3-mini` was not trained (`examples/make_scene.py` made
them) go through its weights. The demo writes a point cloud, a GLB scene, a COLMAP model, an NPZ
file and a summary picture, and prints how far depth and poses are from the truth.
"""

import argparse
import time
from pathlib import Path

import jaxrecon
from jaxrecon.evaluation import Settings, measure, open_dataset
from jaxrecon.progress import Stages

SCENE = Path(__file__).parent / "scene"
FILES = ("scene.ply", "scene.glb", "scene.npz", "colmap/")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    add("-o", "--output", default="demo_output", type=Path, help="folder to write")
    add("--weights", help="checkpoint folder to use in place of the bundled weights")
    options = parser.parse_args()
    stages = Stages()

    begin = time.perf_counter()
    model = jaxrecon.load("pi3-mini", weights=options.weights, stages=stages)
    recon = model.reconstruct(SCENE / "images", stages=stages).numpy()
    took = time.perf_counter() - begin

    (truth,) = open_dataset("folder", SCENE)
    again = (options.output / "summary.png").exists()  # an earlier demo's folder
    with stages.stage("export"):
        for name in FILES:
            recon.save(f"{options.output}/{name}", overwrite=again)
        recon.save_summary(
            options.output / "summary.png",
            true_depth_z=truth.depth_z,
            true_world_from_camera=truth.world_from_camera,
        )
    with stages.stage("measure"):
        scores = measure(recon, truth, Settings())

    print(f"reconstructed {len(recon)} views in {took:.1f} s: {recon.mask.sum():,} points")
    tell(scores.values(), scores.pairs)
    print(f"wrote {', '.join((*FILES, 'summary.png'))} to {options.output}/")


def tell(value: dict[str, float], pairs: int) -> None:
    """Prints the errors of depth and poses against the truth."""
    print(
        f"depth: mean relative error {value['abs_rel']:.4f}, "
        f"{100 * value['delta_1']:.1f} % of the pixels within 25 %"
    )
    print(
        f"poses, over {pairs} pairs of views that overlap: "
        f"median rotation error {value['rotation_median']:.2f} degrees, "
        f"median direction error {value['translation_median']:.2f} degrees, "
        f"AUC@30 {value['auc_30']:.3f}"
    )


if __name__ == "__main__":
    main()
