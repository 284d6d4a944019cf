"""A stand-in for the Hugging Face hub on this machine, for one file of one repository."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class Hub:
    """What it serves, how it answers, and what it was asked.

    Attributes:
      path: of the file, with `{revision}` in it.
      revisions: those that exist.
      content: bytes of the file.
      status, error_code: the answer to everything, unless 200.
      sent: how many bytes arrive before the line breaks; all if None.
      requests: method, path and token of each request.
    """

    path: str
    content: bytes
    revisions: tuple[str, ...] = ("main",)
    status: int = 200
    error_code: str = ""
    sent: int | None = None
    url: str = ""
    requests: list[tuple[str, str, str | None]] = field(default_factory=list)

    def answer(self, path: str) -> tuple[int, dict[str, str]]:
        """Status and headers, as the hub gives them for a file that is kept in its repository."""
        if self.status != 200:
            code = {"X-Error-Code": self.error_code} if self.error_code else {}
            return self.status, code
        if path not in [self.path.format(revision=name) for name in self.revisions]:
            return 404, {"X-Error-Code": "RevisionNotFound"}
        size = {"Content-Length": str(len(self.content))}
        return 200, {"X-Repo-Commit": COMMIT, "ETag": '"5eed"', **size}


@contextmanager
def serving(hub: Hub) -> Iterator[Hub]:
    """Serves `hub` on a free port of the loopback device; `hub.url` says where."""

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> bool:
            hub.requests.append((self.command, self.path, self.headers["authorization"]))
            status, headers = hub.answer(self.path)
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            return status == 200

        def do_GET(self) -> None:
            if self.do_HEAD():
                self.wfile.write(hub.content[: hub.sent])

        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        hub.url = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield hub
        finally:
            server.shutdown()
            thread.join()
