"""Folders that are made on the way to another, and go again if nothing came to be in them."""

import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path


def make_folders(folder: Path) -> list[Path]:
    """Makes a folder and those above it; returns the ones that were not there, innermost first.

    Raises:
      OSError: one cannot be made.
    """
    missing, above = [], folder
    while not os.path.lexists(above):
        missing.append(above)
        above = above.parent
    folder.mkdir(parents=True, exist_ok=True)
    return missing


def remove_empty(folders: Iterable[Path]) -> None:
    """Removes those that are empty."""
    for folder in folders:
        with suppress(OSError):
            folder.rmdir()
