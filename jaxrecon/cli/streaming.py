"""Options of `jaxrecon reconstruct --stream`."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jaxrecon.cli import common
from jaxrecon.cli.parser import Parser
from jaxrecon.errors import InputError
from jaxrecon.progress import Stages

if TYPE_CHECKING:
    from jaxrecon.images import ImageSource
    from jaxrecon.pipeline import Pipeline

FORMAT = "npz"
"""What streaming writes, a file a view."""

VIEWS_AT_ONCE = 16
"""How many views are worked out together, if no number is given."""


def add_streaming(parser: Parser) -> None:
    """Options of writing view by view."""
    add = parser.section("speed and memory").add_argument
    add("--stream", action="store_true", help="write each view as it is done; a rerun resumes")
    add(
        "--views-at-once",
        type=int,
        metavar="N",
        help=f"with --stream: work out N views together; default: {VIEWS_AT_ONCE}",
    )


def check_options(options: argparse.Namespace) -> None:
    """Refuses what streaming cannot do, before weights and photos are read.

    Raises:
      InputError: an option goes with streaming alone, or not with it.
      OutputError: the folder holds something else, or nothing may be written there.
    """
    check_views_at_once(options)
    if not options.stream:
        return
    if options.formats not in (None, FORMAT):
        raise InputError(
            f"--formats {options.formats}: --stream writes {FORMAT}, a file a view; leave one of "
            "them out"
        )
    from jaxrecon.formats import check_stream_folder

    common.check_folder_name(options)
    check_stream_folder(options.output, overwrite=options.overwrite)


def check_views_at_once(options: argparse.Namespace) -> None:
    """Refuses a number of views that means nothing.

    Raises:
      InputError: it is below 1, or nothing is streamed.
    """
    views = options.views_at_once
    if views is not None and not options.stream:
        raise InputError("--views-at-once goes with --stream; add it, or leave out")
    if views is not None and views < 1:
        raise InputError(f"--views-at-once {views}: give a number of at least 1")


def views_at_once(options: argparse.Namespace) -> int | None:
    """How many views to work out together; None if nothing is streamed."""
    if not options.stream:
        return None
    return VIEWS_AT_ONCE if options.views_at_once is None else options.views_at_once


def stream(
    pipeline: "Pipeline",
    images: "ImageSource",
    options: argparse.Namespace,
    stages: Stages,
    **arguments: Any,
) -> Path:
    """Writes the folder and says so."""
    folder = pipeline.stream(
        images,
        options.output,
        overwrite=options.overwrite,
        views_at_once=views_at_once(options) or VIEWS_AT_ONCE,
        stages=stages,
        **arguments,
    )
    summary = {"output": str(folder), "seconds": common.seconds(stages)}
    summary |= common.programs(pipeline, stages)
    common.report(options, summary, common.to_look_at(str(folder)))
    return folder
