"""Which stage of a long job runs, how far it is, and how long each stage took."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn


class Stages:
    """Times the named stages of one job and, unless quiet, shows them on standard error.

    On a terminal each stage has a live bar; elsewhere (a log file, a notebook's captured output) a
    finished stage is one line. `seconds` holds the wall-clock time of every finished stage, in the
    order in which they first ended; a stage that runs twice adds up.
    """

    def __init__(self, *, quiet: bool = False) -> None:
        self.quiet = quiet
        self.seconds: dict[str, float] = {}
        self._console = Console(file=sys.stderr, highlight=False)

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
            with self._bar() as shown:
                task = shown.add_task(name, total=total)
                yield lambda: shown.advance(task)
        took = time.perf_counter() - start
        self.seconds[name] = self.seconds.get(name, 0.0) + took
        if not self.quiet:
            count = f" ({total})" if total else ""
            self._console.print(f"{name:>9}{count}: {took:.2f} s", markup=False)

    def note(self, text: str) -> None:
        """Shows one line, unless quiet."""
        if not self.quiet:
            self._console.print(text, markup=False, soft_wrap=True)

    def _bar(self) -> Progress:
        columns = (
            TextColumn("{task.description:>9}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
        )
        return Progress(*columns, console=self._console, transient=True)


def _nothing() -> None:
    pass
