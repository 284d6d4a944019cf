"""The points that the viewer may show, and which of them it shows."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8

from jaxrecon.choices import EDGE_RTOL
from jaxrecon.formats.scene import Scene, no_points, points_at, usable_pixels
from jaxrecon.images.original import photo_pixels

MOST_HELD = 3_000_000
"""Points that are held ready to be shown, drawn evenly from larger scenes."""

_CHUNK = 500_000
_OTHERS_SHARE = 4
_MOST_SAMPLED = 200_000
_AROUND = tuple((row, column) for row in (-1, 0, 1) for column in (-1, 0, 1) if row or column)


@dataclass(frozen=True, eq=False)
class Cloud:
    """Points in an order drawn by lot, so that the first N of any choice are an even sample of it.

    Attributes:
      xyz: world coordinates, all finite.
      rgb: their colours.
      confidence: on the scale of the model; the lowest of all where it is not a number.
      view: the view that each comes from.
      kept: whether it is under the scene's mask.
      count: how many points the scene has under its mask, in all.
      find_edges: tells which of them are where depth jumps.
    """

    xyz: Float[np.ndarray, "P 3"]
    rgb: UInt8[np.ndarray, "P 3"]
    confidence: Float[np.ndarray, " P"]
    view: Int[np.ndarray, " P"]
    kept: Bool[np.ndarray, " P"]
    count: int
    find_edges: Callable[[], Bool[np.ndarray, " P"]]

    @cached_property
    def edge(self) -> Bool[np.ndarray, " P"]:
        """Whether depth jumps at each point; found out when it is first asked for."""
        return self.find_edges()

    def __len__(self) -> int:
        return len(self.xyz)


@dataclass(frozen=True)
class Choice:
    """Which points are wanted.

    Attributes:
      confidence: the least.
      hidden: views whose points are not.
      masked: whether only those under the scene's mask are.
      edges: whether those on depth edges are, too.
    """

    confidence: float = -np.inf
    hidden: frozenset[int] = frozenset()
    masked: bool = True
    edges: bool = True


@dataclass(frozen=True, eq=False)
class Eye:
    """From where a page looks.

    Attributes:
      position: in the world.
      rotation: world from eye, OpenCV's axes.
      fov: the vertical angle of the page, in radians.
      aspect: width by height of the page.
      reach: how far away is what it turns around.
    """

    position: Float[np.ndarray, "3"]
    rotation: Float[np.ndarray, "3 3"]
    fov: float
    aspect: float
    reach: float = 1.0


def cloud_of(scene: Scene, most: int = MOST_HELD) -> Cloud:
    """The finite points of a scene, in an order drawn by lot, the same each time.

    Of those under the mask at most `most`, and of those that it leaves out at most a quarter of
    that.

    Raises:
      InputError: the mask keeps no finite point.
    """
    usable = usable_pixels(scene).reshape(-1)
    count = int(np.count_nonzero(usable))
    if not count:
        raise no_points()
    rng = np.random.default_rng(0)
    pixel = rng.permutation(
        np.concatenate(
            [
                _drawn(rng, np.flatnonzero(usable), most),
                _drawn(rng, _left_out(scene, usable, rng, most), most // _OTHERS_SHARE),
            ]
        )
    )
    points = points_at(scene, pixel)
    return Cloud(
        xyz=points.xyz.astype(np.float32),
        rgb=points.rgb,
        confidence=_numbers(points.confidence),
        view=(pixel // scene.mask[0].size).astype(np.int32),
        kept=scene.mask.reshape(-1)[pixel],
        count=count,
        find_edges=lambda: _on_edges(scene, pixel),
    )


def _drawn(
    rng: np.random.Generator, pixel: Int[np.ndarray, " P"], most: int
) -> Int[np.ndarray, " S"]:
    """At most so many pixels, drawn evenly."""
    if len(pixel) <= most:
        return pixel
    return pixel[rng.choice(len(pixel), most, replace=False)]


def _left_out(
    scene: Scene, usable: Bool[np.ndarray, " P"], rng: np.random.Generator, most: int
) -> Int[np.ndarray, " S"]:
    """Pixels with finite points that the mask leaves out: all, or some of a large scene's."""
    looked_at = np.arange(len(usable))
    if len(usable) > 2 * most:
        looked_at = np.sort(rng.choice(len(usable), most, replace=False))
    others = looked_at[~usable[looked_at]]
    return others[np.isfinite(scene.points_world.reshape(-1, 3)[others]).all(axis=1)]


def _numbers(confidence: Float[np.ndarray, " P"]) -> Float[np.ndarray, " P"]:
    confidence = confidence.astype(np.float32)
    known = np.isfinite(confidence)
    lowest = confidence[known].min() if known.any() else np.float32(0)
    return np.where(known, confidence, lowest)


