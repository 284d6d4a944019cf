"""`jaxrecon compile pi3 -o folder/ --views 16 --size 518x392 --platform cuda`."""

import argparse
from typing import Any

from jaxrecon.cli import common
from jaxrecon.errors import InputError
from jaxrecon.progress import Stages


def add_to(commands: Any) -> None:
    """Adds the command to the parser."""
    name, words = "compile", "compile a whole program ahead of time, with its weights"
    parser = commands.add_parser(name, aliases=["export"], help=words)
    add = parser.add_argument
    common.add_first_model(parser)
    add("-o", "--output", required=True, help="folder to write")
    common.add_program(parser)
    add(
        "--platform",
        action="append",
        choices=("cpu", "cuda", "tpu"),
        help="what the program is to run on; may be given several times; default: this machine",
    )
    add("--device-kind", help="accelerator to choose kernels for, such as 'NVIDIA A100-SXM4-80GB'")
    add("--quantile", action="store_true", help="let the mask leave out a share of the points")
    add("--shared-intrinsics", action="store_true", help="one camera for all views")
    add("--centre-principal-point", action="store_true", help="hold it at the image's centre")
    add("--points", choices=("depth", "pointmap"), help="which of VGGT's points")
    common.add_backend(parser)
    common.add_common(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Loads the model and writes its program."""
    common.settle_model(options)
    size = common.size_of(options.size)
    common.check_output(options)
    if options.float8:
        raise InputError("--float8: a program in a file has no such weights; leave it out")
    from jaxrecon.aot import export_program

    if options.dtype is None and options.platform and "cpu" not in options.platform:
        options.dtype = "bfloat16"
    stages = Stages(quiet=options.quiet)
    export_program(
        common.load_pipeline(options, stages),
        options.output,
        views=options.views,
        size=size,
        platforms=options.platform,
        device_kind=options.device_kind,
        intrinsics="shared" if options.shared_intrinsics else "per_view",
        principal_point="centre" if options.centre_principal_point else "free",
        points=options.points,
        use_quantile=options.quantile or None,
        overwrite=options.overwrite,
        stages=stages,
    )
    common.report(options, {"output": options.output, "seconds": common.seconds(stages)})
    return 0
