"""Points to follow, from a file."""

import csv
import io
from array import array
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float

from jaxrecon.errors import InputError
from jaxrecon.reading import ArrayHeader, open_npz, parse_number, read_text

COLUMNS = ("x", "y", "view")

_MOST_BYTES = 2**26
_LONGEST_LINE = 1000


def read_query_points(path: Path) -> dict[int, Float[np.ndarray, "Q 2"]]:
    """The points of a file, in pixels of their photo, by its number (from 0).

    Args:
      path: a `.csv` file whose first line names the columns, or a `.npz` file with arrays: `x`, `y`
        and, unless all points are of the first photo, `view`.

    Raises:
      InputError: the file is absent, damaged or of another kind; a column is missing, unknown or
        there twice; or its values are no numbers, or not as many as the others'.
    """
    readers = {".csv": _from_csv, ".npz": _from_npz}
    if path.suffix.lower() not in readers:
        raise InputError(f"--query-points {path}: give a .csv or a .npz file")
    columns = readers[path.suffix.lower()](path)
    for name, column in columns.items():
        if not np.isfinite(column).all():
            raise _no_numbers(path, name)
    x, y = columns["x"], columns["y"]
    view = columns.get("view", np.zeros(len(x)))
    if not len(x) == len(y) == len(view):
        raise InputError(f"{path}: its arrays have {len(x)}, {len(y)} and {len(view)} values")
    if not len(x) or (view != np.floor(view)).any():
        what = "view is no whole number everywhere" if len(x) else "it has no points"
        raise InputError(f"{path}: {what}; give x, y and the number of the photo, from 0")
    return _by_view(np.stack([x, y], axis=-1), view)


def _by_view(
    xy: Float[np.ndarray, "Q 2"], view: Float[np.ndarray, " Q"]
) -> dict[int, Float[np.ndarray, "_ 2"]]:
    """The points of each view, in the order in which the views come."""
    order = np.argsort(view, kind="stable")
    numbers, starts = np.unique(view[order], return_index=True)
    groups = dict(zip(numbers.tolist(), np.split(xy[order], starts[1:]), strict=True))
    return {int(number): groups[number] for number in dict.fromkeys(view.tolist())}


def _from_csv(path: Path) -> dict[str, Float[np.ndarray, " Q"]]:
    """Numbers row by row, so that no cell takes more memory than another."""
    rows = _rows(path)
    names = next(rows, [])
    _check_columns(path, names)
    columns = {name: array("d") for name in names}
    for number, row in enumerate(rows, 2):
        if len(row) != len(names):
            raise InputError(f"{path}: row {number} has {len(row)} values, its head {len(names)}")
        for name, cell in zip(names, row, strict=True):
            try:
                columns[name].append(parse_number(cell))
            except ValueError as error:
                raise _no_numbers(path, name) from error
    return {name: np.array(column, np.float64) for name, column in columns.items()}


def _rows(path: Path) -> Iterator[list[str]]:
    """The rows that are not empty."""
    text = io.StringIO(read_text(path, limit=_MOST_BYTES), newline="")
    try:
        for row in csv.reader(_lines(path, text)):
            if row:
                yield [cell.strip() for cell in row]
    except csv.Error as error:
        raise InputError(f"cannot read {path}: {error}; check the file") from error


def _lines(path: Path, text: io.StringIO) -> Iterator[str]:
    for number, line in enumerate(text, 1):
        if len(line) > _LONGEST_LINE:
            raise InputError(
                f"cannot read {path}: line {number} has more than {_LONGEST_LINE} characters; give "
                "one point in each line"
            )
        yield line


def _from_npz(path: Path) -> dict[str, Float[np.ndarray, " Q"]]:
    with open_npz(path, advice="check the file") as stored:
        _check_columns(path, stored.names)
        for name in stored.names:
            _check_header(path, name, stored.header(name))
        return {name: _numbers(path, name, stored.read(name)) for name in stored.names}


def _check_columns(path: Path, names: Sequence[str]) -> None:
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise InputError(f"{path} has the column {twice[:60]} twice; remove one of them")
    if not {"x", "y"} <= set(names) <= set(COLUMNS):
        raise InputError(
            f"{path} has the columns {', '.join(names) or 'none'}; name them x, y and, if it is "
            "needed, view"
        )


def _check_header(path: Path, name: str, header: ArrayHeader) -> None:
    if header.dtype.kind not in "iufU" or len(header.shape) != 1:
        raise _no_numbers(path, name)


def _numbers(path: Path, name: str, column: np.ndarray) -> Float[np.ndarray, " Q"]:
    try:
        with np.errstate(over="ignore"):  # what is beyond all floats is refused with infinities
            return column.astype(np.float64)
    except ValueError as error:
        raise _no_numbers(path, name) from error


def _no_numbers(path: Path, name: str) -> InputError:
    return InputError(f"{path}: {name} is not a column of finite numbers")
