"""What a visitor asks of a reconstruction, from the fields of a form."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from jaxrecon.checks import shown
from jaxrecon.choices import meant
from jaxrecon.serving.limits import Limits
from jaxrecon.serving.refusals import RefusedError

ATTENTIONS = ("auto", "fast", "sparse")
"""Exact, block-sparse in large scenes, and block-sparse always; see `load`."""

LEAST_RESOLUTION = 28
_LONGEST_TITLE = 120
_MOST_DIGITS = 9
_TRUE, _FALSE = ("1", "true", "yes", "on"), ("", "0", "false", "no", "off")


@dataclass(frozen=True)
class Settings:
    """How a job is reconstructed.

    Attributes:
      model: one of those that the server offers.
      resolution: longest side of the processed images in pixels; None for the model's own.
      attention: one of `ATTENTIONS`; or how the models of the server attend in all jobs, in words.
      sparse_ratio: share of key blocks that "fast" and "sparse" may skip; None for their own.
      fps: of a video, frames a second; None for two.
      max_views: so many photos or frames are taken at most, spread evenly.
      title: what the result is called.
      keep: whether the job goes on when the page that sent it is closed.
    """

    model: str
    resolution: int | None = None
    attention: str = "auto"
    sparse_ratio: float | None = None
    fps: float | None = None
    max_views: int | None = None
    title: str = ""
    keep: bool = True

    def told(self) -> dict[str, Any]:
        """Those that were chosen, as they stand in JSON."""
        found = {name: value for name, value in asdict(self).items() if value not in (None, "")}
        return {name: value for name, value in found.items() if name not in ("title", "keep")}


def settings_of(
    fields: Mapping[str, str],
    models: Sequence[str],
    limits: Limits,
    attention: str | None = None,
) -> Settings:
    """The settings that the fields of a form give; empty ones count as absent.

    Args:
      fields: texts by the names of `Settings`.
      models: those that are offered; the first is the one where none is named.
      limits: of the server.
      attention: how its models attend in all jobs, in words; None where each job chooses.

    Raises:
      RefusedError: a field is unknown or its value cannot be used; names it.
    """
    known = Settings.__dataclass_fields__
    for name in fields:
        if name not in known:
            raise RefusedError(
                f"field {shown(name)} is unknown; there are files and {', '.join(known)}"
                f"{meant(name, known)}"
            )
    given = {name: value.strip() for name, value in fields.items() if value.strip()}
    chosen, ratio = _attending(given, attention)
    return Settings(
        model=_choice("model", given.get("model", models[0]), models),
        resolution=_whole("resolution", given, LEAST_RESOLUTION, limits.resolution),
        attention=attention or chosen,
        sparse_ratio=ratio,
        fps=_number("fps", given, least=0.01, below=1000.0),
        max_views=_whole("max_views", given, 1, limits.views) or limits.views,
        title=given.get("title", "")[:_LONGEST_TITLE],
        keep=_truth("keep", given.get("keep", "1")),
    )


def _attending(given: Mapping[str, str], fixed: str | None) -> tuple[str, float | None]:
    """The attention and the share of key blocks that a job chooses."""
    attention = _choice("attention", given.get("attention", ATTENTIONS[0]), ATTENTIONS)
    ratio = _number("sparse_ratio", given, least=0.0, below=1.0)
    if fixed is not None and (attention != ATTENTIONS[0] or ratio is not None):
        raise RefusedError(
            f"this server was started with {fixed} for all jobs; leave attention and sparse_ratio "
            "out"
        )
    if ratio is not None and attention == "auto":
        raise RefusedError(
            "sparse_ratio is for attention=fast or sparse, found auto; leave one of them out"
        )
    return attention, ratio


def _choice(name: str, value: str, names: Sequence[str]) -> str:
    if value not in names:
        raise RefusedError(
            f"{name}={shown(value)}: choose from {', '.join(names)}{meant(value, names)}"
        )
    return value


def _whole(name: str, given: Mapping[str, str], least: int, most: int) -> int | None:
    if name not in given:
        return None
    text = given[name]
    sound = text.isascii() and text.isdecimal() and len(text) <= _MOST_DIGITS
    if not sound or not least <= int(text) <= most:
        raise RefusedError(f"{name}={shown(text)}: give a whole number from {least} to {most}")
    return int(text)


def _number(name: str, given: Mapping[str, str], *, least: float, below: float) -> float | None:
    if name not in given:
        return None
    try:
        number = float(given[name])
    except ValueError:
        number = math.nan
    if not least <= number < below:
        raise RefusedError(
            f"{name}={shown(given[name])}: give a number from {least:g} to below {below:g}"
        )
    return number


def _truth(name: str, text: str) -> bool:
    if text.lower() in _TRUE + _FALSE:
        return text.lower() in _TRUE
    raise RefusedError(f"{name}={shown(text)}: give 1 or 0")
