"""`jaxrecon reconstruct photos/ -m pi3 -o out/`."""

import argparse
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jaxrecon.cli import common, known
from jaxrecon.errors import InputError
from jaxrecon.files import check_output_folder, replacing_folder
from jaxrecon.progress import Stages

if TYPE_CHECKING:
    from jaxrecon.pipeline import Pipeline
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

BUNDLE_POINTS = 512
"""Points followed from every eighth photo for bundle adjustment, if no number is given."""


def add_to(commands: Any) -> None:
    """Adds the command to the parser."""
    parser = commands.add_parser("reconstruct", help="photos to cameras and a point cloud")
    add = parser.add_argument
    add("images", nargs="*", help="a folder, photos, a quoted glob pattern, or a video")
    add("-m", "--model", default="pi3", help="a model's name, checkpoint folder or weight file")
    add("-o", "--output", required=True, help="folder to write")
    add("--resolution", type=int, help="longest side of the processed images, in pixels")
    add("--stride", type=int, default=1, help="take every n-th image or video frame")
    add("--formats", default="ply,glb,npz,colmap", help=f"comma-separated: {', '.join(FILES)}")
    add("--min-confidence", type=float, help="drop less confident points")
    add("--confidence-quantile", type=float, help="drop this share of the scene's points")
    add("--view-confidence-quantile", type=float, help="drop this share of each view's points")
    add(
        "--multiview-confidence",
        action="store_true",
        help="MapAnything: confidence is how far the views agree",
    )
    add("--edge-rtol", type=float, default=0.03, help="relative depth jump that makes an edge")
    add("--keep-edges", action="store_true", help="keep points on depth edges")
    add("--shared-intrinsics", action="store_true", help="one camera for all views")
    add("--centre-principal-point", action="store_true", help="hold it at the image's centre")
    add("--points", choices=("depth", "pointmap"), help="which of VGGT's points")
    add("--pad", action="store_true", help="VGGT: pad photos to squares instead of cropping them")
    add("--tracks", type=int, metavar="N", help="VGGT: follow N points of every eighth photo")
    add("--bundle-adjust", action="store_true", help="refine cameras by tracks (needs pycolmap)")
    add("--stream", action="store_true", help="write each view as it is done; a rerun resumes")
    known.add_known(parser)
    common.add_backend(parser)
    common.add_common(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Reconstructs the scene and writes the output folder."""
    formats = _formats(options.formats)
    if options.stream:
        _check_stream(options)
    else:
        check_output_folder(options.output, overwrite=options.overwrite)

    from jaxrecon.images import check_source

    images, files = known.sources(options)
    check_source(images, stride=options.stride)
    told = known.read_known(options, images, files)
    if options.shared_intrinsics:
        _check_shared(told)
        told["intrinsics"] = "shared"
    stages = Stages(quiet=options.quiet)
    tracks = BUNDLE_POINTS if options.bundle_adjust and not options.tracks else options.tracks
    pipeline = common.load_pipeline(options, stages, tracks=tracks is not None)
    if options.pad:
        pipeline = _padding(pipeline)
    if options.stream:
        folder = pipeline.stream(
            images, options.output, overwrite=options.overwrite, **_shared(options, stages), **told
        )
        common.report(options, {"output": str(folder), "seconds": common.seconds(stages)})
        return 0
    recon = pipeline.reconstruct(
        images,
        confidence_quantile=options.confidence_quantile,
        multiview_confidence=options.multiview_confidence,
        query_points=tracks,
        **_shared(options, stages),
        **told,
    )
    if options.bundle_adjust:
        recon = _refined(recon, options, stages)
    common.report(options, _write(recon, options, formats, stages))
    return 0


def _shared(options: argparse.Namespace, stages: Stages) -> dict[str, Any]:
    """The arguments that `reconstruct` and `stream` share."""
    return {
        "resolution": options.resolution,
        "stride": options.stride,
        "min_confidence": options.min_confidence,
        "view_confidence_quantile": options.view_confidence_quantile,
        "edge_rtol": None if options.keep_edges else options.edge_rtol,
        "principal_point": "centre" if options.centre_principal_point else "free",
        "points": options.points,
        "stages": stages,
    }


def _check_stream(options: argparse.Namespace) -> None:
    """Refuses what needs all views at once."""
    scenes = ("confidence_quantile", "multiview_confidence")
    for name in (*scenes, "shared_intrinsics", "tracks", "bundle_adjust"):
        if getattr(options, name):
            raise InputError(
                f"--{name.replace('_', '-')} looks at all views at once; leave it out, or --stream"
            )


def _padding(pipeline: "Pipeline") -> "Pipeline":
    from jaxrecon.images import SideRule

    if not isinstance(pipeline.resize, SideRule):
        raise InputError(f"--pad: images of {pipeline.name} are never cropped or padded that way")
    return replace(pipeline, resize=replace(pipeline.resize, pad=True))


def _check_shared(told: dict[str, Any]) -> None:
    if "intrinsics" in told:
        raise InputError("--shared-intrinsics fits what --intrinsics tells; give one of them")


def _refined(
    recon: "Reconstruction", options: argparse.Namespace, stages: Stages
) -> "Reconstruction":
    from jaxrecon.bundle_adjustment import bundle_adjust

    with stages.stage("adjust"):
        return bundle_adjust(recon, shared_camera=options.shared_intrinsics, stages=stages)


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
