"""What a run learns from beside its config, by digest: a run that goes on is given the same."""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxrecon.errors import InputError
from jaxrecon.files import replacing_file
from jaxrecon.reading import read_json

INPUTS_NAME = "inputs.json"
"""Digests of pictures and own scenes, beside the config of the run that they were given to."""


def claim_inputs(folder: Path, given: Mapping[str, Any], *, begun: bool) -> None:
    """Keeps what a new run learns from, or checks that a run that has begun is given the same.

    A run of a release that kept nothing is not checked.

    Args:
      folder: of the run.
      given: a digest, or several, by the argument's name; None for what is not given.
      begun: whether the run has a checkpoint.

    Raises:
      InputError: one of them differs, or the file is damaged.
      OutputError: the file cannot be written.
    """
    path = folder / INPUTS_NAME
    if not begun:
        with replacing_file(path) as temporary:
            temporary.write_text(json.dumps(dict(given), indent=1) + "\n", encoding="utf-8")
        return
    if not path.exists():
        return
    advice = "delete it to go on without comparing what the run learns from"
    found = read_json(path, advice=advice)
    if not isinstance(found, dict):
        raise InputError(f"{path} is damaged; {advice}")
    for name, digest in given.items():
        if found.get(name) != digest:
            raise InputError(
                f"{name}: {folder} holds a run that began with other files, or these have changed "
                "since; give those of its start, or choose another folder"
            )


def digest_of_files(folder: Path, files: Sequence[Path], known: Iterable[np.ndarray] = ()) -> str:
    """Tells files apart by their order, names below a folder, and sizes in bytes.

    Args:
      folder: in which the files lie.
      files: are not read.
      known: arrays that count, too.
    """
    whole = hashlib.sha256()
    for file in files:
        line = json.dumps([file.relative_to(folder).as_posix(), file.stat().st_size])
        whole.update(f"{line}\n".encode())
    for array in known:
        whole.update(f"{array.dtype} {array.shape}\n".encode())
        whole.update(np.ascontiguousarray(array).tobytes())
    return whole.hexdigest()
