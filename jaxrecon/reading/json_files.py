"""JSON: refused where it is nested too deep or names a key twice."""

import json
from typing import Any

from jaxrecon import checks
from jaxrecon.errors import InputError, JaxreconError, reason_of
from jaxrecon.reading.plain_files import MAX_TEXT_BYTES, AnyPath, read_text


def read_json(
    path: AnyPath,
    *,
    limit: int = MAX_TEXT_BYTES,
    advice: str = "check the file",
    kind: type[JaxreconError] = InputError,
) -> Any:
    """What a JSON file holds; a file packed by gzip is unpacked.

    Args:
      path: the file.
      limit: the most bytes of text.
      advice: what the user can do; ends the message.
      kind: of the error.

    Raises:
      InputError (or `kind`): see `read_text`; or it is no sound JSON.
    """
    text = read_text(path, limit=limit, advice=advice, kind=kind)
    try:
        return parse_json(text)
    except ValueError as error:
        raise kind(f"cannot read {path}: it is no sound JSON ({error}); {advice}") from error


def parse_json(text: str | bytes) -> Any:
    """The value of a JSON text.

    Raises:
      ValueError: it is not sound, is nested too deep, or names a key of an object twice, of which
        a reader would otherwise take the last in silence.
    """
    try:
        return json.loads(text, object_pairs_hook=_distinct)
    except RecursionError as error:
        raise ValueError("it is nested too deep") from error
    except ValueError as error:
        raise ValueError(reason_of(error)) from error


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the key {twice[:60]!r} stands twice in one object")
    return found


def shown(value: Any, limit: int = 80) -> str:
    """A value of a file for a message: as Python writes it, however deep or long it is."""
    text = checks.shown(value)
    return text if len(text) <= limit else f"{text[: limit - 3]}..."
