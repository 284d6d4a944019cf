"""Putting off Ctrl-C and SIGTERM until a clean-up is done."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Signals that would raise an exception inside the block raise it at its end.

    That is so in the main thread, the only one in which Python raises them.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[tuple[Any, int, FrameType | None]] = []
    before: dict[int, Any] = {}
    try:
        for number in (signal.SIGINT, signal.SIGTERM):
            handler = signal.getsignal(number)
            if callable(handler):
                before[number] = handler
                signal.signal(number, _noting(handler, came))
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        for handler, number, frame in came[:1]:
            handler(number, frame)


def put_off(clean_up: Callable[[], None]) -> None:
    """Cleans up; signals that come meanwhile raise their exception when that is done."""
    with uninterrupted():
        clean_up()


def _noting(handler: Any, came: list[tuple[Any, int, FrameType | None]]) -> Any:
    return lambda number, frame: came.append((handler, number, frame))
