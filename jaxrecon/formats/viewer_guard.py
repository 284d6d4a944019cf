"""Who may talk to the viewer: pages that its own server gave out, and programs that can reach it.

viser looks at neither Host nor Origin (`jaxrecon.visitors`), and opens a public tunnel when a page
asks for it. It starts its server through `websockets.asyncio.server.serve`:
`guarded_serving` adds the checks there, and `check_guarded` asks the running server whether they
are in force, so that no version of viser serves without them.
"""

import http.client
import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus
from typing import Any

import msgspec
import viser
import websockets.asyncio.server as websockets_server
from viser._messages import Message

from jaxrecon.browsing import local_host
from jaxrecon.errors import InputError
from jaxrecon.visitors import Guard

MOST_PAGES = 32
"""Pages that may show the scene at once; each has a copy of it waiting to be sent."""

_STARTING = threading.Lock()
_LOGGER = logging.getLogger("jaxrecon.viewer")
_LOGGER.addHandler(logging.NullHandler())
_LOGGER.propagate = False


@contextmanager
def guarded_serving(guard: Guard) -> Iterator[None]:
    """A server that viser starts inside lets in what the guard does."""
    plain = websockets_server.serve

    def serve(handler: Any, *args: Any, process_request: Any = None, **options: Any) -> Any:
        if not _is_visers(handler):
            return plain(handler, *args, process_request=process_request, **options)
        return plain(
            _counted(handler, guard),
            *args,
            process_request=_checked(process_request, guard),
            create_connection=_Connection,
            logger=_LOGGER,
            **options,
        )

    with _STARTING:
        websockets_server.serve = serve  # pyright: ignore[reportAttributeAccessIssue]
        try:
            yield
        finally:
            websockets_server.serve = plain  # pyright: ignore[reportAttributeAccessIssue]


def _is_visers(handler: Any) -> bool:
    """Whether a server is viser's, and not one that another thread starts meanwhile."""
    return str(getattr(handler, "__module__", "")).startswith("viser.")


def check_guarded(host: str, port: int) -> None:
    """Asks the server at an address and port as pages of others would.

    Raises:
      InputError: it answers one of them.
    """
    elsewhere = {"Host": "elsewhere.example"}
    page = {"Host": f"localhost:{port}", "Origin": "http://elsewhere.example"}
    upgrade = {
        "Connection": "Upgrade",
        "Upgrade": "websocket",
        "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": "AAAAAAAAAAAAAAAAAAAAAA==",
        "Sec-WebSocket-Protocol": _subprotocol(),
    }
    for headers in (elsewhere, page, elsewhere | upgrade, page | upgrade):
        if _status(local_host(host), port, headers) != HTTPStatus.FORBIDDEN:
            raise InputError(
                f"the viewer: viser {viser.__version__} cannot be kept from showing the scene to "
                "other web sites; install another version, such as viser==1.1.1"
            )


def _status(host: str, port: int, headers: dict[str, str]) -> int:
    connection = http.client.HTTPConnection(host, port, timeout=10)
    try:
        connection.request("GET", "/", headers=headers)
        return connection.getresponse().status
    except (OSError, http.client.HTTPException):
        return 0
    finally:
        connection.close()


def _subprotocol() -> str:
    return f"viser-v{viser.__version__}"


def _checked(process_request: Any, guard: Guard) -> Any:
    """viser's own answer to a request, for those that the guard lets in."""

    def process(connection: Any, request: Any) -> Any:
        refusal = guard.refusal(request.headers, connection.local_address[1])
        if refusal is not None:
            return connection.respond(HTTPStatus.FORBIDDEN, refusal)
        return None if process_request is None else process_request(connection, request)

    return process


def _counted(handler: Any, guard: Guard) -> Any:
    """viser's own handler of a page, for pages of its version and no more than there may be."""

    async def handle(connection: Any) -> None:
        if connection.subprotocol != _subprotocol():
            await connection.close(1002, f"this server is viser {viser.__version__}; reload")
        elif guard.pages >= MOST_PAGES:
            await connection.close(1013, f"{MOST_PAGES} pages are open already")
        else:
            guard.pages += 1
            try:
                await handler(connection)
            finally:
                guard.pages -= 1

    return handle


class _Connection(websockets_server.ServerConnection):
    """A connection that passes on what viser can take, and ends at what is no message at all."""

    async def recv(self, decode: bool | None = None) -> Any:
        while True:
            data = await super().recv(decode)
            fields = _fields(data)
            if fields is None:
                await self.close(1003, "not a message of viser")
            elif _fits(fields):
                return data


def _fields(data: str | bytes) -> dict[str, Any] | None:
    """What a message holds; None if it is damaged."""
    if isinstance(data, str):
        return None
    try:
        fields = msgspec.msgpack.decode(data)
    except (ValueError, TypeError, RecursionError):
        return None
    return fields if isinstance(fields, dict) and isinstance(fields.get("type"), str) else None


def _fits(fields: dict[str, Any]) -> bool:
    """Whether a message has the fields of its kind, and does not ask for a public address."""
    kinds = {kind.__name__: kind for kind in Message.get_subclasses()}
    kind = kinds.get(fields["type"])
    if kind is None or kind.__name__.startswith("ShareUrl"):
        return False
    try:
        msgspec.convert(fields, kind)
    except (ValueError, TypeError, RecursionError):
        return False
    return True
