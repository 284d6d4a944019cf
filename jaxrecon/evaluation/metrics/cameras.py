"""Errors of predicted intrinsics."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int


@dataclass(frozen=True)
class CameraErrors:
    """Means over the views whose intrinsics are known.

    Attributes:
      focal_error: of the focal length, relative to the true one; fx and fy count alike.
      fov_error: of the horizontal field of view, in degrees.
    """

    focal_error: float
    fov_error: float


def camera_errors(
    predicted: Float[np.ndarray, "V 3 3"],
    true: Float[np.ndarray, "V 3 3"],
    known: Bool[np.ndarray, " V"],
    widths: int | Int[np.ndarray, " V"],
) -> CameraErrors | None:
    """Errors of focal lengths and fields of view; None if nothing is known, or predicted finite.

    Args:
      predicted, true: in pixels of the same images.
      known: of which views the truth is known.
      widths: of what the images show of their photos, in pixels; one for all, or of each view.
    """
    guess, focal = (
        np.stack([k[known, 0, 0], k[known, 1, 1]], axis=1).astype(np.float64)
        for k in (predicted, true)
    )
    if not known.any() or not np.isfinite(guess).all() or (guess <= 0).any():
        return None
    half = np.broadcast_to(widths, known.shape)[known] / 2
    angles = (np.rad2deg(2 * np.arctan(half / f[:, 0])) for f in (guess, focal))
    return CameraErrors(
        focal_error=float(np.mean(np.abs(guess / focal - 1))),
        fov_error=float(np.mean(np.abs(np.subtract(*angles)))),
    )
