"""What can be asked of the server.

    GET  /                              the page
    GET  /api                           version, models, limits
    POST /api/jobs                      a form of files and settings: a job
    GET  /api/jobs                      all jobs
    GET  /api/jobs/ID                   how far one is
    GET  /api/jobs/ID/events            the same, whenever something changes (server-sent events)
    POST /api/jobs/ID/cancel
    GET  /api/results                   past results
    GET  /api/results/ID                the summary of one, and its files
    GET  /results/ID/FILE               a file
    GET  /results/ID.zip                all of them

Whatever is refused is answered with {"error": one line}.
"""

import asyncio
import json
import mimetypes
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, field, replace
from http import HTTPStatus
from pathlib import Path
from typing import Any
from urllib.parse import quote

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from jaxrecon.errors import JaxreconError, OutputError, one_line
from jaxrecon.serving.access import App, Guarded, Receive, Scope, Send, refused
from jaxrecon.serving.jobs import Desk, Job, Runner, Task, new_id, sweep_results
from jaxrecon.serving.limits import Limits
from jaxrecon.serving.refusals import RefusedError
from jaxrecon.serving.results import Results
from jaxrecon.serving.settings import ATTENTIONS, settings_of
from jaxrecon.serving.uploads import checked_source, received, remove_folder, removed_unless_kept
from jaxrecon.version import __version__
from jaxrecon.visitors import Guard

UPLOADS = ".uploads"
"""The folder, among the results, of files that wait for their job."""

_PAGE = Path(__file__).parent / "page"
_HEARTBEAT = 10.0
_BETWEEN = 0.1
_SHOWN_INLINE = (".png", ".jpg", ".json", ".txt", ".html")
_APART = "sandbox; default-src 'none'; img-src data:; style-src 'unsafe-inline'"


