"""Jobs: what was sent, how far it is, and the queue in which they run one at a time."""

import asyncio
import re
import secrets
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from enum import StrEnum
from http import HTTPStatus
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from jaxrecon.errors import JaxreconError, OutputError, one_line
from jaxrecon.files import sweep
from jaxrecon.serving.limits import Limits
from jaxrecon.serving.refusals import RefusedError
from jaxrecon.serving.settings import Settings
from jaxrecon.serving.uploads import remove_folder, without_folder

_KEPT = 200
_MOST_NOTES = 50
_UNFINISHED = re.compile(r"\.(\d{8}-\d{6}-[0-9a-f]{8})\.part")


class State(StrEnum):
    """Where a job is."""

    WAITING = "waiting"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"


FINISHED = (State.DONE, State.FAILED, State.CANCELLED)


@dataclass(frozen=True)
class Task:
    """What is to be reconstructed.

    Attributes:
      source: a folder of photos, or a video.
      video: which of the two it is.
      output: the folder to write, which is not there yet.
      settings: how.
    """

    source: Path
    video: bool
    output: Path
    settings: Settings


class JobFailedError(JaxreconError):
    """A job did not come to its end; the message says why."""


@runtime_checkable
class Runner(Protocol):
    """Runs tasks, one at a time, with a model that stays loaded."""

    async def run(self, task: Task, tell: Callable[[dict[str, Any]], None]) -> None:
        """Writes the output folder of a task, whole or not at all.

        If the call is cancelled, the device is free and nothing unfinished is left once it ends.

        Args:
          task: see above.
          tell: called with what happens: "stage", with "total", "done" and "seconds" once they are
            known, or "note".

        Raises:
          JobFailedError: see above.
        """
        ...

    async def close(self) -> None:
        """Lets the model and the device go."""
        ...


