"""`jaxrecon reconstruct photos/ -m pi3 -o out/`."""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jaxrecon.cli import common
from jaxrecon.errors import InputError
from jaxrecon.files import check_output_folder, replacing_folder
from jaxrecon.progress import Stages

if TYPE_CHECKING:
    from jaxrecon.reconstruction import Reconstruction

FILES = {
    "ply": "scene.ply",
    "glb": "scene.glb",
    "npz": "scene.npz",
    "colmap": "colmap/",
    "pictures": "pictures/",
    "sheet": "sheet.png",
}
"""What can be written, and under which name in the output folder."""


def add_to(commands: Any) -> None:
    """Adds the command to the parser."""
    parser = commands.add_parser("reconstruct", help="photos to cameras and a point cloud")
    add = parser.add_argument
    add("images", nargs="+", help="a folder, photos, a quoted glob pattern, or a video")
    add("-m", "--model", default="pi3", help="a model's name, checkpoint folder or weight file")
    add("-o", "--output", required=True, help="folder to write")
    add("--resolution", type=int, help="longest side of the processed images, in pixels")
    add("--stride", type=int, default=1, help="take every n-th image or video frame")
    add("--formats", default="ply,glb,npz,colmap", help=f"comma-separated: {', '.join(FILES)}")
    add("--min-confidence", type=float, default=0.1, help="drop less confident points")
    add("--confidence-quantile", type=float, default=0.0, help="drop this share of the points")
    add("--edge-rtol", type=float, default=0.03, help="relative depth jump that makes an edge")
    add("--keep-edges", action="store_true", help="keep points on depth edges")
    add("--shared-intrinsics", action="store_true", help="one camera for all views")
    add("--centre-principal-point", action="store_true", help="hold it at the image's centre")
    common.add_backend(parser)
    common.add_common(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Reconstructs the scene and writes the output folder."""
    formats = _formats(options.formats)
    check_output_folder(options.output, overwrite=options.overwrite)

    from jaxrecon.images import check_source

    images = options.images if len(options.images) > 1 else options.images[0]
    check_source(images, stride=options.stride)
    stages = Stages(quiet=options.quiet)
    pipeline = common.load_pipeline(options, stages)
    recon = pipeline.reconstruct(
        images,
        resolution=options.resolution,
        stride=options.stride,
        min_confidence=options.min_confidence,
        confidence_quantile=options.confidence_quantile,
        edge_rtol=None if options.keep_edges else options.edge_rtol,
        intrinsics="shared" if options.shared_intrinsics else "per_view",
        principal_point="centre" if options.centre_principal_point else "free",
        stages=stages,
    )
    common.report(options, _write(recon, options, formats, stages))
    return 0


def _write(
    recon: "Reconstruction", options: argparse.Namespace, formats: Sequence[str], stages: Stages
) -> dict[str, Any]:
    """Writes the whole output folder under a temporary name, then renames it."""
    with replacing_folder(options.output, overwrite=options.overwrite) as folder:
        with stages.stage("export", total=len(formats)) as done:
            recon = recon.numpy()
            for name in formats:
                _write_format(recon, name, folder)
                done()
        summary = _summary(recon, options, formats, stages)
        (folder / "summary.json").write_text(json.dumps(summary, indent=2) + "\n")
    return summary


def _write_format(recon: "Reconstruction", name: str, folder: Path) -> None:
    if name == "pictures":
        recon.save_pictures(folder / FILES[name])
    elif name == "sheet":
        recon.save_sheet(folder / FILES[name])
    else:
        recon.save(f"{folder}/{FILES[name]}")


def _summary(
    recon: "Reconstruction", options: argparse.Namespace, formats: Sequence[str], stages: Stages
) -> dict[str, Any]:
    import jax

    views, height, width = recon.mask.shape
    return {
        "model": recon.model,
        "device": jax.devices()[0].device_kind,
        "views": views,
        "width": width,
        "height": height,
        "points": int(recon.mask.sum()),
        "output": options.output,
        "files": [FILES[name] for name in formats] + ["summary.json"],
        "seconds": common.seconds(stages),
    }


def _formats(text: str) -> list[str]:
    names = [name.strip() for name in text.split(",") if name.strip()]
    unknown = [name for name in names if name not in FILES]
    if unknown or not names:
        found = ", ".join(unknown) or "nothing"
        raise InputError(f"--formats: found {found}; choose from {', '.join(FILES)}")
    return list(dict.fromkeys(names))
