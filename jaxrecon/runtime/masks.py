"""The mask of the points to keep: what a caller may ask of it, and how a program makes it.

An option of the mask is a field of `MaskConfig`, which checks it, and one of its keywords. Where it
is a number that may change from call to call, it is an argument of the program as well: a field of
`MaskInputs`, None where the mask does not look at it. `mask_of` says what it does.
"""

from dataclasses import dataclass, replace
from typing import Any, TypedDict

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from jaxrecon.checks import finite, real_number, shown, truth_value
from jaxrecon.choices import EDGE_RTOL
from jaxrecon.errors import InputError
from jaxrecon.geometry import depth_consistency, depth_edges, depth_normal_edges
from jaxrecon.models import Prediction
from jaxrecon.nn.views import map_views
from jaxrecon.pytree import pytree_dataclass
from jaxrecon.runtime.cameras import PER_VIEW, intrinsics_of
from jaxrecon.runtime.defaults import ModelDefaults
from jaxrecon.runtime.placement import ONE_DEVICE, Placement
from jaxrecon.runtime.quantile import quantile

EDGES_AT_ONCE = 32
"""Views in which a device looks for edges together."""

Scalar = Float[Array | np.ndarray, ""]


class ViewMaskKeywords(TypedDict, total=False):
    """The fields of `MaskConfig` that look at each view alone, as keywords."""

    min_confidence: float | None
    view_confidence_quantile: float | None
    edge_rtol: float | None
    depth_edge_rtol: float | None


class MaskKeywords(ViewMaskKeywords, total=False):
    """All fields of `MaskConfig`, as keywords."""

    confidence_quantile: float | None
    multiview_confidence: bool


@dataclass(frozen=True)
class MaskConfig:
    """Which points stay in the mask.

    Attributes:
      min_confidence: points below it leave the mask. If not given: 0.1 for π³, none for VGGT
        and MapAnything, whose confidences are above 1.
      confidence_quantile: this share of the scene's points, the least confident, leaves the
        mask. If not given: 0.25 for VGGT, 0 for the others.
      view_confidence_quantile: this share of each view's pixels, the least confident and those
        equal to the last of them, leaves the mask.
      multiview_confidence: the confidence is the share of the other views in sight whose depth
        agrees, in [0, 1], in place of the model's own (MapAnything). No point leaves the mask
        for it unless one of the numbers above is given; `min_confidence=0` drops those that no
        other view confirms.
      edge_rtol: relative depth jump that makes a pixel an edge, which leaves the mask if the
        normals jump there too, by 5 degrees within a pixel or two; None keeps edges. So has
        upstream π³ since May 2026.
      depth_edge_rtol: relative depth jump that makes a pixel an edge whatever the normals do.
        Upstream π³ had 0.03 before, and no other edges: its masks of then need `edge_rtol=None`.

    Raises:
      InputError: one of them is out of range.
    """

    min_confidence: float | None = None
    confidence_quantile: float | None = None
    view_confidence_quantile: float | None = None
    multiview_confidence: bool = False
    edge_rtol: float | None = EDGE_RTOL
    depth_edge_rtol: float | None = None

    def __post_init__(self) -> None:
        truth_value("multiview_confidence", self.multiview_confidence)
        if self.min_confidence is not None:
            real_number("min_confidence", self.min_confidence)
        for name in ("confidence_quantile", "view_confidence_quantile"):
            share = getattr(self, name)
            number = finite(share)
            if share is not None and (number is None or not 0 <= number < 1):
                raise InputError(f"{name}={shown(share)} must be at least 0 and below 1")
        for name in ("edge_rtol", "depth_edge_rtol"):
            edge = getattr(self, name)
            if edge is not None and not real_number(name, edge) >= 0:
                raise InputError(f"{name}={shown(edge)} must be at least 0, or None to keep edges")

    def by_view(self) -> "MaskConfig":
        """The same for views that are worked out a few at a time.

        Raises:
          InputError: it looks at all views at once.
        """
        for name in ("confidence_quantile", "multiview_confidence"):
            if getattr(self, name):
                raise InputError(
                    f"{name} looks at all views at once: it goes with reconstruct, not with "
                    "stream; leave it out"
                )
        return replace(self, confidence_quantile=0.0)

    def _check_reached(self, least: float, defaults: ModelDefaults) -> None:
        """Refuses a confidence that no point can exceed, before the model has run.

        Raises:
          InputError: see above.
        """
        most = 1.0 if self.multiview_confidence else defaults.most_confidence
        if most is not None and least >= most:
            raise InputError(
                f"min_confidence={least:g} would leave no point: no confidence is above {most:g} "
                "here; give less"
            )

    def inputs(self, defaults: ModelDefaults) -> "MaskInputs":
        """The numbers as the program takes them, with the family's own where none is given."""
        least, share = self.min_confidence, self.confidence_quantile
        if least is not None:
            self._check_reached(least, defaults)
        if least is None:
            least = -np.inf if self.multiview_confidence else defaults.min_confidence
        if share is None:
            share = defaults.confidence_quantile
        view_share = self.view_confidence_quantile
        return MaskInputs(
            min_confidence=_scalar(least),
            confidence_quantile=_scalar(share) if float(share) else None,
            view_confidence_quantile=None if view_share is None else _scalar(view_share),
            edge_rtol=None if self.edge_rtol is None else _scalar(self.edge_rtol),
            depth_edge_rtol=(
                None if self.depth_edge_rtol is None else _scalar(self.depth_edge_rtol)
            ),
        )


