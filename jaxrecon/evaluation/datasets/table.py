"""The table of evaluation sets, and how one is opened."""

import itertools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from jaxrecon.checks import path_of, shown, truth_value
from jaxrecon.choices import meant
from jaxrecon.errors import InputError
from jaxrecon.evaluation.datasets.co3d import co3d_scenes
from jaxrecon.evaluation.datasets.common import Subset, at_least
from jaxrecon.evaluation.datasets.folder import folder_scenes
from jaxrecon.evaluation.datasets.ground_truth import GroundTruth
from jaxrecon.evaluation.datasets.procedural import TOGETHER, procedural_scenes
from jaxrecon.evaluation.datasets.re10k import re10k_scenes
from jaxrecon.evaluation.datasets.seven_scenes import seven_scenes
from jaxrecon.evaluation.datasets.tum import tum_scenes
from jaxrecon.images.limits import check_processed

_PROCEDURAL_VIEWS, _PROCEDURAL_SIZE = 8, 224


@dataclass(frozen=True)
class Dataset:
    """A kind of set that lies on disk.

    Attributes:
      summary: one line.
      read: lists the scenes below a path; each is read when its turn comes.
      drawn: whether views are drawn at random (as VGGT and π³ do, 10 of each sequence), or the
        first are taken.
    """

    summary: str
    read: Callable[[Path, Subset], Iterator[GroundTruth]]
    drawn: bool = False


DATASETS: Mapping[str, Dataset] = {
    "folder": Dataset("images/ and an .npz, transforms.json or COLMAP model", folder_scenes),
    "7scenes": Dataset("7-Scenes sequences", seven_scenes),
    "tum": Dataset("TUM RGB-D sequences", tum_scenes),
    "co3d": Dataset("CO3D categories, cameras only", co3d_scenes, drawn=True),
    "re10k": Dataset("RealEstate10K pose lists, cameras only", re10k_scenes, drawn=True),
}
"""Sets on disk by kind. The kind "procedural" needs none."""


def open_dataset(
    kind: str,
    path: str | Path | None = None,
    *,
    scenes: int = 128,
    views: int | None = None,
    size: int | None = None,
    stride: int | None = None,
    seed: int | None = None,
    allow_outside: bool = False,
) -> Iterator[GroundTruth]:
    """The scenes of an evaluation set, one after the other.

    Arguments and paths are checked at once; images and depth are read when a scene's turn comes.

    Args:
      kind: "procedural" or one of `DATASETS`.
      path: where the set lies; None for procedural scenes.
      scenes: the most scenes.
      views: the most views of each; None for all (8 of procedural scenes).
      size: side of procedural images in pixels; 224 if not given.
      stride: takes every `stride`-th frame of a sequence, each if not given; procedural scenes have
        none.
      seed: of the procedural scenes, or of the draw of views where the set is drawn from; 0 if not
        given.
      allow_outside: whether lists and links of the set may lead out of its folder; for sets that
        you trust.

    Raises:
      InputError: the kind is unknown, a number is out of range or not of this kind, nothing usable
        lies at the path, or what lies there leads out of it.
    """
    if not isinstance(kind, str) or kind not in ("procedural", *DATASETS):
        kinds = ", ".join(("procedural", *DATASETS))
        near = meant(kind, ("procedural", *DATASETS))
        raise InputError(f"unknown evaluation set {shown(kind)}; choose one of {kinds}{near}")
    if kind != "procedural" and size is not None:
        raise InputError(
            f"size={shown(size)} is of procedural images; those of the set {kind} keep their own "
            "size"
        )
    scenes = at_least("scenes", scenes, 1)
    outside = truth_value("allow_outside", allow_outside)
    stride, drawing = 1 if stride is None else stride, 0 if seed is None else seed
    subset = Subset(stride, views, drawing, outside)
    if kind == "procedural":
        _check_procedural(path, subset)
        side = at_least("size", _PROCEDURAL_SIZE if size is None else size, 1)
        count = subset.views or _PROCEDURAL_VIEWS
        check_processed(TOGETHER * count, (side, side), f"views={shown(count)}, size={shown(side)}")
        return procedural_scenes(scenes=scenes, views=count, size=side, seed=subset.seed or 0)
    if path is None:
        raise InputError(f"the evaluation set {kind} needs the path where it lies")
    chosen = DATASETS[kind]
    if not chosen.drawn:
        if seed is not None:
            raise InputError(
                f"seed={shown(seed)} does nothing: of the set {kind} the first views are taken, "
                "none are drawn; leave it out, or take others by stride"
            )
        subset = replace(subset, seed=None)
    folder = path_of("path", path)
    return itertools.islice(chosen.read(folder, subset), scenes)


def _check_procedural(path: str | Path | None, subset: Subset) -> None:
    if path is not None:
        raise InputError(f"procedural scenes lie nowhere; leave the path {path} out")
    if subset.stride != 1:
        raise InputError(
            f"stride={shown(subset.stride)} is of sequences; procedural scenes are none: leave it "
            "out, or give fewer views"
        )
