"""What every writer is given: one reconstruction as numpy arrays, and the points worth writing."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import PureWindowsPath

import numpy as np
from jaxtyping import Array, Bool, Float, Int, UInt8

from jaxrecon.errors import InputError
from jaxrecon.files.hidden import LONGEST_NAME, shortened
from jaxrecon.formats.options import check_max_points
from jaxrecon.formats.recorded import recorded_transforms
from jaxrecon.images import PixelTransform
from jaxrecon.images.masks import PhotoMask

AnyArray = Array | np.ndarray

VIEW_ARRAYS = (
    "points_world",
    "points_camera",
    "confidence",
    "mask",
    "colors",
    "world_from_camera",
    "intrinsics",
)
"""The arrays that a `Scene` shares with a `Reconstruction`; the first axis is the view."""


@dataclass(frozen=True, eq=False)
class PointTracks:
    """Where Q points of a scene are in each of its V views, as JAX or numpy arrays.

    Attributes:
      xy: position of each point in each view, in pixels of the processed pictures.
      visibility: probability that the point is seen there.
      confidence: probability that the position is right.
      query_view: the view in which the point was given.
      points_world: the points in world coordinates, if bundle adjustment found them; NaN for those
        that it left out.

    Raises:
      InputError: the fields' shapes do not agree, or a query view is not among the views.
    """

    xy: Float[AnyArray, "V Q 2"]
    visibility: Float[AnyArray, "V Q"]
    confidence: Float[AnyArray, "V Q"]
    query_view: Int[AnyArray, " Q"]
    points_world: Float[AnyArray, "Q 3"] | None = None

    def __post_init__(self) -> None:
        shape = self.xy.shape
        if len(shape) != 3 or shape[2] != 2:
            raise InputError(f"tracks.xy has shape {shape}; expected (V, Q, 2)")
        self._check_shape("visibility", shape[:2])
        self._check_shape("confidence", shape[:2])
        self._check_shape("query_view", shape[1:2])
        if self.points_world is not None:
            self._check_shape("points_world", (shape[1], 3))
        view = np.asarray(self.query_view)
        if view.dtype.kind not in "iu":
            raise InputError(f"tracks.query_view has dtype {view.dtype}; expected integers")
        if len(view) and not 0 <= view.min() <= view.max() < shape[0]:
            raise InputError(
                f"tracks.query_view has values from {view.min()} to {view.max()}; expected views "
                f"from 0 to {shape[0] - 1}, to go with tracks.xy of shape {shape}"
            )

    def __len__(self) -> int:
        return self.xy.shape[1]

    def of_views(self, views: Sequence[int]) -> "PointTracks":
        """The tracks in some views, which are numbered anew.

        Points that were given in other views are dropped. Where a view is picked twice, its points
        count as given in the first copy.
        """
        chosen = np.array(views, np.int64)
        number = np.full(self.xy.shape[0], -1)
        number[chosen[::-1]] = np.arange(len(chosen))[::-1]
        query_view = number[np.asarray(self.query_view)]
        kept = np.flatnonzero(query_view >= 0)
        points_world = self.points_world
        return PointTracks(
            xy=self.xy[chosen][:, kept],
            visibility=self.visibility[chosen][:, kept],
            confidence=self.confidence[chosen][:, kept],
            query_view=query_view[kept],
            points_world=None if points_world is None else points_world[kept],
        )

    def numpy(self) -> "PointTracks":
        """The same tracks with every array in host memory."""
        names = ("xy", "visibility", "confidence", "query_view", "points_world")
        known = {name: getattr(self, name) for name in names}
        return replace(self, **{name: np.asarray(x) for name, x in known.items() if x is not None})

    def _check_shape(self, name: str, expected: tuple[int, ...]) -> None:
        found = getattr(self, name).shape
        if found != expected:
            raise InputError(
                f"tracks.{name} has shape {found}; expected {expected}, to go with tracks.xy of "
                f"shape {self.xy.shape}"
            )


@dataclass(frozen=True, eq=False)
class Scene:
    """A reconstruction in host memory, in the conventions of the package (OpenCV axes and pixels).

    `original_sizes` (width, height), `scales` and `offsets` (x, y) are the pixel transforms of the
    views: processed = scale * (original + 0.5) + offset - 0.5. `tracks` are there if points were
    followed, and `metric_scale` if lengths are in metres: see `Reconstruction`. `files` are the
    absolute paths of the photos, None for each that lies in no file of its own, and `photo_masks`
    the users' masks of them, if there are any. `sparsity` is the share of key blocks that attention
    skipped, where it was block-sparse.
    """

    points_world: Float[np.ndarray, "V H W 3"]
    points_camera: Float[np.ndarray, "V H W 3"]
    confidence: Float[np.ndarray, "V H W"]
    mask: Bool[np.ndarray, "V H W"]
    colors: UInt8[np.ndarray, "V H W 3"]
    world_from_camera: Float[np.ndarray, "V 4 4"]
    intrinsics: Float[np.ndarray, "V 3 3"]
    names: tuple[str, ...]
    original_sizes: Int[np.ndarray, "V 2"]
    scales: Float[np.ndarray, "V 2"]
    offsets: Float[np.ndarray, "V 2"]
    model: str = ""
    seconds: Mapping[str, float] = field(default_factory=dict)
    tracks: PointTracks | None = None
    metric_scale: float | None = None
    files: tuple[str | None, ...] = ()
    photo_masks: tuple[PhotoMask, ...] = ()
    sparsity: Float[np.ndarray, "layers N"] | None = None

    def __post_init__(self) -> None:
        if not self.files:
            object.__setattr__(self, "files", (None,) * len(self.names))

    @property
    def transforms(self) -> tuple[PixelTransform, ...]:
        """From each photo to its processed picture."""
        height, width = self.mask.shape[1:]
        return recorded_transforms(self.original_sizes, self.scales, self.offsets, (width, height))


FRUSTUM_SIZE = 0.05
"""How long cameras are drawn, as a share of the scene's diagonal."""


