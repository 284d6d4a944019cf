"""`jaxrecon reconstruct photos/ -m pi3 -o out/`."""

import argparse
from typing import Any

from jaxrecon.cli import common, output, priors, sequence, streaming, tracking, view
from jaxrecon.errors import InputError
from jaxrecon.extras import check_installed
from jaxrecon.progress import Stages


def add_to(commands: Any) -> None:
    """Adds the command to the parser."""
    parser = commands.add_parser("reconstruct", help="photos to cameras and a point cloud")
    add = parser.add_argument
    add("images", nargs="*", help="a folder, photos, a quoted glob pattern, or a video")
    add("-m", "--model", default="pi3", help="a model's name, checkpoint folder or weight file")
    add("-o", "--output", required=True, help="folder to write")
    add("--resolution", type=common.whole, help="longest side of the processed images, in pixels")
    common.add_sampling(parser)
    add("--min-confidence", type=float, help="drop less confident points")
    add("--confidence-quantile", type=float, help="drop this share of the scene's points")
    add("--view-confidence-quantile", type=float, help="drop this share of each view's points")
    add(
        "--multiview-confidence",
        action="store_true",
        help="MapAnything: confidence is how far the views agree",
    )
    add(
        "--masks",
        metavar="FOLDER",
        help="with photo.jpg.png or photo.png for each photo, black where no points are wanted",
    )
    edges = parser.add_mutually_exclusive_group().add_argument
    edges("--edge-rtol", type=float, default=0.03, help="relative depth jump that makes an edge")
    edges("--keep-edges", action="store_true", help="keep points on depth edges")
    add(
        "--depth-edge-rtol",
        type=float,
        help="relative depth jump that makes an edge whatever the normals do",
    )
    add(
        "--shared-intrinsics",
        action="store_true",
        help="one camera for all views, in --bundle-adjust too",
    )
    add("--centre-principal-point", action="store_true", help="hold it at the image's centre")
    add("--points", choices=("depth", "pointmap"), help="which of VGGT's points")
    add("--pad", action="store_true", help="VGGT: pad photos to squares instead of cropping them")
    output.add_formats(parser)
    streaming.add_streaming(parser)
    sequence.add_sequence(parser)
    tracking.add_tracking(parser)
    priors.add_priors(parser)
    common.allow_outside(parser)
    common.add_photos(parser)
    common.add_backend(parser)
    common.add_common(parser)
    add("--view", action="store_true", help="show the result in the browser when it is done")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Reconstructs the scene and writes the output folder; returns the exit code."""
    formats = output.formats_of(options.formats or output.DEFAULT_FORMATS)
    if options.view:
        check_installed("viser", "view", "--view needs viser")
    streaming.check_options(options)
    sequence.check_options(options)
    tracking.check_options(options)
    points = tracking.query_points(options)
    if options.stream or options.chunk is not None:
        _check_by_view(options)
    else:
        common.check_output(options)
    if options.chunk is not None:
        formats = sequence.formats(options)
    if not options.stream:
        output.check_libraries(formats)

    from jaxrecon.images import check_masks, check_source

    stages = Stages(quiet=options.quiet)
    written = (streaming.FORMAT,) if options.stream else formats
    export = output.export_options(options, written, stages)
    images, files = priors.sources(options, stages)
    check_source(images, **common.sampling(options))
    if options.masks is not None:
        check_masks(images, options.masks, **common.sampling(options))
    if options.bundle_adjust:
        tracking.check_adjustable(images, options)
    told = priors.read_priors(options, images, files)
    if options.shared_intrinsics:
        _check_shared(told)
        told["intrinsics"] = "shared"
    pipeline = common.load_pipeline(options, stages, tracks=points is not None, priors=bool(files))
    if options.pad:
        pipeline = pipeline.with_padding()
    if options.chunk is not None:
        code = sequence.reconstruct(
            pipeline, images, options, export, **_shared(options, stages), **told
        )
        if options.view:
            view.show_folder(options.output)
        return code
    if options.stream:
        folder = streaming.stream(pipeline, images, options, **_shared(options, stages), **told)
        if options.view:
            view.show_folder(str(folder))
        return 0
    recon = pipeline.reconstruct(
        images,
        confidence_quantile=options.confidence_quantile,
        multiview_confidence=options.multiview_confidence,
        query_points=points,
        **_shared(options, stages),
        **told,
    )
    failed: dict[str, str] = {}
    if options.bundle_adjust:
        recon, failed = tracking.refined(recon, options, stages)
    programs = common.programs(pipeline, stages)
    summary = output.write(recon, options, formats, export, stages, failed, programs)
    output.report(options, summary)
    if options.view:
        view.show(recon.scene(), options.output)
    return common.INCOMPLETE if summary["failed"] else 0


def _shared(options: argparse.Namespace, stages: Stages) -> dict[str, Any]:
    """The arguments that `reconstruct` and `stream` share."""
    return {
        "resolution": options.resolution,
        **common.sampling(options),
        "masks": options.masks,
        "min_confidence": options.min_confidence,
        "view_confidence_quantile": options.view_confidence_quantile,
        "edge_rtol": None if options.keep_edges else options.edge_rtol,
        "depth_edge_rtol": options.depth_edge_rtol,
        "principal_point": "centre" if options.centre_principal_point else "free",
        "points": options.points,
        "stages": stages,
    }


def _check_by_view(options: argparse.Namespace) -> None:
    """Refuses what needs all views at once."""
    mode = "--stream" if options.chunk is None else "--chunk"
    scenes = ("confidence_quantile", "multiview_confidence", "shared_intrinsics")
    for name in (*scenes, "tracks", "query_points", "bundle_adjust"):
        if getattr(options, name):
            raise InputError(
                f"--{name.replace('_', '-')} looks at all views at once; leave it out, or {mode}"
            )


def _check_shared(told: dict[str, Any]) -> None:
    if "intrinsics" in told:
        raise InputError("--shared-intrinsics fits what --intrinsics tells; give one of them")