@dataclass
class Server:
    """What the answers have in common.

    Attributes:
      results: where results are.
      desk: where jobs are.
      models: names that are offered; the first is the usual one.
      limits: how much may be asked for.
      closing: set when the server ends.
      attention: how the models attend in all jobs, in words; None where each job chooses.
    """

    results: Results
    desk: Desk
    models: Sequence[str]
    limits: Limits
    closing: asyncio.Event
    attention: str | None = None
    uploads: int = 0
    watchers: int = 0
    _tasks: set[Any] = field(default_factory=set)

    async def about(self, request: Request) -> Response:
        """Version, models, choices and limits."""
        del request
        return JSONResponse(
            {
                "version": __version__,
                "models": list(self.models),
                "attentions": list(ATTENTIONS if self.attention is None else ATTENTIONS[:1]),
                "attention": self.attention,
                "limits": asdict(self.limits),
            }
        )

    async def submit(self, request: Request) -> Response:
        """Takes files, and puts a job in the queue."""
        self.desk.check_room()
        if self.uploads >= self.limits.uploads:
            raise RefusedError(
                f"{self.uploads} uploads are under way; try again later",
                HTTPStatus.TOO_MANY_REQUESTS,
            )
        name = new_id()
        folder = self.results.folder / UPLOADS / name
        self.uploads += 1
        try:
            with removed_unless_kept(folder) as kept:
                form = await received(request, folder, self.limits)
                settings = settings_of(form.fields, self.models, self.limits, self.attention)
                source, video = await asyncio.to_thread(checked_source, folder, form.files)
                if not settings.title:
                    settings = replace(settings, title=_title(form.files))
                task = Task(source, video, self.results.folder / name, settings)
                job = Job(name, task, folder, len(form.files))
                self.desk.submit(job)
                kept.append(True)
        finally:
            self.uploads -= 1
        headers = {"Location": f"/api/jobs/{name}"}
        return JSONResponse(self.told(job), HTTPStatus.ACCEPTED, headers)

    async def jobs(self, request: Request) -> Response:
        """All jobs, the newest first."""
        del request
        return JSONResponse({"jobs": [self.told(job) for job in self.desk.all()]})

    async def job(self, request: Request) -> Response:
        """How far one is."""
        return JSONResponse(self.told(self.desk.get(request.path_params["name"])))

    async def cancel(self, request: Request) -> Response:
        """Ends one."""
        return JSONResponse(self.told(self.desk.cancel(request.path_params["name"])))

    async def events(self, request: Request) -> Response:
        """Follows one."""
        job = self.desk.get(request.path_params["name"])
        if self.watchers >= self.limits.watchers:
            raise RefusedError(
                f"{self.watchers} pages follow jobs already; ask for /api/jobs/{job.id} now and "
                "then instead",
                HTTPStatus.TOO_MANY_REQUESTS,
            )
        return Events(self, job)

    async def past(self, request: Request) -> Response:
        """Past results, the newest first."""
        del request
        return JSONResponse({"results": await asyncio.to_thread(self.results.listed)})

    async def result(self, request: Request) -> Response:
        """One of them."""
        name = request.path_params["name"]
        return JSONResponse(await asyncio.to_thread(self.results.summary, name))

    async def file(self, request: Request) -> Response:
        """A file of a result."""
        name, path = request.path_params["name"], request.path_params["path"]
        file = await asyncio.to_thread(self.results.file, name, path)
        inline = file.suffix in _SHOWN_INLINE and "download" not in request.query_params
        kind = mimetypes.guess_type(file.name)[0] if inline else None
        return FileResponse(
            file,
            media_type=kind or "application/octet-stream",
            filename=file.name,
            content_disposition_type="inline" if inline else "attachment",
            headers={"Content-Security-Policy": _APART, "Cache-Control": "no-cache"},
        )

    async def zipped(self, request: Request) -> Response:
        """All files of a result."""
        name = request.path_params["name"]
        archive = await asyncio.to_thread(self.results.zipped, name)
        headers = {
            "Content-Disposition": f"attachment; filename*=UTF-8''{quote(name, safe='')}.zip"
        }
        return StreamingResponse(archive, media_type="application/zip", headers=headers)

    def told(self, job: Job) -> dict[str, Any]:
        """What there is to know of a job."""
        told: dict[str, Any] = {
            "id": job.id,
            "state": job.state.value,
            "title": job.task.settings.title,
            "settings": job.task.settings.told(),
            "files": job.files,
            "before": self.desk.place(job),
            "stages": list(job.stages.values()),
            "notes": job.notes,
            "error": job.error,
            "created": job.created,
            "started": job.started,
            "ended": job.ended,
        }
        if self.results.has(job.id):
            told["result"] = f"/api/results/{job.id}"
        return told


