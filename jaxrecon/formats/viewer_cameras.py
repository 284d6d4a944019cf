"""From where the viewer looks: the scene's cameras, the first view, and the way from one to the
next."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

from jaxrecon.formats.scene import (
    FRUSTUM_SIZE,
    Scene,
    aspect_ratio,
    cameras_up,
    scene_size,
    vertical_view_angle,
)

_OF_GAP = 0.5
_SHORTEST = 0.2
_COVERING = 4.0
_FEW = 10
_HELD_UPRIGHT = np.cos(np.deg2rad(45))
_WIDEST = np.deg2rad(150)


@dataclass(frozen=True, eq=False)
class Cameras:
    """The cameras of V views.

    Attributes:
      centre: where they are, in the world.
      rotation: world from camera, proper rotations.
      fov: the vertical angle of each picture, in radians.
      aspect: width by height of each, as angles from the centre have them: fx against fy counts.
      up: the direction of the world that is up, of length one.
    """

    centre: Float[np.ndarray, "V 3"]
    rotation: Float[np.ndarray, "V 3 3"]
    fov: Float[np.ndarray, " V"]
    aspect: Float[np.ndarray, " V"]
    up: Float[np.ndarray, "3"]

    def __len__(self) -> int:
        return len(self.centre)


@dataclass(frozen=True, eq=False)
class Look:
    """A place to look from: `target` is looked at and turned around, `fov` the vertical angle."""

    position: Float[np.ndarray, "3"]
    target: Float[np.ndarray, "3"]
    up: Float[np.ndarray, "3"]
    fov: float


def cameras_of(scene: Scene) -> Cameras:
    """The cameras of a scene, whose poses must be finite."""
    from scipy.spatial.transform import Rotation

    views = range(len(scene.names))
    pose = scene.world_from_camera.astype(np.float64)
    return Cameras(
        centre=pose[:, :3, 3],
        rotation=Rotation.from_matrix(pose[:, :3, :3]).as_matrix(),
        fov=np.array([vertical_view_angle(scene, view) for view in views]),
        aspect=np.array([aspect_ratio(scene, view) for view in views]),
        up=cameras_up(pose),
    )


def first_look(cameras: Cameras, scene: Scene) -> Look:
    """From the first camera, at the middle depth of the points that it is sure of.

    As its photo is held, unless that lies on its side: then the scene's up is up.
    """
    depth = scene.points_camera[0, ..., 2].astype(np.float64)
    reach = middle_depth(depth, scene.mask[0], scene.confidence[0])
    own = -cameras.rotation[0, :, 1]
    return Look(
        position=cameras.centre[0],
        target=cameras.centre[0] + reach * cameras.rotation[0, :, 2],
        up=own if own @ cameras.up > _HELD_UPRIGHT else cameras.up,
        fov=float(cameras.fov[0]),
    )


def middle_depth(
    depth: Float[np.ndarray, "H W"],
    mask: Bool[np.ndarray, "H W"],
    confidence: Float[np.ndarray, "H W"],
) -> float:
    """The median depth of the more confident half of the pixels under the mask.

    Where the mask keeps next to nothing all pixels count; one if no depth is usable.
    """
    usable = np.isfinite(depth) & (depth > 0)
    kept = usable & mask
    chosen = kept if np.count_nonzero(kept) >= _FEW else usable
    if not chosen.any():
        return 1.0
    known = np.nan_to_num(confidence)
    return float(np.median(depth[chosen & (known >= np.median(known[chosen]))]))


def look_from_outside(xyz: Float[np.ndarray, "P 3"], up: Float[np.ndarray, "3"]) -> Look:
    """From outside of the middle 96 percent of points without cameras, all of them in sight."""
    low, high = np.percentile(xyz, [2, 98], axis=0).astype(np.float64)
    middle, fov = (low + high) / 2, np.deg2rad(50)
    aside = np.array([0.0, 0.0, -1.0]) + 0.35 * up
    reach = scene_size(xyz) / 2 / np.tan(fov / 2)
    return Look(middle + reach * aside / np.linalg.norm(aside), middle, up, float(fov))


def fov_to_hold(fov: float, aspect: float, window: float) -> float:
    """The vertical angle of a window of some aspect in which a whole picture is seen."""
    if window >= aspect:
        return fov
    return float(min(2 * np.arctan(np.tan(fov / 2) * aspect / window), _WIDEST))


def frustum_length(centres: Float[np.ndarray, "V 3"], size: float) -> float:
    """How long cameras are drawn in a scene of a size: shorter where they stand close together."""
    longest = FRUSTUM_SIZE * size
    if len(centres) < 2:
        return longest
    from scipy.spatial import KDTree

    distance, _ = KDTree(centres).query(centres, k=2)
    gap = float(np.median(distance[:, 1]))
    return float(np.clip(_OF_GAP * gap, _SHORTEST * longest, longest))


def covering(
    centres: Float[np.ndarray, "V 3"], eyes: Float[np.ndarray, "E 3"], length: float
) -> frozenset[int]:
    """Cameras so near to an eye that their photos would cover what it sees."""
    if not len(eyes):
        return frozenset()
    distance = np.linalg.norm(centres[:, None] - eyes, axis=-1).min(axis=1)
    return frozenset(np.flatnonzero(distance < _COVERING * length).tolist())


class Path:
    """The way through all cameras, from the first to the last, a unit of time from one to the next.

    Rotations turn evenly (Shoemake's slerp), and places lie on a monotone cubic, which does not
    overshoot where cameras stand still.
    """

    def __init__(self, cameras: Cameras) -> None:
        from scipy.interpolate import PchipInterpolator
        from scipy.spatial.transform import Rotation, Slerp

        time = np.arange(len(cameras), dtype=np.float64)
        self.last = float(time[-1])
        self._still = len(cameras) < 2
        self._cameras = cameras
        if not self._still:
            self._place = PchipInterpolator(time, cameras.centre)
            self._turn = Slerp(time, Rotation.from_matrix(cameras.rotation))

    def at(self, time: float) -> tuple[Float[np.ndarray, "3"], Float[np.ndarray, "3 3"]]:
        """Where a camera is at a time, from 0 to `last`, and how it is turned."""
        if self._still:
            return self._cameras.centre[0], self._cameras.rotation[0]
        time = float(np.clip(time, 0, self.last))
        return self._place(time), self._turn(time).as_matrix()
