"""Point tracks: `python examples/tracks.py [-m vggt] [--points 64]`.

Follows points of the first view of the bundled scene through the others. VGGT's weights are
downloaded the first time.
"""

import argparse
from pathlib import Path

import numpy as np

import jaxrecon

IMAGES = Path(__file__).parent / "scene" / "images"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-m", "--model", default="vggt", help="name or checkpoint folder")
    parser.add_argument("--points", default=64, type=int, help="how many to follow")
    parser.add_argument("--resolution", type=int, help="longest side of the processed images")
    options = parser.parse_args()
    model = jaxrecon.load(options.model, tracks=True)
    tracks = model.track(IMAGES, {0: options.points}, resolution=options.resolution)

    seen = np.asarray(tracks.visibility) > 0.5
    for view, visible in enumerate(seen):
        shift = np.linalg.norm(tracks.xy[view] - tracks.xy[0], axis=-1)
        print(f"view {view}: {visible.sum()} points visible, moved {np.median(shift):.1f} pixels")


if __name__ == "__main__":
    main()
