"""`jaxrecon calibrate pi3 photos/ -o budgets.json`."""

import argparse
from typing import TYPE_CHECKING, Any

from jaxrecon.cli import common
from jaxrecon.cli.parser import Parser
from jaxrecon.cli.process import say
from jaxrecon.errors import one_line
from jaxrecon.files import check_output_file
from jaxrecon.progress import Stages

if TYPE_CHECKING:
    from jaxrecon.calibration import Calibration

_EPILOG = """\
The model runs densely on the photos. Beside it every head of every global layer
attends sparsely too, at several shares of the key blocks, and its output is
compared. Then each layer alone attends sparsely, a program each, to see how far
it moves the points. What all keep together is shared out so that the errors,
weighted so, add up to the least. Other commands take the file:
--sparse-budgets FILE, and bench --ways budgets=FILE.
Take photos like those to come, and as many at a time.

Budgets of weights that were never trained (random or deterministic ones) are no
evidence: such weights attend to everything alike."""


def add_to(commands: Any) -> None:
    """Adds the command to the parser."""
    parser: Parser = commands.add_parser(
        "calibrate",
        help="budgets of sparse attention by layer and head, from photos",
        usage="jaxrecon calibrate MODEL PHOTOS -o BUDGETS.json [options]",
        epilog=_EPILOG,
    )
    common.add_first_model(parser)
    photos = parser.section("photos")
    photos.add_argument(
        "images", nargs="+", help="a folder, photos, a quoted glob, or a video; at least 2 images"
    )
    common.add_sampling(parser, photos)
    photos.add_argument(
        "--resolution", type=common.at_least_one, metavar="N", help="longest side, in pixels"
    )
    share: dict[str, Any] = {"type": common.positive, "metavar": "X"}
    budget = parser.section("budgets").add_argument
    budget(
        "--keep",
        default=0.25,
        help="share of the key blocks that heads keep in the mean; default: 0.25, what "
        "--sparse-ratio 0.75 keeps",
        **share,
    )
    budget("--least", default=0.05, help="what each head keeps at least; default: 0.05", **share)
    budget("--most", default=1.0, help="what each head keeps at most; default: 1", **share)
    budget(
        "--within-layers",
        action="store_true",
        help="only the heads of a layer share, so that no program for each layer has to run; "
        "pi3-mini became worse by it",
    )
    written = parser.section("result").add_argument
    written("-o", "--output", metavar="FILE", required=True, help="file to write")
    written("-q", "--quiet", action="store_true", help="show no progress")
    rare = parser.section(*common.ARITHMETIC, rare=True).add_argument
    rare("--weights", help="checkpoint folder or upstream weight file for a named model")
    rare("--revision", help="revision of the upstream repository")
    rare("--dtype", choices=("float32", "bfloat16"), help="default: bfloat16 on GPU and TPU")
    common.add_photos(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Measures, writes the file and prints what each layer keeps."""
    common.settle_model_and_images(options)
    check_output_file(options.output)
    from jaxrecon import registry
    from jaxrecon.calibration import UNTRAINED, calibrate
    from jaxrecon.images import check_source
    from jaxrecon.sparse import check_shares, write_budgets

    check_shares(options.keep, options.least, options.most)
    stages = Stages(quiet=options.quiet)
    images = options.images[0] if len(options.images) == 1 else options.images
    check_source(images, **common.sampling(options))
    common.use_cache(stages)
    pipeline = registry.load(
        options.model,
        weights=options.weights,
        dtype=options.dtype,
        revision=options.revision,
        priors=False,
        stages=stages,
    )
    found = calibrate(
        pipeline,
        images,
        total=options.keep,
        least=options.least,
        most=options.most,
        across_layers=not options.within_layers,
        resolution=options.resolution,
        stages=stages,
        **common.sampling(options),
    )
    write_budgets(found.budgets, options.output)
    if not options.quiet:
        say(_text(found, options.output, across=not options.within_layers))
    stages.note(f"NOTE: {UNTRAINED}")
    return 0


def _text(found: "Calibration", path: str, *, across: bool) -> str:
    """The table of layers, and what was gained on these photos."""
    rows = [
        f"{layer:>5} {sum(row) / len(row):7.1%} {min(row):7.1%} {max(row):7.1%}"
        for layer, row in enumerate(found.budgets.kept)
    ]
    told = []
    if not across:  # else a layer's errors count by what it does to the points
        total = found.budgets.total
        told = [
            f"relative error of the heads on these photos: {found.error(total):.4f} where all keep "
            f"{total:.1%}, {found.error(found.budgets.kept):.4f} so"
        ]
    return "\n".join(
        [
            "layer    mean   least    most  of the key blocks kept",
            *rows,
            *told,
            f"wrote {one_line(path)}",
        ]
    )
