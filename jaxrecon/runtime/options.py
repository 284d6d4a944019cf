"""What a caller may choose, and what a family of models chooses where the caller does not."""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from jaxtyping import Array, Float, Int

from jaxrecon.checks import finite, real_number, shown, truth_value
from jaxrecon.errors import InputError
from jaxrecon.progress import Stages
from jaxrecon.pytree import pytree_dataclass

type FittedIntrinsics = Literal["per_view", "shared"]
type PrincipalPoint = Literal["free", "centre"]
type PointsChoice = Literal["depth", "pointmap"]


@dataclass(frozen=True)
class Habits:
    """How the models of one family are used.

    Attributes:
      min_confidence, confidence_quantile: of the mask, where the caller gives none.
      points: the kinds of points among which the caller may choose, the usual one first; empty if
        there is only one.
      conditions: whether the models take what is known of the views beforehand.
      strict_edges: whether a jump in depth without a normal beside it leaves the mask too.
      metric: whether lengths are in metres, which the agreement of views is measured in.
    """

    min_confidence: float = 0.1
    confidence_quantile: float = 0.0
    points: tuple[PointsChoice, ...] = ()
    conditions: bool = False
    strict_edges: bool = False
    metric: bool = False

    def chosen_points(self, points: PointsChoice | None, model: str) -> PointsChoice | None:
        """The kind of points to ask the model for; None if there is no choice.

        Raises:
          InputError: the model does not have this kind.
        """
        if points is None:
            return self.points[0] if self.points else None
        if not self.points:
            raise InputError(
                f"points={shown(points)}: {model} has one kind of points; leave it out"
            )
        check_choice("points", points, self.points)
        return points


DEFAULT_HABITS = Habits()


@dataclass(frozen=True)
class Options:
    """Choices that are compiled into the program.

    Attributes:
      intrinsics, principal_point: see `Pipeline.reconstruct`.
      use_quantile, use_edges: whether the mask looks at the quantile, and at depth edges.
      use_view_quantile: whether it looks at each view's own quantile.
      strict_edges: see `Habits`.
      multiview: whether the confidence is how far the views agree.
      points: which of the model's kinds of points, if it has several.
      framed: whether some pixels show no photo.
      padded: whether some of the last views are padding.
      conditioned: whether something is known of the views beforehand.
      maps: whether the feature maps for tracks are returned too.
    """

    intrinsics: FittedIntrinsics = "per_view"
    principal_point: PrincipalPoint = "free"
    use_quantile: bool = False
    use_edges: bool = True
    strict_edges: bool = False
    points: PointsChoice | None = None
    framed: bool = False
    padded: bool = False
    conditioned: bool = False
    use_view_quantile: bool = False
    multiview: bool = False
    maps: bool = False

    def __post_init__(self) -> None:
        check_choice("intrinsics", self.intrinsics, ("per_view", "shared"))
        check_choice("principal_point", self.principal_point, ("free", "centre"))


@pytree_dataclass
class Thresholds:
    """Numbers that can change from call to call without compiling again.

    Attributes:
      min_confidence, confidence_quantile, edge_rtol: see `Pipeline.reconstruct`.
      frames: left, top, right and bottom of the photo in each processed image, in whole pixels
        (the last two exclusive), if there are margins around it; all 0 for a view that is padding.
      views: how many of the views are real, if some may be padding.
      view_confidence_quantile: see `Pipeline.reconstruct`; if it is looked at.
    """

    min_confidence: Float[Array | np.ndarray, ""]
    confidence_quantile: Float[Array | np.ndarray, ""]
    edge_rtol: Float[Array | np.ndarray, ""]
    frames: Int[Array | np.ndarray, "V 4"] | None = None
    views: Int[Array | np.ndarray, ""] | None = None
    view_confidence_quantile: Float[Array | np.ndarray, ""] | None = None


def thresholds(
    min_confidence: float,
    confidence_quantile: float,
    edge_rtol: float | None,
    view_confidence_quantile: float | None = None,
) -> Thresholds:
    """The numbers of `Pipeline.reconstruct` as the program takes them.

    Raises:
      InputError: one of them is out of range.
    """
    least = real_number("min_confidence", min_confidence)
    shares = {"confidence_quantile": confidence_quantile}
    if view_confidence_quantile is not None:
        shares["view_confidence_quantile"] = view_confidence_quantile
    for name, share in shares.items():
        number = finite(share)
        if number is None or not 0 <= number < 1:
            raise InputError(f"{name}={shown(share)} must be at least 0 and below 1")
    if edge_rtol is not None and not real_number("edge_rtol", edge_rtol) >= 0:
        raise InputError(f"edge_rtol={shown(edge_rtol)} must be at least 0, or None to keep edges")
    numbers = (least, confidence_quantile, 0.0 if edge_rtol is None else edge_rtol)
    share = view_confidence_quantile
    with np.errstate(over="ignore"):  # above all float32 is as good as infinite
        return Thresholds(
            *(np.asarray(number, np.float32) for number in numbers),
            view_confidence_quantile=None if share is None else np.asarray(share, np.float32),
        )


def choices(
    habits: Habits,
    model: str,
    known: str | None,
    min_confidence: float | None,
    confidence_quantile: float | None,
    edge_rtol: float | None,
    *,
    view_confidence_quantile: float | None,
    points: PointsChoice | None,
    multiview: bool = False,
    **chosen: Any,
) -> tuple[Options, Thresholds]:
    """What is compiled into the program, and the numbers that it takes.

    Args:
      habits, model: of the model, and its name.
      known: the name of something that is known of the views.
      multiview: see `Options`; the others are arguments of `Pipeline.reconstruct`.
      chosen: further fields of `Options`.

    Raises:
      InputError: an argument is out of range, or not for this model.
    """
    if known is not None and not habits.conditions:
        raise InputError(
            f"{known}: {model} works from images alone; leave it out, or load mapanything"
        )
    if truth_value("multiview_confidence", multiview) and not habits.metric:
        raise InputError(
            f"multiview_confidence: lengths of {model} have no unit in which views could agree; "
            "leave it out, or load mapanything"
        )
    usual = -np.inf if multiview else habits.min_confidence
    least = usual if min_confidence is None else min_confidence
    share = habits.confidence_quantile if confidence_quantile is None else confidence_quantile
    limits = thresholds(least, share, edge_rtol, view_confidence_quantile)
    options = Options(
        use_quantile=float(share) > 0,
        use_edges=edge_rtol is not None,
        strict_edges=habits.strict_edges,
        points=habits.chosen_points(points, model),
        conditioned=known is not None,
        use_view_quantile=view_confidence_quantile is not None,
        multiview=bool(multiview),
        **chosen,
    )
    return options, limits


def stages_of(stages: Stages | None) -> Stages:
    """The caller's, or silent ones.

    Raises:
      InputError: they are of another type.
    """
    if stages is not None and not isinstance(stages, Stages):
        raise InputError(f"stages: found {shown(stages)}; give jaxrecon.progress.Stages() or None")
    return Stages(quiet=True) if stages is None else stages


def check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    """Refuses a value that is not among the choices.

    Raises:
      InputError: naming the choices.
    """
    if not isinstance(value, str) or value not in choices:
        raise InputError(f"{name}={shown(value)} is unknown; choose one of {', '.join(choices)}")
