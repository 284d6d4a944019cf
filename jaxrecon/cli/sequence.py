"""Options of `jaxrecon reconstruct --chunk`: sequences of any length."""

import argparse
import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jaxrecon.choices import GROUPS, JOINS
from jaxrecon.cli import common, output, process
from jaxrecon.cli.parser import Parser
from jaxrecon.errors import InputError
from jaxrecon.files import replacing_file
from jaxrecon.formats import SUMMARY_FILE, ExportOptions
from jaxrecon.progress import Stages

if TYPE_CHECKING:
    from jaxrecon.images import ImageSource
    from jaxrecon.pipeline import Pipeline, SequenceReconstruction

DEFAULT_FORMATS = "ply,glb,colmap,trajectory"
"""What is written beside the views, if nothing else is asked for."""


def add_sequence(parser: Parser) -> None:
    """Options of working in chunks."""
    add = parser.section("long sequences (docs/sequences.md)").add_argument
    seldom = parser.section("how chunks are joined", rare=True).add_argument
    add(
        "--chunk",
        type=common.whole,
        metavar="N",
        help="work on N views at a time, such as 60",
    )
    add("--overlap", type=common.whole, metavar="N", help="views that chunks share; default: half")
    seldom("--join", choices=JOINS, help="by the shared views' poses (default) or their points")
    seldom("--group", choices=GROUPS, help="a join with scale (sim3) or without; default: by model")
    seldom("--allow-gaps", action="store_true", help="go on where a join cannot be trusted")
    add("--loops", action="store_true", help="make places agree that the sequence comes back to")
    seldom(
        "--export-every",
        type=common.at_least_one,
        metavar="N",
        help="files of all views (--formats) take every n-th; the trajectory takes all",
    )


def check_options(options: argparse.Namespace) -> None:
    """Refuses what goes with chunks alone, or not with them.

    Raises:
      InputError: see above.
      OutputError: the folder holds something else, or nothing may be written there.
    """
    if options.chunk is None:
        for name in ("overlap", "join", "group", "allow_gaps", "loops", "export_every"):
            if getattr(options, name):
                raise InputError(
                    f"--{name.replace('_', '-')} goes with --chunk; add it, or leave out"
                )
        return
    if options.views_at_once is not None:
        raise InputError("--views-at-once: a chunk is worked on at once; leave it, or --chunk, out")
    if options.export_every is not None and not _thinned(options):
        raise InputError(
            f"--export-every {options.export_every} is of files of all views, of which none is "
            "written (--stream writes the views alone, trajectory takes them all); leave it out"
        )
    from jaxrecon.formats import check_stream_folder
    from jaxrecon.pipeline.chunking import checked_sizes

    checked_sizes(options.chunk, options.overlap)
    common.check_folder_name(options)
    check_stream_folder(options.output, overwrite=options.overwrite)


def formats(options: argparse.Namespace) -> list[str]:
    """What is written beside the views."""
    if options.stream:
        return []
    return output.formats_of(options.formats or DEFAULT_FORMATS)


def _thinned(options: argparse.Namespace) -> list[str]:
    """The formats of which `--export-every` leaves out views."""
    return [name for name in formats(options) if name != "trajectory"]


def reconstruct(
    pipeline: "Pipeline",
    images: "ImageSource",
    options: argparse.Namespace,
    export: ExportOptions,
    stages: Stages,
    **arguments: Any,
) -> int:
    """Writes the views, then the formats beside them; returns the exit code."""
    given = {name: getattr(options, name) for name in ("join", "group") if getattr(options, name)}
    found = pipeline.reconstruct_sequence(
        images,
        options.output,
        chunk=options.chunk,
        overlap=options.overlap,
        allow_gaps=options.allow_gaps,
        loops=options.loops,
        overwrite=options.overwrite,
        stages=stages,
        **given,
        **arguments,
    )
    wanted = formats(options)
    written: dict[str, int | None] = {}
    refused: dict[str, str] = {}
    if wanted:
        written, refused = _write_formats(found, options, wanted, export, stages)
    summary = _summary(found, options, written, stages) | common.programs(pipeline, stages)
    summary["failed"] = refused
    if wanted:
        with replacing_file(Path(options.output) / SUMMARY_FILE) as temporary:
            temporary.write_text(json.dumps(summary, indent=2) + "\n")
    _tell(found, stages)
    for file, reason in refused.items():
        process.complain(f"{options.output}/{file} was left out: {reason}")
    common.report(options, summary, _more(summary, len(found.segments)))
    return common.INCOMPLETE if refused else 0


def _write_formats(
    found: "SequenceReconstruction",
    options: argparse.Namespace,
    wanted: list[str],
    export: ExportOptions,
    stages: Stages,
) -> tuple[dict[str, int | None], dict[str, str]]:
    """Writes the formats of each segment.

    Returns:
      The files below the folder and how many points they have, and why those that cannot hold
      their segment cannot.
    """
    names = [output.format_of(name).name for name in wanted]
    mine = replace(export, overwrite=True)  # the folder is this sequence's own
    written: dict[str, int | None] = {}
    refused: dict[str, str] = {}
    with stages.stage("export", total=len(found.segments)) as done:
        for number in range(len(found.segments)):
            own, prefix = found.folder, ""
            if len(found.segments) > 1:
                prefix = f"segment_{number}/"
                own = own / prefix
                own.mkdir(exist_ok=True)
            every, why = options.export_every or 1, dict[str, str]()
            files = found.write(own, names, mine, every=every, segment=number, refused=why)
            written |= {f"{prefix}{file}": count for file, count in files.items()}
            refused |= {f"{prefix}{file}": reason for file, reason in why.items()}
            done()
    return written, refused


def _more(summary: dict[str, Any], segments: int) -> str:
    """What the last line tells behind the folder's name."""
    told = [output.views_told(summary["views"])]
    if segments > 1:
        told.append(f"{segments} segments, each a world of its own")
    return output.what_there_is(summary, told)


def _tell(found: "SequenceReconstruction", stages: Stages) -> None:
    told = set()
    for join in found.joins:
        place = f"{join.first_view} and {join.last_view}"
        if join.doubt and place not in told:
            told.add(place)
            stages.note(
                f"NOTE: a gap between {place}: {join.doubt}; what is before and behind it has a "
                "world of its own"
            )


def _summary(
    found: "SequenceReconstruction",
    options: argparse.Namespace,
    written: dict[str, int | None],
    stages: Stages,
) -> dict[str, Any]:
    import jax

    sound = [join for join in found.joins if not join.doubt]
    return {
        "model": options.model,
        "device": jax.devices()[0].device_kind,
        "views": len(found),
        "chunk": options.chunk,
        "joins": len(found.joins),
        "least_inliers": min((join.inliers for join in sound), default=None),
        "loops": len(found.loops),
        "segments": [[part.start, part.stop] for part in found.segments],
        "output": options.output,
        "files": ["scene.json", *written],
        "points_written": {name: count for name, count in written.items() if count is not None},
        "seconds": common.seconds(stages),
    }
