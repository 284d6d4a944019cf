"""The picture of a run."""

from pathlib import Path
from typing import Any

from jaxrecon.errors import InputError
from jaxrecon.extras import Extra
from jaxrecon.files import replacing_file
from jaxrecon.training.log import read_log

PANELS = {
    "abs_rel": "depth abs-rel",
    "rotation_degrees": "rotation error, degrees",
    "auc30": "AUC@30",
}


def draw_log(log: str | Path, path: str | Path) -> Path:
    """Writes depth error, rotation error and AUC@30 over the steps of a log to a PNG file.

    Raises:
      InputError: matplotlib is not installed, there is no such log, or it is damaged.
      OutputError: the file cannot be written.
    """
    with Extra("train", "curves of a run need matplotlib"):
        from matplotlib.figure import Figure
    if not Path(log).is_file():
        raise InputError(f"log: {log} does not exist; give the log.jsonl of a run")
    lines = read_log(log)
    figure = Figure(figsize=(9, 3), layout="constrained")
    panels: Any = figure.subplots(1, len(PANELS))
    for axes, (name, title) in zip(panels, PANELS.items(), strict=True):
        axes.set(title=title, xlabel="step")
        axes.grid(alpha=0.3)
        _draw(axes, lines, name, "-", "training batches")
        _draw(axes, lines, f"validation_{name}", "o-", "held out, averaged weights")
    panels[-1].legend(loc="lower right", fontsize="small")
    with replacing_file(Path(path)) as temporary:
        figure.savefig(temporary, format="png", dpi=100)
    return Path(path)


def _draw(axes: Any, lines: list[dict[str, Any]], name: str, style: str, label: str) -> None:
    known = [(line["step"], line[name]) for line in lines if name in line]
    axes.plot([step for step, _ in known], [value for _, value in known], style, label=label, ms=4)
