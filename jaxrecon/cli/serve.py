"""`jaxrecon serve results/`."""

import argparse
import os
import secrets
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

from jaxrecon.browsing import EVERYWHERE, local_url, open_page
from jaxrecon.cli import common
from jaxrecon.cli.parser import Parser
from jaxrecon.cli.process import say
from jaxrecon.environment import TOKEN
from jaxrecon.errors import InputError
from jaxrecon.extras import check_installed

_PORT = 8080
_LIBRARIES = {"starlette": "Starlette", "uvicorn": "uvicorn", "python_multipart": "multipart"}
_LEAST_TOKEN = 16


def add_to(commands: Any) -> None:
    """Adds the command to the parser."""
    parser: Parser = commands.add_parser(
        "serve", help="a page to drop photos on, and an API for scripts"
    )
    add = parser.add_argument
    add("results", help="folder of the results; what it holds already is in the gallery")
    add(
        "-m",
        "--model",
        action="append",
        metavar="MODEL",
        help="a model to offer, several times for more: a name or a checkpoint folder; default: "
        "those whose weights are on this machine",
    )
    add("--host", default="localhost", help="address to serve at; 0.0.0.0: to other machines too")
    add("--port", type=int, default=_PORT, help="where to serve, or the next free one")
    add("--dtype", choices=("float32", "bfloat16"), help="default: bfloat16 on GPU and TPU")
    add("--devices", type=common.at_least_one, default=1, metavar="N", help="shard views over N")
    common.add_attention(parser, auto="each job chooses")
    limits = parser.section("limits").add_argument
    whole = {"type": common.at_least_one, "metavar": "N"}
    limits("--max-upload", default=2048, help="MiB of one job's files; default: 2048", **whole)
    limits("--max-files", default=500, help="of one job; default: 500", **whole)
    limits("--max-views", default=200, help="photos or frames of one job; default: 200", **whole)
    limits("--max-resolution", default=1024, help="pixels; default: 1024", **whole)
    limits("--max-waiting", default=8, help="jobs in the queue; default: 8", **whole)
    add("--no-open", action="store_true", help="open no browser")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Serves until it is interrupted."""
    for library, name in _LIBRARIES.items():
        check_installed(library, "serve", f"jaxrecon serve needs {name}")
    if not 0 <= options.port < 2**16:
        raise InputError(
            f"--port {options.port}: give a number from 0 to 65535; 0 takes a free one"
        )
    token = _token(options.host)
    from jaxrecon.serving.limits import Limits
    from jaxrecon.serving.process import ProcessRunner
    from jaxrecon.serving.serve import Place, serve

    limits = Limits(
        upload_bytes=options.max_upload * 2**20,
        files=options.max_files,
        views=options.max_views,
        resolution=options.max_resolution,
        waiting=options.max_waiting,
    )
    attention = common.attention_given(options)
    common.attention_of(options)  # what does not go together is refused here, not by the first job
    place = Place(
        folder=Path(options.results),
        models=_models(options.model),
        host=options.host,
        port=options.port,
        token=token,
        limits=limits,
        attention=_written(attention) or None,
    )
    runner = ProcessRunner(
        {"dtype": options.dtype, "devices": options.devices, "attention": attention}
    )

    def ready(host: str, port: int, end: Callable[[], None]) -> None:
        del end
        suffix = f"/?token={token}" if token else ""
        say(f"results in {options.results}; open {_told_url(host, port)}{suffix}")
        if not options.no_open:
            open_page(local_url(host, port) + suffix)

    serve(place, runner, ready)
    return 0


def _written(given: dict[str, Any]) -> str:
    """Options of attention as they are written, such as "--sparse-ratio 0.9 --within-views 0,1"."""
    words = dict(given)
    if words["attention"] == "auto":
        del words["attention"]
    if "within_views" in words:
        words["within_views"] = ",".join(map(str, words["within_views"]))
    told = {name: "none" if value is None else value for name, value in words.items()}
    return " ".join(f"--{name.replace('_', '-')} {value}" for name, value in told.items())


def _token(host: str) -> str | None:
    """What visitors need: what the environment tells, or, beyond this machine, a new one.

    Raises:
      InputError: it is too short to be a secret.
    """
    given = os.environ.get(TOKEN, "")
    if given and (len(given) < _LEAST_TOKEN or not given.isascii() or not given.isalnum()):
        raise InputError(
            f"{TOKEN}: give at least {_LEAST_TOKEN} letters and digits, or leave it out"
        )
    loopback = host in ("localhost", "127.0.0.1", "::1")
    return given or (None if loopback else secrets.token_hex(16))


def _models(given: list[str] | None) -> list[str]:
    """The models that are offered.

    Raises:
      InputError: one is unknown.
    """
    from jaxrecon.registry import MODELS, is_here, model_entry

    for name in given or ():
        if not os.path.isdir(name):
            model_entry(name)
    return list(dict.fromkeys(given or [name for name in MODELS if is_here(MODELS[name])]))


def _told_url(host: str, port: int) -> str:
    return local_url(socket.gethostname() if host in EVERYWHERE else host, port)
