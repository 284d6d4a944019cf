"""Past results, in the folder that the user names."""

import io
import os
import zipfile
from collections.abc import Iterator, Mapping
from http import HTTPStatus
from pathlib import Path
from typing import Any

from jaxrecon.errors import InputError
from jaxrecon.formats import SUMMARY_FILE
from jaxrecon.reading import inside, is_file_name, is_folder, is_plain_file, open_plain, read_json
from jaxrecon.serving.refusals import RefusedError
from jaxrecon.serving.writing import THUMBNAIL

MOST_LISTED = 500
"""So many results are listed, the newest."""

_MOST_FILES = 5000
_SUMMARY_BYTES = 16 * 2**20
_BLOCK = 2**20
_IN_LIST = ("title", "model", "views", "points", "kept", "warnings", "settings", "seconds")


class Results:
    """The results in a folder: those of jobs, and whatever `reconstruct` wrote there.

    Attributes:
      folder: where they are.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._known: dict[str, tuple[float, dict[str, Any]]] = {}

    def listed(self) -> list[dict[str, Any]]:
        """What there is to know of each, the newest first."""
        with os.scandir(self.folder) as entries:
            names = [each.name for each in entries if _is_shown(each.name)]
        found = [(time, name) for name in names if (time := self._time(name)) is not None]
        newest = sorted(found, reverse=True)[:MOST_LISTED]
        told = [self._brief(name, time) for time, name in newest]
        return [each for each in told if each is not None]

    def summary(self, name: str) -> dict[str, Any]:
        """The summary of a result, and its files with their sizes.

        Raises:
          RefusedError: there is none of this name.
        """
        summary = self._summary(self._folder(name))
        files = [{"path": path, "bytes": size} for path, size in self._files(name)]
        return summary | {"id": name, "files": files}

    def file(self, name: str, path: str) -> Path:
        """A file of a result.

        Raises:
          RefusedError: there is none, or it is outside of the result.
        """
        folder = self._folder(name)
        try:
            found = inside(folder, path, where="the address")
        except InputError:
            raise _absent() from None
        hidden = any(not _is_shown(part) for part in Path(path).parts)
        if hidden or not is_plain_file(found):
            raise _absent()
        return found

    def zipped(self, name: str) -> Iterator[bytes]:
        """All files of a result as a ZIP archive, made as it is read.

        Raises:
          RefusedError: there is no such result.
        """
        folder = self._folder(name)
        return _zip(folder, [path for path, _ in self._files(name)])

    def has(self, name: str) -> bool:
        """Whether there is a result of this name."""
        return _is_shown(name) and self._time(name) is not None

    def _time(self, name: str) -> float | None:
        try:
            return os.stat(self.folder / name / SUMMARY_FILE).st_mtime
        except (OSError, ValueError):
            return None

    def _folder(self, name: str) -> Path:
        if not self.has(name):
            raise RefusedError("there is no such result", HTTPStatus.NOT_FOUND)
        return self.folder / name

    def _summary(self, folder: Path) -> dict[str, Any]:
        file = folder / SUMMARY_FILE
        try:
            summary = read_json(file, limit=_SUMMARY_BYTES)
        except InputError as error:
            raise RefusedError("the summary of this result is damaged", 404) from error
        if not isinstance(summary, Mapping):
            raise RefusedError("the summary of this result is damaged", 404)
        return dict(summary)

    def _brief(self, name: str, time: float) -> dict[str, Any] | None:
        known = self._known.get(name)
        if known is None or known[0] != time:
            try:
                summary = self._summary(self.folder / name)
            except RefusedError:
                return None
            brief = {key: summary[key] for key in _IN_LIST if key in summary}
            picture = is_plain_file(self.folder / name / THUMBNAIL)
            brief |= {"id": name, "time": time, "thumbnail": THUMBNAIL if picture else None}
            self._known[name] = known = time, brief
        return known[1]

    def _files(self, name: str) -> list[tuple[str, int]]:
        """Paths below the folder of a result, and sizes."""
        folder, found = self.folder / name, list[tuple[str, int]]()
        for place, folders, files in os.walk(folder):
            folders[:] = sorted(each for each in folders if _is_shown(each))
            for file in sorted(each for each in files if _is_shown(each)):
                path = Path(place, file)
                if path.is_file() and not path.is_symlink():
                    found.append((path.relative_to(folder).as_posix(), path.stat().st_size))
            if len(found) > _MOST_FILES:
                break
        return found[:_MOST_FILES]


def _is_shown(name: str) -> bool:
    return is_file_name(name) and not name.startswith(".") and "\0" not in name


def _absent() -> RefusedError:
    return RefusedError("there is no such file in this result", HTTPStatus.NOT_FOUND)


class _Pipe(io.RawIOBase):
    """What a ZIP archive is written to, and taken from in pieces."""

    def __init__(self) -> None:
        self._data = bytearray()

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self._data += data
        return len(data)

    def taken(self) -> bytes:
        data = bytes(self._data)
        self._data.clear()
        return data


def _zip(folder: Path, paths: list[str]) -> Iterator[bytes]:
    pipe = _Pipe()
    with zipfile.ZipFile(pipe, "w", zipfile.ZIP_STORED, allowZip64=True) as archive:
        for path in paths:
            if not is_folder(folder):
                return
            with (
                open_plain(folder / path) as source,
                archive.open(path, "w", force_zip64=True) as to,
            ):
                while block := source.read(_BLOCK):
                    to.write(block)
                    yield pipe.taken()
            yield pipe.taken()
    yield pipe.taken()
