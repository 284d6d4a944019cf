"""Options of `jaxrecon reconstruct --stream`."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jaxrecon.cli import common
from jaxrecon.errors import InputError
from jaxrecon.progress import Stages

if TYPE_CHECKING:
    from jaxrecon.images import ImageSource
    from jaxrecon.pipeline import Pipeline

FORMAT = "npz"
"""What streaming writes, a file a view."""


def add_streaming(parser: argparse.ArgumentParser) -> None:
    """Options of writing view by view."""
    add = parser.add_argument
    add("--stream", action="store_true", help="write each view as it is done; a rerun resumes")
    add("--views-at-once", type=int, metavar="N", help="with --stream: make so many; default: 16")


def check_options(options: argparse.Namespace) -> None:
    """Refuses what streaming cannot do, before weights and photos are read.

    Raises:
      InputError: an option goes with streaming alone, or not with it.
      OutputError: the folder holds something else, or nothing may be written there.
    """
    views = options.views_at_once
    if views is not None and not options.stream:
        raise InputError("--views-at-once goes with --stream; add it, or leave out")
    if views is not None and views < 1:
        raise InputError(f"--views-at-once {views}: give a number of at least 1")
    if not options.stream:
        return
    if options.formats not in (None, FORMAT):
        raise InputError(
            f"--formats {options.formats}: --stream writes {FORMAT}, a file a view; leave one of "
            "them out"
        )
    from jaxrecon.export import check_stream_folder

    check_stream_folder(options.output, overwrite=options.overwrite)


def stream(
    pipeline: "Pipeline",
    images: "ImageSource",
    options: argparse.Namespace,
    stages: Stages,
    **arguments: Any,
) -> Path:
    """Writes the folder and says so."""
    chosen = {} if options.views_at_once is None else {"views_at_once": options.views_at_once}
    folder = pipeline.stream(
        images,
        options.output,
        overwrite=options.overwrite,
        stages=stages,
        **chosen,
        **arguments,
    )
    summary = {"output": str(folder), "seconds": common.seconds(stages)}
    common.report(options, summary | common.programs(pipeline, stages))
    return folder
