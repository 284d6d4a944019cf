"""`jaxrecon demo`: a bundled scene, reconstructed by the bundled model and measured, offline."""

import argparse
import time
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jaxrecon.cli import common
from jaxrecon.cli.process import say
from jaxrecon.progress import Stages

if TYPE_CHECKING:
    from jaxrecon.evaluation import SceneScores

_PACKAGE = Path(__file__).resolve().parent.parent
PACKAGED_SCENE = "_demo_scene"
"""What the wheel calls the folder of the scene inside of the package."""

_FILES = ("scene.ply", "scene.npz", "colmap/")
_OPTIONAL = {"scene.glb": "trimesh", "summary.png": "matplotlib"}
"""Files that need a library of an extra."""


def add_to(commands: Any) -> None:
    """Adds the command to the parser."""
    parser = commands.add_parser(
        "demo", help="reconstruct a bundled scene and measure the result, offline"
    )
    add = parser.add_argument
    add("-o", "--output", default="demo_output", type=Path, help="folder to write")
    add("--weights", help="checkpoint folder to use in place of the bundled weights")
    parser.set_defaults(run=run)


def scene_folder() -> Path:
    """Where the scene lies: in the package, or among the examples of the checkout."""
    packaged = _PACKAGE / PACKAGED_SCENE
    return packaged if packaged.is_dir() else _PACKAGE.parent / "examples" / "scene"


def run(options: argparse.Namespace) -> int:
    """Reconstructs the scene, writes what can be written, and prints the errors."""
    from jaxrecon.evaluation import Settings, measure, open_dataset
    from jaxrecon.registry import load

    stages, scene = Stages(), scene_folder()
    common.use_cache(stages)
    begin = time.perf_counter()
    model = load("pi3-mini", weights=options.weights, stages=stages)
    recon = model.reconstruct(scene / "images", stages=stages).numpy()
    took = time.perf_counter() - begin

    (truth,) = open_dataset("folder", scene)
    again = (options.output / "scene.npz").exists()  # an earlier demo's folder
    files = [*_FILES, *(name for name, library in _OPTIONAL.items() if find_spec(library))]
    with stages.stage("write"):
        for name in files:
            if name != "summary.png":
                recon.save(f"{options.output}/{name}", overwrite=again)
                continue
            recon.save_summary(
                options.output / name,
                true_depth_z=truth.depth_z,
                true_world_from_camera=truth.world_from_camera,
            )
    with stages.stage("measure"):
        scores = measure(recon, truth, Settings())
    say(f"reconstructed {len(recon)} views in {took:.1f} s: {recon.mask.sum():,} points")
    _tell(scores)
    say(f"wrote {', '.join(files)} to {options.output}/")
    say(f"to look at it: jaxrecon view {options.output}")
    return 0


def _tell(scores: "SceneScores") -> None:
    """Prints the errors of depth and poses against the truth."""
    value = scores.values()
    say(
        f"depth: mean relative error {value['abs_rel']:.4f}, "
        f"{100 * value['delta_1']:.1f} % of the pixels within 25 %"
    )
    say(
        f"poses, over {scores.pairs} pairs of views that overlap: "
        f"median rotation error {value['rotation_median']:.2f} degrees, "
        f"median direction error {value['translation_median']:.2f} degrees, "
        f"AUC@30 {value['auc_30']:.3f}"
    )
