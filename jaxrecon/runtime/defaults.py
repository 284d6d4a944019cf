"""What a family of models does where the caller does not say."""

from dataclasses import dataclass
from typing import Literal

from jaxrecon.checks import shown
from jaxrecon.choices import meant
from jaxrecon.deprecation import renamed_fields
from jaxrecon.errors import InputError

type PointsChoice = Literal["depth", "pointmap"]


@renamed_fields(conditions="priors")
@dataclass(frozen=True)
class ModelDefaults:
    """How the models of one family are used.

    Attributes:
      min_confidence, confidence_quantile: of the mask, where the caller gives none.
      points: the kinds of points among which the caller may choose, the usual one first; empty if
        there is only one.
      priors: whether the models take what is known of the views beforehand.
      independent_priors: whether they take depth without intrinsics, and poses of some views
        without that of the first.
      strict_edges: whether a jump in depth without a normal beside it leaves the mask too.
      metric: whether lengths are in metres, which the agreement of views is measured in.
      most_confidence: what no confidence exceeds, if there is such a number.
    """

    min_confidence: float = 0.1
    confidence_quantile: float = 0.0
    points: tuple[PointsChoice, ...] = ()
    priors: bool = False
    independent_priors: bool = False
    strict_edges: bool = False
    metric: bool = False
    most_confidence: float | None = None

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


MODEL_DEFAULTS = ModelDefaults()
"""Those of a family that says nothing else."""


def check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    """Refuses a value that is not among the choices.

    Raises:
      InputError: naming the choices.
    """
    if not isinstance(value, str) or value not in choices:
        raise InputError(
            f"{name}={shown(value)} is unknown; choose one of {', '.join(choices)}"
            f"{meant(value, choices)}"
        )
