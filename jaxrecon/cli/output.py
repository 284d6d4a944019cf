"""The output folder of `jaxrecon reconstruct`."""

import argparse
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jaxrecon.choices import meant
from jaxrecon.cli import common, process
from jaxrecon.cli.parser import Parser
from jaxrecon.cli.process import say
from jaxrecon.errors import InputError, one_line
from jaxrecon.files import replacing_folder
from jaxrecon.formats import (
    FORMATS,
    SUMMARY_FILE,
    ExportOptions,
    Format,
    check_options,
    photos_of,
)
from jaxrecon.progress import Stages

if TYPE_CHECKING:
    from jaxrecon.reconstruction import Reconstruction

DEFAULT_FORMATS = "ply,glb,npz,colmap"
"""What is written if nothing else is asked for."""

_NO_SETTINGS = ("run", "output", "overwrite", "quiet", "json", "view")
_MOST_LISTED = 3
_MOST_FILES = 20
"""So many are named in the last line."""

_LONGEST_LINE = 1000

OLD_NAMES = {"sheet": ("summary", "sheet.png")}
"""Formats as the release before called them, and their files; for one release more."""


def add_formats(parser: Parser) -> None:
    """The option of which files are written."""
    told = f"comma-separated: {', '.join(FORMATS)}; default: {DEFAULT_FORMATS}"
    parser.section("result").add_argument("--formats", metavar="NAMES", help=told)


def add_files(parser: Parser, *, rare: bool = True) -> None:
    """Options of what is in the files."""
    group = parser.section(
        "files that are written", "docs/export.md tells which tool reads which.", rare=rare
    )
    add = group.add_argument
    add("--size", choices=("original", "processed"), help="of the pictures that cameras are for")
    images = group.add_mutually_exclusive_group().add_argument
    images("--link-images", action="store_true", help="put links to the photos beside cameras")
    images("--copy-images", action="store_true", help="put copies of the photos there")
    add("--voxel", type=float, metavar="SIDE", help="the most confident point of each such cube")
    add("--text", action="store_true", help="text, where a format is binary or text")


def export_options(
    options: argparse.Namespace, formats: Sequence[str], stages: Stages
) -> ExportOptions:
    """What the command line asks of the files.

    Raises:
      InputError: an option is out of range, or for none of the formats.
    """
    images = "link" if options.link_images else "copy" if options.copy_images else None
    names = ("size", "max_points", "voxel", "text")
    given = {name: getattr(options, name) for name in names}
    chosen = ExportOptions(**given, images=images, stages=stages)
    check_options(chosen, [format_of(name) for name in formats], _flag)
    return chosen


def _flag(name: str, value: object) -> str:
    if name == "images":
        return f"--{value}-images"
    flag = f"--{name.replace('_', '-')}"
    return flag if value is True else f"{flag} {value}"


def formats_of(text: str) -> list[str]:
    """The formats that `--formats` names, each once.

    Raises:
      InputError: one is unknown, or there is none.
    """
    names = [name.strip() for name in text.split(",") if name.strip()]
    unknown = [name for name in names if name not in FORMATS | OLD_NAMES]
    if unknown or not names:
        found = ", ".join(unknown) or "nothing"
        near = meant(unknown[0], FORMATS) if unknown else ""
        raise InputError(f"--formats: found {found}; choose from {', '.join(FORMATS)}{near}")
    if "sheet" in names:
        process.complain("--formats sheet is called summary now; the old name goes soon")
    return list(dict.fromkeys(names))


def file_of(name: str) -> str:
    """The name in the output folder of a format that `formats_of` has accepted."""
    return OLD_NAMES[name][1] if name in OLD_NAMES else FORMATS[name].file


def format_of(name: str) -> Format:
    """The format of a name that `formats_of` has accepted."""
    return FORMATS[OLD_NAMES[name][0] if name in OLD_NAMES else name]


def check_libraries(formats: Sequence[str]) -> None:
    """Refuses, before anything is computed, formats that this installation cannot write.

    Raises:
      InputError: a library is not installed; names its extra.
    """
    for name in formats:
        format_of(name).check_library("--formats: ")


