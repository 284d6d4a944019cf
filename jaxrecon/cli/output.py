"""The output folder of `jaxrecon reconstruct`."""

import argparse
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jaxrecon.cli import common
from jaxrecon.errors import InputError
from jaxrecon.extras import check_installed
from jaxrecon.files import replacing_folder
from jaxrecon.progress import Stages

if TYPE_CHECKING:
    from jaxrecon.reconstruction import Reconstruction

FILES = {
    "ply": "scene.ply",
    "glb": "scene.glb",
    "npz": "scene.npz",
    "colmap": "colmap/",
    "pictures": "pictures/",
    "summary": "summary.png",
}
"""What can be written, and under which name in the output folder."""

OLD_FILES = {"sheet": "sheet.png"}
"""The summary as the release before called it; for one release more."""

MATPLOTLIB = ("matplotlib", "eval")
LIBRARIES = {"glb": ("trimesh", "mesh"), "summary": MATPLOTLIB, "sheet": MATPLOTLIB}
"""What some formats need, and the extra that installs it."""


def formats_of(text: str) -> list[str]:
    """The formats that `--formats` names, each once.

    Raises:
      InputError: one is unknown, or there is none.
    """
    names = [name.strip() for name in text.split(",") if name.strip()]
    unknown = [name for name in names if name not in FILES | OLD_FILES]
    if unknown or not names:
        found = ", ".join(unknown) or "nothing"
        raise InputError(f"--formats: found {found}; choose from {', '.join(FILES)}")
    if "sheet" in names:
        common.complain("--formats sheet is called summary now; the old name goes soon")
    return list(dict.fromkeys(names))


def file_of(name: str) -> str:
    """The name in the output folder of a format that `formats_of` has accepted."""
    return (FILES | OLD_FILES)[name]


def check_libraries(formats: Sequence[str]) -> None:
    """Refuses, before anything is computed, formats that this installation cannot write.

    Raises:
      InputError: a library is not installed; names its extra.
    """
    for name in formats:
        if name in LIBRARIES:
            library, extra = LIBRARIES[name]
            check_installed(library, extra, f"--formats: {name} needs {library}, or leave it out")


def write(
    recon: "Reconstruction",
    options: argparse.Namespace,
    formats: Sequence[str],
    stages: Stages,
    failed: Mapping[str, str],
    more: Mapping[str, Any],
) -> dict[str, Any]:
    """Writes the whole output folder under a temporary name, then renames it.

    A format that cannot hold the reconstruction is left out, and is told of on standard error.

    Args:
      failed: what else did not come about, and why.
      more: what else the summary tells.

    Returns:
      The summary, as `summary.json` has it; its "failed" tells why what was left out was.

    Raises:
      InputError: no format can hold the reconstruction.
      OutputError: the folder cannot be written.
    """
    with replacing_folder(options.output, overwrite=options.overwrite) as folder:
        with stages.stage("export", total=len(formats)) as done:
            recon = recon.numpy()
            refused = _write_formats(recon, formats, folder, done)
        if len(refused) == len(formats):
            raise InputError(next(iter(refused.values())))
        written = [name for name in formats if name not in refused]
        summary = _summary(recon, options, written, stages) | {**more}
        summary["failed"] = {**failed, **refused}
        (folder / "summary.json").write_text(json.dumps(summary, indent=2) + "\n")
    for name, reason in refused.items():
        common.complain(f"{options.output}/{file_of(name)} was left out: {reason}")
    return summary


def _write_formats(
    recon: "Reconstruction", formats: Sequence[str], folder: Path, done: Callable[[], None]
) -> dict[str, str]:
    """Writes the formats; returns those that cannot hold the reconstruction, with the reason."""
    refused: dict[str, str] = {}
    for name in formats:
        try:
            _write_format(recon, name, folder)
        except InputError as error:
            refused[name] = str(error)
        done()
    return refused


def _write_format(recon: "Reconstruction", name: str, folder: Path) -> None:
    if name == "pictures":
        recon.save_pictures(folder / file_of(name))
    elif name in ("summary", "sheet"):
        recon.save_summary(folder / file_of(name))
    else:
        recon.save(f"{folder}/{file_of(name)}")


def _summary(
    recon: "Reconstruction", options: argparse.Namespace, written: Sequence[str], stages: Stages
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
        "files": [file_of(name) for name in written] + ["summary.json"],
        "seconds": common.seconds(stages),
    }
