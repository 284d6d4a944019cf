"""The process that has the model: `python -m jaxrecon.serving.worker`.

It reads one line of JSON a message on standard input: {"options": how models are loaded}, then
{"run": what to reconstruct} for each job, and {"cancel": true}. It answers on standard output: what
`Stages` tells, and {"ended": true}, with "error" if the job failed. When its input ends, it ends.
"""

import json
import os
import queue
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from jaxrecon.answers import answers_alone
from jaxrecon.errors import JaxreconError, WeightsError, one_line
from jaxrecon.hub import program_folder
from jaxrecon.images import view_count
from jaxrecon.program_cache import keep_sound, programs_wanted, use_program_cache
from jaxrecon.progress import Stages
from jaxrecon.registry import load
from jaxrecon.runtime.sharding import make_mesh
from jaxrecon.serving.settings import Settings
from jaxrecon.serving.writing import write_result
from jaxrecon.sparse import FastAttention, SparseAttention
from jaxrecon.sparse.asked import attention_asked

_BETWEEN = 0.1
"""Seconds between two words on how far a stage is."""


class Cancelled(BaseException):
    """The job is not wanted any more; nothing that handles errors takes it for one."""


class ToldStages(Stages):
    """Stages that tell another process of themselves, and end where a job is cancelled."""

    def __init__(self, tell: Callable[[dict[str, Any]], None], cancelled: threading.Event) -> None:
        super().__init__(quiet=True)
        self._tell, self._cancelled = tell, cancelled

    @contextmanager
    def stage(
        self, name: str, *, total: int | None = None, bar: bool = True
    ) -> Iterator[Callable[[], None]]:
        """See `Stages.stage`."""
        self._check()
        self._tell({"stage": name, "total": total})
        done, last = 0, 0.0

        def advance() -> None:
            nonlocal done, last
            self._check()
            done += 1
            if time.monotonic() - last >= _BETWEEN:
                last = time.monotonic()
                self._tell({"stage": name, "total": total, "done": done})

        with super().stage(name, total=total, bar=bar):
            yield advance
        seconds = round(self.seconds[name], 3)
        self._tell({"stage": name, "total": total, "done": done or total, "seconds": seconds})
        self._check()

    def note(self, text: str) -> None:
        """See `Stages.note`."""
        self._tell({"note": text})

    def _check(self) -> None:
        if self._cancelled.is_set():
            raise Cancelled


class Worker:
    """Has one model loaded, and runs jobs with it."""

    def __init__(self, tell: Callable[[dict[str, Any]], None]) -> None:
        self._tell = tell
        self._options: dict[str, Any] = {}
        self._loaded: tuple[str, Any] | None = None
        self.cancelled = threading.Event()

    def take(self, message: dict[str, Any]) -> None:
        """Does what a message asks."""
        if "options" in message:
            self._options = message["options"]
            return
        error = None
        try:
            self._run(message["run"])
        except Cancelled:
            error = "cancelled"
        except JaxreconError as problem:
            error = str(problem)
        except Exception as problem:
            traceback.print_exc()
            error = one_line(f"{type(problem).__name__}: {problem}")
        keep_sound()
        self._tell({"ended": True, "error": error})

    def _run(self, task: dict[str, Any]) -> None:
        settings = Settings(**task["settings"])
        stages = ToldStages(self._tell, self.cancelled)
        if not task["video"] and settings.max_views is not None:
            count = view_count(task["source"]) or 0
            if count > settings.max_views:
                stages.note(f"{settings.max_views} of {count} photos are taken, spread evenly")
        pipeline = self._pipeline(settings.model, stages)
        recon = pipeline.reconstruct(
            task["source"],
            resolution=settings.resolution,
            attention=_attention(settings),
            fps=settings.fps if task["video"] else None,
            max_views=settings.max_views,
            stages=stages,
        )
        write_result(recon, Path(task["output"]), settings, stages)

    def _pipeline(self, name: str, stages: Stages) -> Any:
        """The model of a name: the one that is loaded, or another in its place."""
        if self._loaded is not None and self._loaded[0] == name:
            return self._loaded[1]
        self._loaded = None  # there may be no room for two
        devices = self._options.get("devices", 1)
        loaded = load(
            name,
            dtype=self._options.get("dtype"),
            mesh=None if devices == 1 else make_mesh(devices),
            attention=attention_asked(self._options.get("attention", {"attention": "auto"})),
            priors=False,
            stages=stages,
        )
        self._loaded = name, loaded
        return loaded


def _attention(settings: Settings) -> Any:
    """What a job has chosen; None for the model's own."""
    if settings.attention not in ("fast", "sparse"):
        return None
    ratio = settings.sparse_ratio
    sparse = SparseAttention() if ratio is None else SparseAttention(sparse_ratio=ratio)
    return FastAttention(sparse) if settings.attention == "fast" else sparse


def main() -> None:
    """Takes messages until the input ends."""
    answers = answers_alone()

    def tell(event: dict[str, Any]) -> None:
        with writing:
            answers.write(json.dumps(event) + "\n")

    writing = threading.Lock()
    worker, messages = Worker(tell), queue.Queue[dict[str, Any]]()
    threading.Thread(target=_read, args=(worker, messages), daemon=True).start()
    _keep_programs()
    while True:
        worker.take(messages.get())


def _read(worker: Worker, messages: "queue.Queue[dict[str, Any]]") -> None:
    """Hands messages on; a cancellation acts at once, and the end of the input ends the process."""
    for line in sys.stdin:
        message = json.loads(line)
        if "cancel" in message:
            worker.cancelled.set()
        else:
            if "run" in message:
                worker.cancelled.clear()
            messages.put(message)
    os._exit(0)


def _keep_programs() -> None:
    """Keeps compiled programs between processes, if wanted and where there is a place for them."""
    if not programs_wanted():
        return
    with suppress(WeightsError):  # there is no home folder
        use_program_cache(program_folder())


if __name__ == "__main__":
    main()
