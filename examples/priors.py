"""Known cameras, poses and depth: `python examples/priors.py [-m mapanything]`.

Reconstructs the bundled scene from images alone, and again with what its file knows of the views.
MapAnything's weights are downloaded the first time.
"""

import argparse
from pathlib import Path

import numpy as np

import jaxrecon

SCENE = Path(__file__).parent / "scene"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-m", "--model", default="mapanything", help="name or checkpoint folder")
    parser.add_argument("--resolution", type=int, help="longest side of the processed images")
    options = parser.parse_args()
    model = jaxrecon.load(options.model)
    truth = np.load(SCENE / "condition.npz")
    cameras = {"intrinsics": truth["intrinsics"]}
    runs = {
        "images alone": {},
        "intrinsics": cameras,
        "intrinsics and poses": cameras | {"poses": truth["poses"]},
        "intrinsics, depth of view 0": cameras | {"depths": {0: np.float32(truth["depths"][0])}},
    }
    for name, known in runs.items():
        recon = model.reconstruct(SCENE / "images", resolution=options.resolution, **known)
        focal = recon.to_original().intrinsics[:, 0, 0].mean()
        print(f"{name}: focal length {focal:.0f} pixels, scale {recon.metric_scale:.5f}")


if __name__ == "__main__":
    main()
