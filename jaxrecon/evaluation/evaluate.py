"""Runs a model over scenes whose geometry is known."""

from collections.abc import Callable, Iterable
from typing import Any, Protocol, runtime_checkable

from jaxrecon.checks import shown
from jaxrecon.errors import InputError
from jaxrecon.evaluation.datasets.ground_truth import GroundTruth
from jaxrecon.evaluation.measure import SceneScores, Settings, measure
from jaxrecon.evaluation.report import Report
from jaxrecon.reconstruction import Reconstruction


@runtime_checkable
class Reconstructs(Protocol):
    """What is evaluated: a `Pipeline`, or anything else with its `reconstruct`."""

    def reconstruct(self, *args: Any, **kwargs: Any) -> Reconstruction:
        """Takes the images and options, returns the reconstruction."""
        ...


def evaluate(
    model: Reconstructs,
    truths: Iterable[GroundTruth],
    *,
    settings: Settings | None = None,
    advance: Callable[[], None] | None = None,
    **options: Any,
) -> Report:
    """Reconstructs every scene and compares the result with what is known about it.

    What cannot be measured is left out of a scene, with the reason in its notes.

    Args:
      model: usually what `jaxrecon.load` returns.
      truths: scenes, such as from `open_dataset`; read one after the other.
      settings: how the comparison is made.
      advance: called after every scene, such as by a progress bar.
      options: passed to `model.reconstruct`, such as `resolution=224`.

    Raises:
      InputError: an argument is of another type, there is no scene, nothing at all can be measured,
        or a scene's truth does not fit its images.
    """
    settings = _checked(model, truths, settings)
    scenes, name = [], ""
    for truth in truths:
        if not isinstance(truth, GroundTruth):
            raise InputError(
                f"truths: found {shown(truth)}; give scenes, such as from open_dataset"
            )
        images = list(truth.images) if isinstance(truth.images, tuple) else truth.images
        recon = model.reconstruct(images, **options)
        scenes.append(measure(recon, truth, settings))
        name = recon.model
        if advance is not None:
            advance()
    _check(scenes)
    return Report(name, settings, tuple(scenes))


def _checked(model: object, truths: object, settings: Settings | None) -> Settings:
    if not isinstance(model, Reconstructs):
        raise InputError(f"model: found {shown(model)}; give what jaxrecon.load returns")
    if not isinstance(truths, Iterable):
        raise InputError(f"truths: found {shown(truths)}; give scenes, such as from open_dataset")
    if settings is not None and not isinstance(settings, Settings):
        raise InputError(f"settings: found {shown(settings)}; give Settings()")
    return settings or Settings()


def _check(scenes: list[SceneScores]) -> None:
    if not scenes:
        raise InputError("there is no scene to evaluate; give at least one")
    if not any(scene.values() for scene in scenes):
        why = "; ".join(dict.fromkeys(note for scene in scenes for note in scene.notes))
        raise InputError(f"nothing can be measured on {len(scenes)} scenes: {why}")
