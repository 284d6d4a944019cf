"""Errors of depth maps after the alignment that the model's freedom calls for."""

from dataclasses import dataclass
from typing import Literal, get_args

import jax
import numpy as np
from jaxtyping import Bool, Float

from jaxrecon.choices import meant
from jaxrecon.errors import InputError
from jaxrecon.geometry import beside_depth_edges

type DepthAlignment = Literal["scale", "scale_per_view", "scale_shift", "metric"]
ALIGNMENTS: tuple[str, ...] = get_args(DepthAlignment.__value__)

_FIT_PIXELS = 100_000
_ROUNDS = 50

_beside_edges = jax.jit(beside_depth_edges)


@dataclass(frozen=True)
class DepthErrors:
    """Means over all pixels of known depth.

    Attributes:
      abs_rel: `|predicted - true| / true`.
      rmse: root of the mean of `(predicted - true)^2`, in the unit of the truth.
      delta_1: share of pixels with `max(predicted / true, true / predicted) < 1.25`.
      delta_2: share below 1.25^2.
      abs_rel_edges: `abs_rel` of the pixels beside depth edges, see `beside_depth_edges` of
        `jaxrecon.geometry`; NaN if there are none.
    """

    abs_rel: float
    rmse: float
    delta_1: float
    delta_2: float
    abs_rel_edges: float


def depth_errors(
    predicted: Float[np.ndarray, "V H W"],
    true: Float[np.ndarray, "V H W"],
    mask: Bool[np.ndarray, "V H W"],
    *,
    alignment: DepthAlignment = "scale",
) -> DepthErrors:
    """Compares depths at the pixels of the mask, over all views together.

    A prediction that is not positive fails both deltas.

    Args:
      predicted, true: depth along the optical axis.
      mask: where the true depth is known.
      alignment: see `align_depth`.

    Raises:
      InputError: the mask has no pixel, a predicted value in it is not finite, or the alignment is
        unknown.

    Source: Eigen et al., Depth map prediction from a single image, NeurIPS 2014;
    `depth_evaluation` in `dust3r/depth_eval.py` of MonST3R, which π³'s `videodepth/eval.py` uses
    (one alignment for all frames of a sequence).
    """
    if not mask.any():
        raise InputError("depth errors: no pixel has a known true depth")
    if not np.isfinite(predicted[mask]).all():
        raise InputError("depth errors: the predicted depth has values that are not finite")
    found = align_depth(predicted, true, mask, alignment=alignment)[mask]
    wanted = true[mask].astype(np.float64)
    off = found - wanted
    positive = found > 0
    relative, beside = np.abs(off) / wanted, np.asarray(_beside_edges(true, mask))[mask]
    ratio = np.full(len(wanted), np.inf)
    ratio[positive] = np.maximum(
        found[positive] / wanted[positive], wanted[positive] / found[positive]
    )
    return DepthErrors(
        abs_rel=float(np.mean(relative)),
        rmse=float(np.sqrt(np.mean(off**2))),
        delta_1=float(np.mean(ratio < 1.25)),
        delta_2=float(np.mean(ratio < 1.25**2)),
        abs_rel_edges=float(np.mean(relative[beside])) if beside.any() else float("nan"),
    )


def align_depth(
    predicted: Float[np.ndarray, "V H W"],
    true: Float[np.ndarray, "V H W"],
    mask: Bool[np.ndarray, "V H W"],
    *,
    alignment: DepthAlignment,
) -> Float[np.ndarray, "V H W"]:
    """The predicted depth after alignment with the true one at the pixels of the mask.

    "scale" multiplies all views by one number, the median of `true / predicted` (MonST3R's default
    takes the ratio of the medians); "scale_per_view" does so for each view. "scale_shift" finds
    one `scale * predicted + shift` for all views that minimises the sum of `|error|`: the objective
    of MonST3R's and π³'s `align_with_lad2`, here by iteratively reweighted least squares in place
    of Adam. "metric" leaves the depth as it is. Scales are fitted to positive predictions only.

    Raises:
      InputError: the alignment is unknown.
    """
    predicted, true = predicted.astype(np.float64), true.astype(np.float64)
    if alignment == "metric":
        return predicted
    if alignment == "scale":
        return predicted * median_scale(predicted[mask], true[mask])
    if alignment == "scale_per_view":
        views = zip(predicted, true, mask, strict=True)
        return np.stack([p * median_scale(p[m], t[m]) for p, t, m in views])
    if alignment == "scale_shift":
        scale, shift = _least_absolute_line(predicted[mask], true[mask])
        return scale * predicted + shift
    raise InputError(
        f"alignment={alignment!r} is unknown; choose one of {', '.join(ALIGNMENTS)}"
        f"{meant(alignment, ALIGNMENTS)}"
    )


def median_scale(predicted: np.ndarray, true: np.ndarray) -> float:
    """The median ratio; 1 where no prediction is positive."""
    positive = predicted > 0
    return float(np.median(true[positive] / predicted[positive])) if positive.any() else 1.0


def _least_absolute_line(x: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    """`a, b` that minimise `sum |a x + b - y|`, over evenly drawn pixels if there are many."""
    every = -(-len(x) // _FIT_PIXELS)
    x, y = x[::every], y[::every]
    weights, smallest = np.ones(len(x)), 1e-6 * max(float(np.median(np.abs(y))), 1e-12)
    slope, start = 1.0, 0.0
    for _ in range(_ROUNDS):
        share = weights / weights.sum()
        x_mean, y_mean = share @ x, share @ y
        variance = share @ (x - x_mean) ** 2
        slope = share @ ((x - x_mean) * (y - y_mean)) / variance if variance > 0 else 0.0
        start = y_mean - slope * x_mean
        weights = 1 / np.maximum(np.abs(slope * x + start - y), smallest)
    return float(slope), float(start)