def _on_edges(scene: Scene, pixel: Int[np.ndarray, " P"]) -> Bool[np.ndarray, " P"]:
    photo = photo_pixels(scene.transforms)
    return on_depth_edges(scene.points_camera[..., 2], pixel, photo=photo)


def on_depth_edges(
    depth: Float[np.ndarray, "V H W"],
    pixel: Int[np.ndarray, " P"],
    rtol: float = EDGE_RTOL,
    photo: Bool[np.ndarray, "V H W"] | None = None,
) -> Bool[np.ndarray, " P"]:
    """Whether the depth around some pixels spans more than `rtol` of it, in a window of 3 x 3.

    As `geometry.depth_edges` says of whole pictures, here of the pixels alone that are asked for.
    Neighbours without a positive, finite depth do not count, nor those that show no photo
    (`photo`; all do if that is not given).
    """
    _, height, width = depth.shape
    flat = depth.reshape(-1)
    row, column = pixel // width % height, pixel % width
    here = flat[pixel].astype(np.float32)
    low, high = here.copy(), here.copy()
    for down, right in _AROUND:
        inside = (row + down >= 0) & (row + down < height)
        inside &= (column + right >= 0) & (column + right < width)
        place = np.where(inside, pixel + down * width + right, pixel)
        near = flat[place]
        usable = np.isfinite(near) & (near > 0)
        if photo is not None:
            usable &= photo.reshape(-1)[place]
        np.minimum(low, near, out=low, where=usable)
        np.maximum(high, near, out=high, where=usable)
    return (high - low) > rtol * np.abs(here)


def passing(cloud: Cloud, choice: Choice) -> Bool[np.ndarray, " P"]:
    """Which points of a cloud are wanted."""
    wanted = cloud.confidence >= choice.confidence
    if choice.masked:
        wanted &= cloud.kept
    if not choice.edges:
        wanted &= ~cloud.edge
    if choice.hidden:
        wanted &= ~np.isin(cloud.view, list(choice.hidden))
    return wanted


def chosen_mask(scene: Scene, choice: Choice) -> Bool[np.ndarray, "V H W"]:
    """The pixels of a whole scene that are wanted, as `passing` says of its cloud."""
    mask = usable_pixels(scene) if choice.masked else np.isfinite(scene.points_world).all(axis=-1)
    if np.isfinite(choice.confidence):
        mask = mask & ~(scene.confidence < choice.confidence)
    if choice.hidden:
        mask[list(choice.hidden)] = False
    if not choice.edges:
        pixel = np.flatnonzero(mask)
        mask.reshape(-1)[pixel[_on_edges(scene, pixel)]] = False
    return mask


def sampled(wanted: Bool[np.ndarray, " P"], most: int) -> Int[np.ndarray, " S"]:
    """The first `most` of the wanted points: an even sample."""
    return np.flatnonzero(wanted)[:most]


def refined(
    cloud: Cloud, wanted: Bool[np.ndarray, " P"], shown: int, eye: Eye, most: int
) -> Int[np.ndarray, " S"]:
    """What to show beside an even sample: more of what an eye sees.

    Args:
      cloud, wanted: the points, and which of them are wanted.
      shown: how many of the wanted are shown already, from the first on.
      eye: whose sight counts.
      most: the most points to add.

    Returns:
      Points in sight, and, if those are fewer than `most`, others.
    """
    found, others, left = [], [], most
    rest = np.flatnonzero(wanted)[shown:]
    for start in range(0, len(rest), _CHUNK):
        index = rest[start : start + _CHUNK]
        seen = in_sight(cloud.xyz[index], eye)
        found.append(index[seen][:left])
        others.append(index[~seen][:most])
        left -= len(found[-1])
        if not left:
            break
    return np.concatenate([*found, *others, rest[:0]])[:most]


def in_sight(xyz: Float[np.ndarray, "P 3"], eye: Eye) -> Bool[np.ndarray, " P"]:
    """Which points lie in the pyramid that an eye sees."""
    x, y, depth = ((xyz - eye.position) @ eye.rotation).T
    height = depth * np.tan(eye.fov / 2)
    return (depth > 0) & (np.abs(y) <= height) & (np.abs(x) <= height * eye.aspect)


def point_size(scene: Scene, shown: int, count: int) -> float:
    """How large points are drawn, in the scene's unit, so that neighbouring ones touch.

    The middle size of a pixel at its depth, larger where only a part of the points is shown.
    """
    step = max(scene.mask.size // _MOST_SAMPLED, 1)
    depth = scene.points_camera[..., 2].reshape(-1)[::step][scene.mask.reshape(-1)[::step]]
    depth = depth[np.isfinite(depth) & (depth > 0)]
    focal = np.abs(scene.intrinsics[:, [0, 1], [0, 1]]).mean()
    pixel = float(np.median(depth)) / float(focal) if len(depth) else 1e-3
    return pixel * min(max(count / max(shown, 1), 1.0) ** 0.5, _MOST_GROWN)


_MOST_GROWN = 3.0
