"""How a network is traced that learns: its layers unrolled."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_LEARNING: ContextVar[bool] = ContextVar("learning", default=False)


@contextmanager
def learning() -> Iterator[None]:
    """What is traced inside is differentiated.

    Layers then follow one another in place of a loop, whose every turn would copy what the backward
    pass needs: more to compile, and faster steps.
    """
    token = _LEARNING.set(True)
    try:
        yield
    finally:
        _LEARNING.reset(token)


def learns() -> bool:
    """Whether the code being traced is inside `learning`."""
    return _LEARNING.get()
