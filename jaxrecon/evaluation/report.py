"""The result of an evaluation as a table, as JSON and as a picture."""

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table
from rich.text import Text

from jaxrecon.checks import path_of
from jaxrecon.errors import one_line
from jaxrecon.evaluation.measure import SceneScores, Settings
from jaxrecon.evaluation.metrics.pose import PairErrors, PoseScores, pose_scores
from jaxrecon.files import replacing_file

_WIDEST = 10_000
_COLUMNS = (
    ("rotation_median", "rot", "{:.2f}"),
    ("translation_median", "trans", "{:.2f}"),
    ("auc_5", "AUC@5", "{:.3f}"),
    ("auc_10", "AUC@10", "{:.3f}"),
    ("auc_30", "AUC@30", "{:.3f}"),
    ("ate", "ATE", "{:.3f}"),
    ("rpe_translation", "RPE-t", "{:.3f}"),
    ("rpe_rotation", "RPE-r", "{:.2f}"),
    ("focal_error", "focal", "{:.1%}"),
    ("fov_error", "FOV", "{:.2f}"),
    ("abs_rel", "abs-rel", "{:.4f}"),
    ("abs_rel_edges", "edges", "{:.4f}"),
    ("delta_1", "d<1.25", "{:.3f}"),
    ("unit_error", "unit", "{:.1%}"),
    ("accuracy", "acc", "{:.4f}"),
    ("completeness", "comp", "{:.4f}"),
    ("normals", "normals", "{:.3f}"),
)
_DEPTH_WORDS = {
    "scale": "one median scale a scene",
    "scale_per_view": "one median scale a view",
    "scale_shift": "one scale and shift a scene, least absolute error",
    "metric": "not aligned",
}


