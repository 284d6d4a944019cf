"""What a caller asks of a reconstruction, and what that makes of the program."""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from functools import wraps
from typing import Any, Literal, cast

from jaxrecon.checks import shown
from jaxrecon.choices import meant
from jaxrecon.errors import InputError
from jaxrecon.priors import PerView, ViewPriors
from jaxrecon.runtime.cameras import CameraConfig, FittedIntrinsics, PrincipalPoint
from jaxrecon.runtime.defaults import ModelDefaults, PointsChoice
from jaxrecon.runtime.masks import MaskConfig, MaskKeywords, ViewMaskKeywords
from jaxrecon.runtime.options import ProgramKey, RuntimeInputs
from jaxrecon.runtime.query_points import QueryPoints


class _ViewKeywords(ViewMaskKeywords, total=False):
    principal_point: PrincipalPoint
    poses: PerView | None
    depths: PerView | None
    metric_poses: bool
    metric_depths: bool


class StreamKeywords(_ViewKeywords, total=False):
    """Fields of `MaskConfig`, `CameraConfig` and `ViewPriors` as keywords of `stream`."""

    intrinsics: Literal["per_view"] | PerView


class SceneKeywords(MaskKeywords, _ViewKeywords, total=False):
    """Fields of `MaskConfig`, `CameraConfig` and `ViewPriors` as keywords of `reconstruct`."""

    intrinsics: FittedIntrinsics | PerView


@dataclass(frozen=True, eq=False)
class Request:
    """What a caller asks of a reconstruction, apart from the images and how the work is done.

    Attributes:
      mask: which points stay in the mask.
      camera: how cameras are fitted.
      priors: what is known of the views.
      points: which of the model's kinds of points; the family's usual one if not given.
      query_points: points to follow through all views.
    """

    mask: MaskConfig = field(default_factory=MaskConfig)
    camera: CameraConfig = field(default_factory=CameraConfig)
    priors: ViewPriors = field(default_factory=ViewPriors)
    points: PointsChoice | None = None
    query_points: QueryPoints | None = None

    @classmethod
    def of(
        cls,
        *,
        mask: MaskConfig | None,
        camera: CameraConfig | None,
        priors: ViewPriors | None,
        keywords: Mapping[str, Any],
        points: PointsChoice | None = None,
        query_points: QueryPoints | None = None,
    ) -> "Request":
        """From the arguments of `Pipeline.reconstruct`.

        Args:
          mask, camera, priors: whole configs.
          keywords: fields of those that are not given whole. `intrinsics` is a way to fit cameras
            if it is a text, else known camera matrices.
          points, query_points: see `Request`.

        Raises:
          InputError: a field is given in both ways, or cannot be used.
        """
        given = dict(keywords)
        fitted = isinstance(given.get("intrinsics"), str)

        def own(kind: type) -> dict[str, Any]:
            names = {each.name for each in fields(kind)} & given.keys()
            return {name: given[name] for name in sorted(names)}

        of_camera, of_priors = own(CameraConfig), own(ViewPriors)
        (of_priors if fitted else of_camera).pop("intrinsics", None)
        return cls(
            priors=_one_of("priors", priors, ViewPriors, of_priors),
            mask=_one_of("mask", mask, MaskConfig, own(MaskConfig)),
            camera=_one_of("camera", camera, CameraConfig, of_camera),
            points=points,
            query_points=query_points,
        )

    def streamed(self) -> "Request":
        """The same for views that are worked out a few at a time.

        Raises:
          InputError: it asks for what looks at all views at once.
        """
        if self.camera.intrinsics != "per_view":
            raise InputError(
                f"intrinsics={shown(self.camera.intrinsics)}: one camera for all views is fitted "
                "by reconstruct, not by stream"
            )
        return replace(self, mask=self.mask.by_view())


def resolve(
    defaults: ModelDefaults, request: Request, model: str
) -> tuple[ProgramKey, RuntimeInputs]:
    """What a request makes of a model: what is compiled into its program, and what that takes.

    Padding, which depends on the images, is added by the executor.

    Args:
      defaults: what the model's family does where the request does not say.
      request: what is asked for.
      model: the model's name, for messages.

    Raises:
      InputError: the model cannot do it.
    """
    kinds = request.priors.kinds
    if kinds and not defaults.priors:
        raise InputError(
            f"{kinds[0]}: {model} works from images alone; leave it out, or load mapanything or "
            "pi3x, with priors=True"
        )
    multiview = bool(request.mask.multiview_confidence)
    if multiview and not defaults.metric:
        raise InputError(
            f"multiview_confidence: lengths of {model} have no unit in which views could agree; "
            "leave it out, or load mapanything"
        )
    inputs = RuntimeInputs(**vars(request.mask.inputs(defaults)))
    key = ProgramKey(
        camera=request.camera,
        points=defaults.chosen_points(request.points, model),
        priors=bool(kinds),
        maps=request.query_points is not None,
        multiview=multiview,
        strict_edges=defaults.strict_edges,
        inputs=inputs.given,
    )
    return key, inputs


def with_keywords[F: Callable[..., Any]](keywords: Any) -> Callable[[F], F]:
    """Shows the keywords that a method takes as `**keywords` in its signature, and takes no others.

    Args:
      keywords: the TypedDict that lists them.
    """
    defaults = {
        each.name: each.default
        for kind in (ViewPriors, MaskConfig, CameraConfig)
        for each in fields(kind)
    }

    def decorate(method: F) -> F:
        signature = inspect.signature(method)
        *own, _ = signature.parameters.values()
        added = [
            inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=defaults[name])
            for name in defaults
            if name in keywords.__optional_keys__
        ]
        known = {parameter.name for parameter in (*own, *added)}

        @wraps(method)
        def checked(*args: Any, **given: Any) -> Any:
            for name in given.keys() - known:
                raise TypeError(
                    f"{method.__name__}() got an unexpected keyword argument {name!r}"
                    f"{meant(name, known)}"
                )
            return method(*args, **given)

        vars(checked)["__signature__"] = signature.replace(parameters=[*own, *added])
        return cast(F, checked)

    return decorate


def _one_of[C](name: str, config: C | None, kind: type[C], own: Mapping[str, Any]) -> C:
    """A config that is given whole, or made of its fields.

    Raises:
      InputError: it is given in both ways, or is of another type.
    """
    if config is None:
        return kind(**own)
    if not isinstance(config, kind):
        raise InputError(f"{name}: found {shown(config)}; give a {kind.__name__} or None")
    if own:
        raise InputError(
            f"{next(iter(own))}: {name}= is given, which has a field for it; give one of them"
        )
    return config