@dataclass(frozen=True, eq=False)
class ScenePoints:
    """The points of a scene that are written; `pixel` is the flat index into (V, H, W)."""

    pixel: Int[np.ndarray, " P"]
    xyz: Float[np.ndarray, "P 3"]
    rgb: UInt8[np.ndarray, "P 3"]
    confidence: Float[np.ndarray, " P"]


def select_points(scene: Scene, max_points: int | None) -> ScenePoints:
    """The finite points under the mask, in world coordinates, in the order of their pixels.

    If there are more than `max_points`, that many are drawn without replacement, evenly over all
    of them. The draw depends on nothing but the two counts, so it repeats on every machine.

    Raises:
      InputError: `max_points` is below 1, or no point is left.
    """
    return points_at(scene, select_pixels(scene, max_points))


def select_pixels(scene: Scene, max_points: int | None) -> Int[np.ndarray, " P"]:
    """The flat indices into (V, H, W) of the points that `select_points` gives."""
    check_max_points(max_points)
    pixel = np.flatnonzero(usable_pixels(scene))
    if not len(pixel):
        raise no_points()
    if max_points is not None and len(pixel) > max_points:
        pixel = pixel[_draw(len(pixel), max_points)]
    return pixel


def usable_pixels(scene: Scene) -> Bool[np.ndarray, "V H W"]:
    """The pixels under the mask whose points are finite."""
    usable = scene.mask.copy()
    for axis in range(3):
        usable &= np.isfinite(scene.points_world[..., axis])
    return usable


def no_points() -> InputError:
    """The refusal of a scene without a point to write."""
    return InputError(
        "the mask keeps no point with finite coordinates, so there is nothing to write; "
        "loosen it with a lower min_confidence (--min-confidence), or keep depth edges "
        "(edge_rtol=None, --keep-edges)"
    )


