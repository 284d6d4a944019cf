"""Streaming to disk: `python examples/streaming.py [-o streamed]`.

Writes one file for each view while later views are still being processed. Run it again: what is
there already is not made again.
"""

import argparse
from pathlib import Path

import jaxrecon

IMAGES = Path(__file__).parent / "scene" / "images"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-o", "--output", default="streamed", type=Path, help="folder to write")
    options = parser.parse_args()
    model = jaxrecon.load("pi3-mini", attention="fast")
    model.stream(IMAGES, options.output, views_at_once=4)

    files = sorted(options.output.glob("*.npz"))
    print(f"wrote {len(files)} views to {options.output}/")
    one = jaxrecon.Reconstruction.load(files[0])
    print(f"{one.names[0]}: {int(one.mask.sum()):,} points")
    recon = jaxrecon.Reconstruction.load(options.output)
    print(f"all: {int(recon.mask.sum()):,} points")


if __name__ == "__main__":
    main()
