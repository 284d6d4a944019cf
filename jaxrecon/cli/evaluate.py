"""`jaxrecon evaluate pi3-mini --dataset procedural -o report/`."""

import argparse
import json
from typing import TYPE_CHECKING, Any

from jaxrecon.cli import common, process
from jaxrecon.cli.process import say
from jaxrecon.errors import InputError
from jaxrecon.extras import check_installed
from jaxrecon.files import replacing_folder
from jaxrecon.progress import Stages

if TYPE_CHECKING:
    from jaxrecon.evaluation import Report

SETS = ("procedural", "folder", "7scenes", "tum", "co3d", "re10k")
"""As in `jaxrecon.evaluation`, which imports JAX."""


def add_to(commands: Any) -> None:
    """Adds the command to the parser."""
    parser = commands.add_parser("evaluate", help="accuracy of a model against known geometry")
    add = parser.add_argument
    common.add_first_model(parser)
    add("-o", "--output", help="folder to write: report.txt, report.json and report.png")
    add(
        "--dataset",
        choices=SETS,
        default="procedural",
        help="what to evaluate on; folder: images/ and an .npz, transforms.json or COLMAP model",
    )
    add("--set", dest="dataset", choices=SETS, action=_OldName, help=argparse.SUPPRESS)
    add("--path", metavar="FOLDER", help="where the data set lies; procedural scenes need none")
    add("--scenes", type=common.whole, default=128, help="the most scenes to evaluate")
    add("--views", type=common.whole, default=8, help="the most views of each scene")
    add(
        "--size",
        type=common.whole,
        help="side of the procedural images in pixels; 224 if not given",
    )
    add("--resolution", type=common.whole, help="longest side of the processed images, in pixels")
    add("--stride", type=common.whole, help="take every n-th image of a sequence")
    add(
        "--min-overlap",
        type=float,
        default=0.1,
        help="least share of points that two views both see, for pose errors of the pair; 0: all",
    )
    add(
        "--max-angle",
        type=common.positive,
        metavar="DEGREES",
        help="largest angle by which two views are turned, for pose errors of the pair; decides "
        "alone where depth is too sparse to tell overlap, and is 60 there if not given",
    )
    add(
        "--seed",
        type=common.whole,
        help="of the procedural scenes, or of the draw of views of co3d and re10k; 0 if not given",
    )
    common.allow_outside(parser)
    common.add_photos(parser)
    common.add_backend(parser)
    common.add_common(parser)
    parser.set_defaults(run=run)


class _OldName(argparse.Action):
    """The option's name of version 0.1, which `train` has for something else."""

    def __call__(
        self, parser: argparse.ArgumentParser, namespace: Any, values: Any, option: Any = None
    ) -> None:
        process.complain("--set is called --dataset now; the old name goes with the next release")
        setattr(namespace, self.dest, values)


def run(options: argparse.Namespace) -> int:
    """Evaluates the model, prints the table and writes the report."""
    common.settle_model(options)
    _check(options)
    from jaxrecon import evaluation

    stages = Stages(quiet=options.quiet)
    settings = evaluation.Settings(min_overlap=options.min_overlap, max_angle=options.max_angle)
    truths = evaluation.open_dataset(
        options.dataset,
        options.path,
        scenes=options.scenes,
        views=options.views,
        size=options.size,
        stride=options.stride,
        seed=options.seed,
        allow_outside=options.allow_outside,
    )
    pipeline = common.load_pipeline(options, stages)
    count = options.scenes if options.dataset == "procedural" else None
    with stages.stage("evaluate", total=count) as done:
        report = evaluation.evaluate(
            pipeline, truths, settings=settings, advance=done, resolution=options.resolution
        )
    shown = json.dumps(report.as_dict()) if options.json else report.text()
    say(shown)
    if options.output:
        _write(report, options)
    return 0


def _check(options: argparse.Namespace) -> None:
    if options.output:
        common.check_output(options)
        check_installed("matplotlib", "eval", "-o: report.png needs matplotlib, or leave -o out")
    if options.dataset == "procedural" and options.path:
        raise InputError(f"--path {options.path} goes with a --dataset that lies on disk")
    if options.dataset != "procedural" and not options.path:
        raise InputError(f"--dataset {options.dataset} needs --path, the folder where it lies")
    if options.dataset != "procedural" and options.size is not None:
        raise InputError(
            f"--size {options.size} is of procedural images; those of --dataset "
            f"{options.dataset} come to the model's own size, or to --resolution"
        )


def _write(report: "Report", options: argparse.Namespace) -> None:
    with replacing_folder(options.output, overwrite=options.overwrite) as folder:
        (folder / "report.txt").write_text(report.text() + "\n", encoding="utf-8")
        report.to_json(folder / "report.json")
        report.plot(folder / "report.png")
