"""What surrounds every command: standard streams that may be full or closed, and signals."""

import _thread
import errno
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any

from jaxrecon.environment import DETAILS, is_on
from jaxrecon.errors import OutputError, encodable, one_line, reason_of
from jaxrecon.forgiving import Forgiving


def say(text: str) -> None:
    """A line, or several, on standard output.

    Raises:
      OutputError: it is closed, or what it leads to is full.
      BrokenPipeError: who reads it has stopped.
    """
    with _unwritable_told():
        if sys.stdout is None:
            raise OSError(errno.EBADF, "it is closed")
        sys.stdout.write(encodable(text, sys.stdout.encoding or "utf-8") + "\n")
        sys.stdout.flush()


def complain(text: str) -> None:
    """One line on standard error, of what went wrong."""
    Forgiving(sys.stderr).write(f"jaxrecon: {one_line(text)}\n")


def show_details(error: BaseException) -> None:
    """The notes of an error, such as all tensors that do not fit, if the environment asks so."""
    if is_on(DETAILS):
        for note in getattr(error, "__notes__", ()):
            Forgiving(sys.stderr).write(f"{note}\n")


def flush_output() -> None:
    """Writes what others, such as `argparse`, have left in the buffer of standard output.

    Raises:
      OutputError, BrokenPipeError: see `say`.
    """
    with _unwritable_told():
        if sys.stdout is not None:
            sys.stdout.flush()


@contextmanager
def _unwritable_told() -> Iterator[None]:
    """Tells why standard output cannot be written, and leads it nowhere."""
    try:
        yield
    except BrokenPipeError:
        raise
    except (OSError, ValueError) as error:
        silence(sys.stdout)
        raise OutputError(
            f"cannot write to standard output: {reason_of(error)}; lead it somewhere else"
        ) from error


def silence(stream: Any) -> None:
    """Leads a standard stream nowhere, so that Python does not fail to empty its buffer at exit."""
    with suppress(OSError, ValueError, AttributeError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)


@contextmanager
def standard_streams() -> Iterator[None]:
    """Nothing fails because standard error cannot be written.

    Numbers 0, 1 and 2 of closed streams are taken, so that no file that is opened gets them.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    before = sys.stderr
    forgiving = Forgiving(before)
    sys.stderr = forgiving
    try:
        yield
    finally:
        forgiving.flush()
        if forgiving.failed:
            silence(before)
        sys.stderr = before


_LONGEST_IMPORT = 5.0
"""Seconds after which a signal is no longer held back."""


class Signals:
    """Which signal has told the command to end.

    Attributes:
      base: the frame of the command; what called it is of no concern.
      number: of the signal; None as long as there was none.
    """

    def __init__(self, base: FrameType | None = None) -> None:
        self.base = base
        self.number: int | None = None
        self._since = 0.0
        self._dropping = False
        self._thread = threading.get_ident()
        self._lock = threading.Lock()
        self._held_back = False  # it came, and was not raised yet
        self._sent = False  # by `_raise_later`, and not taken yet

    @property
    def code(self) -> int:
        """The exit code that says so."""
        return 128 + (self.number or signal.SIGINT)

    @property
    def name(self) -> str:
        """What happened, in a word."""
        return "terminated" if self.number == signal.SIGTERM else "interrupted"

    def take(self, number: int, frame: FrameType | None) -> None:
        """The handler: raises KeyboardInterrupt where the main thread is, or soon after.

        While a module is imported it waits: libraries take any error of an import to mean that
        something optional is absent, and go on.
        """
        if self.number is None:
            self.number, self._since = number, time.monotonic()
        sent, self._sent = self._sent, False
        if self._dropping or (sent and not self._held_back):
            return
        self._held_back = True
        if self._importing(frame) and time.monotonic() - self._since < _LONGEST_IMPORT:
            _thread.start_new_thread(self._raise_later, ())
            return
        self.raise_held_back()

    def raise_held_back(self) -> None:
        """Raises KeyboardInterrupt now if a signal came: between imports there is a moment only."""
        if self._held_back:
            self._held_back = False
            raise KeyboardInterrupt

    def close(self) -> None:
        """What is held back is not raised any more: the command has ended."""
        with self._lock:
            self._held_back = False

    def _importing(self, frame: FrameType | None) -> bool:
        """Whether the command is importing a module, seen from where it is."""
        while frame is not None and frame is not self.base:
            if frame.f_code.co_filename.startswith("<frozen importlib._bootstrap"):
                return True
            frame = frame.f_back
        return False

    def again(self, unraisable: Any) -> None:
        """Raises later what Python would drop, since a destructor cannot raise it."""
        if not (isinstance(unraisable.exc_value, KeyboardInterrupt) and self.number):
            sys.__unraisablehook__(unraisable)
            return
        self._dropping = True  # what is raised in this hook is dropped, too
        self._held_back = True
        try:
            _thread.start_new_thread(self._raise_later, ())
        finally:
            self._dropping = False

    def _raise_later(self) -> None:
        while self._dropping:
            time.sleep(0.001)
        time.sleep(0.01)
        number = self.number or signal.SIGINT
        with self._lock:
            if not self._held_back:
                return
            self._sent = True
            if hasattr(signal, "pthread_kill"):  # to the command's thread: a call that waits ends
                signal.pthread_kill(self._thread, number)
            else:
                signal.raise_signal(number)


@contextmanager
def ended_by_signals() -> Iterator[Signals]:
    """Inside, SIGTERM and Ctrl-C raise KeyboardInterrupt, unless the caller ignores them."""
    signals = Signals(sys._getframe(2))  # behind this generator and what enters it
    if threading.current_thread() is not threading.main_thread():
        yield signals
        return
    ours = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL}
    taken = [number for number, usual in ours.items() if signal.getsignal(number) == usual]
    hook = sys.unraisablehook
    try:
        for number in taken:
            signal.signal(number, signals.take)
        sys.unraisablehook = signals.again
        yield signals
    finally:
        sys.unraisablehook = hook
        signals.close()
        for number in taken:
            signal.signal(number, ours[number])
