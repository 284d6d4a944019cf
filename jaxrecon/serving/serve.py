"""Runs the server until it is told to end."""

import asyncio
import socket
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import uvicorn

from jaxrecon.browsing import EVERYWHERE
from jaxrecon.errors import InputError, reason_of
from jaxrecon.files import holding_folder
from jaxrecon.serving.app import make_app
from jaxrecon.serving.jobs import Runner
from jaxrecon.serving.limits import Limits
from jaxrecon.visitors import Guard

LOOPBACK = ("localhost", "127.0.0.1", "::1")
"""Addresses that only this machine reaches."""

_CONNECTIONS = 1000
_GRACEFUL = 3
_LATER_PORTS = 20


@dataclass
class Place:
    """Where and for whom a server runs.

    Attributes:
      folder: of the results; made if it is not there.
      models: names that are offered; the first is the usual one.
      host: address to serve at.
      port: where, or the next free one; 0 for any.
      token: what visitors need; None for none.
      limits: how much they may ask for.
      attention: how the models attend in all jobs, in words; None where each job chooses.
    """

    folder: Path
    models: Sequence[str]
    host: str = "localhost"
    port: int = 8080
    token: str | None = None
    limits: Limits = field(default_factory=Limits)
    attention: str | None = None


class _Server(uvicorn.Server):
    """Tells streams of events that the server ends, before it waits for them."""

    def __init__(self, config: uvicorn.Config, closing: asyncio.Event, ready: Callable[[], None]):
        super().__init__(config)
        self._closing, self._ready = closing, ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            self._ready()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._closing.set()
        await super().shutdown(sockets)


def serve(
    place: Place, runner: Runner, ready: Callable[[str, int, Callable[[], None]], None]
) -> None:
    """Serves until a signal, or a call of what `ready` was given, ends it.

    Args:
      place: where and for whom.
      runner: what runs the jobs; closed at the end.
      ready: called once the server answers, with host and port and a function that ends it, which
        any thread may call.

    Raises:
      InputError: the address cannot be served at.
      OutputError: the folder cannot be written, or another server has it.
    """
    with holding_folder(place.folder), _bound(place.host, place.port) as bound:
        asyncio.run(_serve(place, runner, bound, ready))


async def _serve(
    place: Place,
    runner: Runner,
    bound: socket.socket,
    ready: Callable[[str, int, Callable[[], None]], None],
) -> None:
    closing, port = asyncio.Event(), bound.getsockname()[1]
    app: Any = make_app(
        place.folder.absolute(),
        runner,
        place.models,
        guard=Guard(place.host),
        limits=place.limits,
        token=place.token,
        attention=place.attention,
        closing=closing,
    )
    config = uvicorn.Config(
        app,
        http="h11",
        ws="none",
        lifespan="on",
        log_level="error",
        access_log=False,
        proxy_headers=False,
        server_header=False,
        limit_concurrency=_CONNECTIONS,
        timeout_graceful_shutdown=_GRACEFUL,
    )
    loop = asyncio.get_running_loop()

    def end() -> None:
        with suppress(RuntimeError):  # it has ended
            loop.call_soon_threadsafe(setattr, server, "should_exit", True)

    server = _Server(config, closing, lambda: ready(place.host, port, end))
    await server.serve([bound])


def _bound(host: str, port: int) -> socket.socket:
    """A socket at an address and a port, or the next free one.

    Raises:
      InputError: there is none.
    """
    told: OSError | None = None
    for each in range(port, min(port + _LATER_PORTS, 2**16)) if port else (0,):
        try:
            return _bound_at(host, each)
        except OSError as error:
            told = error
    raise InputError(
        f"--host {host} --port {port}: cannot serve there ({reason_of(told or OSError())}); choose "
        "another address or port"
    )


def _bound_at(host: str, port: int) -> socket.socket:
    address = "" if host in EVERYWHERE and host != "::" else host
    flags = socket.AI_PASSIVE
    kinds = socket.getaddrinfo(address or None, port, type=socket.SOCK_STREAM, flags=flags)
    first = sorted(kinds, key=lambda found: found[0] != socket.AF_INET)[0]
    if host == "::":
        first = kinds[0]
    bound = socket.socket(first[0], first[1])
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(first[4])
    except OSError:
        bound.close()
        raise
    return bound
