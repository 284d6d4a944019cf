"""The command line: `jaxrecon reconstruct | convert | view | models | evaluate | train | export |
plan`.

One file a command or two; each imports JAX only once its arguments are known to be sound.
"""

import argparse
import os
import sys
from collections.abc import Sequence

from jaxrecon.cli import common, evaluate, export, plan, reconstruct, train, view, weights
from jaxrecon.errors import JaxreconError


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command; returns the exit code.

    0; or 2 after a one-line error, with nothing written; or 1 after one line for each part that
    could not be made, with the others written.
    """
    options = _parser().parse_args(arguments)
    try:
        code = options.run(options)
        sys.stdout.flush()
        return code
    except JaxreconError as error:
        common.complain(str(error))
        return 2
    except KeyboardInterrupt:
        sys.stderr.write("jaxrecon: interrupted\n")
        return 130
    except BrokenPipeError:  # who reads the output has stopped, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="jaxrecon", description="Photos in, cameras and a point cloud out."
    )
    commands = parser.add_subparsers(required=True, metavar="command")
    reconstruct.add_to(commands)
    weights.add_convert_to(commands)
    view.add_to(commands)
    weights.add_models_to(commands)
    evaluate.add_to(commands)
    train.add_to(commands)
    export.add_to(commands)
    plan.add_to(commands)
    return parser
