"""Errors of a point cloud after alignment with the true one."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float

from jaxrecon.errors import InputError
from jaxrecon.geometry import Similarity, umeyama

if TYPE_CHECKING:
    from scipy.spatial import KDTree

_ROUNDS = 30
_SETTLED = 1e-6


@dataclass(frozen=True)
class PointErrors:
    """Distances in the unit of the truth; normal consistency in [0, 1], 1 is best.

    Attributes:
      accuracy, accuracy_median: distance from a predicted point to the nearest true one.
      completeness, completeness_median: distance from a true point to the nearest predicted one.
      normals, normals_median: `|cosine|` between the normals of such nearest points, averaged over
        both directions; NaN where no normal is known.
    """

    accuracy: float
    accuracy_median: float
    completeness: float
    completeness_median: float
    normals: float
    normals_median: float


@dataclass(frozen=True, eq=False)
class Cloud:
    """Points with unit normals; a normal of length 0 is unknown."""

    points: Float[np.ndarray, "P 3"]
    normals: Float[np.ndarray, "P 3"]


def point_errors(
    predicted: Cloud,
    true: Cloud,
    *,
    max_points: int = 50_000,
    max_queries: int = 10_000,
    icp_distance: float = 0.1,
    seed: int = 0,
) -> PointErrors:
    """Compares clouds whose points correspond one to one, such as the pixels of known depth.

    The prediction is aligned by Umeyama's similarity over corresponding points, then refined by
    ICP (`refine_by_icp`). Large clouds are thinned to the same `max_points` points of both, and
    distances are measured from the same `max_queries` of them; the draw depends on the seed only.

    Args:
      predicted, true: corresponding points.
      max_points: the most points of each cloud to which distances are taken.
      max_queries: the most points from which they are taken.
      icp_distance: ICP uses pairs of points nearer than this, in the unit of the truth; 0 for none.
      seed: of the thinning.

    Raises:
      InputError: the clouds are empty or differ in size, or a predicted point is not finite.

    Source: `accuracy`, `completion` and the alignment of Spann3R's `eval_recon.py` (7-Scenes and
    NRGBD), which CUT3R and π³ use (`mv_recon/eval.py`: ICP within 0.1 m). They estimate normals
    from 30 neighbours with Open3D and use all points.
    """
    _check(predicted, true)
    chosen = np.random.default_rng(seed).permutation(len(true.points))[:max_points]
    true = Cloud(true.points[chosen].astype(np.float64), true.normals[chosen])
    tree = _tree(true.points)
    predicted = _moved(
        Cloud(predicted.points[chosen], predicted.normals[chosen]),
        umeyama(predicted.points[chosen], true.points),
    )
    queries = predicted.points[:max_queries]
    refinement = refine_by_icp(queries, true.points, tree, distance=icp_distance)
    return _compare(_moved(predicted, refinement), true, tree, max_queries)


def _compare(predicted: Cloud, true: Cloud, tree: "KDTree", max_queries: int) -> PointErrors:
    """Errors of aligned clouds, measured from the first `max_queries` points of each."""
    some = slice(max_queries)
    away, nearest = tree.query(predicted.points[some], workers=-1)
    missing, back = _tree(predicted.points).query(true.points[some], workers=-1)
    forth = _consistency(predicted.normals[some], true.normals[nearest])
    reverse = _consistency(true.normals[some], predicted.normals[back])
    return PointErrors(
        accuracy=float(away.mean()),
        accuracy_median=float(np.median(away)),
        completeness=float(missing.mean()),
        completeness_median=float(np.median(missing)),
        normals=(forth[0] + reverse[0]) / 2,
        normals_median=(forth[1] + reverse[1]) / 2,
    )


def refine_by_icp(
    source: Float[np.ndarray, "P 3"],
    target: Float[np.ndarray, "T 3"],
    tree: "KDTree",
    *,
    distance: float,
) -> Similarity:
    """The rigid transform to which iterated closest points, point to point, settle.

    At most 30 rounds, or until share and root mean square of the pairs within `distance` change by
    less than 1e-6, as in Open3D's `registration_icp` with its defaults. The identity if fewer than
    three points have a partner.

    Args:
      source: points to be moved, already near their places.
      target: where they should be.
      tree: `scipy.spatial.KDTree(target)`.
      distance: partners farther than this are not used.

    Source: Besl and McKay, A method for registration of 3-D shapes, PAMI 1992.
    """
    moved, before = source, (0.0, 0.0)
    for _ in range(_ROUNDS):
        away, nearest = tree.query(moved, distance_upper_bound=distance, workers=-1)
        near = np.isfinite(away)
        if near.sum() < 3:
            break
        state = float(near.mean()), float(np.sqrt(np.mean(away[near] ** 2)))
        if max(abs(state[0] - before[0]), abs(state[1] - before[1])) < _SETTLED:
            break
        before = state
        step = umeyama(moved[near], target[nearest[near]], with_scale=False)
        moved = step.points(moved)
    return umeyama(source, moved, with_scale=False)


def _moved(cloud: Cloud, similarity: Similarity) -> Cloud:
    return Cloud(similarity.points(cloud.points), similarity.directions(cloud.normals))


def _consistency(normals: np.ndarray, others: np.ndarray) -> tuple[float, float]:
    """Mean and median of the absolute cosine where both normals are known."""
    known = normals.any(axis=1) & others.any(axis=1)
    if not known.any():
        return float("nan"), float("nan")
    cosine = np.abs((normals[known] * others[known]).sum(axis=1))
    return float(cosine.mean()), float(np.median(cosine))


def _tree(points: np.ndarray) -> "KDTree":
    from scipy.spatial import KDTree

    return KDTree(points)


def _check(predicted: Cloud, true: Cloud) -> None:
    if len(predicted.points) != len(true.points):
        raise InputError(
            f"point errors: {len(predicted.points)} predicted and {len(true.points)} true points; "
            "they must correspond"
        )
    if len(true.points) < 3:
        raise InputError(f"point errors need at least 3 points; there are {len(true.points)}")
    if not np.isfinite(predicted.points).all():
        raise InputError("point errors: a predicted point is not finite")
