"""`jaxrecon train -o run/ --set learning_rate=5e-4`."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jaxrecon.cli import common
from jaxrecon.cli.process import say
from jaxrecon.errors import InputError
from jaxrecon.files import check_output_folder
from jaxrecon.progress import Stages

if TYPE_CHECKING:
    from jaxrecon.training import TrainConfig


def add_to(commands: Any) -> None:
    """Adds the command to the parser."""
    parser = commands.add_parser("train", help="train a model on rendered scenes")
    add = parser.add_argument
    add("-o", "--output", required=True, help="folder of the run: checkpoints, log and weights")
    add("--config", default="mini", help="mini, mini-second, mini-real, mini-fine, or a JSON file")
    add("--set", nargs="+", default=[], metavar="NAME=VALUE", help="change fields of the config")
    add("--steps", type=int, help="length of the whole run; short for --set steps=STEPS")
    add("--resume", action="store_true", help="go on with the run in the folder, if there is one")
    add(
        "--stop-after",
        type=common.positive,
        metavar="SECONDS",
        help="save and stop then, to go on later",
    )
    add("--init", help="a model's name or checkpoint folder, whose weights the run starts from")
    add(
        "--textures",
        metavar="FOLDER",
        help="pictures that lie on surfaces of the scenes (scenes.picture_share of them)",
    )
    add("-q", "--quiet", action="store_true", help="show no progress")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Trains to the last step of the config, or until it is time to stop."""
    folder = Path(options.output)
    check_output_folder(folder, overwrite=True)
    if not options.resume and folder.is_dir() and any(folder.iterdir()):
        raise InputError(
            f"{folder} is not empty; add --resume to go on with its run, or choose another folder"
        )
    from jaxrecon import training

    weights = training.train(
        _config(options),
        folder,
        init=_start(options.init),
        textures=options.textures,
        stop_after=options.stop_after,
        stages=Stages(quiet=options.quiet),
    )
    if weights is not None and not options.quiet:
        say(f"wrote {weights}")
    return 0


def _config(options: argparse.Namespace) -> "TrainConfig":
    from jaxrecon import training

    named = training.CONFIGS.get(options.config)
    config = training.TrainConfig.from_json(options.config) if named is None else named
    steps = [] if options.steps is None else [f"steps={options.steps}"]
    return config.with_overrides([*options.set, *steps])


def _start(init: str | None) -> Path | None:
    """The checkpoint folder that `--init` names."""
    from jaxrecon import registry

    if init is None:
        return None
    if init in registry.available_models():
        return registry.native_folder(registry.model_entry(init))
    return Path(init)
