"""Which weights a run set out from, and on whose terms those may be used."""

import json
from pathlib import Path
from typing import Any

from jaxrecon.checkpoint import read_config
from jaxrecon.errors import InputError
from jaxrecon.files import replacing_file
from jaxrecon.reading import read_json

ORIGIN_NAME = "init.json"
"""What the weights that a run set out from say of themselves, beside its config."""

_FIELDS = ("family", "model", "license", "source", "resize")


def keep_origin(folder: Path, init: str | Path | None) -> None:
    """Writes what a checkpoint says of itself, its licence among it, into the folder of a run.

    Without one, what the folder holds of an earlier start is removed.

    Raises:
      OutputError: the file cannot be written.
    """
    if init is None:
        (folder / ORIGIN_NAME).unlink(missing_ok=True)
        return
    with replacing_file(folder / ORIGIN_NAME) as temporary:
        temporary.write_text(json.dumps(_told_by(init), indent=1) + "\n", encoding="utf-8")


def check_origin(folder: Path, init: str | Path) -> None:
    """Refuses weights from which a run that has begun did not set out.

    Raises:
      WeightsError: they cannot be read.
      InputError: they are others, by what they say of themselves.
    """
    origin = read_origin(folder)
    if _told_by(init) != origin:
        found = f"other weights than {init}" if origin else "random weights"
        raise InputError(
            f"init: {folder} holds a run that set out from {found}; leave init out to go on with "
            "it, or choose another folder"
        )


def _told_by(init: str | Path) -> dict[str, Any]:
    header = read_config(init)
    return {name: header[name] for name in _FIELDS if name in header}


def read_origin(folder: Path) -> dict[str, Any]:
    """What `keep_origin` wrote; nothing where a run set out from random weights.

    Raises:
      InputError: the file is damaged.
    """
    path = folder / ORIGIN_NAME
    if not path.exists():
        return {}
    advice = "write it again: the licence and the source of the weights that the run started from"
    found = read_json(path, advice=advice)
    if not isinstance(found, dict) or not set(found) <= set(_FIELDS) or "source" not in found:
        raise InputError(f"{path} is damaged; {advice}")
    return found
