"""`jaxrecon view out/scene.npz`."""

import argparse
from typing import Any

from jaxrecon.cli.process import say
from jaxrecon.errors import InputError


def add_to(commands: Any) -> None:
    """Adds the command to the parser."""
    parser = commands.add_parser("view", help="show a reconstruction in the browser")
    parser.add_argument("scene", help="the .npz file of a reconstruction")
    parser.add_argument("--port", type=int, default=8080, help="where to serve")
    parser.add_argument(
        "--share",
        action="store_true",
        help="give the scene a public address as well, through viser's relay on the internet",
    )
    parser.add_argument("--once", action="store_true", help="stop as soon as it is served")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Serves the scene until it is interrupted."""
    if not 0 <= options.port < 2**16:
        raise InputError(
            f"--port {options.port}: give a number from 0 to 65535; 0 takes a free one"
        )
    from jaxrecon.reconstruction import Reconstruction

    recon = Reconstruction.load(options.scene)
    server = recon.view(port=options.port, share=options.share)
    say(f"showing {options.scene} at http://localhost:{server.get_port()}")
    if options.share:
        say(f"shared with everybody at {server.request_share_url()}")
    if not options.once:
        server.sleep_forever()
    server.stop()
    return 0
