"""python examples/accuracy_sparse.py --scenes 16 --views 24 --ratios 0.25 0.5 --plot sparse.png

What block-sparse attention costs in accuracy: reconstructs rendered scenes, whose geometry is
known, with dense attention and with key blocks skipped, and compares. By default the small bundled
model, which runs on a CPU; `--blocks` sets the size of blocks of queries and keys, in patches.
"""

import argparse
from typing import Any

import numpy as np

import jaxrecon
from jaxrecon import SparseAttention
from jaxrecon.evaluation import Report, Settings, evaluate, open_set
from jaxrecon.pipeline import Pipeline
from jaxrecon.reconstruction import Reconstruction

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
    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    add("--model", default="pi3-mini")
    for name, value in (("scenes", 16), ("views", 24), ("size", 224), ("seed", 0)):
        add(f"--{name}", type=int, default=value)
    add("--ratios", type=float, nargs="+", default=[0.25, 0.5, 0.75, 0.9])
    add("--thresholds", type=float, nargs="*", default=[0.9], help="CDF thresholds, each alone")
    add("--blocks", type=int, nargs=2, default=[128, 64])
    add("--plot", help="write a picture here")
    options = parser.parse_args()

    ways: list[tuple[str, SparseAttention | None]] = [("dense", None)]
    sizes = {"block_q": options.blocks[0], "block_kv": options.blocks[1]}
    for ratio in options.ratios:
        ways.append((f"ratio {ratio:g}", SparseAttention(ratio, None, **sizes)))
    for threshold in options.thresholds:
        ways.append((f"CDF {threshold:g}", SparseAttention(None, threshold, **sizes)))

    picked = {name: getattr(options, name) for name in ("scenes", "views", "size", "seed")}
    truths = list(open_set("procedural", **picked))
    pipeline = jaxrecon.load(options.model)
    print(f"{'':12} skipped  {'  '.join(SHOWN)}")
    rows = [tell(name, *scores(pipeline, truths, attention)) for name, attention in ways]
    if options.plot:
        draw(rows, options.plot)


def scores(
    pipeline: Pipeline, truths: list[Any], attention: SparseAttention | None
) -> tuple[float, Report]:
    """The share skipped, and the errors."""
    watched = Watched(pipeline)
    report = evaluate(watched, truths, settings=Settings(max_points=0), attention=attention)
    return float(np.mean(watched.skipped)), report


def tell(name: str, skipped: float, report: Report) -> tuple[str, float, dict[str, float]]:
    mean = report.mean()
    figures = "  ".join(f"{mean[metric]:{len(metric)}.4f}" for metric in SHOWN)
    print(f"{name:12} {skipped:7.1%}  {figures}", flush=True)
    return name, skipped, mean


def draw(rows: list[tuple[str, float, dict[str, float]]], path: str) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3), layout="constrained")
    metrics = ("abs_rel", "rotation_median", "auc_30")
    for axes, metric in zip(figure.subplots(1, 3), metrics, strict=True):
        axes.plot([row[1] for row in rows], [row[2][metric] for row in rows], "o")
        axes.axhline(rows[0][2][metric], lw=0.5, color="gray")
        axes.set(xlabel="share of key blocks skipped", title=metric)
    figure.savefig(path, dpi=100)


if __name__ == "__main__":
    main()
