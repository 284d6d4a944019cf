"""CO3D: turns around objects, with cameras in PyTorch3D's convention; cameras only, no depth."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from jaxrecon import reading
from jaxrecon.checks import shown
from jaxrecon.errors import InputError
from jaxrecon.evaluation.datasets.common import (
    Subset,
    check_distinct,
    folders_in,
    not_empty,
    pinhole,
    poses_from_world_to_camera,
    resized_pinhole,
)
from jaxrecon.evaluation.datasets.ground_truth import GroundTruth

_NAMES = ("frame_annotations.jgz", "frame_annotations.json")
_ABSURD = 1e5
_MOST_BYTES = 2**30


@dataclass(frozen=True)
class _Frame:
    """One annotation; `where` names it in messages."""

    where: str
    values: Any

    def get(self, *names: str) -> Any:
        """A nested field.

        Raises:
          InputError: it is not there.
        """
        found = self.values
        for name in names:
            if not isinstance(found, dict) or name not in found:
                raise InputError(f"{self.where} has no {'.'.join(names)}; expected CO3D's fields")
            found = found[name]
        return found

    def text(self, *names: str) -> str:
        """A field that is a text."""
        return reading.text(self.get(*names), self._field(names))

    def whole(self, *names: str) -> int:
        """A field that is a whole number."""
        return reading.whole(self.get(*names), self._field(names))

    def numbers(self, *names: str, shapes: tuple[tuple[int, ...], ...]) -> np.ndarray:
        """A field that is a list of numbers, which may be nested."""
        return reading.numbers(self.get(*names), self._field(names), *shapes)

    def size(self) -> tuple[int, int]:
        """Width and height of the image."""
        height, width = self.numbers("image", "size", shapes=((2,),)).tolist()
        where = self._field(("image", "size"))
        return reading.whole(width, where, least=1), reading.whole(height, where, least=1)

    def shift(self) -> Float[np.ndarray, "3"]:
        """The translation of its camera."""
        return self.numbers("viewpoint", "T", shapes=((3,), (1, 3))).reshape(3)

    def _field(self, names: tuple[str, ...]) -> str:
        return f"{self.where}: {'.'.join(names)}"


def co3d_scenes(path: Path, subset: Subset) -> Iterator[GroundTruth]:
    """Sequences of `frame_annotations.jgz` (or `.json`) in a folder or the folders in it.

    Image paths are relative to the folder above the annotations' folder, as in CO3D, or to that
    folder itself. Frames whose image is not there are left out, and so are sequences with a
    camera farther than 1e5 from the origin, as in VGGT's evaluation. Intrinsics are scaled for
    images that were resized.

    Raises:
      InputError: there are no annotations, they are damaged, a frame is there twice, an image lies
        outside of the set or is no copy of one of the size that is told, or no sequence is left.

    Source: Reizenstein et al., Common Objects in 3D, ICCV 2021.
    """
    listed = [folder / name for folder in (path, *folders_in(path)) for name in _NAMES]
    files = [file for file in listed if reading.is_plain_file(file)]
    if not files:
        raise InputError(f"no {_NAMES[0]} in {path} or the folders in it; check the path")
    places = ", ".join(str(file.parent) for file in files)
    return not_empty(
        (truth for file in files for truth in _sequences(file, subset)),
        f"{files[0]}: no sequence is left; the images are sought in {places}, and cameras "
        f"farther than {_ABSURD:g} from the origin are left out",
    )


def _sequences(file: Path, subset: Subset) -> Iterator[GroundTruth]:
    """The sequences of one file of annotations, by name."""
    grouped: dict[str, list[_Frame]] = {}
    for frame in _annotations(file):
        grouped.setdefault(frame.text("sequence_name"), []).append(frame)
    for name in sorted(grouped):
        frames = sorted(grouped[name], key=lambda frame: frame.whole("frame_number"))
        numbers = (str(frame.whole("frame_number")) for frame in frames)
        check_distinct(file, f"frame_number of the sequence {name}", numbers)
        placed = [frame for frame in frames if _image(frame, file, None)]
        if placed and not _is_absurd(frames):
            yield _truth(f"{file.parent.name}/{name}", subset.of(placed), file, subset)


def _truth(name: str, frames: list[_Frame], file: Path, subset: Subset) -> GroundTruth:
    cameras = [_camera(frame) for frame in frames]
    images = [image for frame in frames if (image := _image(frame, file, subset))]
    check_distinct(file, "image", map(str, images))
    rotation, translation, matrices = (np.stack(parts) for parts in zip(*cameras, strict=True))
    sizes = [frame.size() for frame in frames]
    return GroundTruth(
        name=name,
        images=tuple(images),
        world_from_camera=poses_from_world_to_camera(rotation, translation),
        intrinsics=np.stack(list(map(resized_pinhole, matrices, sizes, images))),
    )


def _camera(frame: _Frame) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """World-to-camera rotation and translation, and intrinsics, in OpenCV's convention."""
    rotation = frame.numbers("viewpoint", "R", shapes=((3, 3), (9,))).reshape(3, 3)
    turn, shift = opencv_from_pytorch3d(rotation, frame.shift())
    focal, centre = (
        frame.numbers("viewpoint", name, shapes=((2,), (1, 2))).reshape(2)
        for name in ("focal_length", "principal_point")
    )
    form = str(frame.get("viewpoint").get("intrinsics_format", "ndc_norm_image_bounds")).lower()
    if form not in ("ndc_isotropic", "ndc_norm_image_bounds"):
        raise InputError(
            f"{frame.where}: intrinsics_format {shown(form)} is unknown; "
            "expected ndc_isotropic or ndc_norm_image_bounds"
        )
    with np.errstate(over="ignore"):
        matrix = intrinsics_from_ndc(focal, centre, frame.size(), isotropic=form == "ndc_isotropic")
    if not np.isfinite(matrix).all():
        raise InputError(f"{frame.where}: focal_length or principal_point is beyond all pixels")
    return turn, shift, matrix


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


def _is_absurd(frames: list[_Frame]) -> bool:
    return any(np.abs(frame.shift()).max() > _ABSURD for frame in frames)


def _image(frame: _Frame, file: Path, subset: Subset | None) -> Path | None:
    """The frame's image, where it is there; if it is to be opened, kept inside its folder."""
    if frame.get("image", "path") is None:
        return None
    name = frame.text("image", "path")
    for folder in (file.parent.parent, file.parent):
        place = folder / name
        if subset is not None:
            place = subset.path(folder, name, f"{frame.where}: image.path")
        if reading.is_plain_file(place):
            return place
    return None


def _annotations(file: Path) -> list[_Frame]:
    frames = reading.read_json(file, limit=_MOST_BYTES)
    if not isinstance(frames, list):
        raise InputError(f"{file}: expected a list of frames, found {type(frames).__name__}")
    return [_Frame(f"{file}: frame {number}", frame) for number, frame in enumerate(frames)]
