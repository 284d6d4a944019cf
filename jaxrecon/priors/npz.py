"""Archives of numpy: arrays whose first axis counts the views."""

from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np

from jaxrecon.errors import InputError
from jaxrecon.priors.view_priors import KINDS, ViewPriors
from jaxrecon.reading import ArrayHeader, open_npz

_CONVENTIONS = {
    "intrinsics": "intrinsics as (V, 3, 3) in pixels of the upright photos, not of resized copies",
    "poses": "poses as (V, 4, 4), from camera to world, with x right, y down, z forward",
    "depths": "depths as (V, H, W) of the upright photos' size, along the optical axis",
}
_INVERSE = (
    *("extrinsic", "extrinsics", "w2c", "w2cs", "world_to_camera", "world_to_cam", "world2cam"),
    *("camera_from_world", "cam_from_world", "viewmat", "viewmats", "rt"),
)
"""Names, in small letters, under which other programs save the inverse of poses."""

_ELSEWHERE = {
    "intrinsics": ("intrinsic", "intrinsic_matrix", "camera_matrix", "cameras_k", "k", "ks"),
    "poses": (
        *("pose", "c2w", "c2ws", "cam2world", "cam_to_world", "camera_to_world", "cam2worlds"),
        *("world_from_camera", "world_from_cam", "camera_poses", "cam_poses"),
        *_INVERSE,
    ),
    "depths": ("depth", "depth_map", "depth_maps", "depthmap", "depthmaps", "depth_z"),
}
"""Names, in small letters, under which other programs save what we read by these names."""

_INVERT = (
    "complete each to 4x4 with the row [0 0 0 1] and save its inverse (numpy.linalg.inv) as poses, "
    "which map camera to world"
)

_SHAPES: dict[str, tuple[int | None, int | None]] = {
    "intrinsics": (3, 3),
    "poses": (4, 4),
    "depths": (None, None),
}


def read_npz(path: Path, views: int, wanted: frozenset[str]) -> ViewPriors:
    """What an archive tells of all views, in their order; see `read_view_priors`.

    Raises:
      InputError: it is damaged, holds nothing that is wanted, or an array has another shape or
        type.
    """
    arrays = _arrays(path, views, wanted)
    known = {}
    for kind, array in arrays.items():
        rows = _rows(kind, array, views)
        known[kind] = {view: row for view, row in enumerate(rows) if _is_known(kind, row)}
    return ViewPriors(**known, metric_poses=True, metric_depths=True)


def _arrays(path: Path, views: int, wanted: frozenset[str]) -> dict[str, np.ndarray]:
    """What is wanted of the archive; shapes and types are checked before numbers are read."""
    with open_npz(path) as stored:
        kinds = [kind for kind in KINDS if kind in wanted & set(stored.names)]
        if not kinds:
            raise unnamed(path, stored.names, wanted)
        check_none_passed_over(path, stored.names, wanted)
        for kind in kinds:
            _check(path, kind, stored.header(kind), views)
        return {kind: stored.read(kind) for kind in kinds}


def unnamed(path: Path, found: Sequence[str], wanted: Collection[str]) -> InputError:
    """The refusal of an archive that has none of the arrays that are wanted, but others."""
    kinds = [kind for kind in KINDS if kind in wanted]
    inverse = next((name for name in found if name.lower() in _INVERSE), None)
    if "poses" in wanted and inverse is not None:
        advice = _of_inverse(inverse)
    else:
        advice = f"save {'; '.join(_CONVENTIONS[kind] for kind in kinds)}"
    return InputError(
        f"{path} has no array named {' or '.join(kinds)}: it has {', '.join(found) or 'none'}; "
        f"{advice}"
    )


def check_none_passed_over(path: Path, found: Sequence[str], wanted: Collection[str]) -> None:
    """Refuses an archive that has one of the arrays that are wanted under another name.

    Raises:
      InputError: naming both.
    """
    for kind in KINDS:
        if kind not in wanted or kind in found:
            continue
        other = next((name for name in found if name.lower() in (kind, *_ELSEWHERE[kind])), None)
        if other is not None:
            inverse = other.lower() in _INVERSE
            advice = _of_inverse(other) if inverse else f"save {_CONVENTIONS[kind]}"
            raise InputError(
                f"{path} has no {kind}, and its {other} would be passed over: {advice}; or leave "
                "it out of the archive"
            )


def _of_inverse(name: str) -> str:
    return f"{name} is camera from world by its name: {_INVERT}"


def _check(path: Path, kind: str, header: ArrayHeader, views: int) -> None:
    expected, shape = _SHAPES[kind], header.shape
    if kind == "intrinsics" and shape == expected:
        shape = (views, *shape)
    fits = len(shape) == 3 and all(
        want is None or have == want for have, want in zip(shape[1:], expected, strict=True)
    )
    if not fits or shape[0] != views:
        rows, columns = (side or letter for side, letter in zip(expected, "HW", strict=True))
        raise InputError(
            f"{path}: {kind} has shape {shape}; expected ({views}, {rows}, {columns}), one "
            f"for each image in their order{_way_out(kind, shape, views)}"
        )
    if header.dtype.kind not in ("f" if kind == "depths" else "fiu"):
        told = "floats, in metres" if kind == "depths" else "numbers"
        raise InputError(f"{path}: {kind} has dtype {header.dtype}; expected {told}")


def _way_out(kind: str, shape: tuple[int, ...], views: int) -> str:
    """How to bring an array of the most frequent wrong shapes to the right one."""
    if kind == "poses" and shape == (views, 3, 4):
        return f"; if they map camera to world add the row [0 0 0 1], if world to camera {_INVERT}"
    if kind == "depths" and len(shape) == 4 and shape[-1] == 1:
        return "; leave out the last axis, and give maps of the photos' own size"
    return ""


def _rows(kind: str, array: np.ndarray, views: int) -> np.ndarray:
    if array.ndim == 2:
        array = np.broadcast_to(array, (views, *array.shape))
    with np.errstate(over="ignore"):  # of longer floats
        return array.astype(np.float32 if kind == "depths" else np.float64)


def _is_known(kind: str, row: np.ndarray) -> bool:
    if kind == "depths":
        return bool((np.isfinite(row) & (row != 0)).any())
    return not np.isnan(row).all()
