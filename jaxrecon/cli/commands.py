"""The commands, and the parser of their arguments."""

import argparse
from collections.abc import Sequence
from importlib import import_module
from typing import Any

from jaxrecon.cli import (
    bench,
    calibrate,
    common,
    compile,
    demo,
    evaluate,
    plan,
    process,
    reconstruct,
    report,
    save,
    serve,
    train,
    view,
    weights,
)
from jaxrecon.cli.parser import Parser, actions
from jaxrecon.environment import DETAILS, untold_doubts
from jaxrecon.extras import Extra
from jaxrecon.version import __version__

_PATHS = (
    "images",
    "output",
    "scene",
    "results",
    "weights",
    "model",
    "named_model",
    "masks",
    "intrinsics",
    "poses",
    "depths",
    "plot",
    "sparse_budgets",
)
"""Arguments that are completed with files."""


def run(arguments: Sequence[str] | None) -> int:
    """Runs the command that the arguments name; returns its exit code."""
    try:
        options = _parser().parse_args(arguments)
    except SystemExit:
        process.flush_output()
        raise
    for doubt in untold_doubts():
        process.complain(doubt)
    with common.trusted_photos(options):
        code = options.run(options)
    process.flush_output()
    return code


class _Version(argparse.Action):
    """Prints the version; says so where it cannot be written."""

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        process.say(f"jaxrecon {__version__}")
        parser.exit()


class _Completion(argparse.Action):
    """Prints what a shell runs to complete commands, options and files."""

    def __call__(
        self, parser: argparse.ArgumentParser, namespace: Any, values: Any, option: Any = None
    ) -> None:
        with Extra("completion", f"{option} needs shtab"):
            shtab = import_module("shtab")
        for each in actions(parser):
            if each.dest in _PATHS:
                vars(each)["complete"] = shtab.FILE
        process.say(shtab.complete(parser, shell=values))
        parser.exit()


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="jaxrecon",
        description="Photos in, cameras and a point cloud out.",
        epilog=f"{DETAILS}=1 in the environment shows all that is known of an error.",
    )
    parser.add_argument("--version", action=_Version, nargs=0, help="print the version and exit")
    parser.add_argument(
        "--print-completion",
        action=_Completion,
        choices=("bash", "zsh", "tcsh"),
        help="print what makes the shell complete commands and options, and exit",
    )
    commands = parser.add_subparsers(required=True, metavar="command")
    demo.add_to(commands)
    reconstruct.add_to(commands)
    weights.add_convert_to(commands)
    view.add_to(commands)
    report.add_to(commands)
    save.add_to(commands)
    serve.add_to(commands)
    weights.add_models_to(commands)
    evaluate.add_to(commands)
    bench.add_to(commands)
    calibrate.add_to(commands)
    train.add_to(commands)
    compile.add_to(commands)
    plan.add_to(commands)
    return parser
