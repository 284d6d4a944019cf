"""Errors of relative poses: rotation and direction of translation, over pairs of views."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from jaxrecon.errors import InputError

SAME_PLACE = 1e-6
"""True cameras that are nearer to each other, as a share of the scene or of one unit, count as in
one place."""


@dataclass(frozen=True, eq=False)
class PairErrors:
    """Angles in degrees between true and predicted relative poses of P pairs of views.

    Attributes:
      first, second: the views of each pair; first < second.
      rotation: angle between the relative rotations.
      translation: angle between the directions of the relative translations; NaN where the true
        cameras stand in one place, so that there is no direction.
    """

    first: Int[np.ndarray, " P"]
    second: Int[np.ndarray, " P"]
    rotation: Float[np.ndarray, " P"]
    translation: Float[np.ndarray, " P"]

    def __len__(self) -> int:
        return len(self.first)

    @property
    def worst(self) -> Float[np.ndarray, " P"]:
        """The larger of the two angles; that of rotation where there is no direction."""
        return np.fmax(self.rotation, self.translation)

    def select(self, chosen: Bool[np.ndarray, " P"]) -> "PairErrors":
        """The chosen pairs."""
        return PairErrors(
            self.first[chosen], self.second[chosen], self.rotation[chosen], self.translation[chosen]
        )

    @classmethod
    def pooled(cls, parts: Sequence["PairErrors"]) -> "PairErrors":
        """The pairs of several scenes as one."""
        names = ("first", "second", "rotation", "translation")
        return PairErrors(*(np.concatenate([getattr(p, name) for p in parts]) for name in names))


@dataclass(frozen=True)
class PoseScores:
    """Summary of pair errors; angles in degrees, shares in [0, 1].

    Attributes:
      rotation_mean, rotation_median: of the rotation error.
      translation_mean, translation_median: of the error of the translation's direction.
      auc_5, auc_10, auc_30: `pose_auc` at these thresholds.
      rra_5, rra_15, rra_30: share of pairs whose rotation error is below.
      rta_5, rta_15, rta_30: share of pairs whose translation error is below.
    """

    rotation_mean: float
    rotation_median: float
    translation_mean: float
    translation_median: float
    auc_5: float
    auc_10: float
    auc_30: float
    rra_5: float
    rra_15: float
    rra_30: float
    rta_5: float
    rta_15: float
    rta_30: float


def relative_pose_errors(
    predicted: Float[np.ndarray, "V 4 4"],
    true: Float[np.ndarray, "V 4 4"],
    *,
    fold_sign: bool = False,
) -> PairErrors:
    """Compares `inverse(pose_i) @ pose_j`, camera j in camera i, for all pairs i < j.

    The rotation error is the angle of `R_true^T R_predicted`. The translation error is the angle
    between the two translations, up to 180 degrees. A predicted translation of length 0 has
    the error 90; a prediction that is not finite has 180 in both. Pairs with an unknown true pose
    are left out. Where the true cameras are less than a millionth of the scene's extent
    apart (or of one unit, in a scene smaller than that), the translation error is NaN.

    Args:
      predicted, true: camera-to-world poses; each in a world and unit of its own.
      fold_sign: takes `min(angle, 180 - angle)` for translations, as the evaluations of VGGT and π³
        do. It forgives a camera on the wrong side, so that it is off here.

    Source: `se3_to_relative_pose_error` and `translation_angle(ambiguity=True)` in
    `evaluation/test_co3d.py` of VGGT, which are those of PoseDiffusion; with exact angles in place
    of the arc cosine.
    """
    known = np.flatnonzero(np.isfinite(true).all(axis=(1, 2)))
    first, second = (known[index] for index in np.triu_indices(len(known), 1))
    finite = np.isfinite(predicted).all(axis=(1, 2))
    good = finite[first] & finite[second]
    usable = np.where(finite[:, None, None], predicted, np.eye(4)).astype(np.float64)
    true = true.astype(np.float64)
    found, wanted = _relative(usable, first, second), _relative(true, first, second)
    rotation = _rotation_angle(found[:, :3, :3], wanted[:, :3, :3])
    translation = _direction_angle(found[:, :3, 3], wanted[:, :3, 3])
    if fold_sign:
        translation = np.minimum(translation, 180 - translation)
    rotation, translation = np.where(good, rotation, 180.0), np.where(good, translation, 180.0)
    coincide = np.linalg.norm(wanted[:, :3, 3], axis=1) < same_place(true[known])
    return PairErrors(first, second, rotation, np.where(coincide, np.nan, translation))


def same_place(true: Float[np.ndarray, "V 4 4"]) -> float:
    """The distance below which true cameras count as in one place, see `SAME_PLACE`."""
    extent = float(np.ptp(true[:, :3, 3], axis=0).max()) if len(true) else 0.0
    return SAME_PLACE * max(extent, 1.0)


def turned_angles(
    poses: Float[np.ndarray, "V 4 4"],
    first: Int[np.ndarray, " P"],
    second: Int[np.ndarray, " P"],
) -> Float[np.ndarray, " P"]:
    """Angles in degrees of the relative rotations of pairs of views."""
    rotation = poses[:, :3, :3].astype(np.float64)
    return _rotation_angle(rotation[first], rotation[second])


def pose_auc(worst: Float[np.ndarray, " P"], threshold: int) -> float:
    """Area under the curve of accuracy against threshold, from 0 to `threshold` degrees; in [0, 1].

    A histogram of the pairs' larger angles with bins of one degree, [0, 1), [1, 2), ...,
    [threshold - 1, threshold] (the last one includes its end), each count divided by the number of
    pairs; then the mean of its cumulative sums. A perfect result is 1; an error in [k - 1, k)
    contributes (threshold - k + 1) / threshold.

    Raises:
      InputError: there is no pair, or the threshold is below 1.

    Source: `calculate_auc_np` in `evaluation/test_co3d.py` of VGGT, which π³ uses as well
    (`relpose/metric.py`).
    """
    _check(worst, threshold)
    counts, _ = np.histogram(worst, bins=np.arange(threshold + 1))
    return float(np.mean(np.cumsum(counts) / len(worst)))


def share_below(angles: Float[np.ndarray, " P"], threshold: float) -> float:
    """Share of the known angles that are below `threshold` degrees: RRA@t and RTA@t.

    NaN if no angle is known.

    Source: Jiang et al., PoseDiffusion, ICCV 2023; `Racc_5` and `Tacc_5` in
    `evaluation/test_co3d.py` of VGGT.
    """
    known = angles[np.isfinite(angles)]
    return float((known < threshold).mean()) if len(known) else float("nan")


def pose_scores(errors: PairErrors) -> PoseScores:
    """Summarises the errors of pairs; pairs without a direction count for rotation only.

    Raises:
      InputError: there is no pair.
    """
    _check(errors.worst, 1)
    directions = errors.translation[np.isfinite(errors.translation)]
    has_any = len(directions) > 0
    return PoseScores(
        rotation_mean=float(np.mean(errors.rotation)),
        rotation_median=float(np.median(errors.rotation)),
        translation_mean=float(np.mean(directions)) if has_any else float("nan"),
        translation_median=float(np.median(directions)) if has_any else float("nan"),
        **{f"auc_{t}": pose_auc(errors.worst, t) for t in (5, 10, 30)},
        **{f"rra_{t}": share_below(errors.rotation, float(t)) for t in (5, 15, 30)},
        **{f"rta_{t}": share_below(errors.translation, float(t)) for t in (5, 15, 30)},
    )


def _check(worst: np.ndarray, threshold: int) -> None:
    if not len(worst):
        raise InputError("pose AUC: there is no pair of views; give at least two views")
    if threshold < 1:
        raise InputError(f"pose AUC: threshold is {threshold}; give whole degrees, at least 1")


def _relative(poses: np.ndarray, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """`inverse(pose_first) @ pose_second`, whose last row is not needed."""
    turn = np.swapaxes(poses[first, :3, :3], 1, 2)
    between = poses[second, :3, 3] - poses[first, :3, 3]
    return np.concatenate([turn @ poses[second, :3, :3], turn @ between[..., None]], axis=2)


def _rotation_angle(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Angle in degrees of `one^T other`; `|one - other|_F = 2 sqrt(2) sin(angle / 2)`."""
    gap = np.linalg.norm(one - other, axis=(1, 2)) / np.sqrt(8)
    return np.degrees(2 * np.arcsin(np.minimum(gap, 1)))


def _direction_angle(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Angle in degrees between vectors; 90 where one of them is 0."""
    sine = np.linalg.norm(np.cross(one, other), axis=1)
    cosine = (one * other).sum(axis=1)
    empty = (one == 0).all(axis=1) | (other == 0).all(axis=1)
    return np.where(empty, 90.0, np.degrees(np.arctan2(sine, cosine)))
