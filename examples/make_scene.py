"""Renders the scene of the demo anew: `python examples/make_scene.py [-o examples/scene]`.

Takes about a minute on two cores. The scene is of the test stream, so no model was trained on it.
"""

import argparse
from pathlib import Path

import numpy as np

from jaxrecon.files import replacing_file
from jaxrecon.scenes import render_scene, save_scene

SEED, NUMBER, VIEWS, HEIGHT, WIDTH = 7, 4, 8, 168, 224


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    place = Path(__file__).parent / "scene"
    parser.add_argument("-o", "--output", default=place, type=Path, help="folder to write")
    parser.add_argument("--number", default=NUMBER, type=int, help="which scene of the stream")
    options = parser.parse_args()
    scene = render_scene(SEED, views=VIEWS, height=HEIGHT, width=WIDTH, number=options.number)
    save_scene(scene, options.output, overwrite=options.output == place)
    halve_depths(options.output / "condition.npz")
    print(f"wrote {options.output}")


def halve_depths(path: Path) -> None:
    """Keeps depth in 16 bits, to within 0.05 percent, which makes the file a third as large."""
    arrays = dict(np.load(path))
    arrays["depths"] = arrays["depths"].astype(np.float16)
    with replacing_file(path) as temporary, open(temporary, "wb") as file:
        np.savez_compressed(file, **arrays)


if __name__ == "__main__":
    main()
