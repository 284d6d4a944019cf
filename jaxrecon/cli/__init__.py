"""The command line: `jaxrecon demo | reconstruct | convert | view | report | save | serve |
models | evaluate | bench | calibrate | train | compile | plan`.

One file a command or two; each imports JAX only once its arguments are known to be sound. This file
imports next to nothing, so that signals are handled before the commands are imported.
"""

import os
import sys
from collections.abc import Sequence

from jaxrecon.cli import process
from jaxrecon.errors import JaxreconError


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command; returns the exit code.

    0; or 2 after a one-line error, with nothing written; or 1 after one line for each part that
    could not be made, with the others written; or 130 after Ctrl-C and 143 after SIGTERM, with
    one line and nothing unfinished left.

    Without arguments it is the program and takes those of the process, which then ends at once
    after a signal: threads of libraries that still compile are not waited for.
    """
    with process.standard_streams(), process.ended_by_signals() as signals:
        code = _guarded(arguments, signals)
        if signals.number is not None and arguments is None:
            os._exit(code)
    return code


def _guarded(arguments: Sequence[str] | None, signals: process.Signals) -> int:
    """Runs one command; whatever goes wrong becomes a line and an exit code."""
    try:
        from jaxrecon.cli import commands

        signals.raise_held_back()
        return commands.run(arguments)
    except KeyboardInterrupt:
        process.complain(signals.name)
        return signals.code
    except BrokenPipeError:  # who reads the output has stopped, as `head` does
        process.silence(sys.stdout)
        return 1
    except Exception as error:
        if signals.number is not None:  # a library has made another error of it
            process.complain(signals.name)
            return signals.code
        if not isinstance(error, JaxreconError):
            raise
        process.complain(str(error))
        process.show_details(error)
        return 2
