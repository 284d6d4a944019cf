"""Compiled programs kept on disk between processes, by JAX, and what is damaged of them.

JAX writes an entry straight to its place. One that cannot be read it reports each time and never
replaces. So a file beside each entry tells that it was written to its end and is as it was then;
others are removed before JAX looks for them.
"""

import atexit
import hashlib
import importlib
import os
import warnings
import zlib
from contextlib import suppress
from pathlib import Path

import jax

from jaxrecon.environment import KEEP_PROGRAMS, is_on
from jaxrecon.errors import OutputError
from jaxrecon.files import check_output_folder, replacing_file

_ENTRIES = "*-cache"
_ZSTANDARD = bytes.fromhex("28b52ffd")

_in_use: list[Path] = []


def programs_wanted() -> bool:
    """Whether the environment lets compiled programs be kept between processes."""
    return is_on(KEEP_PROGRAMS, usually=True)


def use_program_cache(folder: Path) -> bool:
    """Has JAX keep compiled programs in a folder, once what is damaged in it is removed.

    Returns:
      Whether it can be written; if not, nothing is kept.
    """
    try:
        check_output_folder(folder, overwrite=True)
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return False
    remove_unsound(folder)
    # A full disk costs time alone, and the next process finds the part of an entry.
    warnings.filterwarnings("ignore", message="Error writing persistent compilation cache entry")
    jax.config.update("jax_compilation_cache_dir", str(folder))
    if not _in_use:
        atexit.register(keep_sound)
    _in_use[:] = [folder]
    return True


def keep_sound() -> None:
    """Marks entries that this process has written as sound; removes those cut short."""
    for folder in _in_use:
        mark_sound(folder)


def mark_sound(folder: Path) -> None:
    """Marks entries that are not yet marked as sound; removes those cut short."""
    for entry in folder.glob(_ENTRIES):
        with suppress(OSError):
            if not _mark(entry).exists():
                _judge(entry)


def remove_unsound(folder: Path) -> None:
    """Removes the entries that are not as they were when they were marked, or never were."""
    for entry in folder.glob(_ENTRIES):
        with suppress(OSError):
            if not _is_marked(entry):
                entry.unlink()
    for mark in folder.glob(f"{_ENTRIES}.sound"):
        with suppress(OSError):
            if not mark.with_suffix("").exists():
                mark.unlink()


def _judge(entry: Path) -> None:
    state, data = os.stat(entry), entry.read_bytes()
    if not _can_be_read(data):
        entry.unlink()
        return
    text = f"{state.st_size} {state.st_mtime_ns} {hashlib.sha256(data).hexdigest()}\n"
    with suppress(OutputError), replacing_file(_mark(entry)) as temporary:
        temporary.write_text(text)


def _is_marked(entry: Path) -> bool:
    """Whether an entry has not changed; it is read only if its time has, as in a copy."""
    try:
        size, time, told = _mark(entry).read_text().split()
        state = os.stat(entry)
        if str(state.st_size) != size:
            return False
        same = str(state.st_mtime_ns) == time
        return same or hashlib.sha256(entry.read_bytes()).hexdigest() == told
    except (OSError, ValueError):
        return False


def _mark(entry: Path) -> Path:
    return entry.with_name(f"{entry.name}.sound")


def _can_be_read(data: bytes) -> bool:
    """Whether an entry, compressed as JAX does it, can be decompressed."""
    try:
        if data.startswith(_ZSTANDARD):
            importlib.import_module("zstandard").ZstdDecompressor().decompress(data)
        else:
            zlib.decompress(data)
    except Exception:  # the library's own kind, or the library is not there
        return False
    return True
