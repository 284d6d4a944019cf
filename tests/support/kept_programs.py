"""Compiled programs that one run of the tests keeps for the next."""

from pathlib import Path

from filelock import FileLock

from jaxrecon.program_cache import mark_sound, remove_unsound


def sweep(folder: Path) -> None:
    """Removes programs of which a run that was ended wrote a part, or that have changed since.

    JAX warns of such a one each time that it looks for it, and never replaces it. The lock is
    JAX's own: meanwhile no other run writes one.
    """
    if folder.is_dir():
        with FileLock(folder / ".lockfile"):
            mark_sound(folder)
            remove_unsound(folder)
