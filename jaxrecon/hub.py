"""Where weights lie on this machine, and how upstream's reach it."""

import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from jaxrecon.environment import HOME
from jaxrecon.errors import WeightsError

_PATIENCE = 5.0
"""Seconds that the hub has to take a connection."""


def cache_folder() -> Path:
    """`$JAXRECON_HOME`, else `jaxrecon` in the user's cache folder (`$XDG_CACHE_HOME`).

    Raises:
      WeightsError: none of them is set and the user has no home, as in a container that runs as a
        user it does not know.
    """
    home = os.environ.get(HOME)
    if home:
        return Path(os.path.expanduser(home))
    base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    if base.startswith("~"):
        raise WeightsError(
            "this user has no home folder, so there is no place for weights and compiled programs; "
            f"set {HOME} to a folder that can be written"
        )
    return Path(base) / "jaxrecon"


def program_folder() -> Path:
    """Where compiled programs are kept between processes.

    Raises:
      WeightsError: as `cache_folder`.
    """
    return cache_folder() / "xla"


def fetch(
    repo: str, filename: str, *, revision: str | None, way_out: str, quiet: bool = False
) -> Path:
    """The path of a file of a Hugging Face repository, downloaded unless it is in the hub's cache.

    `HF_HUB_OFFLINE`, `HF_HOME`, `HF_ENDPOINT` and `HF_TOKEN` are honoured.

    Args:
      repo: `owner/name`.
      filename: path inside the repository.
      revision: branch, tag or commit; the main branch if None.
      way_out: what the user can do where nothing can be downloaded; ends the error's line.
      quiet: whether to hide the hub's own progress bar.

    Raises:
      WeightsError: the file is neither cached nor can it be downloaded.
    """
    from huggingface_hub import hf_hub_download

    try:
        with _hidden(bar=quiet):
            cached_only = not _can_be_reached()
            path = hf_hub_download(repo, filename, revision=revision, local_files_only=cached_only)
    except Exception as error:  # each version of the hub's client raises kinds of its own
        what = f"{repo}/{filename}" + (f" (revision {revision})" if revision else "")
        raise WeightsError(f"cannot get {what}: {_reason(error)}; {way_out}") from error
    return Path(path)


@contextmanager
def _hidden(*, bar: bool) -> Iterator[None]:
    """Inside, the hub's client logs no retries, and shows no progress if `bar`."""
    from huggingface_hub.utils import (
        are_progress_bars_disabled,
        disable_progress_bars,
        enable_progress_bars,
    )

    hide, logger = bar and not are_progress_bars_disabled(), logging.getLogger("huggingface_hub")
    before = logger.level
    try:
        logger.setLevel(logging.ERROR)
        if hide:
            disable_progress_bars()
        yield
    finally:
        logger.setLevel(before)
        if hide:
            enable_progress_bars()


def _can_be_reached() -> bool:
    """Whether the hub takes connections, found out in seconds where its client tries for a minute.

    Through a proxy that is not asked, and so is taken for granted.
    """
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return False
    url = urlsplit(constants.ENDPOINT)
    host = url.hostname or ""
    if url.scheme in getproxies() and not proxy_bypass(host):
        return True
    try:
        port = url.port or {"http": 80}.get(url.scheme, 443)
        socket.create_connection((host, port), timeout=_PATIENCE).close()
    except OSError:
        return False
    return True


def _reason(error: Exception) -> str:
    from huggingface_hub import errors

    if isinstance(error, errors.LocalEntryNotFoundError):
        return "it is not in the hub's cache and the hub cannot be reached"
    if isinstance(error, errors.RevisionNotFoundError):
        return "the repository has no such revision"
    if isinstance(error, errors.EntryNotFoundError):
        return "the repository has no such file"
    if isinstance(error, errors.RepositoryNotFoundError):
        return "the hub shows no such repository (for a private one set HF_TOKEN)"
    return " ".join(str(error).split()) or type(error).__name__
