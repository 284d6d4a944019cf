"""python benchmarks/accuracy_sparse.py --views 64 --ways 0.5 0.5:pool_q=128 --plot sparse.png

What block-sparse attention costs in accuracy: reconstructs rendered scenes, whose geometry is
known, with dense attention and with key blocks skipped, and compares. By default the small bundled
model, which runs on a CPU. `jaxrecon/sparse/notation.py` says how a way of skipping is written.
"""

import argparse
from typing import Any

import numpy as np

import jaxrecon
from jaxrecon.choices import PRESETS
from jaxrecon.evaluation import Report, Settings, evaluate, open_dataset
from jaxrecon.nn.attention import AttentionFn
from jaxrecon.pipeline import Pipeline
from jaxrecon.reconstruction import Reconstruction
from jaxrecon.sparse.notation import policy_of

WIDE = 32
SHOWN = ("abs_rel", "delta_1", "rotation_median", "translation_median", "auc_30")


class Watched:
    """A pipeline that remembers what share of the key blocks its attention skipped."""

    def __init__(self, pipeline: Pipeline) -> None:
        self.pipeline = pipeline
        self.skipped: list[float] = []

    def reconstruct(self, *args: Any, **options: Any) -> Reconstruction:
        recon = self.pipeline.reconstruct(*args, **options)
        sparsity = recon.stats.sparsity
        self.skipped.append(0.0 if sparsity is None else float(np.mean(sparsity)))
        return recon


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--model", default="pi3-mini")
    for name, value in (("scenes", 16), ("views", 24), ("size", 224), ("seed", 0)):
        add(f"--{name}", type=int, default=value)
    add("--ways", nargs="+", default=["0.25", "0.5", "0.75", "0.9"], help="see above")
    add("--plot", help="write a picture here")
    options = parser.parse_args()

    ways = [("dense", None), *((way, policy_of(way)) for way in options.ways)]
    picked = {name: getattr(options, name) for name in ("scenes", "views", "size", "seed")}
    truths = list(open_dataset("procedural", **picked))
    pipeline = jaxrecon.load(options.model)
    print(f"{'':{WIDE}} skipped  {'  '.join(SHOWN)}")
    rows = [tell(name, *scores(pipeline, truths, attention)) for name, attention in ways]
    if options.plot:
        draw(rows, options.plot)


def scores(
    pipeline: Pipeline, truths: list[Any], attention: AttentionFn | None
) -> tuple[float, Report]:
    """The share skipped, and the errors."""
    watched = Watched(pipeline)
    report = evaluate(watched, truths, settings=Settings(max_points=0), attention=attention)
    return float(np.mean(watched.skipped)), report


def tell(name: str, skipped: float, report: Report) -> tuple[str, float, dict[str, float]]:
    mean = report.mean()
    figures = "  ".join(f"{mean[metric]:{len(metric)}.4f}" for metric in SHOWN)
    print(f"{name:{WIDE}} {skipped:7.1%}  {figures}", flush=True)
    return name, skipped, mean


def draw(rows: list[tuple[str, float, dict[str, float]]], path: str) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 4), layout="constrained")
    metrics = ("abs_rel", "rotation_median", "auc_30")
    kinds: dict[str, list[Any]] = {}
    for row in rows[1:]:
        ratio, _, fields = row[0].partition(":")
        named = row[0].startswith(("within", "key", "every", "dense", "budgets", *PRESETS))
        kind = row[0] if named else ("a ratio", "a ratio a layer")[ratio.startswith("(")]
        kind = ", ".join([kind, *filter(None, fields.split(","))])
        kinds.setdefault(kind, rows[:1]).append(row)
    panels = figure.subplots(1, 3)
    for axes, metric in zip(panels, metrics, strict=True):
        for kind, own in kinds.items():
            own.sort(key=lambda row: row[1])
            points = [(skipped, mean[metric]) for _, skipped, mean in own]
            if len(points) == 2:  # a way of its own: a point and no line
                axes.plot(*points[1], "x", label=kind)
            else:
                axes.plot(*zip(*points, strict=True), ".-", label=kind)
        axes.set(xlabel="share of key blocks skipped", title=metric)
    labels = panels[0].get_legend_handles_labels()
    figure.legend(*labels, loc="outside lower center", ncols=3, fontsize="x-small")
    figure.savefig(path, dpi=100)


if __name__ == "__main__":
    main()
