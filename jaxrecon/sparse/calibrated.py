"""Budgets that were measured: a file says how much of attention each head of each layer keeps."""

import json
import os
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from jaxrecon.checks import path_of
from jaxrecon.errors import InputError
from jaxrecon.files import replacing_file
from jaxrecon.reading import numbers, read_json, shown, text, whole

FORMAT, VERSION = "jaxrecon-budgets", 2
MOST_BYTES = 2**20

_ADVICE = "write it anew with `jaxrecon calibrate`"
_FIRST_KEYS = ("format", "format_version", "model", "config", "views", "size", "kept")
_KEYS = {1: _FIRST_KEYS, 2: (*_FIRST_KEYS, "weights")}
"""Of a file, by its format's version."""

_PACKAGE = os.path.dirname(os.path.dirname(__file__))


@dataclass(frozen=True)
class CalibratedBudgets:
    """What share of the competing key blocks each head keeps, and what that was measured on.

    Attributes:
      model: the model's name.
      config: tells configs of that name apart, see `registry.config_digest`.
      views: how many photos it was measured on.
      size: width and height of the processed photos, in pixels.
      kept: the share, by global layer and head, in (0, 1].
      weights: tells weights of that config apart, see `checkpoint.digest_of_tensors`; None where
        the file, or what was loaded, does not tell.

    Raises:
      InputError: a share is none, or rows differ in length.
    """

    model: str
    config: str
    views: int
    size: tuple[int, int]
    kept: tuple[tuple[float, ...], ...]
    weights: str | None = None

    def __post_init__(self) -> None:
        widths = {len(row) for row in self.kept}
        if len(widths) != 1 or 0 in widths:
            raise InputError("kept: give a row for each layer, each with a number for each head")
        for layer, row in enumerate(self.kept):
            # What is left of 1 must be below it: one share too small is a ratio of 1.
            wrong = [x for x in row if not (0 < x <= 1 and 1 - x < 1)]
            if wrong:
                raise InputError(f"kept: layer {layer} has {wrong[0]}; shares lie in (0, 1]")

    @property
    def sparse_ratio(self) -> tuple[tuple[float, ...], ...]:
        """The same as `SparseAttention` counts: shares that may be skipped."""
        return tuple(tuple(1 - share for share in row) for row in self.kept)

    @property
    def total(self) -> float:
        """The mean share that is kept."""
        return float(np.mean(self.kept))

    def check_model(self, name: str, config: str | None = None, weights: str | None = None) -> None:
        """Refuses another model than these were measured on, and warns of other weights.

        Weights of one config may be those of another training, or the same in another form.

        Args:
          name: what it is called.
          config, weights: see the attributes; None where they are not known.

        Raises:
          InputError: see above.
        """
        advice = f"calibrate {name}, or leave the budgets out"
        if name != self.model:
            raise InputError(f"budgets: they were measured on {self.model}, found {name}; {advice}")
        if config is not None and config != self.config:
            raise InputError(f"budgets: they were measured on a {name} of another config; {advice}")
        if None not in (weights, self.weights) and weights != self.weights:
            warnings.warn(
                f"budgets: they were measured on other weights of {name} than these, which may "
                f"need other blocks; {advice}",
                skip_file_prefixes=(_PACKAGE,),
            )


def write_budgets(budgets: CalibratedBudgets, path: str | Path) -> None:
    """Writes the file, whole or not at all.

    Raises:
      OutputError: it cannot be written.
    """
    values = {
        "format": FORMAT,
        "format_version": VERSION,
        "model": budgets.model,
        "config": budgets.config,
        "views": budgets.views,
        "size": budgets.size,
        "kept": budgets.kept,
        "weights": budgets.weights,
    }
    lines = json.dumps(values, allow_nan=False).replace("], [", "],\n  [")
    with replacing_file(path_of("path", path)) as temporary:
        temporary.write_text(lines + "\n", encoding="utf-8")


