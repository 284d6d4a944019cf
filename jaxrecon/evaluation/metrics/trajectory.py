"""Errors of a whole trajectory after alignment with the true one."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from jaxrecon.errors import InputError
from jaxrecon.evaluation.metrics.pose import SAME_PLACE
from jaxrecon.geometry import umeyama


@dataclass(frozen=True)
class TrajectoryErrors:
    """Root mean squares over views, or over pairs of consecutive views.

    Attributes:
      ate: distance between true and aligned camera centres, in the unit of the truth.
      rpe_translation: error of the step to the next view, in the unit of the truth.
      rpe_rotation: error of the turn to the next view, in degrees.
    """

    ate: float
    rpe_translation: float
    rpe_rotation: float


def trajectory_errors(
    predicted: Float[np.ndarray, "V 4 4"], true: Float[np.ndarray, "V 4 4"]
) -> TrajectoryErrors:
    """ATE and RPE after a Sim(3) alignment of the camera centres.

    With `P` the aligned poses and `Q` the true ones, `ate = rms |centre(P_i) - centre(Q_i)|`, and
    with `E_i = inverse(inverse(Q_i) Q_{i+1}) inverse(P_i) P_{i+1}`, the RPE are the root mean
    squares of the length of E's translation and of the angle of its rotation. Consecutive views are
    those beside each other in the order given.

    Raises:
      InputError: there are fewer than three views, a pose is not finite, or the true cameras stand
        in one place, to which a scale of 0 would bring any prediction.

    Source: Sturm et al., A benchmark for the evaluation of RGB-D SLAM systems, IROS 2012; evo's
    `ape` and `rpe` with `--align --correct_scale`, as in the evaluations of MonST3R and π³
    (`relpose/evo_utils.py`).
    """
    if len(true) < 3:
        raise InputError(f"trajectory errors need at least 3 views; there are {len(true)}")
    if stand_in_one_place(true):
        raise InputError("trajectory errors: the true cameras stand in one place")
    similarity = umeyama(predicted[:, :3, 3], true[:, :3, 3])
    aligned, true = similarity.poses(predicted), true.astype(np.float64)
    away = np.linalg.norm(aligned[:, :3, 3] - true[:, :3, 3], axis=1)
    error = np.linalg.inv(_steps(true)) @ _steps(aligned)
    turn = np.linalg.norm(error[:, :3, :3] - np.eye(3), axis=(1, 2)) / np.sqrt(8)
    angle = np.degrees(2 * np.arcsin(np.minimum(turn, 1)))
    return TrajectoryErrors(
        ate=_rms(away),
        rpe_translation=_rms(np.linalg.norm(error[:, :3, 3], axis=1)),
        rpe_rotation=_rms(angle),
    )


def stand_in_one_place(true: Float[np.ndarray, "V 4 4"]) -> bool:
    """Whether cameras are at most a millionth of a unit apart, as those on a tripod are."""
    return float(np.ptp(true[:, :3, 3].astype(np.float64), axis=0).max()) < SAME_PLACE


def _steps(poses: Float[np.ndarray, "V 4 4"]) -> Float[np.ndarray, "steps 4 4"]:
    return np.linalg.inv(poses[:-1]) @ poses[1:]


def _rms(values: np.ndarray) -> float:
    return float(np.sqrt(np.mean(values**2)))
