"""Which stage of a long job runs, how far it is, and how long each stage took."""

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TextIO, cast

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from jaxrecon.checks import shown
from jaxrecon.errors import InputError, one_line
from jaxrecon.forgiving import Forgiving

_LONGEST_NOTE = 2000


class Stages:
    """Times the named stages of one job and, unless quiet, shows them on standard error.

    On a terminal each stage has a live bar; elsewhere (a log file, a notebook's captured output) a
    finished stage is one line. `seconds` holds the wall-clock time of every finished stage, in the
    order in which they first ended; a stage that runs twice adds up. Stages may overlap in threads.
    """

    def __init__(self, *, quiet: bool = False) -> None:
        self.quiet = quiet
        self.seconds: dict[str, float] = {}
        self._console = Console(file=cast(TextIO, Forgiving(sys.stderr)), highlight=False)
        self._lock = threading.Lock()
        self._bars: Progress | None = None

    @classmethod
    def watched(cls) -> "Stages":
        """Shown where a person watches, on a terminal or in a notebook; quiet elsewhere."""
        return cls(quiet=not (Forgiving(sys.stderr).isatty() or "ipykernel" in sys.modules))

    @contextmanager
    def stage(
        self, name: str, *, total: int | None = None, bar: bool = True
    ) -> Iterator[Callable[[], None]]:
        """Runs one stage; the yielded function says that one of `total` items is done.

        `bar=False` is for work that shows a bar of its own.
        """
        start = time.perf_counter()
        if self.quiet or not bar or not self._console.is_terminal:
            yield _nothing
        else:
            with self._bar(name, total) as advance:
                yield advance
        took = time.perf_counter() - start
        with self._lock:
            self.seconds[name] = self.seconds.get(name, 0.0) + took
        if not self.quiet:
            count = f" ({total})" if total else ""
            self._console.print(f"{one_line(name):>9}{count}: {took:.2f} s", markup=False)

    def note(self, text: str) -> None:
        """Shows one line, unless quiet; what is not printable in it is escaped."""
        if not self.quiet:
            self._console.print(one_line(text, _LONGEST_NOTE), markup=False, soft_wrap=True)

    @contextmanager
    def _bar(self, name: str, total: int | None) -> Iterator[Callable[[], None]]:
        """A live bar, on one display with those of other stages that run now."""
        with self._lock:
            if self._bars is None:
                self._bars = self._display()
                self._bars.start()
            bars, task = self._bars, self._bars.add_task(one_line(name), total=total)
        try:
            yield lambda: bars.advance(task)
        finally:
            with self._lock:
                bars.remove_task(task)
                if not bars.task_ids:
                    bars.stop()
                    self._bars = None

    def _display(self) -> Progress:
        columns = (
            TextColumn("{task.description:>9}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
        )
        return Progress(*columns, console=self._console, transient=True)


def watched_stages(stages: object) -> Stages:
    """The caller's `stages`, or those that are shown where a person watches if None is given.

    Raises:
      InputError: they are of another type.
    """
    return _checked(stages) or Stages.watched()


def quiet_stages(stages: object) -> Stages:
    """The caller's `stages`, or silent ones if None is given.

    Raises:
      InputError: they are of another type.
    """
    return _checked(stages) or Stages(quiet=True)


def _checked(stages: object) -> Stages | None:
    if stages is not None and not isinstance(stages, Stages):
        raise InputError(f"stages: found {shown(stages)}; give jaxrecon.Stages() or None")
    return stages


def _nothing() -> None:
    pass
