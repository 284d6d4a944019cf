"""What becomes of a write of Orbax's that fails."""

import gc
import logging
import shutil
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from jaxrecon.errors import OutputError
from jaxrecon.files import output_error_of_text

_CALM = 0.3
_AT_MOST = 5.0
"""Seconds without another file, after which no more are expected; seconds to wait for that."""


@contextmanager
def orbax_silenced() -> Iterator[None]:
    """Keeps Orbax and its threads from printing tracebacks of failures that it raises as well.

    Python's hooks print what nobody catches; what the block itself raises is not their business.
    """
    logger = logging.getLogger("absl")
    level, thread_hook, hook = logger.level, threading.excepthook, sys.unraisablehook

    def drop(failure: Any) -> None:
        if isinstance(failure.exc_value, KeyboardInterrupt):
            hook(failure)

    logger.setLevel(logging.CRITICAL + 1)
    threading.excepthook = sys.unraisablehook = drop
    try:
        yield
    finally:
        logger.setLevel(level)
        threading.excepthook, sys.unraisablehook = thread_hook, hook


def orbax_failure(path: Path, error: Exception, unfinished: Path | None = None) -> OutputError:
    """What to raise after Orbax has failed to write.

    Args:
      path: what was to be written.
      error: what Orbax raised.
      unfinished: a folder that Orbax was writing; it is removed.
    """
    # Orbax closes the event loop of a write that has failed while other files of it are still
    # being written; collecting what these leave behind crashes Python, at exit at the latest.
    gc.freeze()
    if unfinished is not None:
        remove_unfinished(unfinished.parent)
    return output_error_of_text(path, error)


def remove_unfinished(folder: Path, pattern: str = "*") -> None:
    """Removes what a failed write of Orbax's has left in a folder, under names of a pattern.

    It does so until nothing comes to be there again: threads still write.
    """
    began = calm = time.monotonic()
    while (now := time.monotonic()) < min(calm + _CALM, began + _AT_MOST):
        for entry in list(folder.glob(pattern)):
            calm = now
            shutil.rmtree(entry, ignore_errors=True)
        time.sleep(0.01)
