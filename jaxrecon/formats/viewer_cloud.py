"""The points that the viewer may show, and which of them it shows."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8

from jaxrecon.formats.scene import Scene, no_points, points_at, usable_pixels

MOST_HELD = 4_000_000
"""Points that are held ready to be shown, drawn evenly from larger scenes."""

EDGE_RTOL = 0.03
"""The jump in depth across 3 x 3 pixels, relative to it, that makes an edge."""

_CHUNK = 500_000
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
      edge: whether depth jumps there.
      count: how many points the scene has under its mask, in all.
    """

    xyz: Float[np.ndarray, "P 3"]
    rgb: UInt8[np.ndarray, "P 3"]
    confidence: Float[np.ndarray, " P"]
    view: Int[np.ndarray, " P"]
    kept: Bool[np.ndarray, " P"]
    edge: Bool[np.ndarray, " P"]
    count: int

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
    """The finite points of a scene; of more than `most`, so many, drawn evenly and repeatably.

    Raises:
      InputError: the mask keeps no finite point.
    """
    count = int(np.count_nonzero(usable_pixels(scene)))
    if not count:
        raise no_points()
    pixel = np.flatnonzero(np.isfinite(scene.points_world).all(axis=-1))
    drawn = np.random.default_rng(0).choice(len(pixel), min(most, len(pixel)), replace=False)
    pixel = pixel[drawn]
    points = points_at(scene, pixel)
    return Cloud(
        xyz=points.xyz.astype(np.float32),
        rgb=points.rgb,
        confidence=_numbers(points.confidence),
        view=(pixel // scene.mask[0].size).astype(np.int32),
        kept=scene.mask.reshape(-1)[pixel],
        edge=on_depth_edges(scene.points_camera[..., 2], pixel),
        count=count,
    )


def _numbers(confidence: Float[np.ndarray, " P"]) -> Float[np.ndarray, " P"]:
    confidence = confidence.astype(np.float32)
    known = np.isfinite(confidence)
    lowest = confidence[known].min() if known.any() else np.float32(0)
    return np.where(known, confidence, lowest)


def on_depth_edges(
    depth: Float[np.ndarray, "V H W"], pixel: Int[np.ndarray, " P"], rtol: float = EDGE_RTOL
) -> Bool[np.ndarray, " P"]:
    """Whether the depth around some pixels spans more than `rtol` of it, in a window of 3 x 3.

    As `geometry.depth_edges` says of whole pictures, here of the pixels alone that are asked for.
    Neighbours without a positive, finite depth do not count.
    """
    _, height, width = depth.shape
    flat = depth.reshape(-1)
    row, column = pixel // width % height, pixel % width
    here = flat[pixel].astype(np.float32)
    low, high = here.copy(), here.copy()
    for down, right in _AROUND:
        inside = (row + down >= 0) & (row + down < height)
        inside &= (column + right >= 0) & (column + right < width)
        near = flat[np.where(inside, pixel + down * width + right, pixel)]
        usable = np.isfinite(near) & (near > 0)
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
        edge = on_depth_edges(scene.points_camera[..., 2], pixel)
        mask.reshape(-1)[pixel[edge]] = False
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
    depth = scene.points_camera[..., 2][scene.mask]
    depth = depth[np.isfinite(depth) & (depth > 0)]
    focal = np.abs(scene.intrinsics[:, [0, 1], [0, 1]]).mean()
    pixel = float(np.median(depth)) / float(focal) if len(depth) else 1e-3
    return pixel * min(max(count / max(shown, 1), 1.0) ** 0.5, _MOST_GROWN)


_MOST_GROWN = 3.0
