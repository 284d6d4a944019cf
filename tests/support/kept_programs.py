"""Compiled programs that one run of the tests keeps for the next."""

from pathlib import Path

import pytest
from filelock import FileLock

from jaxrecon.program_cache import mark_sound, remove_unsound


def sweep(folder: Path, most: int) -> None:
    """Removes programs of which a run that was ended wrote a part, or that have changed since.

    JAX warns of such a one each time that it looks for it, and never replaces it. The lock is
    JAX's own: meanwhile no other run writes one.

    Args:
      most: bytes that may stay; of more, what has not been used for longest goes too.
    """
    if folder.is_dir():
        with FileLock(folder / ".lockfile"):
            mark_sound(folder)
            remove_unsound(folder)
            _keep(folder, most)


def write_without_looking_through(patch: pytest.MonkeyPatch) -> None:
    """JAX no longer weighs the whole cache before each program that it writes; `sweep` has.

    With a thousand programs in it that takes longer than to compile the smallest of them.
    """
    name = "jax._src.lru_cache.LRUCache._evict_if_needed"
    patch.setattr(name, lambda *_, **__: None, raising=False)  # JAX's own: it may go


def _keep(folder: Path, most: int) -> None:
    for entry in sorted(folder.glob("*-cache"), key=_last_used, reverse=True):
        most -= entry.stat().st_size
        if most < 0:
            entry.unlink()


def _last_used(entry: Path) -> int:
    told = entry.with_name(f"{entry.name.removesuffix('cache')}atime")
    return told.stat().st_mtime_ns if told.exists() else 0
