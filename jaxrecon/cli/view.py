"""`jaxrecon view out/`."""

import argparse
import socket
from typing import TYPE_CHECKING, Any

from jaxrecon.browsing import EVERYWHERE, local_url, open_page
from jaxrecon.cli import common
from jaxrecon.cli.process import say
from jaxrecon.errors import InputError, one_line

if TYPE_CHECKING:
    from jaxrecon.formats import LoosePoints, Scene

_PORT = 8080
_LOOPBACK = ("localhost", "127.0.0.1", "::1")


def add_to(commands: Any) -> None:
    """Adds the command to the parser."""
    parser = commands.add_parser("view", help="show a reconstruction in the browser")
    parser.add_argument(
        "scene", help="the folder that reconstruct wrote, or a .npz, .ply or .glb file"
    )
    add_serving(parser)
    parser.set_defaults(run=run)


def add_serving(parser: Any) -> None:
    """Options of where a scene is served."""
    add = parser.add_argument
    add("--host", default="localhost", help="address to serve at; 0.0.0.0: to other machines too")
    add("--port", type=int, default=_PORT, help="where to serve, or the next free one")
    add(
        "--max-points",
        type=common.at_least_one,
        metavar="N",
        help="show at most N points at once; default: 1,000,000",
    )
    add("--no-open", action="store_true", help="open no browser")
    add("--once", action="store_true", help="stop as soon as it is served")
    add(
        "--share",
        action="store_true",
        help="give the scene a public address as well, through viser's relay on the internet",
    )


def run(options: argparse.Namespace) -> int:
    """Serves the scene until it is interrupted."""
    _check_port(options.port)
    from jaxrecon.cli.results import read_result

    path, content, left_out = read_result(options.scene)
    name = f"{path} ({left_out})" if left_out else str(path)
    serve_until_stopped(content, name, options)
    return 0


def show_folder(folder: str) -> None:
    """As the command does without options, of what was written to a folder."""
    parser = argparse.ArgumentParser()
    parser.add_argument("scene")
    add_serving(parser)
    run(parser.parse_args(["--", folder]))


def show(content: "Scene", name: str) -> None:
    """Serves a scene as the command does without options, until it is interrupted."""
    parser = argparse.ArgumentParser()
    add_serving(parser)
    serve_until_stopped(content, name, parser.parse_args([]))


def serve_until_stopped(
    content: "Scene | LoosePoints", name: str, options: argparse.Namespace
) -> None:
    """Serves and says where, opens a browser if there is one, and waits for Ctrl-C."""
    server = served(content, options)
    say(f"showing {one_line(name)} at {told_url(options.host, server.get_port())}")
    if options.share:
        say(f"shared with everybody at {server.request_share_url()}")
    try:
        if not options.once:
            if not options.no_open:
                open_page(local_url(options.host, server.get_port()))
            server.sleep_forever()
    finally:
        server.stop()


def _check_port(port: int) -> None:
    if not 0 <= port < 2**16:
        raise InputError(f"--port {port}: give a number from 0 to 65535; 0 takes a free one")


def served(content: "Scene | LoosePoints", options: argparse.Namespace) -> Any:
    """The running server of a scene or of points."""
    from jaxrecon.formats import LoosePoints, serve, serve_cloud

    where: dict[str, Any] = {"host": options.host, "port": options.port, "share": options.share}
    if options.max_points is not None:
        where["max_points"] = options.max_points
    if isinstance(content, LoosePoints):
        return serve_cloud(content.cloud, up=content.up, **where)
    return serve(content, **where)


def told_url(host: str, port: int) -> str:
    """Where to look, for the message; of all addresses the one of this machine's name."""
    if host in _LOOPBACK:
        return local_url(host, port)
    name = socket.gethostname() if host in EVERYWHERE else host
    return f"{local_url(name, port)}; whoever can reach this machine can see it"
