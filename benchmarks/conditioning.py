"""What a model gains from what it is told: `python benchmarks/conditioning.py WEIGHTS`.

Rendered scenes, whose geometry is known, are reconstructed with nothing known and with intrinsics,
poses or depths of all views given, each alone and all together, and with half of the views of each
kind. Depth and poses are compared after one scale a scene; focal lengths as they are.
"""

import argparse
from collections.abc import Iterator, Sequence
from typing import Any

import jaxrecon
from jaxrecon.evaluation import GroundTruth, Report, Settings, evaluate, open_dataset
from jaxrecon.pipeline import Pipeline
from jaxrecon.reconstruction import Reconstruction

SHOWN = ("abs_rel", "focal_error", "rotation_median", "translation_median", "auc_30")
FIELDS = {"intrinsics": "intrinsics", "poses": "world_from_camera", "depths": "depth_z"}
WAYS: dict[str, tuple[str, ...]] = {
    "nothing": (),
    "intrinsics": ("intrinsics",),
    "poses": ("poses",),
    "intrinsics, poses": ("intrinsics", "poses"),
    "intrinsics, depths": ("intrinsics", "depths"),
    "all": ("intrinsics", "poses", "depths"),
}


class Told:
    """A pipeline that is given some of the truth about each scene, which come in order."""

    def __init__(
        self, pipeline: Pipeline, truths: Sequence[GroundTruth], kinds: Sequence[str], every: int
    ) -> None:
        self.pipeline, self.kinds, self.every = pipeline, kinds, every
        self.truths: Iterator[GroundTruth] = iter(truths)

    def reconstruct(self, *args: Any, **options: Any) -> Reconstruction:
        truth = next(self.truths)
        known = {
            kind: {
                view: getattr(truth, FIELDS[kind])[view]
                for view in range(0, len(truth), self.every)
            }
            for kind in self.kinds
        }
        return self.pipeline.reconstruct(*args, **known, **options)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    add("weights", help="a model that takes priors: its name, or a checkpoint folder")
    for name, value in (("scenes", 32), ("views", 8), ("size", 224), ("seed", 0)):
        add(f"--{name}", type=int, default=value)
    options = parser.parse_args()

    picked = {name: getattr(options, name) for name in ("scenes", "views", "size", "seed")}
    truths = list(open_dataset("procedural", **picked))
    pipeline = jaxrecon.load(options.weights)
    print(f"| given | of views | {' | '.join(SHOWN)} |")
    print("|---|---|" + "---|" * len(SHOWN))
    for every, said in ((1, "all"), (2, "every other")):
        for way, kinds in WAYS.items():
            if kinds or every == 1:
                told = Told(pipeline, truths, kinds, every)
                report = evaluate(
                    told, truths, settings=Settings(max_points=0), resolution=options.size
                )
                print(f"| {way} | {said if kinds else '-'} | {figures(report)} |", flush=True)


def figures(report: Report) -> str:
    mean = report.mean()
    return " | ".join(f"{mean[metric]:.4f}" for metric in SHOWN)


if __name__ == "__main__":
    main()
