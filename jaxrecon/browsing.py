"""Where a person can look at a page: a browser of this machine, or a notebook."""

import os
import sys
import webbrowser
from collections.abc import Mapping
from importlib import import_module

NOTEBOOK_HEIGHT = 600
"""How high a page is in a notebook, in pixels."""
EVERYWHERE = ("0.0.0.0", "::", "")
"""Addresses that stand for all of this machine's."""


def url_host(host: str) -> str:
    """An address as it is written in a URL."""
    return f"[{host}]" if ":" in host else host


def local_host(host: str) -> str:
    """Where this machine reaches a server of an address."""
    return "localhost" if host in EVERYWHERE else host


def local_url(host: str, port: int) -> str:
    """The page of a server of an address, for a browser of this machine."""
    return f"http://{url_host(local_host(host))}:{port}"


def has_browser(environment: Mapping[str, str] | None = None, platform: str = sys.platform) -> bool:
    """Whether a browser would open before the eyes of who started the program.

    Not on another machine (SSH), and on Linux only where there is a screen.
    """
    known = os.environ if environment is None else environment
    if known.get("SSH_CONNECTION") or known.get("SSH_TTY"):
        return False
    if platform in ("darwin", "win32"):
        return True
    return bool(known.get("DISPLAY") or known.get("WAYLAND_DISPLAY"))


def open_page(url: str) -> bool:
    """Opens a page in the browser; returns whether one was found."""
    try:
        return has_browser() and webbrowser.open(url)
    except webbrowser.Error:
        return False


def in_notebook() -> bool:
    """Whether this process is the kernel of a notebook."""
    ipython = sys.modules.get("IPython")
    shell = None if ipython is None else ipython.get_ipython()
    return shell is not None and type(shell).__name__ == "ZMQInteractiveShell"


def show_in_notebook(url: str) -> None:
    """Shows a page below the cell of the notebook that runs."""
    notebook = import_module("IPython.display")
    notebook.display(notebook.IFrame(url, width="100%", height=NOTEBOOK_HEIGHT))
