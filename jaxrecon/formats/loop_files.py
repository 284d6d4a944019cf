"""What closing loops has found, and where it puts the chunks of a sequence."""

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from jaxrecon.errors import InputError, reason_of
from jaxrecon.files import replacing_file
from jaxrecon.geometry import Similarity
from jaxrecon.reading import open_npz

LOOP_FILE = "chunk_loops.npz"
"""Its name in a sequence's folder."""

_WHAT, _ADVICE = "the loops of a sequence", "reconstruct the sequence again, with overwrite"
_TEXTS = ("first_view", "second_view")


@dataclass(frozen=True)
class Loop:
    """A place that a sequence comes back to, confirmed by reconstructing both visits together.

    Attributes:
      first_view, second_view: names of a view of each visit.
      similarity: of their descriptions, up to 1.
      shared: the largest share of one visit's view that one of the other's sees too.
      alike: how the brightness of both correlates there, up to 1.
      inliers: share of the points that agree with what each chunk has of its visit, the lower one.
      gap: how far the two visits' worlds were apart before, over the distance of points.
    """

    first_view: str
    second_view: str
    similarity: float
    shared: float
    alike: float
    inliers: float
    gap: float


@dataclass(frozen=True, eq=False)
class LoopRecord:
    """The loops, and the places of all parts of all chunks, in order, once they are closed."""

    loops: tuple[Loop, ...]
    placements: tuple[Similarity, ...]


def write_loops(record: LoopRecord, folder: Path) -> None:
    """Writes a record.

    Raises:
      OutputError: it cannot be written.
    """
    arrays: dict[str, Any] = {
        "scale": np.array([place.scale for place in record.placements], np.float64),
        "rotation": np.stack([place.rotation for place in record.placements]),
        "translation": np.stack([place.translation for place in record.placements]),
    }
    for each in fields(Loop):
        values = [getattr(loop, each.name) for loop in record.loops]
        kind = np.str_ if each.name in _TEXTS else np.float64
        arrays[f"loop_{each.name}"] = np.array(values, kind)
    with replacing_file(folder / LOOP_FILE) as temporary, open(temporary, "wb") as file:
        np.savez(file, **arrays)


def read_loops(folder: Path) -> LoopRecord | None:
    """Reads back what `write_loops` wrote; None if nothing was.

    Raises:
      InputError: it is damaged.
    """
    path = folder / LOOP_FILE
    if not path.exists():
        return None
    with open_npz(path, what=_WHAT, advice=_ADVICE) as archive:
        told = {name: archive.read(name) for name in archive.names}
    try:
        columns = [told[f"loop_{each.name}"].tolist() for each in fields(Loop)]
        loops = tuple(Loop(*values) for values in zip(*columns, strict=True))
        rows = zip(told["scale"].tolist(), told["rotation"], told["translation"], strict=True)
        return LoopRecord(loops, tuple(Similarity(*row) for row in rows))
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path} is not {_WHAT} ({reason_of(error)}); {_ADVICE}") from error
