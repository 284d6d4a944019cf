"""Budgets of sparse attention by layer and head, measured on photos.

The model runs densely; beside it each head of each global layer attends sparsely at several shares
of the key blocks. A head whose output hardly changes gives its blocks to one whose output does.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from jaxrecon.errors import InputError
from jaxrecon.images import ImageSource
from jaxrecon.pipeline import Pipeline
from jaxrecon.reconstruction import Reconstruction
from jaxrecon.registry import FAMILIES
from jaxrecon.sparse import AttentionByLayer, SparseAttention
from jaxrecon.sparse.calibrated import CalibratedBudgets, check_shares, shared_out
from jaxrecon.sparse.measured import SHARES, MeasuredAttention, errors_of

TOTAL, LEAST, MOST = 0.25, 0.05, 1.0
"""Of the competing key blocks: what is kept in the mean, and by each head at least and at most."""

UNTRAINED = (
    "budgets measured on weights that were never trained (random or deterministic ones) are no "
    "evidence: such weights attend to everything alike"
)


@dataclass(frozen=True)
class Calibration:
    """What was measured.

    Attributes:
      budgets: what each head is to keep.
      errors: squared difference of each head's output from the dense one, over its square, at
        `SHARES` of the key blocks.
    """

    budgets: CalibratedBudgets
    errors: Float[np.ndarray, "layers heads shares"]

    def error(self, kept: Sequence[Sequence[float]] | float) -> float:
        """Root of the mean squared relative error of the heads' outputs on the photos measured.

        Args:
          kept: by layer and head, or the same for all.
        """
        return float(np.sqrt(np.mean(errors_at(self.errors, np.asarray(kept)))))


def calibrate(
    pipeline: Pipeline,
    images: ImageSource,
    *,
    total: float = TOTAL,
    least: float = LEAST,
    most: float = MOST,
    across_layers: bool = True,
    **options: Any,
) -> Calibration:
    """Measures on photos, as `reconstruct` takes them, and shares blocks out.

    Args:
      pipeline: a loaded model on one device; its own attention is not used.
      images: see `Pipeline.reconstruct`.
      total: the mean share of the competing key blocks that heads keep.
      least, most: what each head keeps at least and at most.
      across_layers: whether layers share too, by how far each of them alone moves the points where
        it attends sparsely: that is one more program for each layer. Else each layer keeps `total`,
        and its heads share that, which made `pi3-mini` worse than one share for all.
      options: of `Pipeline.reconstruct`, such as `resolution` and `max_views`.

    Raises:
      InputError: a number is out of range, there is a single view, the model has no global
        attention, is on several devices, or does not tell where its weights are from; or what
        `reconstruct` raises.
    """
    check_shares(total, least, most)
    if pipeline.header is None:
        raise InputError(
            "pipeline: it does not tell where its weights are from; make it with jaxrecon.load"
        )
    if pipeline.mesh is not None:
        raise InputError(
            f"pipeline: calibration runs on one device, found {pipeline.mesh.size}; load the model "
            "without a mesh"
        )
    recon = pipeline.reconstruct(images, attention=MeasuredAttention(), **options)
    views, height, width = recon.mask.shape
    told = recon.stats.sparsity
    if told is None:
        raise InputError("images: calibration needs attention across views; give at least 2 images")
    if not np.isfinite(told).all():
        raise InputError(f"{pipeline.name}: its attention gives numbers that are not finite")
    errors = errors_of(np.asarray(told))
    layout = pipeline.model.layout((1, views, height, width, 3)).joined(views)
    if SparseAttention().block_layout(layout).competing < 2:
        raise InputError(
            f"images: {views} views of {width}x{height} pixels have too few blocks to skip any; "
            "give more of them, or a higher resolution"
        )
    effects = _effects(pipeline, images, recon, total, options) if across_layers else None
    kept = kept_shares(errors, (total, least, most), effects)
    family = FAMILIES[pipeline.header["family"]]
    budgets = CalibratedBudgets(
        model=pipeline.name,
        config=family.config_digest(pipeline.header["config"]),
        views=views,
        size=(width, height),
        kept=tuple(tuple(max(round(float(share), 6), 1e-6) for share in row) for row in kept),
        weights=pipeline.weights_digest,
    )
    return Calibration(budgets, errors)


def errors_at(
    errors: Float[np.ndarray, "layers heads shares"], kept: Float[np.ndarray, "..."]
) -> Float[np.ndarray, "layers heads"]:
    """What `errors` are where heads keep so much, straight between what was measured."""
    shares = np.broadcast_to(kept, errors.shape[:2])
    found = [
        np.interp(share, [*SHARES, 1.0], [*curve, 0.0])
        for share, curve in zip(shares.ravel(), errors.reshape(-1, len(SHARES)), strict=True)
    ]
    return np.reshape(found, shares.shape)


def kept_shares(
    errors: Float[np.ndarray, "layers heads shares"],
    bounds: tuple[float, float, float],
    effects: Float[np.ndarray, " layers"] | None,
) -> Float[np.ndarray, "layers heads"]:
    """What each head keeps: shared out within each layer, or across layers by their effects.

    Args:
      errors: see `Calibration`.
      bounds: the mean of what is kept, and what each head keeps at least and at most.
      effects: how far each layer alone moves the points, squared, where all its heads keep the
        mean; None to have each layer keep as much.

    Raises:
      InputError: see `shared_out`.
    """
    shares = np.array(SHARES)
    total, least, most = bounds
    if effects is None:
        rows = [
            shared_out(row[None], shares, total=total, least=least, most=most) for row in errors
        ]
        return np.concatenate(rows)
    # A layer's effect is the sum of its heads' errors, in units of the points.
    sums = errors_at(errors, np.asarray(total)).sum(1)
    weights = effects / np.maximum(sums, np.finfo(np.float32).tiny)
    weighted = errors * weights[:, None, None]
    return shared_out(weighted, shares, total=total, least=least, most=most)


def _effects(
    pipeline: Pipeline, images: ImageSource, dense: Reconstruction, total: float, options: Any
) -> Float[np.ndarray, " layers"]:
    """The median distance of points from those of dense attention, over depth, squared."""
    told = dense.stats.sparsity
    assert told is not None
    wanted = np.asarray(dense.points_camera, np.float32)
    far = np.maximum(np.linalg.norm(wanted, axis=-1), np.finfo(np.float32).tiny)
    found = []
    for layer in range(len(told)):
        one = AttentionByLayer(None, {layer: SparseAttention(1 - total, None)})
        points = pipeline.reconstruct(images, attention=one, **options).points_camera
        moved = np.linalg.norm(np.asarray(points, np.float32) - wanted, axis=-1)
        found.append(float(np.median(moved / far)) ** 2)
    return np.array(found)
