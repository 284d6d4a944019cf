"""`jaxrecon train -o run/ --set learning_rate=5e-4`."""

import argparse
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jaxrecon.cli import common
from jaxrecon.cli.process import say
from jaxrecon.errors import InputError
from jaxrecon.files import check_output_folder
from jaxrecon.progress import Stages

if TYPE_CHECKING:
    from jaxrecon.models import MapAnythingConfig, Pi3Config
    from jaxrecon.training import TrainConfig


def add_to(commands: Any) -> None:
    """Adds the command to the parser."""
    parser = commands.add_parser("train", help="train a model on rendered and own scenes")
    add = parser.add_argument
    add("-o", "--output", required=True, help="folder of the run: checkpoints, log and weights")
    add(
        "--config",
        help="mini (the default), mini-second, mini-real, mini-fine, mini-all-round, "
        "mini-pictures, mini-horizons, mini-edges, mapanything-mini, fine-tune (with --data), "
        "or a JSON file",
    )
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
    add(
        "--data",
        nargs="+",
        metavar="FOLDER",
        help="own scenes: folders with images/ and condition.npz, transforms.json or a COLMAP "
        "model, whose points are sparse depth",
    )
    add(
        "--data-share",
        metavar="SHARE",
        help="of the steps that learn from --data; short for --set data_share=SHARE",
    )
    add(
        "--data-held-out",
        metavar="N",
        help="evaluate every N-th view of own scenes instead of training on it; short for --set "
        "data_held_out=N",
    )
    add(
        "--tensorboard",
        action="store_true",
        help="write the log for TensorBoard, too, into tensorboard/ of the run",
    )
    add("-q", "--quiet", action="store_true", help="show no progress")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Trains to the last step of the config, or until it is time to stop."""
    folder = Path(options.output)
    common.check_folder_name(options)
    check_output_folder(folder, overwrite=True)
    if not options.resume and folder.is_dir() and any(folder.iterdir()):
        raise InputError(
            f"{folder} is not empty; add --resume to go on with its run, or choose another folder"
        )
    from jaxrecon import training

    config, init = _config(options), _start(options.init)
    weights = training.train(
        config,
        folder,
        init=init,
        textures=options.textures,
        data=options.data,
        stop_after=options.stop_after,
        tensorboard=options.tensorboard,
        stages=Stages(quiet=options.quiet),
    )
    if weights is not None and not options.quiet:
        say(f"wrote {weights}")
    return 0


def _config(options: argparse.Namespace) -> "TrainConfig":
    """The config that is named, of the size of the weights to start from, with what is set."""
    from jaxrecon import training

    name = options.config or ("fine-tune" if options.data else "mini")
    named = training.CONFIGS.get(name)
    config = training.TrainConfig.from_json(name) if named is None else named
    if options.init is not None and named is not None:
        config = _of_size(config, options.init)
    short = {
        "steps": options.steps,
        "data_share": options.data_share,
        "data_held_out": options.data_held_out,
    }
    given = [f"{field}={value}" for field, value in short.items() if value is not None]
    return config.with_overrides([*options.set, *given])


def _of_size(config: "TrainConfig", init: str) -> "TrainConfig":
    """The config with the sizes of the model whose weights a run starts from.

    A refiner that the config has is kept if it is all that the weights lack: see
    `starting_weights`.
    """
    from jaxrecon import checkpoint, registry

    if init in registry.available_models():
        entry = registry.model_entry(init)
        return replace(config, model=_refined(_trainable(init, entry.config), config))
    if not checkpoint.is_native(Path(init)):  # which is told when it is read
        return config
    stored = checkpoint.read_config(init)
    family = registry.FAMILIES[stored["family"]]
    model = registry.config_from_json(family.config_class, stored["config"], Path(init))
    return replace(config, model=_refined(_trainable(init, model), config))


def _trainable(init: str, model: Any) -> "Pi3Config | MapAnythingConfig":
    from jaxrecon.models import MapAnythingConfig, Pi3Config

    if not isinstance(model, Pi3Config | MapAnythingConfig):
        raise InputError(
            f"--init: {init} is neither a π³ nor a MapAnything, and no other is trained"
        )
    return model


def _refined(model: Any, config: "TrainConfig") -> Any:
    """The model with what it lacks of the config's, if that may be added to weights."""
    from jaxrecon.models import Pi3Config
    from jaxrecon.training.state import ADDED

    if not isinstance(model, Pi3Config) or not isinstance(config.model, Pi3Config):
        return model
    wanted = config.model
    lacking = {name: getattr(wanted, name) for name in ADDED if not getattr(model, name)}
    refined = replace(model, **lacking)
    return refined if refined == wanted else model


def _start(init: str | None) -> Path | None:
    """The checkpoint folder that `--init` names."""
    from jaxrecon import registry

    if init is None:
        return None
    if init in registry.available_models():
        return registry.native_folder(registry.model_entry(init))
    return Path(init)
