"""The process that has the model, as the server sees it."""

import asyncio
import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from jaxrecon.errors import OutputError
from jaxrecon.files import sweep
from jaxrecon.serving.jobs import JobFailedError, Task

GRACE = 2.0
"""Seconds in which a job that is cancelled may end by itself, so that the model stays loaded."""

_LONGEST_LINE = 2**22
_CLOSING = 5.0


class ProcessRunner:
    """A `Runner` whose jobs run in another process, started when the first one comes.

    A job that does not end soon after it is cancelled (XLA stops at nothing while it compiles or
    computes) is killed with its process, and the next job starts another.

    Attributes:
      options: how models are loaded; see `worker.py`.
    """

    def __init__(
        self,
        options: Mapping[str, Any],
        *,
        command: Sequence[str] = (sys.executable, "-P", "-m", "jaxrecon.serving.worker"),
        grace: float = GRACE,
    ) -> None:
        self.options = dict(options)
        self._command, self._grace = tuple(command), grace
        self._process: asyncio.subprocess.Process | None = None

    async def run(self, task: Task, tell: Callable[[dict[str, Any]], None]) -> None:
        """See `Runner.run`."""
        process = await self._started()
        try:
            await self._send(process, {"run": _told(task)})
            await self._finished(process, tell)
        except asyncio.CancelledError:
            await self._stopped(process)
            raise
        finally:
            if process.returncode is not None:
                with suppress(OutputError):
                    sweep(task.output)

    async def close(self) -> None:
        """Ends the process, at once if it works."""
        process, self._process = self._process, None
        if process is None:
            return
        if process.stdin is not None:
            process.stdin.close()  # which it takes for the end
        try:
            await asyncio.wait_for(process.wait(), _CLOSING)
        except (TimeoutError, asyncio.CancelledError):
            await _killed(process)
        _let_go(process)

    async def _started(self) -> asyncio.subprocess.Process:
        if self._process is not None and self._process.returncode is None:
            return self._process
        root = str(Path(__file__).parents[2])
        path = os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))
        process = await asyncio.create_subprocess_exec(
            *self._command,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            env=os.environ | {"PYTHONPATH": path},
            start_new_session=True,  # Ctrl-C is the server's
            limit=_LONGEST_LINE,
        )
        self._process = process
        await self._send(process, {"options": self.options})
        return process

    async def _send(self, process: asyncio.subprocess.Process, message: dict[str, Any]) -> None:
        assert process.stdin is not None
        with suppress(ConnectionError):  # its end is met where its answer is read
            process.stdin.write(json.dumps(message).encode() + b"\n")
            await process.stdin.drain()

    async def _finished(
        self, process: asyncio.subprocess.Process, tell: Callable[[dict[str, Any]], None]
    ) -> None:
        """Hands on what the process tells, until the job has ended.

        Raises:
          JobFailedError: it failed, or its process ended.
        """
        assert process.stdout is not None
        while line := await process.stdout.readline():
            event = json.loads(line)
            if event.get("ended"):
                if event.get("error") is not None:
                    raise JobFailedError(event["error"])
                return
            tell(event)
        code = await process.wait()
        _let_go(process)
        raise JobFailedError(
            f"the process of the model ended ({_cause(code)}); send fewer photos, or a lower "
            "resolution; what it printed is where the server runs"
        )

    async def _stopped(self, process: asyncio.subprocess.Process) -> None:
        """Ends the job: kindly, or with its process."""
        try:
            async with asyncio.timeout(self._grace):
                await self._send(process, {"cancel": True})
                with suppress(JobFailedError):
                    await self._finished(process, lambda _: None)
        except (TimeoutError, asyncio.CancelledError):
            await _killed(process)


async def _killed(process: asyncio.subprocess.Process) -> None:
    with suppress(ProcessLookupError):
        process.kill()
    await asyncio.shield(process.wait())
    _let_go(process)


def _let_go(process: asyncio.subprocess.Process) -> None:
    """Closes the pipes of a process that has ended."""
    transport = getattr(process, "_transport", None)
    if transport is not None:
        transport.close()


def _cause(code: int) -> str:
    return f"signal {-code}: perhaps out of memory" if code < 0 else f"exit code {code}"


def _told(task: Task) -> dict[str, Any]:
    return {
        "source": str(task.source),
        "video": task.video,
        "output": str(task.output),
        "settings": asdict(task.settings),
    }
