"""`jaxrecon convert pi3 model.safetensors -o pi3/` and `jaxrecon models`."""

import argparse
import json
from typing import Any

from jaxrecon.cli import common
from jaxrecon.cli.process import say
from jaxrecon.progress import Stages

_LONGEST_TERMS = 24
"""Characters of what a licence allows, in the table of models."""


def add_convert_to(commands: Any) -> None:
    """Adds the command `convert` to the parser."""
    parser = commands.add_parser("convert", help="upstream weights to a native checkpoint")
    common.add_first_model(parser, "name of the model, such as pi3")
    parser.add_argument(
        "weights",
        nargs="?",
        help="upstream file: .safetensors, its index, .pt or .pth; or a native checkpoint",
    )
    parser.add_argument("-o", "--output", required=True, help="folder to write")
    parser.add_argument(
        "--int8", action="store_true", help="store large matrices in 8 bits, a scale a column"
    )
    common.add_common(parser)
    parser.set_defaults(run=convert)


def add_models_to(commands: Any) -> None:
    """Adds the command `models` to the parser."""
    parser = commands.add_parser("models", help="list the models that can be loaded")
    parser.add_argument("--json", action="store_true", help="as JSON")
    parser.set_defaults(run=models)


def convert(options: argparse.Namespace) -> int:
    """Converts an upstream weight file."""
    common.settle_model_and_weights(options)
    common.check_output(options)
    from jaxrecon import registry

    entry = registry.model_entry(options.model)
    stages = Stages(quiet=options.quiet)
    with stages.stage("convert"):
        registry.convert_weights(
            entry,
            options.weights,
            options.output,
            overwrite=options.overwrite,
            int8=options.int8,
        )
    stages.note(f"weights of {entry.name}: {entry.weights_licence}")
    summary = {"model": entry.name, "output": options.output, "seconds": common.seconds(stages)}
    common.report(options, summary)
    return 0


def models(options: argparse.Namespace) -> int:
    """Lists the models, as a table or as JSON."""
    from jaxrecon import registry

    rows = [_row(entry) for entry in registry.MODELS.values()]
    if options.json:
        say(json.dumps(rows, indent=2))
        return 0
    names = max(len(row["name"]) for row in rows)
    for row in rows:
        here = "here" if row["here"] else "not fetched"
        licence, _, terms = row["weights_licence"].partition(" (")
        told = licence if len(terms) > _LONGEST_TERMS else row["weights_licence"]
        say(f"{row['name']:{names}} {row['parameters'] / 1e6:7.1f} M  {here:11}  {told}")
    say("--json tells repositories, papers and licences in full.")
    return 0


def _row(entry: Any) -> dict[str, Any]:
    """What `models` says of one model; `repo` is None where the weights are bundled."""
    from jaxrecon import registry

    hub = isinstance(entry.source, registry.HubFile)
    return {
        "name": entry.name,
        "parameters": entry.parameters,
        "repo": entry.source.repo if hub else None,
        "weights_licence": entry.weights_licence,
        "code_licence": entry.code_licence,
        "paper": entry.paper,
        "here": registry.is_here(entry),
    }
