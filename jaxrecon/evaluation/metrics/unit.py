"""Whether depths and camera positions have one unit."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

from jaxrecon.evaluation.metrics.depth import median_scale
from jaxrecon.evaluation.metrics.pose import same_place


@dataclass(frozen=True)
class UnitErrors:
    """How depths and camera positions, each brought to the truth by a scale, differ in it.

    Attributes:
      unit_error: the ratio of the two scales, the larger over the smaller, less one. Where it is
        large, what several views see stands in the cloud several times, though each of poses and
        depths by itself may be right.
    """

    unit_error: float


def unit_errors(
    predicted: Float[np.ndarray, "C 4 4"],
    true: Float[np.ndarray, "C 4 4"],
    predicted_depth: Float[np.ndarray, "V H W"],
    true_depth: Float[np.ndarray, "V H W"],
    mask: Bool[np.ndarray, "V H W"],
) -> UnitErrors | None:
    """Compares the median ratio of depths with that of the distances between cameras.

    None if no two cameras are apart, in the truth and as predicted, or no known depth is predicted
    to be positive.

    Args:
      predicted, true: poses of the same views, world from camera.
      predicted_depth, true_depth: along the optical axis, of views that may be others.
      mask: where the true depth is known.
    """
    first, second = np.triu_indices(len(true), k=1)
    guess, wanted = (
        np.linalg.norm(poses[first, :3, 3] - poses[second, :3, 3], axis=1)
        for poses in (predicted.astype(np.float64), true.astype(np.float64))
    )
    apart = (guess > 0) & (wanted >= same_place(true))
    if not apart.any() or not (mask & (predicted_depth > 0)).any():
        return None
    of_cameras = median_scale(guess[apart], wanted[apart])
    of_depths = median_scale(predicted_depth[mask].astype(np.float64), true_depth[mask])
    return UnitErrors(max(of_depths / of_cameras, of_cameras / of_depths) - 1)
