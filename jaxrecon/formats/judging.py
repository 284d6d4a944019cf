"""What a reconstruction is worth, as far as that can be told without the truth."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from jaxrecon.formats.scene import Scene, cameras_up
from jaxrecon.images.original import shown_pixels
from jaxrecon.images.resize import valid_regions

MOST_COMPARED = 24
"""Of more views than this, so many are compared with one another, chosen evenly."""

LEAST_KEPT, LEAST_VIEW_KEPT = 0.25, 0.05
LEAST_AGREEING = 0.5
LEAST_PARALLAX = 2.0
NARROWEST, WIDEST = 15.0, 120.0
"""Below (or above) these a warning is given: shares of pixels that the mask keeps, of the scene and
of each view; share of points that other views confirm; and angles in degrees."""

_POINTS_A_VIEW = 400
_DEPTH_RTOL = 0.05
_LEAST_VOTES = 20
_MOST_PIXELS = 1_000_000
_TURNED = np.cos(np.deg2rad(45))
_MOST_NAMED = 4


@dataclass(frozen=True, eq=False)
class Judgement:
    """What is measured of a scene.

    Attributes:
      kept: share of each view's pixels that the mask keeps; margins around a photo do not count.
      kept_of_all: the same of all views together.
      fov: angle that each photo's width spans, in degrees, as far as its picture shows it.
      agreement: share of each view's points that other views confirm, of those that others
        confirm or see through; NaN where no other view has a say, or the view was not compared.
      parallax: the angle at the middle of the scene between the cameras farthest apart, in degrees;
        NaN for one view.
      warnings: what should be looked at, a sentence each.
    """

    kept: Float[np.ndarray, " V"]
    kept_of_all: float
    fov: Float[np.ndarray, " V"]
    agreement: Float[np.ndarray, " V"]
    parallax: float
    warnings: tuple[str, ...]


def judge(scene: Scene) -> Judgement:
    """Measures a scene; cameras may be of any kind, also such that are none."""
    shown = shown_pixels(scene.transforms)
    kept = scene.mask.sum(axis=(1, 2)) / shown
    kept_of_all = float(scene.mask.sum() / shown.sum())
    fov = _view_angles(scene)
    sound = _sound(scene)
    agreement = _agreement(scene, sound)
    parallax = _parallax(scene, sound)
    found = [
        *_about_cameras(scene, sound, fov),
        *_about_kept(scene, kept, kept_of_all),
        *_about_agreement(scene, agreement),
        *_about_parallax(parallax),
        *_about_orientation(scene, sound),
    ]
    return Judgement(kept, kept_of_all, fov, agreement, parallax, tuple(found))


def named(names: Sequence[str], views: Sequence[int] | Int[np.ndarray, " N"]) -> str:
    """Some views by their names, the first few of many."""
    told = ", ".join(names[view] for view in views[:_MOST_NAMED])
    more = len(views) - _MOST_NAMED
    return told if more <= 0 else f"{told} and {more} more"


def median_confidence(scene: Scene) -> float:
    """The median confidence of all pixels, or of many of them; NaN if none is a number.

    Those of margins around photos do not count.
    """
    step = _step(scene)
    values = np.concatenate(
        [
            confidence[transform.window].reshape(-1)[::step]
            for confidence, transform in zip(scene.confidence, scene.transforms, strict=True)
        ]
    )
    values = values[np.isfinite(values)]
    return float(np.median(values)) if len(values) else float("nan")


def _step(scene: Scene) -> int:
    """Every so many pixels are measured of large scenes."""
    return max(scene.mask.size // _MOST_PIXELS, 1)


def _sound(scene: Scene) -> Bool[np.ndarray, " V"]:
    """Which cameras are cameras."""
    focal = scene.intrinsics[:, [0, 1], [0, 1]]
    sound = np.isfinite(scene.world_from_camera).all(axis=(1, 2))
    return sound & np.isfinite(scene.intrinsics).all(axis=(1, 2)) & (focal > 0).all(axis=1)


def _view_angles(scene: Scene) -> Float[np.ndarray, " V"]:
    """The angle that the width of each photo spans, in degrees; NaN where there is none."""
    focal = np.abs(scene.intrinsics[:, 0, 0].astype(np.float64))
    usable = np.isfinite(focal) & (focal > 0)
    left, _, right, _ = valid_regions(scene.transforms).T
    half = (right - left) / 2 / np.where(usable, focal, 1.0)
    return np.where(usable, np.rad2deg(2 * np.arctan(half)), np.nan)


def _agreement(scene: Scene, sound: Bool[np.ndarray, " V"]) -> Float[np.ndarray, " V"]:
    """See `Judgement.agreement`."""
    agreement = np.full(len(scene.names), np.nan)
    views = np.flatnonzero(sound)
    if len(views) > MOST_COMPARED:
        views = views[np.rint(np.linspace(0, len(views) - 1, MOST_COMPARED)).astype(np.int64)]
    for view in views:
        points = _sampled(scene, int(view))
        votes = np.zeros(2)
        for other in views:
            if other != view and len(points):
                votes += _votes(scene, points, int(other))
        if votes.sum() >= _LEAST_VOTES:
            agreement[view] = votes[0] / votes.sum()
    return agreement


def _sampled(scene: Scene, view: int) -> Float[np.ndarray, "P 3"]:
    """Points of a view under the mask, spread evenly over its pixels."""
    pixel = np.flatnonzero(scene.mask[view])
    pixel = pixel[:: max(len(pixel) // _POINTS_A_VIEW, 1)]
    points = scene.points_world[view].reshape(-1, 3)[pixel].astype(np.float64)
    return points[np.isfinite(points).all(axis=1)]


def _votes(scene: Scene, points: Float[np.ndarray, "P 3"], view: int) -> Float[np.ndarray, "2"]:
    """How many points a view has at the same depth, and how many it sees through.

    Points behind what the view sees are hidden from it: it says nothing of them.
    """
    pose, matrix = scene.world_from_camera[view].astype(np.float64), scene.intrinsics[view]
    camera = (points - pose[:3, 3]) @ pose[:3, :3]
    camera = camera[camera[:, 2] > 0]
    pixel = np.rint(camera[:, :2] / camera[:, 2:] * matrix[[0, 1], [0, 1]] + matrix[:2, 2])
    height, width = scene.mask.shape[1:]
    inside = ((pixel >= 0) & (pixel < (width, height))).all(axis=1)
    column, row = pixel[inside].astype(np.int64).T
    z, depth = camera[inside, 2], scene.points_camera[view, row, column, 2]
    known = scene.mask[view, row, column] & np.isfinite(depth) & (depth > 0)
    gap = (z - depth)[known] / depth[known]
    return np.array([(np.abs(gap) <= _DEPTH_RTOL).sum(), (gap < -_DEPTH_RTOL).sum()], np.float64)


def _parallax(scene: Scene, sound: Bool[np.ndarray, " V"]) -> float:
    centre = scene.world_from_camera[sound, :3, 3].astype(np.float64)
    some = slice(None, None, _step(scene))
    depth = scene.points_camera[..., 2].reshape(-1)[some][scene.mask.reshape(-1)[some]]
    depth = depth[np.isfinite(depth) & (depth > 0)]
    if len(centre) < 2 or not len(depth):
        return float("nan")
    farthest = max(np.linalg.norm(centre - each, axis=1).max() for each in centre)
    return float(np.rad2deg(2 * np.arctan(farthest / 2 / np.median(depth))))


def _about_cameras(
    scene: Scene, sound: Bool[np.ndarray, " V"], fov: Float[np.ndarray, " V"]
) -> list[str]:
    found = []
    if not sound.all():
        found.append(f"No camera was found for {named(scene.names, np.flatnonzero(~sound))}.")
    odd = np.flatnonzero(sound & ((fov < NARROWEST) | (fov > WIDEST)))
    if len(odd):
        narrowest, widest = f"{fov[odd].min():.0f}", f"{fov[odd].max():.0f}"
        degrees = widest if narrowest == widest else f"{narrowest} to {widest}"
        found.append(
            f"The field of view is unusual ({degrees} degrees) "
            f"for {named(scene.names, odd)}: focal lengths may be wrong."
        )
    return found


def _about_kept(scene: Scene, kept: Float[np.ndarray, " V"], kept_of_all: float) -> list[str]:
    found = []
    if kept_of_all < LEAST_KEPT:
        found.append(
            f"Low confidence: the mask keeps {100 * kept_of_all:.1f} % of the pixels; the median "
            f"confidence of all is {median_confidence(scene):.2g}."
        )
    empty = np.flatnonzero(kept < LEAST_VIEW_KEPT)
    if 0 < len(empty) < len(kept):
        found.append(f"Next to nothing was kept of {named(scene.names, empty)}.")
    return found


def _about_agreement(scene: Scene, agreement: Float[np.ndarray, " V"]) -> list[str]:
    known = np.isfinite(agreement)
    low = np.flatnonzero(known & (np.nan_to_num(agreement, nan=1.0) < LEAST_AGREEING))
    if not len(low):
        return []
    return [
        f"Views do not agree: of {named(scene.names, low)} other views confirm less than "
        f"{100 * LEAST_AGREEING:.0f} % of the points that they could."
    ]


def _about_parallax(parallax: float) -> list[str]:
    if not parallax < LEAST_PARALLAX:
        return []
    return [
        f"Little parallax: the cameras are {parallax:.1f} degrees apart as seen from the scene; "
        "depth is the model's guess then. Take photos from places farther apart."
    ]


def _about_orientation(scene: Scene, sound: Bool[np.ndarray, " V"]) -> list[str]:
    found = []
    width, height = scene.original_sizes.T
    upright, wide = np.flatnonzero(height > width), np.flatnonzero(width > height)
    if len(upright) and len(wide):
        fewer = min((upright, wide), key=len)
        kind = "portraits" if fewer is upright else "landscapes"
        found.append(
            f"Mixed orientations: {len(fewer)} of {len(width)} photos are {kind} "
            f"({named(scene.names, fewer)})."
        )
    if sound.any():
        pose = scene.world_from_camera.astype(np.float64)
        level = -pose[:, :3, 1] @ cameras_up(pose[sound])
        turned = np.flatnonzero(sound & (level < _TURNED))
        if len(turned):
            found.append(
                f"Turned against the others by 45 degrees and more: {named(scene.names, turned)}."
            )
    return found
