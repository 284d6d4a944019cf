"""Refusing to run programs in a child of fork, where they would wait for ever.

A child of fork has one thread, and JAX waits in it for threads that its parent has.
"""

import os
import sys
from contextlib import suppress
from types import TracebackType

from jaxrecon.errors import JaxreconError

_state = {"used": False, "forked": False, "ends": False}


def check_not_forked() -> None:
    """Refuses to go on in a child of fork whose parent had already used JAX.

    Raises:
      JaxreconError: see above.
    """
    if _state["forked"]:
        _end_after_an_exception()
        raise JaxreconError(
            "this process was forked from one that had used JAX, whose threads it lacks, and would "
            "wait for them for ever: choose the start method spawn "
            '(multiprocessing.get_context("spawn"))'
        )


def _end_after_an_exception() -> None:
    """Has this process end at once after an exception that nobody catches.

    Otherwise the interpreter would go on to destroy what JAX holds, and wait for ever or crash
    there: the threads that this joins are the parent's.
    """
    shown = sys.excepthook

    def hook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        shown(kind, error, trace)
        for stream in (sys.stdout, sys.stderr):
            with suppress(Exception):
                stream.flush()
        os._exit(1)

    if not _state["ends"]:
        _state["ends"] = True
        sys.excepthook = hook


def _before() -> None:
    bridge = sys.modules.get("jax._src.xla_bridge")
    initialized = getattr(bridge, "backends_are_initialized", None)
    # Without that function of JAX's own, whoever has imported JAX is taken to have used it.
    _state["used"] = bridge is not None and (initialized is None or initialized())


def _in_child() -> None:
    _state["forked"] = _state["forked"] or _state["used"]


def watch_forks() -> None:
    """Takes note of forks from now on."""
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(before=_before, after_in_child=_in_child)
