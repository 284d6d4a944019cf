"""`jaxrecon report out/`."""

import argparse
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxrecon.browsing import open_page
from jaxrecon.checks import finite
from jaxrecon.cli.process import say
from jaxrecon.errors import InputError, one_line
from jaxrecon.formats import SUMMARY_FILE

if TYPE_CHECKING:
    from jaxrecon.formats.report import Known

_NAME = "report.html"
_MOST_BYTES = 16 * 2**20


def add_to(commands: Any) -> None:
    """Adds the command to the parser."""
    parser = commands.add_parser("report", help="one page of HTML that shows a reconstruction")
    add = parser.add_argument
    add("scene", help="the folder that reconstruct wrote, or a .npz file")
    add("-o", "--output", help=f"HTML file to write; default: {_NAME} beside the scene")
    add("--no-open", action="store_true", help="do not open it in the browser")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Writes the page, says where, and opens it if there is a browser."""
    from jaxrecon.cli.results import read_result
    from jaxrecon.formats import LoosePoints
    from jaxrecon.formats.report import write_report

    found, scene, left_out = read_result(options.scene)
    if isinstance(scene, LoosePoints):
        raise InputError(
            f"{found} holds points alone; a report needs all of a reconstruction: write it with "
            "--formats npz, or give the .npz file"
        )
    folder = found if found.is_dir() else found.parent
    path = Path(options.output) if options.output is not None else folder / _NAME
    if path.suffix.lower() not in (".html", ".htm"):
        raise InputError(f"--output {path}: give a name that ends in .html")
    write_report(scene, path, known_of(folder))
    say(f"wrote {one_line(os.fspath(path))}{f' ({left_out})' if left_out else ''}")
    if not options.no_open:
        open_page(path.resolve().as_uri())
    return 0


def known_of(folder: Path) -> "Known":
    """What the summary in a folder tells of the run that wrote it; nothing if there is none."""
    from jaxrecon.formats.report import Known
    from jaxrecon.reading import is_plain_file, read_json

    file = folder / SUMMARY_FILE
    summary = read_json(file, limit=_MOST_BYTES) if is_plain_file(file) else None
    if not isinstance(summary, Mapping):
        return Known(output=str(folder))
    settings, files = summary.get("settings"), summary.get("files")
    return Known(
        settings=settings if isinstance(settings, Mapping) else None,
        sparsity=_shares(summary.get("sparsity")),
        seconds=_times(summary.get("seconds")),
        files=[str(name) for name in files] if isinstance(files, list) else (),
        output=str(folder),
    )


def _times(told: Any) -> Mapping[str, float] | None:
    """Seconds by name; None for anything else."""
    if not isinstance(told, Mapping):
        return None
    found = {name: finite(took) for name, took in told.items()}
    sound = {name: took for name, took in found.items() if took is not None and took >= 0}
    return sound if len(sound) == len(found) else None


def _shares(told: Any) -> np.ndarray | None:
    """Rows of numbers from 0 to 1; None for anything else."""
    try:
        found = np.array(told, np.float64)
    except (TypeError, ValueError, OverflowError):
        return None
    sound = found.ndim == 2 and found.size and ((found >= 0) & (found <= 1)).all()
    return found if sound else None