@pytree_dataclass
class MaskInputs:
    """The numbers of `MaskConfig` that can change from call to call without compiling again.

    Which of them are None is compiled into the program: the mask does not look at those.
    """

    min_confidence: Scalar
    confidence_quantile: Scalar | None = None
    edge_rtol: Scalar | None = None
    view_confidence_quantile: Scalar | None = None
    depth_edge_rtol: Scalar | None = None


def mask_of(
    scene: Prediction,
    confidence: Float[Array, "V H W"],
    inputs: MaskInputs,
    *,
    inside: Bool[Array, "V H W"] | None,
    strict_edges: bool,
    placement: Placement = ONE_DEVICE,
) -> Bool[Array, "V H W"]:
    """Confident pixels of the photos that are not on an edge, as upstream's examples keep them.

    Args:
      scene: what the model predicts.
      confidence: of its points, or the agreement of the views.
      inputs: which points are confident, and what is an edge.
      inside: which pixels show a photo; None if all do.
      strict_edges: see `ModelDefaults`.
      placement: where edges are looked for.
    """
    mask = confidence > inputs.min_confidence
    if scene.mask is not None:
        mask &= scene.mask
    counted = True if inside is None else inside
    mask &= counted
    if inputs.confidence_quantile is not None:
        mask &= confidence >= quantile(confidence, inputs.confidence_quantile, counted)
    share = inputs.view_confidence_quantile
    if share is not None:
        shown = jnp.broadcast_to(counted, confidence.shape)
        least = jax.vmap(quantile, (0, None, 0))(confidence, jnp.asarray(share), shown)
        mask &= confidence > least[:, None, None]
    jumps = None
    if inputs.depth_edge_rtol is not None:
        rtol = jnp.asarray(inputs.depth_edge_rtol)
        jumps = depth_edges(scene.points_camera[..., 2], rtol=rtol, mask=inside)
    if inputs.edge_rtol is not None:
        points, rtol = scene.points_camera, inputs.edge_rtol
        mask &= ~_edges(points, mask, rtol, strict_edges, placement)
    return mask if jumps is None else mask & ~jumps


def agreement(
    scene: Prediction, num_valid_views: Any, inside: Bool[Array, "V H W"] | None
) -> Float[Array, "V H W"]:
    """How far the views agree on each point; see `depth_consistency`.

    `inside` says which pixels show a photo; None if all do.
    """
    depth = scene.points_camera[..., 2]
    return depth_consistency(
        depth,
        jnp.ones(depth.shape, bool) if scene.mask is None else scene.mask,
        scene.world_from_camera,
        intrinsics_of(scene, PER_VIEW, num_valid_views, inside),
        views=num_valid_views,
        shown=inside,
    )


def _scalar(number: float) -> np.ndarray:
    with np.errstate(over="ignore"):  # above all float32 is as good as infinite
        return np.asarray(number, np.float32)


def _edges(
    points_camera: Float[Array, "V H W 3"],
    mask: Bool[Array, "V H W"],
    rtol: Scalar | float,
    strict: bool,
    placement: Placement,
) -> Bool[Array, "V H W"]:
    """Where depth and normals jump: what it needs beside its results would fill the memory."""

    def work(rtol: Array, views: tuple[Array, Array]) -> Array:
        def some(views: tuple[Array, Array]) -> Array:
            return depth_normal_edges(views[0], rtol=rtol, mask=views[1], strict=strict)

        return map_views(some, views, at_once=EDGES_AT_ONCE)

    return placement.each_view(work, jnp.asarray(rtol), (points_camera, mask), axis=0, out=0)