def read_budgets(path: str | Path) -> CalibratedBudgets:
    """What `write_budgets` wrote.

    Raises:
      InputError: the file cannot be read, or is no sound file of budgets.
    """
    where = path_of("budgets", path)
    values = read_json(where, limit=MOST_BYTES, advice=_ADVICE)
    if not isinstance(values, dict) or values.get("format") != FORMAT:
        raise InputError(f"{where} is no file of budgets; {_ADVICE}")
    version = values.get("format_version")
    if type(version) is not int or version not in _KEYS:
        raise InputError(
            f"{where} has format_version {shown(version)}, this version reads up to {VERSION}; "
            f"{_ADVICE}"
        )
    keys = _KEYS[version]
    if set(values) != set(keys):
        raise InputError(
            f"{where} must have the keys {', '.join(keys)}, found {shown(sorted(values))}; "
            f"{_ADVICE}"
        )
    try:
        width, height = numbers(values["size"], "size", (2,))
        return CalibratedBudgets(
            text(values["model"], "model"),
            text(values["config"], "config"),
            whole(values["views"], "views", least=1),
            (whole(float(width), "width", least=1), whole(float(height), "height", least=1)),
            _rows(values["kept"]),
            None if values.get("weights") is None else text(values["weights"], "weights"),
        )
    except InputError as error:
        raise InputError(f"{where}: {error}; {_ADVICE}") from error


def _rows(value: Any) -> tuple[tuple[float, ...], ...]:
    """The shares of a file.

    Raises:
      InputError: they are no table of numbers.
    """
    table = isinstance(value, list) and all(isinstance(row, list) for row in value)
    if not table or not all(type(x) in (int, float) for row in value for x in row):
        raise InputError("kept: expected rows of numbers, one a layer")
    return tuple(tuple(map(float, row)) for row in value)


def check_budgets(
    attention: Any, name: str, config: str | None = None, weights: str | None = None
) -> None:
    """Refuses attention, or a part of it, whose budgets were measured on another model.

    Of other weights it warns.

    Args:
      attention: any `AttentionFn`.
      name, config, weights: see `CalibratedBudgets.check_model`.

    Raises:
      InputError: see above.
    """
    for budgets in _budgets_in(attention):
        budgets.check_model(name, config, weights)


def _budgets_in(attention: Any) -> Iterator[CalibratedBudgets]:
    """Those of an attention, and of the parts of one that differs by layer or by size."""
    own = getattr(attention, "budgets", None)
    if isinstance(own, CalibratedBudgets):
        yield own
    for part in getattr(attention, "parts", ()):
        yield from _budgets_in(part)


def shared_out(
    errors: Float[np.ndarray, "layers heads shares"],
    shares: Float[np.ndarray, " shares"],
    *,
    total: float,
    least: float,
    most: float = 1.0,
) -> Float[np.ndarray, "layers heads"]:
    """The share that each head keeps, of a given mean, so that the errors sum to the least.

    Each head's error is taken as the largest convex curve below what was measured, straight
    between points and zero where all is kept. Then the steepest parts of all curves come first.

    Args:
      errors: of each head, at least 0, where it keeps these shares.
      shares: rising, in (0, 1).
      total: the mean of what is kept.
      least, most: what each head keeps at least and at most.

    Raises:
      InputError: not 0 < least <= total <= most <= 1.
    """
    check_shares(total, least, most)
    layers, heads, _ = errors.shape
    places = np.array([least, *(x for x in shares if least < x < most), most])
    pieces: list[tuple[float, float, int]] = []
    for number, curve in enumerate(errors.reshape(layers * heads, -1)):
        values = np.interp(places, [*shares, 1.0], [*curve, 0.0])
        pieces += [(slope, width, number) for slope, width in _descents(places, values)]
    kept = np.full(layers * heads, least)
    left = (total - least) * kept.size
    for _, width, number in sorted(pieces, key=lambda piece: -piece[0]):
        step = min(width, left)
        kept[number] += step
        left -= step
    return kept.reshape(layers, heads)


def check_shares(total: float, least: float, most: float) -> None:
    """Refuses shares that cannot be dealt out.

    Raises:
      InputError: not 0 < least <= total <= most <= 1.
    """
    if not 0 < least <= total <= most <= 1:
        raise InputError(
            f"{least=}, {total=}, {most=}: the shares kept must lie above 0 and up to 1, and rise "
            "in this order"
        )


def _descents(places: np.ndarray, values: np.ndarray) -> Iterator[tuple[float, float]]:
    """Slope downwards and width of each straight part of the convex hull's lower side."""
    start = 0
    while start < len(places) - 1:
        widths = places[start + 1 :] - places[start]
        slopes = (values[start] - values[start + 1 :]) / widths
        steepest = int(np.argmax(slopes))
        yield float(slopes[steepest]), float(widths[steepest])
        start += 1 + steepest
