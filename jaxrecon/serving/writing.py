"""The folder of a result."""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from jaxrecon.errors import InputError
from jaxrecon.files import replacing_folder
from jaxrecon.formats import FORMATS, SUMMARY_FILE, ExportOptions
from jaxrecon.formats.report import Known, write_report
from jaxrecon.pipeline.facts import facts_of
from jaxrecon.progress import Stages
from jaxrecon.reconstruction import Reconstruction
from jaxrecon.serving.settings import Settings

WRITTEN = ("ply", "glb", "npz", "colmap", "summary")
"""Formats that are written, as far as their libraries are installed."""

THUMBNAIL = "thumbnail.jpg"
_THUMBNAIL_SIDE, _QUALITY = 320, 85


def write_result(recon: Reconstruction, folder: Path, settings: Settings, stages: Stages) -> None:
    """Writes files to download, a report, a picture for the gallery and the summary.

    Raises:
      InputError: no format can hold the reconstruction.
      OutputError: the folder cannot be written, or is there already.
    """
    with replacing_folder(folder) as place:
        with stages.stage("export", total=len(WRITTEN) + 1) as done:
            recon = recon.numpy()
            scene, failed, points = recon.scene(), dict[str, str](), dict[str, int]()
            for name in WRITTEN:
                kind = FORMATS[name]
                # Where uploads lie is nobody's concern, and they are gone soon.
                told = replace(scene, files=()) if name == "npz" else scene
                try:
                    kind.check_library()
                    count = kind.write(told, place / kind.file, ExportOptions())
                    if count is not None:
                        points[kind.file] = count
                except InputError as error:
                    failed[name] = str(error)
                done()
            if len(failed) == len(WRITTEN):
                raise InputError(next(iter(failed.values())))
            files = [FORMATS[name].file for name in WRITTEN if name not in failed]
            known = Known(settings=settings.told(), sparsity=scene.sparsity, files=files)
            write_report(scene, place / "report.html", known)
            _write_thumbnail(recon, place / THUMBNAIL)
            done()
        summary: Mapping[str, Any] = facts_of(recon, stages) | {
            "title": settings.title,
            "settings": settings.told(),
            "files": [*files, "report.html", SUMMARY_FILE],
            "points_written": points,
            "failed": failed,
        }
        (place / SUMMARY_FILE).write_text(json.dumps(summary, indent=2) + "\n")
    for reason in failed.values():
        stages.note(reason)


def _write_thumbnail(recon: Reconstruction, path: Path) -> None:
    """The middle view, small."""
    picture = Image.fromarray(np.asarray(recon.colors[len(recon) // 2]))
    picture.thumbnail((_THUMBNAIL_SIDE, _THUMBNAIL_SIDE))
    picture.save(path, format="JPEG", quality=_QUALITY)
