"""Where weights lie on this machine, and how upstream's reach it."""

import os
from pathlib import Path

from jaxrecon.errors import WeightsError


def cache_folder() -> Path:
    """`$JAXRECON_HOME`, else `jaxrecon` in the user's cache folder (`$XDG_CACHE_HOME`)."""
    home = os.environ.get("JAXRECON_HOME")
    if home:
        return Path(home).expanduser()
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "jaxrecon"


def fetch(repo: str, filename: str, *, revision: str | None, way_out: str) -> Path:
    """The path of a file of a Hugging Face repository, downloaded unless it is in the hub's cache.

    `HF_HUB_OFFLINE`, `HF_HOME`, `HF_ENDPOINT` and `HF_TOKEN` are honoured.

    Args:
      repo: `owner/name`.
      filename: path inside the repository.
      revision: branch, tag or commit; the main branch if None.
      way_out: what the user can do where nothing can be downloaded; ends the error's line.

    Raises:
      WeightsError: the file is neither cached nor can it be downloaded.
    """
    import httpx
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    what = f"{repo}/{filename}" + (f" (revision {revision})" if revision else "")
    try:
        return Path(hf_hub_download(repo, filename, revision=revision))
    except LocalEntryNotFoundError as error:
        reason = "it is not in the hub's cache and the hub cannot be reached"
        raise WeightsError(f"cannot get {what}: {reason}; {way_out}") from error
    except (HfHubHTTPError, HFValidationError, httpx.HTTPError, OSError) as error:
        reason = str(error).strip().splitlines()[0]
        raise WeightsError(f"cannot get {what}: {reason}; {way_out}") from error
