"""Reconstructs a bundled scene, offline: `python examples/demo.py [-o demo_output]`.

Eight views of a rendered scene on which `pi3-mini` was not trained (`examples/make_scene.py` made
them) go through its weights. The demo writes a point cloud, a GLB scene, a COLMAP model, an NPZ
file and a summary picture, and prints how far depth and poses are from the truth. It is the command
`jaxrecon demo`, which an installed package has too.
"""

import sys

from jaxrecon.cli import main

if __name__ == "__main__":
    sys.exit(main(["demo", *sys.argv[1:]]))