def points_at(scene: Scene, pixel: Int[np.ndarray, " P"]) -> ScenePoints:
    """The points of some pixels, by their flat index into (V, H, W)."""
    return ScenePoints(
        pixel=pixel,
        xyz=scene.points_world.reshape(-1, 3)[pixel],
        rgb=scene.colors.reshape(-1, 3)[pixel],
        confidence=scene.confidence.reshape(-1)[pixel],
    )


def check_cameras(scene: Scene) -> None:
    """Refuses poses and intrinsics that no file format can hold.

    A negative focal length, which rays that do not form a camera can give, is written as it is.

    Raises:
      InputError: a view's pose or intrinsics are not finite, or a focal length is zero.
    """
    focal = scene.intrinsics[:, [0, 1], [0, 1]]
    usable = np.isfinite(scene.world_from_camera).all(axis=(1, 2))
    usable &= np.isfinite(scene.intrinsics).all(axis=(1, 2)) & (focal != 0).all(axis=1)
    if not usable.all():
        view = int(np.flatnonzero(~usable)[0])
        raise InputError(
            f"the camera of view {view} ({scene.names[view]}) is not usable: its pose or "
            "intrinsics are not finite, or its focal length is zero; leave the view out"
        )


def scene_size(xyz: Float[np.ndarray, "P 3"]) -> float:
    """The diagonal of the box that holds the middle 96 percent of the points on each axis."""
    low, high = np.percentile(xyz, [2, 98], axis=0)
    return float(np.linalg.norm(high - low)) or 1.0


def vertical_view_angle(scene: Scene, view: int) -> float:
    """The angle in radians that the picture's height spans, taken as positive."""
    return 2 * float(np.arctan2(scene.mask.shape[1] / 2, abs(scene.intrinsics[view, 1, 1])))


def aspect_ratio(scene: Scene, view: int) -> float:
    """Width by height of the picture at a distance of one: pixels need not be square."""
    height, width = scene.mask.shape[1:]
    focal_x, focal_y = (abs(float(scene.intrinsics[view, axis, axis])) for axis in (0, 1))
    return (width / focal_x) / (height / focal_y)


def cameras_up(pose: Float[np.ndarray, "V 4 4"]) -> Float[np.ndarray, "3"]:
    """The direction of the world that is up: against the mean of the cameras' y axes.

    Against the first one's, where they cancel out.
    """
    up = -pose[:, :3, 1].mean(axis=0)
    return up / np.linalg.norm(up) if np.linalg.norm(up) > 1e-3 else -pose[0, :3, 1]


_LONGEST_STEM = LONGEST_NAME - 32
"""Bytes of a view's stem, so that a number before it, one behind it and a suffix have room."""


def file_stems(names: Sequence[str]) -> list[str]:
    """One file name without suffix a view: the stem of its name, made unique with _2, _3, ...

    Folders before the name are left out, behind a backslash too; white space and control characters
    become `_`. Names that differ in case alone count as equal, since some file systems take them
    for one. Long ones are cut, with a digest at the end, so that a number and a suffix still fit.
    """
    stems: list[str] = []
    taken: set[str] = set()
    for name in names:
        stem, number = _plain_stem(name), 1
        candidate = stem
        while candidate.casefold() in taken:
            number += 1
            candidate = f"{stem}_{number}"
        taken.add(candidate.casefold())
        stems.append(candidate)
    return stems


def _plain_stem(name: str) -> str:
    stem = PureWindowsPath(name).stem
    plain = "".join(c if c.isprintable() and not c.isspace() else "_" for c in stem)
    return shortened(plain.strip("."), _LONGEST_STEM) or "view"


def _draw(count: int, drawn: int) -> Int[np.ndarray, " P"]:
    keys = np.random.Philox(key=0).random_raw(count)
    return np.sort(np.argpartition(keys, drawn - 1)[:drawn])
