"""`jaxrecon reconstruct photos/ -m pi3 -o out/`."""

import argparse
from typing import Any

from jaxrecon.choices import EDGE_RTOL
from jaxrecon.cli import common, output, priors, sequence, streaming, tracking, view
from jaxrecon.cli.parser import Parser
from jaxrecon.errors import InputError
from jaxrecon.extras import check_installed
from jaxrecon.progress import Stages


def add_to(commands: Any) -> None:
    """Adds the command to the parser."""
    parser: Parser = commands.add_parser(
        "reconstruct",
        help="photos to cameras and a point cloud",
        usage="jaxrecon reconstruct PHOTOS -o OUTPUT [options]",
        epilog=_EXAMPLES,
    )
    photos = parser.section("photos")
    photos.add_argument("images", nargs="*", help="a folder, photos, a quoted glob, or a video")
    common.add_sampling(parser, photos)
    add = photos.add_argument
    add("--resolution", type=common.whole, metavar="N", help="longest side of processed images")
    add(
        "--masks",
        metavar="FOLDER",
        help="photo.jpg.png for each, black where no points are wanted",
    )
    common.add_model(parser.section("model"))
    _add_result(parser)
    priors.add_priors(parser)
    common.add_backend(parser)
    streaming.add_streaming(parser)
    sequence.add_sequence(parser)
    _add_points(parser)
    _add_cameras(parser)
    tracking.add_tracking(parser)
    output.add_files(parser)
    common.allow_outside(parser)
    common.add_photos(parser)
    parser.set_defaults(run=run)


_EXAMPLES = """examples:
  jaxrecon reconstruct photos/ -m pi3-mini -o out/
  jaxrecon reconstruct walk.mp4 --fps 2 --chunk 60 -o walk/
  jaxrecon reconstruct --colmap dense/ -m mapanything -o out/ --formats colmap,report"""


def _edge_rtol(options: argparse.Namespace) -> float | None:
    if options.keep_edges:
        return None
    return EDGE_RTOL if options.edge_rtol is None else options.edge_rtol


def _add_result(parser: Parser) -> None:
    """Options of what is written."""
    add = parser.section("result").add_argument
    add("-o", "--output", metavar="OUT", required=True, help="folder to write")
    output.add_formats(parser)
    add("--min-confidence", type=float, metavar="X", help="drop less confident points")
    add("--keep-edges", action="store_true", help="keep points on depth edges")
    add("--max-points", type=common.at_least_one, metavar="N", help="write at most N points")
    add("--view", action="store_true", help="show the result in the browser when it is done")
    common.add_common(parser)


def _add_points(parser: Parser) -> None:
    """Options of which points are kept that few people need."""
    add = parser.section("which points", rare=True).add_argument
    share: dict[str, Any] = {"type": float, "metavar": "SHARE"}
    add("--confidence-quantile", help="drop this share of the scene's points", **share)
    add("--view-confidence-quantile", help="drop this share of each view's points", **share)
    add(
        "--multiview-confidence",
        action="store_true",
        help="MapAnything: confidence is how far the views agree",
    )
    add(
        "--edge-rtol",
        type=float,
        metavar="X",
        help=f"relative depth jump that makes an edge; default: {EDGE_RTOL}",
    )
    add(
        "--depth-edge-rtol",
        type=float,
        metavar="X",
        help="relative depth jump that makes an edge whatever the normals do",
    )
    add("--points", choices=("depth", "pointmap"), help="which of VGGT's points")


def _add_cameras(parser: Parser) -> None:
    """Options of the cameras that few people need."""
    add = parser.section("cameras", rare=True).add_argument
    add(
        "--shared-intrinsics",
        action="store_true",
        help="one camera for all views, in --bundle-adjust too",
    )
    add("--centre-principal-point", action="store_true", help="hold it at the image's centre")
    add("--pad", action="store_true", help="VGGT: pad photos to squares instead of cropping them")


def run(options: argparse.Namespace) -> int:
    """Reconstructs the scene and writes the output folder; returns the exit code."""
    if options.keep_edges and options.edge_rtol is not None:
        raise InputError("--keep-edges does not go with --edge-rtol; leave one of them out")
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
        "edge_rtol": _edge_rtol(options),
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