@dataclass(eq=False)
class Job:
    """One reconstruction that was asked for.

    Attributes:
      id: its name, and that of its folder of results.
      task: what is done.
      upload: the folder of the files that were sent; removed when the job ends.
      files: how many were sent.
      state: where it is.
      stages: those that were begun: name, total, done, seconds.
      notes: what the run had to tell.
      error: why it failed.
      created, started, ended: seconds since 1970.
    """

    id: str
    task: Task
    upload: Path
    files: int
    state: State = State.WAITING
    stages: dict[str, dict[str, Any]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    error: str | None = None
    created: float = field(default_factory=time.time)
    started: float | None = None
    ended: float | None = None
    _watchers: set[asyncio.Event] = field(default_factory=set)
    _unwatched: asyncio.TimerHandle | None = None

    @property
    def finished(self) -> bool:
        """Whether nothing more happens to it."""
        return self.state in FINISHED

    @property
    def watched(self) -> bool:
        """Whether somebody follows its progress."""
        return bool(self._watchers)

    def take(self, event: dict[str, Any]) -> None:
        """Notes what the runner tells."""
        if "note" in event:
            if len(self.notes) < _MOST_NOTES:
                text = without_folder(str(event["note"]), self.upload)
                self.notes.append(one_line(text.removeprefix("NOTE: ")))
        elif "stage" in event:
            stage = self.stages.setdefault(str(event["stage"]), {"name": str(event["stage"])})
            stage.update(
                {name: event[name] for name in ("total", "done", "seconds") if name in event}
            )
        self.touch()

    def touch(self) -> None:
        """Wakes who follows it."""
        for watcher in self._watchers:
            watcher.set()

    @contextmanager
    def watching(self) -> Iterator[asyncio.Event]:
        """An event that is set whenever something changes."""
        changed = asyncio.Event()
        self._watchers.add(changed)
        try:
            yield changed
        finally:
            self._watchers.discard(changed)


def new_id() -> str:
    """A name for a job, which sorts by time."""
    return f"{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}-{secrets.token_hex(4)}"


def sweep_results(folder: Path) -> None:
    """Removes what jobs of a server that was killed left unfinished."""
    for path in list(folder.iterdir()):
        if found := _UNFINISHED.fullmatch(path.name):
            with suppress(OutputError):  # it is being written
                sweep(folder / found[1])


class Desk:
    """The queue, and the one job that runs.

    All methods are called in the thread of one event loop.
    """

    def __init__(self, runner: Runner, limits: Limits) -> None:
        self._runner, self._limits = runner, limits
        self._jobs: dict[str, Job] = {}
        self._waiting: deque[Job] = deque()
        self._more = asyncio.Event()
        self._running: tuple[Job, asyncio.Task[None]] | None = None
        self._worker: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begins to work."""
        self._worker = asyncio.create_task(self._work())

    async def close(self) -> None:
        """Ends the job that runs, forgets those that wait, and lets the device go."""
        for job in list(self._waiting):
            self.cancel(job.id)
        if self._worker is not None:
            self._worker.cancel()
            with suppress(asyncio.CancelledError):
                await self._worker
        await self._runner.close()

    def check_room(self) -> None:
        """Refuses a job that there is no room for.

        Raises:
          RefusedError: as many wait as may.
        """
        if len(self._waiting) >= self._limits.waiting:
            raise RefusedError(
                f"{len(self._waiting)} jobs wait already; try again later",
                HTTPStatus.TOO_MANY_REQUESTS,
            )

    def submit(self, job: Job) -> None:
        """Puts a job at the end of the queue.

        Raises:
          RefusedError: as many wait as may.
        """
        self.check_room()
        self._jobs[job.id] = job
        self._waiting.append(job)
        self._more.set()
        self.left(job)
        self._forget()

    def get(self, name: str) -> Job:
        """The job of a name.

        Raises:
          RefusedError: there is none.
        """
        if name not in self._jobs:
            raise RefusedError("there is no such job; see /api/jobs", HTTPStatus.NOT_FOUND)
        return self._jobs[name]

    def all(self) -> list[Job]:
        """All that are known, the newest first."""
        return list(reversed(self._jobs.values()))

    def place(self, job: Job) -> int | None:
        """How many jobs come before one that waits, with the one that runs; None of another."""
        if job.state is not State.WAITING:
            return None
        return self._waiting.index(job) + (self._running is not None)

    def cancel(self, name: str) -> Job:
        """Takes a job out of the queue, or ends it; one that has ended stays as it is.

        Raises:
          RefusedError: there is no such job.
        """
        job = self.get(name)
        if job.state is State.WAITING:
            self._waiting.remove(job)
            self._end(job, State.CANCELLED)
            self._touch_waiting()
        elif self._running is not None and self._running[0] is job:
            self._running[1].cancel()
        return job

    def left(self, job: Job) -> None:
        """Somebody has stopped to follow a job: if it is to end with its page, it will."""
        if job.task.settings.keep or job.watched or job.finished:
            return
        if job._unwatched is not None:
            job._unwatched.cancel()
        loop = asyncio.get_running_loop()
        job._unwatched = loop.call_later(self._limits.unwatched_seconds, self._give_up, job)

    def _give_up(self, job: Job) -> None:
        if not job.watched and not job.finished:
            self.cancel(job.id)

    async def _work(self) -> None:
        while True:
            while not self._waiting:
                self._more.clear()
                await self._more.wait()
            await self._run(self._waiting.popleft())

    async def _run(self, job: Job) -> None:
        job.state, job.started = State.RUNNING, time.time()
        run = asyncio.create_task(self._runner.run(job.task, job.take))
        self._running = job, run
        job.touch()
        self._touch_waiting()
        try:
            await asyncio.wait({run})
        finally:  # what ends the queue ends the job
            if not run.done():
                run.cancel()
                await asyncio.wait({run})
            self._running = None
            self._settle(job, run)

    def _settle(self, job: Job, run: "asyncio.Task[None]") -> None:
        if run.cancelled():
            self._end(job, State.CANCELLED)
        elif (error := run.exception()) is None:
            self._end(job, State.DONE)
        else:
            kind = "" if isinstance(error, JaxreconError) else f"{type(error).__name__}: "
            job.error = one_line(without_folder(f"{kind}{error}", job.upload))
            self._end(job, State.FAILED)

    def _end(self, job: Job, state: State) -> None:
        job.state, job.ended = state, time.time()
        if job._unwatched is not None:
            job._unwatched.cancel()
        remove_folder(job.upload)
        job.touch()

    def _touch_waiting(self) -> None:
        for job in self._waiting:
            job.touch()

    def _forget(self) -> None:
        """Drops the oldest that have ended; their results stay."""
        for name in [each.id for each in self._jobs.values() if each.finished]:
            if len(self._jobs) <= _KEPT:
                break
            del self._jobs[name]
