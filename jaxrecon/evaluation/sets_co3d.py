"""CO3D: turns around objects, with cameras in PyTorch3D's convention; cameras only, no depth."""

import gzip
import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from jaxrecon.errors import InputError
from jaxrecon.evaluation.sets_common import (
    Pick,
    check_folder,
    not_empty,
    pinhole,
    poses_from_world_to_camera,
)
from jaxrecon.evaluation.truth import Truth

_NAMES = ("frame_annotations.jgz", "frame_annotations.json")
_ABSURD = 1e5


def co3d_scenes(path: Path, pick: Pick) -> Iterator[Truth]:
    """Sequences of `frame_annotations.jgz` (or `.json`) in a folder or the folders in it.

    Image paths are relative to the folder above the annotations' folder, as in CO3D, or to that
    folder itself. Frames whose image is not there are left out, and so are sequences with a
    camera farther than 1e5 from the origin, as in VGGT's evaluation.

    Raises:
      InputError: there are no annotations, they are damaged, or no sequence is left.

    Source: Reizenstein et al., Common Objects in 3D, ICCV 2021.
    """
    check_folder(path)
    listed = [folder / name for folder in (path, *sorted(path.iterdir())) for name in _NAMES]
    files = [file for file in listed if file.is_file()]
    if not files:
        raise InputError(f"no {_NAMES[0]} in {path} or the folders in it; check the path")
    places = ", ".join(str(file.parent) for file in files)
    return not_empty(
        (truth for file in files for truth in _sequences(file, pick)),
        f"{files[0]}: no sequence is left; the images are sought in {places}, and cameras "
        f"farther than {_ABSURD:g} from the origin are left out",
    )


def _sequences(file: Path, pick: Pick) -> Iterator[Truth]:
    """The sequences of one file of annotations, by name."""
    grouped: dict[str, list[Any]] = {}
    for frame in _annotations(file):
        grouped.setdefault(_get(frame, file, "sequence_name"), []).append(frame)
    for name in sorted(grouped):
        frames = sorted(grouped[name], key=lambda frame: _get(frame, file, "frame_number"))
        placed = [(image, frame) for frame in frames if (image := _image(frame, file))]
        if placed and not _is_absurd(frames, file):
            yield _truth(f"{file.parent.name}/{name}", pick.of(placed), file)


def _truth(name: str, placed: list[tuple[Path, Any]], file: Path) -> Truth:
    cameras = [_camera(frame, file) for _, frame in placed]
    rotation, translation, intrinsics = (np.stack(parts) for parts in zip(*cameras, strict=True))
    return Truth(
        name=name,
        images=tuple(image for image, _ in placed),
        world_from_camera=poses_from_world_to_camera(rotation, translation),
        intrinsics=intrinsics,
    )


def _camera(frame: Any, file: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """World-to-camera rotation and translation, and intrinsics, in OpenCV's convention."""
    viewpoint, height_width = _get(frame, file, "viewpoint"), _get(frame, file, "image", "size")
    rotation, translation = (_get(frame, file, "viewpoint", name) for name in ("R", "T"))
    try:
        turn, shift = opencv_from_pytorch3d(
            np.array(rotation, np.float64).reshape(3, 3),
            np.array(translation, np.float64).reshape(3),
        )
        focal, centre = (
            np.array(_get(frame, file, "viewpoint", name), np.float64).reshape(2)
            for name in ("focal_length", "principal_point")
        )
        size = (int(height_width[1]), int(height_width[0]))
    except (TypeError, ValueError, IndexError) as error:
        raise InputError(f"{file}: a viewpoint or image size is damaged ({error})") from error
    form = str(viewpoint.get("intrinsics_format", "ndc_norm_image_bounds")).lower()
    if form not in ("ndc_isotropic", "ndc_norm_image_bounds"):
        raise InputError(
            f"{file}: intrinsics_format {form!r} is unknown; "
            "expected ndc_isotropic or ndc_norm_image_bounds"
        )
    return turn, shift, intrinsics_from_ndc(focal, centre, size, isotropic=form == "ndc_isotropic")


def opencv_from_pytorch3d(
    rotation: Float[np.ndarray, "3 3"], translation: Float[np.ndarray, "3"]
) -> tuple[Float[np.ndarray, "3 3"], Float[np.ndarray, "3"]]:
    """World-to-camera `R, t` of `x = R X + t` with OpenCV's axes.

    PyTorch3D's camera has x to the left and y up, and multiplies row vectors, `x = X R + T`: so
    `R = F R^T` and `t = F T` with `F = diag(-1, -1, 1)`.

    Source: `opencv_from_cameras_projection` of PyTorch3D (`renderer/camera_conversions.py`).
    """
    flip = np.array([-1.0, -1.0, 1.0])
    return flip[:, None] * rotation.T, flip * translation


def intrinsics_from_ndc(
    focal: Float[np.ndarray, "2"],
    centre: Float[np.ndarray, "2"],
    size: tuple[int, int],
    *,
    isotropic: bool,
) -> Float[np.ndarray, "3 3"]:
    """Camera matrix in pixels, the centre of the top-left pixel at (0, 0).

    With half sizes `h = (W, H) / 2` and `s = min(h)` if isotropic, else `s = h`: the focal length
    is `s * focal`; the principal point is `h - s * centre` counted from the corner of the top-left
    pixel, half a pixel less from its centre.

    Args:
      focal, centre: in normalised device coordinates, x to the left and y up.
      size: width and height.
      isotropic: format "ndc_isotropic", else "ndc_norm_image_bounds".

    Source: `opencv_from_cameras_projection` and implicitron's `FrameDataBuilder` of PyTorch3D.
    """
    half = np.array(size, np.float64) / 2
    scale = np.full(2, half.min()) if isotropic else half
    focal_pixels, centre_pixels = scale * focal, half - scale * centre - 0.5
    return pinhole(*focal_pixels, *centre_pixels)


def _is_absurd(frames: list[Any], file: Path) -> bool:
    shifts = [_get(frame, file, "viewpoint", "T") for frame in frames]
    try:
        return bool(np.abs(np.array(shifts, np.float64)).max() > _ABSURD)
    except (TypeError, ValueError) as error:
        raise InputError(f"{file}: a viewpoint's T is damaged ({error})") from error


def _image(frame: Any, file: Path) -> Path | None:
    """The frame's image, where it is there."""
    relative = _get(frame, file, "image", "path")
    if not isinstance(relative, str):
        return None
    places = [file.parent.parent / relative, file.parent / relative]
    return next((place for place in places if place.is_file()), None)


def _annotations(file: Path) -> list[Any]:
    try:
        stored = file.read_bytes()
        frames = json.loads(gzip.decompress(stored) if file.suffix == ".jgz" else stored)
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise InputError(f"cannot read {file}: it is not sound JSON ({error})") from error
    if not isinstance(frames, list):
        raise InputError(f"{file}: expected a list of frames, found {type(frames).__name__}")
    return frames


def _get(frame: Any, file: Path, *names: str) -> Any:
    """A nested field of an annotation."""
    found = frame
    for name in names:
        if not isinstance(found, dict) or name not in found:
            raise InputError(f"{file}: a frame has no {'.'.join(names)}; expected CO3D's fields")
        found = found[name]
    return found
