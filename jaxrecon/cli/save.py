"""`jaxrecon save out/ --formats splats -o splats/`: a result once more, in other formats."""

import argparse
from pathlib import Path
from typing import Any

from jaxrecon.cli import common, output
from jaxrecon.cli.parser import Parser
from jaxrecon.errors import InputError
from jaxrecon.progress import Stages


def add_to(commands: Any) -> None:
    """Adds the command to the parser."""
    parser: Parser = commands.add_parser(
        "save",
        help="write a result in other formats, or fewer of its points",
        epilog="Points that the first run left out do not come back: reconstruct again for those.",
    )
    parser.add_argument("scene", help="the folder that reconstruct wrote, or a .npz file")
    add = parser.section("result").add_argument
    add("-o", "--output", metavar="OUT", required=True, help="folder to write")
    output.add_formats(parser)
    add("--max-points", type=common.at_least_one, metavar="N", help="write at most N points")
    common.add_common(parser)
    points = parser.section("which points are kept, of those that the result has").add_argument
    points("--min-confidence", type=float, metavar="X", help="drop less confident points")
    points(
        "--confidence-quantile",
        type=float,
        metavar="SHARE",
        help="drop this share of them, the least confident",
    )
    points(
        "--edge-rtol",
        type=float,
        metavar="X",
        help="drop those where depth jumps by more than this, relative to the depth",
    )
    output.add_files(parser, rare=False)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Reads the result, drops points, and writes the folder; returns the exit code."""
    formats = output.formats_of(options.formats or output.DEFAULT_FORMATS)
    common.check_output(options)
    output.check_libraries(formats)
    from jaxrecon.formats import shown_file
    from jaxrecon.formats.viewer_files import POINTS_ALONE
    from jaxrecon.reconstruction import Reconstruction

    stages = Stages(quiet=options.quiet)
    export = output.export_options(options, formats, stages)
    with stages.stage("read"):
        place: Path = shown_file(options.scene)
        if place.suffix.lower() in POINTS_ALONE:
            raise InputError(
                f"{place} has points alone, and no cameras or depth to write other formats from; "
                "give a .npz file, or a folder with one (reconstruct writes it with npz among "
                "--formats)"
            )
        recon = Reconstruction.load(place)
    recon = recon.narrowed(
        min_confidence=options.min_confidence,
        confidence_quantile=options.confidence_quantile,
        edge_rtol=options.edge_rtol,
    )
    summary = output.write(recon, options, formats, export, stages, {}, {})
    output.report(options, summary)
    return common.INCOMPLETE if summary["failed"] else 0
