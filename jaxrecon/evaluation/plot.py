"""The picture of a report."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxrecon.errors import InputError
from jaxrecon.extras import Extra
from jaxrecon.files import replacing_file

if TYPE_CHECKING:
    from jaxrecon.evaluation.report import Report

_KINDS = (".png", ".pdf", ".svg", ".jpg")
_LARGEST = 30


def draw(report: "Report", path: Path) -> Path:
    """Writes the four panels of a report to a picture file.

    Raises:
      InputError: matplotlib is not installed, or the path ends in no known kind of picture.
      OutputError: the file cannot be written.
    """
    kind = path.suffix.lower()
    if kind not in _KINDS:
        raise InputError(f"cannot draw {path}: choose a name that ends in {', '.join(_KINDS)}")
    with Extra("eval", "a picture of a report needs matplotlib"):
        from matplotlib.figure import Figure
    figure = Figure(figsize=(11, 8), layout="constrained")
    panels: Any = figure.subplots(2, 2)
    figure.suptitle(f"{report.model or 'model'}: {len(report.scenes)} scenes")
    _draw_accuracy(panels[0, 0], report)
    _draw_depth(panels[0, 1], report)
    rotation = None if report.errors is None else report.errors.rotation
    direction = None if report.errors is None else report.errors.translation
    _draw_histogram(panels[1, 0], rotation, "rotation error")
    _draw_histogram(panels[1, 1], direction, "error of translation direction")
    with replacing_file(path) as temporary:
        figure.savefig(temporary, format=kind[1:], dpi=120)
    return path


def _draw_accuracy(axes: Any, report: "Report") -> None:
    """Share of pairs below each threshold; the area under the first curve is the AUC."""
    axes.set(title="pairs of views within a threshold", xlabel="degrees", ylabel="share of pairs")
    axes.set(xlim=(0, _LARGEST), ylim=(0, 1))
    axes.grid(alpha=0.3)
    if report.errors is None or report.pooled is None:
        _say_nothing_measured(axes)
        return
    curves = {
        f"both (AUC@30 {report.pooled.auc_30:.3f})": report.errors.worst,
        "rotation": report.errors.rotation,
        "translation direction": report.errors.translation,
    }
    thresholds = np.linspace(0, _LARGEST, 301)
    for (name, angles), style in zip(curves.items(), ("-", "--", ":"), strict=True):
        known = np.sort(angles[np.isfinite(angles)])
        share = np.searchsorted(known, thresholds) / max(len(known), 1)
        axes.plot(thresholds, share, style, label=name)
    axes.legend(loc="lower right")


def _draw_histogram(axes: Any, angles: np.ndarray | None, title: str) -> None:
    """Pairs by their angle, on a logarithmic scale from 0.01 to 180 degrees."""
    axes.set(title=title, xlabel="degrees", ylabel="pairs", xscale="log")
    known = np.empty(0) if angles is None else angles[np.isfinite(angles)]
    if not len(known):
        _say_nothing_measured(axes)
        return
    median = float(np.median(known))
    axes.hist(np.clip(known, 0.0101, 180), bins=np.geomspace(0.01, 180, 41))
    axes.axvline(max(median, 0.0101), color="black", label=f"median {median:.2f}")
    axes.legend()


def _draw_depth(axes: Any, report: "Report") -> None:
    """Absolute relative depth error of each scene, best first."""
    axes.set(title="depth error by scene, best first", xlabel="scene", ylabel="abs-rel")
    found = sorted(scene.depth.abs_rel for scene in report.scenes if scene.depth is not None)
    if not found:
        _say_nothing_measured(axes)
        return
    mean = float(np.mean(found))
    axes.bar(np.arange(len(found)) + 1, found, width=0.9)
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.axhline(mean, color="black", label=f"mean {mean:.4f}")
    axes.legend()


def _say_nothing_measured(axes: Any) -> None:
    axes.text(0.5, 0.5, "not measured", ha="center", va="center", transform=axes.transAxes)
