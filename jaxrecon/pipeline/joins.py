"""How a chunk of a sequence is joined to the one before it, and when that cannot be trusted."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float

from jaxrecon.checks import truth_value
from jaxrecon.choices import GROUPS, JOINS, GroupName, JoinName
from jaxrecon.errors import InputError
from jaxrecon.formats.chunk_files import ChunkRecord, Join
from jaxrecon.geometry import (
    IDENTITY,
    Fit,
    SharedViews,
    Similarity,
    fit_of,
    join_by_points,
    join_by_poses,
)
from jaxrecon.images import PixelTransform
from jaxrecon.images.original import photo_pixels
from jaxrecon.runtime.defaults import check_choice

LEAST_POINTS = 64
"""So few pairs of points tell nothing."""

LEAST_INLIERS = 0.25
MOST_TURN, MOST_SHIFT, LEAST_VIEWS = 1.5, 0.03, 3
"""A join is trusted if enough of its points agree, or the poses of enough views. Near a blank wall
depth is a guess, and poses are not; where two chunks saw different scenes, neither agrees.
"""

MOST_SCALE = 10.0
"""Chunks whose lengths differ by more have not seen the same."""

CONNECTED = 0.5
"""Views that see at least so much of the same are no cut, and beside a cut there are such."""

_PIXELS = 1024
_FLAT = 2.0
_MOST_WEIGHT = 4.0


@dataclass(frozen=True)
class JoinConfig:
    """How chunks are joined.

    Attributes:
      join: "poses" takes rotation and shift from the poses of the shared views, "points" lays their
        points over each other; the scale is that of how far the same views see, in both.
      group: "sim3" fits a scale, "se3" none; None leaves it to the model: "se3" where its lengths
        are in metres.
      allow_gaps: whether a join that cannot be trusted is left open, in place of an error.

    Raises:
      InputError: one of them is none of these.
    """

    join: JoinName = "poses"
    group: GroupName | None = None
    allow_gaps: bool = False

    def __post_init__(self) -> None:
        check_choice("join", self.join, JOINS)
        if self.group is not None:
            check_choice("group", self.group, GROUPS)
        truth_value("allow_gaps", self.allow_gaps)

    def with_scale(self, *, metric: bool) -> bool:
        """Whether the scale is fitted, for a model whose lengths are in metres or not."""
        return self.group == "sim3" if self.group is not None else not metric


def grid_of(height: int, width: int) -> tuple[slice, slice, slice]:
    """The pixels of each view that are compared: some thousand of a grid."""
    step = max(int(np.ceil(np.sqrt(height * width / _PIXELS))), 1)
    return slice(None), slice(step // 2, None, step), slice(step // 2, None, step)


def sampled(
    points_camera: Float[np.ndarray, "F H W 3"],
    confidence: Float[np.ndarray, "F H W"],
    colors: np.ndarray,
    transforms: Sequence[PixelTransform],
) -> tuple[Float[np.ndarray, "F P 3"], Float[np.ndarray, "F P"]]:
    """Points of a grid of pixels of each view, and how far to trust them.

    The weight is the confidence over its median, up to 4. Views that show next to nothing, such as
    black frames, have none, and neither have margins around photos (`transforms`).
    """
    grid, views = grid_of(*confidence.shape[1:]), len(points_camera)
    if not views:
        return np.zeros((0, 1, 3), np.float32), np.zeros((0, 1), np.float32)
    sure = np.nan_to_num(confidence[grid].reshape(views, -1).astype(np.float32), nan=0.0)
    photo = photo_pixels(transforms)
    flat = np.zeros(views, bool)
    for view, transform in enumerate(transforms):
        flat[view] = colors[view][transform.window].std() < _FLAT
    counts = photo[grid].reshape(views, -1)
    middle = float(np.median(sure[counts])) if counts.any() else 0.0
    weights = np.where(counts, np.clip(sure / (middle or 1.0), 0, _MOST_WEIGHT), 0)
    weights[flat] = 0
    return points_camera[grid].reshape(views, -1, 3).astype(np.float32), weights


def shown_alone(
    points: Float[np.ndarray, "V P 3"],
    points_camera: Float[np.ndarray, "V H W 3"],
    transforms: Sequence[PixelTransform],
) -> tuple[Float[np.ndarray, "V P 3"], Float[np.ndarray, "V H W"]]:
    """Points of the grid (`sampled`) and depth of all pixels, both NaN in margins around photos.

    As `geometry.seen_by` takes them: nothing is seen in a margin, nor from there.
    """
    photo = photo_pixels(transforms)
    depth = np.where(photo, points_camera[..., 2], np.nan)
    counts = photo[grid_of(*photo.shape[1:])].reshape(len(photo), -1)
    return np.where(counts[..., None], points, np.nan), depth


def cuts_in(seen: Float[np.ndarray, "pairs"]) -> list[int]:
    """The views, by their rows, before which a sequence is cut.

    A cut lies between two pairs of neighbours that see at least half of the same, and its two views
    see less than half of what these do. A camera that turns fast, or a model that is at its end,
    loses sight little by little. The first and the last pair are not judged: for other chunks
    they lie further inside.

    Args:
      seen: see `seen_by_the_next`; NaN for pairs that are not judged.
    """
    beside = np.minimum(seen[:-2], seen[2:])
    found = (beside >= CONNECTED) & (seen[1:-1] < 0.5 * beside)
    return (np.flatnonzero(found) + 2).tolist()


def cut(number: int, before: str, behind: str) -> Join:
    """What there is to tell of a cut in a chunk, between views of these names."""
    doubt = "what they show has nothing in common (a cut)"
    return replace(_untold(number, before, behind, "cut"), doubt=doubt)


def _untold(number: int, first: str, last: str, way: str) -> Join:
    """A join before anything was compared."""
    none = float("inf")
    return Join(number, first, last, way, 0, 0.0, none, none, none, 1.0)


def joined(
    before: ChunkRecord,
    start: int,
    names: tuple[str, ...],
    points: Float[np.ndarray, "F P 3"],
    weights: Float[np.ndarray, "F P"],
    poses: Float[np.ndarray, "F 4 4"],
    config: JoinConfig,
    *,
    number: int,
    known: bool,
    metric: bool,
) -> tuple[Similarity, Join]:
    """Where a chunk lies in the world of the one before it.

    Args:
      before: the chunk before.
      start: number of the first of F views that both share.
      names: of these views.
      points, weights: of the same pixels, as the chunk has them; see `sampled`.
      poses: of these views in the chunk's world.
      config: how they are joined.
      number: of the chunk.
      known: whether the chunk's world is that of known poses; if that of the one before is, too,
        there is nothing to estimate.
      metric: whether the model's lengths are in metres.

    Returns:
      The chunk before from the chunk, and what there is to tell of it.
    """
    count, first = len(names), start - (before.stop - len(before.tail_points))
    rows, own = slice(first, first + count), start - before.start
    shared = SharedViews(
        before.tail_points[rows],
        points,
        np.sqrt(before.tail_weights[rows].astype(np.float64) * weights),
        before.world_from_camera[own : own + count],
        poses,
    )
    told = _untold(number, names[0], names[-1], config.join)
    compared = int((shared.sound().weights > 0).sum())
    if known and before.known:
        told = replace(told, way="known")
        if not compared:
            return IDENTITY, replace(told, residual=0.0)
        return IDENTITY, _report(told, IDENTITY, fit_of(shared, IDENTITY))
    if compared < LEAST_POINTS:
        return IDENTITY, replace(
            told, points=compared, doubt=f"its views show too little ({compared} points to compare)"
        )
    way = {"points": join_by_points, "poses": join_by_poses}[config.join]
    found = way(shared, with_scale=config.with_scale(metric=metric))
    report = _report(told, found, fit_of(shared, found))
    return found, replace(report, doubt=_doubt(report, count))


def _report(told: Join, found: Similarity, fit: Fit) -> Join:
    names = ("points", "inliers", "residual", "turn", "shift")
    return replace(told, scale=found.scale, **{name: getattr(fit, name) for name in names})


def _doubt(join: Join, views: int) -> str:
    if not np.isfinite([join.scale, join.residual]).all():
        return "what the model says of its views is not finite"
    if not 1 / MOST_SCALE <= join.scale <= MOST_SCALE:
        return f"the scale changes {max(join.scale, 1 / max(join.scale, 1e-12)):.3g}-fold"
    posed = join.turn <= MOST_TURN and join.shift <= MOST_SHIFT and views >= LEAST_VIEWS
    if join.inliers < LEAST_INLIERS and not posed:
        return (
            f"{join.inliers:.0%} of their points agree, {LEAST_INLIERS:.0%} should, and their "
            f"poses are {join.turn:.1f} degrees apart (too little to see, or another scene)"
        )
    return ""


def refusal(join: Join) -> InputError:
    """The error where a join cannot be trusted and no gap is allowed."""
    if join.way == "cut":
        return InputError(
            f"the views {join.first_view} and {join.last_view} do not hang together: {join.doubt}; "
            "reconstruct what is before and behind it apart, take more views there (fps), or leave "
            "a gap (allow_gaps, --allow-gaps); what is written so far stays"
        )
    return InputError(
        f"the views from {join.first_view} to {join.last_view} do not join chunk {join.chunk} to "
        f"the one before: {join.doubt}; take more views there (fps, overlap), leave them out, or "
        "leave a gap (allow_gaps, --allow-gaps); what is written so far stays"
    )
