"""The table of evaluation sets, and how one is opened."""

import itertools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from jaxrecon.errors import InputError
from jaxrecon.evaluation.sets_co3d import co3d_scenes
from jaxrecon.evaluation.sets_common import Pick
from jaxrecon.evaluation.sets_folder import folder_scenes
from jaxrecon.evaluation.sets_procedural import procedural_scenes
from jaxrecon.evaluation.sets_re10k import re10k_scenes
from jaxrecon.evaluation.sets_seven_scenes import seven_scenes
from jaxrecon.evaluation.sets_tum import tum_scenes
from jaxrecon.evaluation.truth import Truth

_PROCEDURAL_VIEWS, _PROCEDURAL_SIZE = 8, 224


@dataclass(frozen=True)
class EvaluationSet:
    """A kind of set that lies on disk.

    Attributes:
      summary: one line.
      read: lists the scenes below a path; each is read when its turn comes.
      drawn: whether views are drawn at random (as VGGT and π³ do, 10 of each sequence), or the
        first are taken.
    """

    summary: str
    read: Callable[[Path, Pick], Iterator[Truth]]
    drawn: bool = False


EVALUATION_SETS: Mapping[str, EvaluationSet] = {
    "folder": EvaluationSet("images/ and one .npz with poses, intrinsics, depths", folder_scenes),
    "7scenes": EvaluationSet("7-Scenes sequences", seven_scenes),
    "tum": EvaluationSet("TUM RGB-D sequences", tum_scenes),
    "co3d": EvaluationSet("CO3D categories, cameras only", co3d_scenes, drawn=True),
    "re10k": EvaluationSet("RealEstate10K pose lists, cameras only", re10k_scenes, drawn=True),
}
"""Sets on disk by kind. The kind "procedural" needs none."""


def open_set(
    kind: str,
    path: str | Path | None = None,
    *,
    scenes: int = 128,
    views: int | None = None,
    size: int | None = None,
    stride: int = 1,
    seed: int = 0,
) -> Iterator[Truth]:
    """The scenes of an evaluation set, one after the other.

    Arguments and paths are checked at once; images and depth are read when a scene's turn comes.

    Args:
      kind: "procedural" or one of `EVALUATION_SETS`.
      path: where the set lies; None for procedural scenes.
      scenes: the most scenes.
      views: the most views of each; None for all (8 of procedural scenes).
      size: side of procedural images in pixels; 224 if not given.
      stride: takes every so manieth frame of a sequence; procedural scenes have none.
      seed: of the procedural scenes, or of the draw of views.

    Raises:
      InputError: the kind is unknown, a number is out of range or not of this kind, or nothing
        usable lies at the path.
    """
    if kind != "procedural" and size is not None:
        raise InputError(
            f"{size=} is of procedural images; those of the set {kind} keep their own size"
        )
    size = _PROCEDURAL_SIZE if size is None else size
    for name, value in (("scenes", scenes), ("size", size)):
        if value < 1:
            raise InputError(f"{name} is {value}; give at least 1")
    pick = Pick(stride, views, seed)
    if kind == "procedural":
        _check_procedural(path)
        count = views or _PROCEDURAL_VIEWS
        return procedural_scenes(scenes=scenes, views=count, size=size, seed=seed)
    if kind not in EVALUATION_SETS:
        kinds = ", ".join(("procedural", *EVALUATION_SETS))
        raise InputError(f"unknown evaluation set {kind!r}; choose one of {kinds}")
    if path is None:
        raise InputError(f"the evaluation set {kind} needs the path where it lies")
    chosen = EVALUATION_SETS[kind]
    pick = pick if chosen.drawn else Pick(stride, views)
    return itertools.islice(chosen.read(Path(path).expanduser(), pick), scenes)


def _check_procedural(path: str | Path | None) -> None:
    if path is not None:
        raise InputError(f"procedural scenes lie nowhere; leave the path {path} out")
