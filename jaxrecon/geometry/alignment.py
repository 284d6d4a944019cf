"""The similarity transform between two sets of corresponding points; numpy, in double precision."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from jaxrecon.errors import InputError


@dataclass(frozen=True, eq=False)
class Similarity:
    """Maps a point `p` to `scale * rotation @ p + translation`."""

    scale: float
    rotation: Float[np.ndarray, "3 3"]
    translation: Float[np.ndarray, "3"]

    def points(self, points: Float[np.ndarray, "*points 3"]) -> Float[np.ndarray, "*points 3"]:
        """The mapped points."""
        return self.scale * (points @ self.rotation.T) + self.translation

    def directions(
        self, directions: Float[np.ndarray, "*points 3"]
    ) -> Float[np.ndarray, "*points 3"]:
        """Mapped unit vectors, such as normals: rotated only."""
        return directions @ self.rotation.T

    def poses(
        self, world_from_camera: Float[np.ndarray, "*views 4 4"]
    ) -> Float[np.ndarray, "*views 4 4"]:
        """Mapped camera poses: rotations turned, centres mapped like points; still rigid."""
        mapped = np.array(world_from_camera, np.float64)
        mapped[..., :3, :3] = self.rotation @ mapped[..., :3, :3]
        mapped[..., :3, 3] = self.points(mapped[..., :3, 3])
        return mapped


def umeyama(
    source: Float[np.ndarray, "points 3"],
    target: Float[np.ndarray, "points 3"],
    weights: Float[np.ndarray, " points"] | None = None,
    with_scale: bool = True,
) -> Similarity:
    """The similarity that minimises `sum w |scale * R source + t - target|^2`.

    With `C` the weighted covariance of target and source, `C = U S V^T` and
    `D = diag(1, 1, det(U V^T))`: `R = U D V^T`, `scale = trace(S D) / var(source)`,
    `t = mean(target) - scale * R mean(source)`. The scale is 1 where all source points coincide.
    Points on one line leave the turn about it undetermined; some turn is returned.

    Args:
      source: points to be moved.
      target: where they should be.
      weights: one a point, at least 0; all 1 if not given.
      with_scale: whether the scale is fitted, or held at 1.

    Raises:
      InputError: there is no point of positive weight, or a value is not finite.

    Source: Umeyama, Least-squares estimation of transformation parameters between two point
    patterns, PAMI 1991.
    """
    # SciPy's Rotation.align_vectors fits no scale; trimesh's procrustes does, but is an extra.
    source, target = source.astype(np.float64), target.astype(np.float64)
    share = _shares(source, target, weights)
    source_mean, target_mean = share @ source, share @ target
    source_off, target_off = source - source_mean, target - target_mean
    u, singular, vt = np.linalg.svd((target_off * share[:, None]).T @ source_off)
    signs = np.array([1.0, 1.0, np.sign(np.linalg.det(u) * np.linalg.det(vt))])
    rotation = (u * signs) @ vt
    variance = float(share @ (source_off**2).sum(axis=1))
    scale = float(singular @ signs) / variance if with_scale and variance > 0 else 1.0
    return Similarity(scale, rotation, target_mean - scale * rotation @ source_mean)


def _shares(
    source: np.ndarray, target: np.ndarray, weights: np.ndarray | None
) -> Float[np.ndarray, " points"]:
    weights = np.ones(len(source)) if weights is None else weights.astype(np.float64)
    if not (np.isfinite(source).all() and np.isfinite(target).all()):
        raise InputError("umeyama: source or target has values that are not finite; leave them out")
    if not (np.isfinite(weights).all() and (weights >= 0).all() and weights.sum() > 0):
        raise InputError(
            "umeyama: the weights of the points must be finite and at least 0, and one positive"
        )
    return weights / weights.sum()
