"""Files that visitors send: written as they come, up to limits, and looked at before they wait."""

import asyncio
import shutil
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager, suppress
from http import HTTPStatus
from pathlib import Path
from typing import Any, BinaryIO

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import ClientDisconnect, Request

from jaxrecon.errors import InputError, one_line
from jaxrecon.files import output_error
from jaxrecon.images import IMAGE_SUFFIXES, VIDEO_SUFFIXES, view_sizes
from jaxrecon.images.kinds import kind_of
from jaxrecon.images.sequence import holds_several
from jaxrecon.reading import is_file_name
from jaxrecon.serving.limits import Limits
from jaxrecon.serving.refusals import RefusedError

_LONGEST_NAME = 200
_MOST_FIELDS, _LONGEST_FIELD = 32, 4096
_AT_ONCE = 2**20
_FORM_BYTES = 2**20  # boundaries and headers of parts, beside the files
_HEADER_BYTES = 4096
_PATIENCE, _LEAST_BYTES_A_SECOND = 60.0, 1024
_SHOWN = 80


class Form:
    """A form of files and fields, whose files are written to a folder as they come.

    Attributes:
      files: where they are, in their order.
      fields: the other parts, as texts.
    """

    def __init__(self, boundary: bytes, folder: Path, limits: Limits) -> None:
        self.files: list[Path] = []
        self.fields: dict[str, str] = {}
        self.ended = False
        self._folder, self._limits = folder, limits
        self._headers: list[tuple[bytearray, bytearray]] = []
        self._file: BinaryIO | None = None
        self._field: tuple[str, bytearray] | None = None
        self._taken: set[str] = set()
        callbacks: Any = {
            "on_part_begin": self._begin,
            "on_header_begin": lambda: self._headers.append((bytearray(), bytearray())),
            "on_header_field": lambda data, start, end: self._header(0, data[start:end]),
            "on_header_value": lambda data, start, end: self._header(1, data[start:end]),
            "on_headers_finished": self._open,
            "on_part_data": lambda data, start, end: self._write(data[start:end]),
            "on_part_end": self._close,
            "on_end": self._end,
        }
        self._parser = MultipartParser(boundary, callbacks, max_header_size=_HEADER_BYTES)

    def write(self, data: bytes) -> None:
        """Takes the next bytes of the form.

        Raises:
          RefusedError: they are no form, or a name, a size or a number is out of range.
          OutputError: a file cannot be written.
        """
        try:
            self._parser.write(data)
        except FormParserError as error:
            raise RefusedError(f"the form is damaged ({error}); send it again") from error
        except OSError as error:
            raise output_error(self._folder.parent, error) from error

    def close(self) -> None:
        """Closes what is open, of a form that broke off."""
        if self._file is not None:
            self._file.close()

    def _begin(self) -> None:
        self._headers = []

    def _header(self, place: int, data: bytes) -> None:
        self._headers[-1][place].extend(data)

    def _open(self) -> None:
        headers = {bytes(name).lower(): bytes(value) for name, value in self._headers}
        _, options = parse_options_header(headers.get(b"content-disposition"))
        if b"name" not in options:
            raise RefusedError("a part of the form has no name; send it as files=@photo.jpg")
        if b"filename" in options:
            self._open_file(_text(options[b"filename"]))
            return
        name = _text(options[b"name"])
        if len(self.fields) >= _MOST_FIELDS:
            raise RefusedError(f"the form has more than {_MOST_FIELDS} fields")
        self._field = name, bytearray()

    def _open_file(self, name: str) -> None:
        if len(self.files) >= self._limits.files:
            raise RefusedError(
                f"more than {self._limits.files} files were sent; send fewer, or a video",
                HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
            )
        check_name(name)
        if name.casefold() in self._taken:
            raise RefusedError(f"two files are called {one_line(name, _SHOWN)}; rename one of them")
        self._taken.add(name.casefold())
        path = self._folder / name
        self._file = open(path, "xb")  # noqa: SIM115 (until the part ends)
        self.files.append(path)

    def _write(self, data: bytes) -> None:
        if self._file is not None:
            self._file.write(data)
        elif self._field is not None:
            name, text = self._field
            text.extend(data)
            if len(text) > _LONGEST_FIELD:
                raise RefusedError(f"field {one_line(name, _SHOWN)}: longer than {_LONGEST_FIELD}")

    def _close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None
        elif self._field is not None:
            name, text = self._field
            if name in self.fields:
                raise RefusedError(f"field {one_line(name, _SHOWN)} was sent twice")
            self.fields[name] = _text(bytes(text))
            self._field = None

    def _end(self) -> None:
        self.ended = True


