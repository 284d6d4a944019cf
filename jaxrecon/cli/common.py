"""What several commands share."""

import argparse
import json
import sys
from typing import TYPE_CHECKING, Any

from jaxrecon.progress import Stages

if TYPE_CHECKING:
    from jaxrecon.pipeline import Pipeline


def add_common(parser: argparse.ArgumentParser) -> None:
    """Options of every command that writes a folder."""
    parser.add_argument("--overwrite", action="store_true", help="replace an existing folder")
    parser.add_argument("-q", "--quiet", action="store_true", help="show no progress")
    parser.add_argument("--json", action="store_true", help="print a summary as JSON")


def add_backend(parser: argparse.ArgumentParser) -> None:
    """Options of every command that runs a model."""
    add = parser.add_argument
    add("--weights", help="checkpoint folder or upstream weight file for a named model")
    add("--revision", help="revision of the upstream repository")
    add("--dtype", choices=("float32", "bfloat16"), help="default: bfloat16 on GPU and TPU")
    add("--attention", choices=("dense", "cudnn", "xla"), default="dense", help="backend")


def load_pipeline(options: argparse.Namespace, stages: Stages) -> "Pipeline":
    """The model that the options name; programs compiled for it are kept in the cache folder."""
    import jax

    from jaxrecon import registry
    from jaxrecon.hub import cache_folder

    jax.config.update("jax_compilation_cache_dir", str(cache_folder() / "xla"))
    return registry.load(
        options.model,
        weights=options.weights,
        dtype=options.dtype,
        attention=options.attention,
        revision=options.revision,
        stages=stages,
    )


def seconds(stages: Stages) -> dict[str, float]:
    """The time of each stage, rounded for a summary."""
    return {name: round(took, 3) for name, took in stages.seconds.items()}


def report(options: argparse.Namespace, summary: dict[str, Any]) -> None:
    """Prints the summary as JSON if asked to, else where the output is."""
    if options.json:
        sys.stdout.write(json.dumps(summary) + "\n")
    elif not options.quiet:
        sys.stdout.write(f"wrote {options.output}\n")