class Events(Response):
    """What happens to a job, as it happens, until it ends or the visitor goes."""

    media_type = "text/event-stream"

    def __init__(self, server: Server, job: Job) -> None:
        super().__init__(headers={"X-Accel-Buffering": "no"})
        del self.headers["content-length"]
        self._server, self._job = server, job

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Sends."""
        del scope
        head = {"type": "http.response.start", "status": 200, "headers": self.raw_headers}
        self._server.watchers += 1
        try:
            with self._job.watching() as changed:
                await send(head)
                follow = asyncio.create_task(self._follow(changed, send))
                gone = asyncio.create_task(_gone(receive))
                try:
                    await asyncio.wait({follow, gone}, return_when=asyncio.FIRST_COMPLETED)
                finally:
                    for task in (follow, gone):
                        task.cancel()
                    await asyncio.wait({follow, gone})
        finally:
            self._server.watchers -= 1
            self._server.desk.left(self._job)

    async def _follow(self, changed: asyncio.Event, send: Send) -> None:
        closing = asyncio.create_task(self._server.closing.wait())
        try:
            while True:
                changed.clear()
                text = json.dumps(self._server.told(self._job))
                await _send_part(send, f"data: {text}\n\n")
                if self._job.finished or closing.done():
                    await send({"type": "http.response.body", "body": b"", "more_body": False})
                    return
                waiting = asyncio.create_task(changed.wait())
                happened, _ = await asyncio.wait(
                    {waiting, closing}, timeout=_HEARTBEAT, return_when=asyncio.FIRST_COMPLETED
                )
                waiting.cancel()
                if not happened:
                    await _send_part(send, ": still there\n\n")
                await asyncio.sleep(_BETWEEN)
        finally:
            closing.cancel()


async def _send_part(send: Send, text: str) -> None:
    await send({"type": "http.response.body", "body": text.encode(), "more_body": True})


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _title(files: Sequence[Path]) -> str:
    return files[0].stem if len(files) == 1 else f"{files[0].stem} and {len(files) - 1} more"


def _page_file(name: str) -> Callable[[Request], Any]:
    async def answer(request: Request) -> Response:
        del request
        return FileResponse(_PAGE / name, headers={"Cache-Control": "no-cache"})

    return answer


async def _nothing(request: Request) -> Response:
    del request
    return Response(status_code=HTTPStatus.NO_CONTENT)


async def _refused(request: Request, error: Exception) -> Response:
    del request
    if isinstance(error, RefusedError):
        return refused(str(error), error.status)
    if isinstance(error, HTTPException):
        return refused(error.detail, error.status_code)
    full = isinstance(error, OutputError)
    status = HTTPStatus.INSUFFICIENT_STORAGE if full else HTTPStatus.INTERNAL_SERVER_ERROR
    return refused(one_line(str(error)), status)


def make_app(
    folder: Path,
    runner: Runner,
    models: Sequence[str],
    *,
    guard: Guard,
    limits: Limits | None = None,
    token: str | None = None,
    closing: asyncio.Event | None = None,
    attention: str | None = None,
) -> App:
    """The whole server, for an ASGI server to run.

    Args:
      folder: of the results; it is there, and no other server has it.
      runner: what runs the jobs.
      models: names that are offered; the first is the usual one.
      guard: under which names the server is reached.
      limits: how much may be asked for.
      token: what visitors need; None where everybody who reaches the server is let in.
      closing: set by who ends the server, so that streams of events end.
      attention: see `Server`.
    """
    limits = limits or Limits()
    server = Server(
        Results(folder),
        Desk(runner, limits),
        models,
        limits,
        closing or asyncio.Event(),
        attention,
    )

    @asynccontextmanager
    async def living(app: Starlette) -> AsyncIterator[None]:
        del app
        remove_folder(folder / UPLOADS)  # of a server that was killed
        sweep_results(folder)
        server.desk.start()
        try:
            yield
        finally:
            server.closing.set()
            await server.desk.close()
            remove_folder(folder / UPLOADS)

    def get(path: str, answer: Any) -> Route:
        return Route(path, answer, methods=["GET"])

    routes = [
        get("/", _page_file("index.html")),
        *(get(f"/page/{name}", _page_file(name)) for name in ("page.css", "page.js")),
        get("/favicon.ico", _nothing),
        get("/api", server.about),
        get("/api/jobs", server.jobs),
        Route("/api/jobs", server.submit, methods=["POST"]),
        get("/api/jobs/{name}", server.job),
        get("/api/jobs/{name}/events", server.events),
        Route("/api/jobs/{name}/cancel", server.cancel, methods=["POST"]),
        get("/api/results", server.past),
        get("/api/results/{name}", server.result),
        get("/results/{name}.zip", server.zipped),
        get("/results/{name}/{path:path}", server.file),
    ]
    handlers: Any = {JaxreconError: _refused, HTTPException: _refused, Exception: _refused}
    app = Starlette(routes=routes, exception_handlers=handlers, lifespan=living)
    app.router.redirect_slashes = False
    return Guarded(app, guard, token)
