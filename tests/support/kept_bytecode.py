"""Bytecode that one process of the tests keeps for those that follow."""

import os
import sys
from pathlib import Path


def keep_bytecode(folder: Path) -> None:
    """Has this process, and those that it starts, keep the bytecode of what they import.

    Usually Python does so by itself. Where the environment tells it not to
    (PYTHONDONTWRITEBYTECODE), each of the processes that tests start would compile JAX anew, for
    three seconds; so bytecode is kept after all, but in this folder, apart from the sources.
    """
    if sys.dont_write_bytecode:
        sys.dont_write_bytecode, sys.pycache_prefix = False, str(folder)
        os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
        os.environ["PYTHONPYCACHEPREFIX"] = str(folder)
