"""SHA-256 of the files of a folder that another library writes and reads."""

import hashlib
import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from jaxrecon.errors import WeightsError
from jaxrecon.reading import open_plain
from jaxrecon.reading.plain_files import MEBIBYTE

_ADVICE = "copy or write the checkpoint again"


def digests_of(folder: Path) -> dict[str, dict[str, Any]]:
    """Size and SHA-256 of every file below a folder, by its path there.

    Several files are read at a time; a core digests about a gigabyte a second.

    Raises:
      WeightsError: a file cannot be read, or is no regular file.
    """
    names = _files_below(folder)
    with ThreadPoolExecutor() as pool:
        hashes = pool.map(lambda name: _sha256(folder / name), names)
        return {
            name: {"bytes": _size(folder / name), "sha256": sha256}
            for name, sha256 in zip(names, hashes, strict=True)
        }


def check_digests(folder: Path, listed: Mapping[str, Mapping[str, Any]]) -> None:
    """Compares the files below a folder with what `digests_of` said of them.

    Names and sizes come first, so that a file of another size is not read.

    Raises:
      WeightsError: a file is missing, has changed, or was not there.
    """
    found = _files_below(folder)
    for name in sorted({*found, *listed}):
        if name not in found:
            raise WeightsError(f"{folder / name} is missing; {_ADVICE}")
        if name not in listed:
            raise WeightsError(
                f"{folder / name} does not belong to the checkpoint; delete it, or {_ADVICE}"
            )
    for name in found:
        if _size(folder / name) != listed[name]["bytes"]:
            raise _changed(folder / name)
    with ThreadPoolExecutor() as pool:
        hashes = pool.map(lambda name: _sha256(folder / name), found)
        for name, sha256 in zip(found, hashes, strict=True):
            if sha256 != listed[name]["sha256"]:
                raise _changed(folder / name)


def _changed(path: Path) -> WeightsError:
    return WeightsError(
        f"{path} is damaged: its bytes have changed since it was written; {_ADVICE}"
    )


def _size(path: Path) -> int:
    with open_plain(path, advice=_ADVICE, kind=WeightsError) as file:
        return os.fstat(file.fileno()).st_size


def _files_below(folder: Path) -> list[str]:
    paths = (Path(place, name) for place, _, names in os.walk(folder) for name in names)
    return sorted(path.relative_to(folder).as_posix() for path in paths)


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with open_plain(path, advice=_ADVICE, kind=WeightsError) as file:
        try:
            while chunk := file.read(MEBIBYTE):
                digest.update(chunk)
        except OSError as error:
            raise WeightsError(f"cannot read {path}: {error.strerror}; {_ADVICE}") from error
    return digest.hexdigest()
