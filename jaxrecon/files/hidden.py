"""Names of hidden files and folders, within what a file system allows."""

import hashlib
from pathlib import Path

LONGEST_NAME = 255
"""Bytes of a name on the usual file systems (Linux counts UTF-8; others allow at least as much)."""


def hidden_beside(path: Path, suffix: str) -> Path:
    """`.NAME` and the suffix beside a path; the name is cut where the whole would be too long."""
    return path.with_name(f".{shortened(path.name, LONGEST_NAME - 1 - len(suffix))}{suffix}")


def shortened(name: str, most: int) -> str:
    """A name of at most `most` bytes: as it is, or cut between characters, `~` and a digest of it.

    Different names stay different.
    """
    data = name.encode("utf-8", "surrogateescape")
    if len(data) <= most:
        return name
    told = hashlib.sha256(data).hexdigest()[:8]
    return data[: most - 1 - len(told)].decode("utf-8", "ignore") + f"~{told}"
