"""Archives of numpy: arrays whose first axis counts the views."""

from pathlib import Path

import numpy as np

from jaxrecon.conditions.known import KINDS, Kind, KnownViews
from jaxrecon.errors import InputError
from jaxrecon.files import DAMAGED_ARCHIVE

_SHAPES: dict[Kind, tuple[int | None, int | None]] = {
    "intrinsics": (3, 3),
    "poses": (4, 4),
    "depths": (None, None),
}


def read_npz(path: Path, views: int, wanted: frozenset[Kind]) -> KnownViews:
    """What an archive tells of all views, in their order; see `read_known_views`.

    Raises:
      InputError: it is damaged, holds nothing that is wanted, or an array has another shape or
        type.
    """
    arrays = _arrays(path, wanted)
    known = {}
    for kind, array in arrays.items():
        rows = _rows(path, kind, array, views)
        known[kind] = {view: row for view, row in enumerate(rows) if _is_known(kind, row)}
    return KnownViews(**known, metric=True)


def _arrays(path: Path, wanted: frozenset[Kind]) -> dict[Kind, np.ndarray]:
    try:
        with open(path, "rb") as file, np.lib.npyio.NpzFile(file) as stored:
            found = list(stored)
            arrays: dict[Kind, np.ndarray] = {
                kind: np.asarray(stored[kind]) for kind in KINDS if kind in wanted & set(found)
            }
    except DAMAGED_ARCHIVE as error:
        raise InputError(
            f"cannot read {path}: it is not a sound .npz file ({_line(error)}); save it again"
        ) from error
    if not arrays:
        raise InputError(
            f"{path} has no array named {' or '.join(k for k in KINDS if k in wanted)}: it has "
            f"{', '.join(found) or 'none'}; rename them"
        )
    return arrays


def _rows(path: Path, kind: Kind, array: np.ndarray, views: int) -> np.ndarray:
    if kind == "intrinsics" and array.shape == _SHAPES[kind]:
        array = np.broadcast_to(array, (views, 3, 3))
    shape = _SHAPES[kind]
    fits = array.ndim == 3 and all(
        want is None or have == want for have, want in zip(array.shape[1:], shape, strict=True)
    )
    if not fits or len(array) != views:
        rows, columns = (side or letter for side, letter in zip(shape, "HW", strict=True))
        raise InputError(
            f"{path}: {kind} has shape {array.shape}; expected ({views}, {rows}, {columns}), one "
            "for each image in their order"
        )
    if array.dtype.kind not in ("f" if kind == "depths" else "fiu"):
        expected = "floats, in metres" if kind == "depths" else "numbers"
        raise InputError(f"{path}: {kind} has dtype {array.dtype}; expected {expected}")
    return array.astype(np.float32 if kind == "depths" else np.float64)


def _is_known(kind: Kind, row: np.ndarray) -> bool:
    if kind == "depths":
        return bool((np.isfinite(row) & (row != 0)).any())
    return not np.isnan(row).all()


def _line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