@dataclass(frozen=True, eq=False)
class Report:
    """Metrics of every scene and over all scenes.

    Attributes:
      model: name of the model.
      settings: how predictions were compared with the truth.
      scenes: one a scene, in the order of evaluation.
    """

    model: str
    settings: Settings
    scenes: tuple[SceneScores, ...]

    @cached_property
    def errors(self) -> PairErrors | None:
        """Pose errors of the counted pairs of all scenes."""
        parts = [scene.errors for scene in self.scenes if scene.errors is not None]
        return PairErrors.pooled(parts) if parts else None

    @cached_property
    def pooled(self) -> PoseScores | None:
        """Pose metrics over all counted pairs as if of one scene; None if there is no pair."""
        return None if self.errors is None else pose_scores(self.errors)

    def mean(self) -> dict[str, float]:
        """Mean of each metric over the scenes that have it."""
        return {name: float(np.mean(values)) for name, values in self._columns().items()}

    def median(self) -> dict[str, float]:
        """Median of each metric over the scenes that have it."""
        return {name: float(np.median(values)) for name, values in self._columns().items()}

    def text(self, *, scenes: int = 20) -> str:
        """A plain aligned table of the first `scenes` scenes and the summary of all.

        Angles are in degrees, lengths in the unit of the truth, "-" is what was not measured.
        """
        head = ["scene", "views", "pairs", *(title for _, title, _ in _COLUMNS)]
        shown = self.scenes[:scenes]
        rows = [[one_line(s.name), str(s.views), str(s.pairs), *_cells(s.values())] for s in shown]
        summary = [["mean", "", "", *_cells(self.mean())]]
        summary.append(["median", "", "", *_cells(self.median())])
        if self.errors is not None and self.pooled is not None:
            summary.append(["pooled", "", str(len(self.errors)), *_cells(vars(self.pooled))])
        table = _aligned([head, *rows, *summary])
        rule = "-" * len(table[0])
        body = [table[0], rule, *table[1 : 1 + len(rows)]]
        if len(shown) < len(self.scenes):
            body.append(f"... and {len(self.scenes) - len(shown)} more scenes")
        return "\n".join([self._title(), *body, rule, *table[1 + len(rows) :], *self._remarks()])

    def as_dict(self) -> dict[str, Any]:
        """Everything as plain numbers, strings, lists and dicts; None for what is not known."""
        return {
            "model": self.model,
            "settings": vars(self.settings),
            "pairs": self._pair_rule(),
            "mean": _plain(self.mean()),
            "median": _plain(self.median()),
            "pooled": _plain(vars(self.pooled)) if self.pooled else None,
            "scenes": [_scene_dict(scene) for scene in self.scenes],
        }

    def to_json(self, path: str | Path) -> Path:
        """Writes `as_dict()`.

        Raises:
          OutputError: the file cannot be written.
        """
        place = path_of("path", path)
        with replacing_file(place) as temporary:
            temporary.write_text(json.dumps(self.as_dict(), indent=1, allow_nan=False) + "\n")
        return place

    def plot(self, path: str | Path) -> Path:
        """Draws accuracy against threshold, histograms of pose errors, and depth error by scene.

        Raises:
          InputError: the path ends in no known kind of picture (.png, .pdf, .svg, .jpg).
          OutputError: the file cannot be written.
        """
        from jaxrecon.evaluation.plot import draw

        return draw(self, path_of("path", path))

    def _columns(self) -> dict[str, list[float]]:
        """The known values of each metric."""
        columns: dict[str, list[float]] = {}
        for scene in self.scenes:
            for name, value in scene.values().items():
                if math.isfinite(value):
                    columns.setdefault(name, []).append(value)
        return columns

    def _title(self) -> str:
        views = sum(scene.views for scene in self.scenes)
        return f"{one_line(self.model or 'model')}: {_scenes(len(self.scenes))}, {_views(views)}"

    def _remarks(self) -> list[str]:
        lines = [
            f"pairs: {self._pair_rule()}",
            f"depth: {_DEPTH_WORDS[self.settings.depth_alignment]}",
        ]
        without = sum(scene.views_without_depth for scene in self.scenes)
        if without:
            lines.append(f"views without depth: {without}")
        counts = Counter(note for scene in self.scenes for note in scene.notes)
        return lines + [
            f"note: {one_line(note)} ({_scenes(count)})" for note, count in counts.items()
        ]

    def _pair_rule(self) -> str:
        """Which pairs of views count for pose metrics."""
        with_pairs = [scene for scene in self.scenes if scene.all_pairs]
        chosen = sum(scene.by_overlap for scene in with_pairs)
        parts = []
        if chosen:
            share = f"{100 * self.settings.min_overlap:g} %"
            parts.append(f"those that overlap by at least {share} ({_scenes(chosen)})")
        if chosen < len(with_pairs):
            parts.append(f"all ({_scenes(len(with_pairs) - chosen)})")
        direction = "folded to 90 degrees" if self.settings.fold_sign else "signed"
        if with_pairs:
            limits = Counter(scene.max_angle for scene in with_pairs)
            parts += [
                f"turned by at most {limit:g} degrees{f' ({_scenes(count)})' * (len(limits) > 1)}"
                for limit, count in sorted(limits.items())
                if limit < 180
            ]
        return f"{', '.join(parts) or 'none'}; translation angle {direction}"


def _views(count: int) -> str:
    return f"{count} view{'s' * (count != 1)}"


def _scenes(count: int) -> str:
    return f"{count} scene{'s' * (count != 1)}"


def _scene_dict(scene: SceneScores) -> dict[str, Any]:
    names = (
        "name",
        "views",
        "views_without_depth",
        "pairs",
        "all_pairs",
        "by_overlap",
        "max_angle",
    )
    facts = {name: getattr(scene, name) for name in names}
    return {**facts, **_plain(scene.values()), "notes": list(scene.notes)}


def _plain(values: Mapping[str, float]) -> dict[str, float | None]:
    return {name: value if math.isfinite(value) else None for name, value in values.items()}


def _cells(values: Mapping[str, float]) -> list[str]:
    """The table's columns; "-" for a value that is not known."""
    found = [(values.get(name, math.nan), form) for name, _, form in _COLUMNS]
    return [form.format(value) if math.isfinite(value) else "-" for value, form in found]


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """The first column to the left, the others to the right."""
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    for number in range(len(rows[0])):
        table.add_column(justify="left" if number == 0 else "right", no_wrap=True)
    for row in rows:
        table.add_row(*map(Text, row))
    console = Console(file=StringIO(), width=_WIDEST, color_system=None)
    with console.capture() as capture:
        console.print(table)
    return [line.rstrip() for line in capture.get().splitlines()]