def _text(data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise RefusedError("a name or a field of the form is not UTF-8") from error


def check_name(name: str) -> None:
    """Refuses what is no plain name of a file, or would be hidden or odd on some system.

    Raises:
      RefusedError: see above.
    """
    length = len(name.encode("utf-8", "surrogatepass"))
    if not is_file_name(name) or not name.isprintable() or name.startswith((".", "~", "-")):
        raise RefusedError(
            f"file name {one_line(name, _SHOWN) or 'of no letters'}: give a plain name without "
            "folders, such as photo.jpg"
        )
    if length > _LONGEST_NAME:
        raise RefusedError(
            f"file name {one_line(name, _SHOWN)}: it has {length} bytes; give one of at most "
            f"{_LONGEST_NAME}"
        )


async def received(request: Request, folder: Path, limits: Limits) -> Form:
    """The form that a request brings, its files in the folder.

    Raises:
      RefusedError: it is no form of files, is too large, breaks off, or comes too slowly.
      OutputError: a file cannot be written.
    """
    kind, options = parse_options_header(request.headers.get("content-type"))
    if kind != b"multipart/form-data" or not options.get(b"boundary"):
        raise RefusedError(
            "send a form of files (multipart/form-data), as curl -F files=@photo.jpg does",
            HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
        )
    most = limits.upload_bytes + _FORM_BYTES
    told = request.headers.get("content-length", "0")
    if not told.isdecimal() or int(told) > most:
        raise _too_large(limits)
    try:
        form = Form(options[b"boundary"], folder, limits)
    except FormParserError as error:
        raise RefusedError(f"the form's boundary cannot be used ({error})") from error
    try:
        async for data in _chunks(request, most, limits):
            await asyncio.to_thread(form.write, data)
    except ClientDisconnect as error:
        raise RefusedError("the upload broke off") from error
    finally:
        form.close()
    if not form.ended:
        raise RefusedError("the form breaks off before its end; send it again")
    return form


async def _chunks(request: Request, most: int, limits: Limits) -> AsyncIterator[bytes]:
    """The bytes of a request, a few hundred thousand at a time."""
    stream, waiting, total = request.stream(), bytearray(), 0
    start = time.monotonic()
    while True:
        try:
            data = await asyncio.wait_for(anext(stream, None), limits.stall_seconds)
        except TimeoutError:
            raise _stalled() from None
        if data is None:
            break
        total += len(data)
        if total > most:
            raise _too_large(limits)
        seconds = time.monotonic() - start
        if seconds > _PATIENCE and total < _LEAST_BYTES_A_SECOND * seconds:
            raise _stalled()
        waiting += data
        if len(waiting) >= _AT_ONCE:
            yield bytes(waiting)
            waiting.clear()
    if waiting:
        yield bytes(waiting)


def _too_large(limits: Limits) -> RefusedError:
    return RefusedError(
        f"the upload is larger than {limits.upload_bytes / 2**20:,.0f} MiB, the limit of this "
        "server; send fewer or smaller files",
        HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    )


def _stalled() -> RefusedError:
    return RefusedError("the upload stands still; send it again", HTTPStatus.REQUEST_TIMEOUT)


def checked_source(folder: Path, files: list[Path]) -> tuple[Path, bool]:
    """What `reconstruct` is given for the files that were sent: the folder, or the one file.

    That is a video, or holds several pictures, as an animation does. Of pictures the headers are
    read: their kind, and how many pixels they would unpack to.

    Returns:
      The path, and whether it is a video.

    Raises:
      RefusedError: there are none; or one is empty, neither picture nor video, not named as what
        it is, or no picture that can be read.
    """
    if not files:
        raise RefusedError("no files were sent; send photos or a video, as files=@photo.jpg")
    kinds = [_kind(path) for path in files]
    if "video" in kinds:
        if len(files) > 1:
            raise RefusedError("a video was sent with other files; send it alone")
        return files[0], True
    if len(files) == 1 and holds_several(files[0]):
        return files[0], False
    try:
        view_sizes(folder)
    except InputError as error:
        raise RefusedError(without_folder(str(error), folder)) from error
    return folder, False


def _kind(path: Path) -> str:
    name = one_line(path.name, _SHOWN)
    if not path.stat().st_size:
        raise RefusedError(f"{name} is empty; send it again")
    kind = kind_of(path)
    if kind is None:
        raise RefusedError(
            f"{name} is neither a picture nor a video of a known kind",
            HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
        )
    suffixes = IMAGE_SUFFIXES if kind == "picture" else VIDEO_SUFFIXES
    if path.suffix.lower() not in suffixes:
        raise RefusedError(
            f"{name} holds a {kind} and is not named so; rename it to end in {suffixes[0]}",
            HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
        )
    return kind


def without_folder(text: str, folder: Path) -> str:
    """A message without the folder of the server in which uploads lie."""
    return text.replace(f"{folder}/", "").replace(str(folder), "the upload")


@contextmanager
def removed_unless_kept(folder: Path) -> Iterator[list[bool]]:
    """Makes a folder, and removes it at the end of the block unless True was put in the list."""
    folder.mkdir(mode=0o700, parents=True)
    kept: list[bool] = []
    try:
        yield kept
    finally:
        if not any(kept):
            remove_folder(folder)


def remove_folder(folder: Path) -> None:
    """Removes a folder and what is in it, as far as that can be."""
    with suppress(OSError):
        shutil.rmtree(folder)
