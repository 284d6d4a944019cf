"""Points that are followed, and cameras that are refined by them."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jaxrecon.cli import common, process
from jaxrecon.cli.parser import Parser
from jaxrecon.errors import InputError
from jaxrecon.progress import Stages

if TYPE_CHECKING:
    from jaxrecon.images import ImageSource
    from jaxrecon.pipeline import QueryPoints
    from jaxrecon.reconstruction import Reconstruction

BUNDLE_POINTS = 512
"""Points followed from every eighth photo for bundle adjustment, if no number is given."""


def add_tracking(parser: Parser) -> None:
    """Options of points to follow and of what is done with them."""
    add = parser.section("points that are followed", rare=True).add_argument
    add(
        "--tracks",
        type=common.at_least_one,
        metavar="N",
        help="VGGT: follow N points of every eighth photo",
    )
    add(
        "--query-points",
        type=Path,
        metavar="FILE",
        help="VGGT: follow points of a .csv or .npz file: x, y (pixels of the upright photo), view",
    )
    add("--bundle-adjust", action="store_true", help="refine cameras by tracks (needs pycolmap)")
    add(
        "--max-reprojection-error",
        type=common.positive,
        metavar="PIXELS",
        help="most by which an observation may be off before bundle adjustment; default: 8",
    )


def check_options(options: argparse.Namespace) -> None:
    """Refuses options that do nothing without another, or beside it.

    Raises:
      InputError: see above.
    """
    if options.tracks is not None and options.query_points is not None:
        raise InputError("--query-points gives the points that --tracks spreads; give one of them")
    if options.max_reprojection_error is not None and not options.bundle_adjust:
        raise InputError("--max-reprojection-error goes with --bundle-adjust; add it, or leave out")


def query_points(options: argparse.Namespace) -> "QueryPoints | None":
    """The points to follow; None for none.

    Raises:
      InputError: their file cannot be used; see `read_query_points`.
    """
    if options.query_points is not None:
        from jaxrecon.cli.query_points import read_query_points

        return read_query_points(options.query_points)
    if options.tracks is None and options.bundle_adjust:
        return BUNDLE_POINTS
    return options.tracks


def check_adjustable(images: "ImageSource", options: argparse.Namespace) -> None:
    """Refuses what bundle adjustment could not work with, before any long work is done.

    Raises:
      InputError: pycolmap is not installed, there is one image, or images of several sizes are to
        share a camera.
    """
    from jaxrecon.bundle_adjustment import check_adjustable
    from jaxrecon.images import view_count, view_names, view_sizes

    count = view_count(images, **common.sampling(options))
    check_adjustable(count)
    if not options.shared_intrinsics or count is None:
        return
    names = view_names(images, **common.sampling(options))
    sizes = view_sizes(images, **common.sampling(options))
    for name, size in zip(names, sizes, strict=True):
        if size != sizes[0]:
            raise InputError(
                "--shared-intrinsics with --bundle-adjust needs images of one size; found "
                f"{_told(sizes[0])} ({names[0]}) and {_told(size)} ({name}); leave one of them out"
            )


def refined(
    recon: "Reconstruction", options: argparse.Namespace, stages: Stages
) -> tuple["Reconstruction", dict[str, str]]:
    """The reconstruction with refined cameras; as it is, and why, if they cannot be refined."""
    from jaxrecon.bundle_adjustment import bundle_adjust

    error = options.max_reprojection_error
    chosen: dict[str, Any] = {} if error is None else {"max_reprojection_error": error}
    try:
        with stages.stage("adjust"):
            shared = options.shared_intrinsics
            return bundle_adjust(recon, shared_camera=shared, stages=stages, **chosen), {}
    except InputError as error:
        process.complain(f"the cameras are written as the model gave them, not refined: {error}")
        return recon, {"bundle_adjust": str(error)}


def _told(size: tuple[int, int]) -> str:
    return f"{size[0]}x{size[1]}"
