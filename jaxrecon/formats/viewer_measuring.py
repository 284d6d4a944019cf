"""Which point a click means, and how far two of them are apart."""

import numpy as np
from jaxtyping import Bool, Float

from jaxrecon.formats.viewer_cloud import Cloud

_NARROW, _WIDE = np.deg2rad(0.4), np.deg2rad(2.5)


def clicked_point(
    cloud: Cloud,
    wanted: Bool[np.ndarray, " P"],
    origin: Float[np.ndarray, "3"],
    direction: Float[np.ndarray, "3"],
) -> Float[np.ndarray, "3"] | None:
    """The point that a ray meets.

    Of the points within 0.4 degrees of the ray the nearest to its origin; if there is none, the one
    at the least angle up to 2.5 degrees; None if there is none either.
    """
    direction = direction / np.linalg.norm(direction)
    xyz = cloud.xyz[wanted].astype(np.float64)
    away = xyz - origin
    along = away @ direction
    aside = np.linalg.norm(away - along[:, None] * direction, axis=1)
    angle = np.where(along > 0, np.arctan2(aside, along), np.inf)
    hit = angle <= _NARROW
    if hit.any():
        return xyz[hit][np.argmin(along[hit])]
    if not len(angle) or angle.min() > _WIDE:
        return None
    return xyz[np.argmin(angle)]


def distance_label(
    first: Float[np.ndarray, "3"], second: Float[np.ndarray, "3"], *, metric: bool
) -> str:
    """How far two points are apart, in words."""
    distance = float(np.linalg.norm(second - first))
    if not metric:
        return f"{distance:.4g} units (the scale is not metric)"
    return f"{100 * distance:.3g} cm" if distance < 1 else f"{distance:.4g} m"
