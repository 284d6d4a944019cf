"""Points to follow, from a file."""

import csv
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from jaxtyping import Float

from jaxrecon.errors import InputError
from jaxrecon.files import DAMAGED_ARCHIVE

COLUMNS = ("x", "y", "view")


def read_query_points(path: Path) -> dict[int, Float[np.ndarray, "Q 2"]]:
    """The points of a file, in pixels of their photo, by its number (from 0).

    Args:
      path: a `.csv` file whose first line names the columns, or a `.npz` file with arrays: `x`, `y`
        and, unless all points are of the first photo, `view`.

    Raises:
      InputError: the file is absent, damaged or of another kind; a column is missing or unknown;
        or its values are no numbers, or not as many as the others'.
    """
    readers = {".csv": _from_csv, ".npz": _from_npz}
    if path.suffix.lower() not in readers:
        raise InputError(f"--query-points {path}: give a .csv or a .npz file")
    columns = readers[path.suffix.lower()](path)
    _check_columns(path, columns)
    x, y = (_numbers(path, name, columns[name]) for name in ("x", "y"))
    view = _numbers(path, "view", columns.get("view", np.zeros(len(x))))
    if not len(x) == len(y) == len(view):
        raise InputError(f"{path}: its arrays have {len(x)}, {len(y)} and {len(view)} values")
    if not len(x) or (view != np.floor(view)).any():
        what = "view is no whole number everywhere" if len(x) else "it has no points"
        raise InputError(f"{path}: {what}; give x, y and the number of the photo, from 0")
    xy = np.stack([x, y], axis=-1)
    return {int(number): xy[view == number] for number in dict.fromkeys(view.tolist())}


def _from_csv(path: Path) -> dict[str, np.ndarray]:
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            rows = [[cell.strip() for cell in row] for row in csv.reader(file) if row]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise _unreadable(path, error) from error
    names, *values = rows or [[]]
    for number, row in enumerate(values, 2):
        if len(row) != len(names):
            raise InputError(f"{path}: row {number} has {len(row)} values, its head {len(names)}")
    return {name: np.array([row[place] for row in values]) for place, name in enumerate(names)}


def _from_npz(path: Path) -> dict[str, np.ndarray]:
    try:
        with open(path, "rb") as file, np.lib.npyio.NpzFile(file) as stored:
            return {name: np.asarray(stored[name]) for name in stored}
    except DAMAGED_ARCHIVE as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: Exception) -> InputError:
    reason = getattr(error, "strerror", None) or " ".join(str(error).split())
    return InputError(f"cannot read {path}: {reason or type(error).__name__}; check the file")


def _check_columns(path: Path, columns: Mapping[str, np.ndarray]) -> None:
    if not {"x", "y"} <= columns.keys() <= set(COLUMNS):
        raise InputError(
            f"{path} has the columns {', '.join(columns) or 'none'}; name them x, y and, if it is "
            "needed, view"
        )


def _numbers(path: Path, name: str, column: np.ndarray) -> Float[np.ndarray, " Q"]:
    try:
        numbers = column.astype(np.float64) if column.dtype.kind in "iufU" else None
    except ValueError:
        numbers = None
    if numbers is None or numbers.ndim != 1 or not np.isfinite(numbers).all():
        raise InputError(f"{path}: {name} is not a column of finite numbers")
    return numbers
