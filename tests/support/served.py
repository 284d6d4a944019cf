"""A running server for tests, with a stand-in for the model, and what scripts would send it."""

import asyncio
import http.client
import io
import json
import re
import socket
import struct
import threading
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from PIL import Image

from jaxrecon.serving.jobs import JobFailedError, Runner, Task
from jaxrecon.serving.limits import Limits
from jaxrecon.serving.serve import Place, serve

BOUNDARY = "a-boundary-of-a-test"


class StandIn:
    """Runs jobs as a model would, without one: what is done is what the title says.

    Attributes:
      running: the titles of jobs that have the device now.
      most: how many ever had it together.
      closed: whether it was told to let the device go.
    """

    def __init__(self) -> None:
        self.running: list[str] = []
        self.most = 0
        self.closed = False

    async def run(self, task: Task, tell: Callable[[dict[str, Any]], None]) -> None:
        """Tells of two stages and writes a summary; "long" waits, "broken" and "crash" fail."""
        title = task.settings.title
        self.running.append(title)
        self.most = max(self.most, len(self.running))
        try:
            tell({"stage": "read", "total": 1, "done": 1, "seconds": 0.01})
            tell({"stage": "run", "total": None})
            tell({"note": f"NOTE: {task.source} is fine"})
            if title == "long":
                await asyncio.sleep(60)
            if title == "broken":
                raise JobFailedError(f"cannot read {task.source}/a.png: damaged")
            if title == "crash":
                raise RuntimeError("out of\nmemory")
            task.output.mkdir()
            (task.output / "summary.json").write_text(json.dumps({"title": title, "views": 1}))
            (task.output / "scene.ply").write_bytes(b"ply\n" + bytes(100_000))
            (task.output / "report.html").write_text("<script>alert(1)</script>")
        finally:
            self.running.remove(title)

    async def close(self) -> None:
        """Notes that it was called."""
        self.closed = True


class Site:
    """A server, as scripts see it."""

    def __init__(self, folder: Path, port: int, runner: Any) -> None:
        self.folder, self.port, self.runner = folder, port, runner

    def ask(
        self, method: str, path: str, body: bytes | None = None, **headers: str
    ) -> tuple[int, Any]:
        """The status and the content of an answer: the value of a JSON text, or else bytes."""
        status, _, data = self.answer(method, path, body, **headers)
        try:
            return status, json.loads(data)
        except ValueError:
            return status, data

    def answer(
        self, method: str, path: str, body: bytes | None = None, **headers: str
    ) -> tuple[int, http.client.HTTPMessage, bytes]:
        """Status, headers and content of an answer."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        try:
            connection.request(method, path, body, named)
            response = connection.getresponse()
            return response.status, response.headers, response.read()
        finally:
            connection.close()

    def send(self, files: "Files", *, fields: dict[str, str] | None = None, **headers: str) -> Any:
        """Status and answer of a form of files."""
        kind = f"multipart/form-data; boundary={BOUNDARY}"
        data = form(files, fields or {})
        return self.ask("POST", "/api/jobs", data, **({"Content_Type": kind} | headers))

    def job(self, title: str, **fields: str) -> str:
        """The name of a job that was put in the queue."""
        status, told = self.send([("a.png", png())], fields={"title": title, **fields})
        assert status == 202, told
        return told["id"]

    def until(self, name: str, *states: str, seconds: float = 20) -> dict[str, Any]:
        """What is told of a job once it is in one of these states."""
        end = time.monotonic() + seconds
        while True:
            told = self.ask("GET", f"/api/jobs/{name}")[1]
            if told["state"] in states:
                return told
            assert time.monotonic() < end, told
            time.sleep(0.02)

    def uploads(self) -> list[str]:
        """What is left of uploads."""
        place = self.folder / ".uploads"
        return sorted(path.name for path in place.iterdir()) if place.exists() else []

    def raw(self, data: bytes, *, wait: float = 0.0) -> bytes:
        """What comes back for bytes that are sent as they are."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=5) as connection:
            connection.sendall(data)
            if wait:
                time.sleep(wait)
                return b""
            answer = b""
            while part := connection.recv(65536):
                answer += part
                head, end, body = answer.partition(b"\r\n\r\n")
                length = re.search(rb"(?i)\r\ncontent-length: (\d+)", head)
                if end and len(body) >= (int(length[1]) if length else 0):
                    break
            return answer


type Files = Sequence[tuple[str, bytes]]


def form(files: Files, fields: dict[str, str], *, end: bool = True) -> bytes:
    """A form as browsers and curl send it."""
    parts = [
        f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'.encode()
        for name, value in fields.items()
    ]
    for name, data in files:
        head = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="files"; filename="{name}"'
        kind = "\r\nContent-Type: application/octet-stream\r\n\r\n"
        parts.append(head.encode() + kind.encode() + data + b"\r\n")
    return b"".join(parts) + (f"--{BOUNDARY}--\r\n".encode() if end else b"")


def png(size: tuple[int, int] = (32, 24), color: str = "red") -> bytes:
    """A small picture."""
    file = io.BytesIO()
    Image.new("RGB", size, color).save(file, "PNG")
    return file.getvalue()


def bomb(width: int = 30_000, height: int = 30_000) -> bytes:
    """A PNG of a few bytes that promises very many pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    rows = zlib.compress(bytes(100_000))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


@contextmanager
def site(
    folder: Path,
    runner: Runner | None = None,
    *,
    limits: Limits | None = None,
    token: str | None = None,
    models: Sequence[str] = ("pi3-mini", "pi3"),
    attention: str | None = None,
    port: int = 0,
) -> Iterator[Site]:
    """A server in a thread of its own, which is ended with the block."""
    runner = runner or StandIn()
    ready, told = threading.Event(), list[Any]()

    def is_ready(host: str, port: int, end: Callable[[], None]) -> None:
        del host
        told[:] = port, end
        ready.set()

    limits = limits or Limits()
    place = Place(folder, models, port=port, token=token, limits=limits, attention=attention)
    thread = threading.Thread(target=serve, args=(place, runner, is_ready))
    thread.start()
    assert ready.wait(20)
    port, end = told
    try:
        yield Site(folder, port, runner)
    finally:
        end()
        thread.join(20)
        assert not thread.is_alive()