def write(
    recon: "Reconstruction",
    options: argparse.Namespace,
    formats: Sequence[str],
    export: ExportOptions,
    stages: Stages,
    failed: Mapping[str, str],
    more: Mapping[str, Any],
) -> dict[str, Any]:
    """Writes the whole output folder under a temporary name, then renames it.

    A format that cannot hold the reconstruction is left out, and is told of on standard error.

    Args:
      export: how they are written.
      failed: what else did not come about, and why.
      more: what else the summary tells.

    Returns:
      The summary, as `summary.json` has it; its "failed" tells why what was left out was.

    Raises:
      InputError: no format can hold the reconstruction.
      OutputError: the folder holds a photo of the reconstruction, or cannot be written.
    """
    photos = photos_of(recon.files)
    with replacing_folder(options.output, overwrite=options.overwrite, inputs=photos) as folder:
        with stages.stage("export", total=len(formats)) as done:
            recon = recon.numpy()
            points, refused = _write_formats(recon, formats, export, folder, done)
        if len(refused) == len(formats):
            raise InputError(next(iter(refused.values())))
        written = [name for name in formats if name not in refused]
        summary = _summary(recon, options, written, stages) | {**more}
        summary["points_written"] = points
        summary["failed"] = {**failed, **refused}
        (folder / SUMMARY_FILE).write_text(json.dumps(summary, indent=2) + "\n")
    for name, reason in refused.items():
        process.complain(f"{options.output}/{file_of(name)} was left out: {reason}")
    return summary


def _write_formats(
    recon: "Reconstruction",
    formats: Sequence[str],
    export: ExportOptions,
    folder: Path,
    done: Callable[[], None],
) -> tuple[dict[str, int], dict[str, str]]:
    """Writes the formats.

    Returns:
      How many points the files of points have, by file, and by format why those that cannot hold
      the reconstruction cannot.
    """
    points: dict[str, int] = {}
    refused: dict[str, str] = {}
    scene = recon.scene()
    for name in formats:
        kind = format_of(name)
        try:
            count = kind.write(scene, folder / file_of(name), kind.own(export))
            if count is not None:
                points[file_of(name)] = count
        except InputError as error:
            refused[name] = str(error)
        done()
    return points, refused


def _summary(
    recon: "Reconstruction", options: argparse.Namespace, written: Sequence[str], stages: Stages
) -> dict[str, Any]:
    from jaxrecon.pipeline.facts import facts_of

    return facts_of(recon, stages) | {
        "output": options.output,
        "files": [file_of(name) for name in written] + [SUMMARY_FILE],
        "settings": settings_of(options),
    }


def settings_of(options: argparse.Namespace) -> dict[str, Any]:
    """The options that were given or have a default, as they can be written in JSON."""
    found = {}
    for name, value in sorted(vars(options).items()):
        if name in _NO_SETTINGS or value is None or value is False or value == []:
            continue
        if isinstance(value, list):
            more = [f"and {len(value) - _MOST_LISTED} more"] if len(value) > _MOST_LISTED else []
            value = [*map(str, value[:_MOST_LISTED]), *more]
        found[name] = value if isinstance(value, str | int | float | list) else str(value)
    return found


def last_line(summary: Mapping[str, Any]) -> str:
    """What a summary says, in one line that ends with how to look at the result.

    A file with another number of points than the result has it behind its name.
    """
    count = len(summary["warnings"])
    told = [
        views_told(summary["views"]),
        f"{summary['points']:,} points ({100 * summary['kept']:.1f} % of the pixels)",
    ]
    if summary["fov_degrees"] is not None:
        told.append(f"{summary['fov_degrees']:.0f} degrees wide")
    told.append({0: "no warnings", 1: "1 warning"}.get(count, f"{count} warnings"))
    return f"wrote {summary['output']}{what_there_is(summary, told, usual=summary['points'])}"


def what_there_is(
    summary: Mapping[str, Any], told: Sequence[str], *, usual: int | None = None
) -> str:
    """What is told of a folder behind its name: these words, its files, and how to look at them.

    Of very many files the first are named. A file of another number of points than is `usual` has
    it behind its name.
    """
    points = summary["points_written"]
    files = [
        f"{name} ({points_told(points[name])})" if points.get(name, usual) != usual else name
        for name in summary["files"]
    ]
    if len(files) > _MOST_FILES:
        files[_MOST_FILES:] = [f"{len(files) - _MOST_FILES} more"]
    look = common.to_look_at(str(summary["output"]))
    return f": {', '.join(told)}; {', '.join(files)}{look}"


def views_told(count: int) -> str:
    """A number of views in words."""
    return "1 view" if count == 1 else f"{count} views"


def points_told(count: int) -> str:
    """A number of points in words."""
    return "1 point" if count == 1 else f"{count:,} points"


def report(options: argparse.Namespace, summary: Mapping[str, Any]) -> None:
    """Prints the summary as JSON if asked to, else its warnings and its one line."""
    if options.json:
        say(json.dumps(summary))
    elif not options.quiet:
        for warning in summary["warnings"]:
            process.complain(f"warning: {warning}")
        say(one_line(last_line(summary), _LONGEST_LINE))
