"""Names of the release before, which work for one release more."""

import warnings
from collections.abc import Callable, Mapping
from functools import wraps
from importlib import import_module


def warn_renamed(old: str, new: str, *, stacklevel: int = 4) -> None:
    """Warns of an old name, by default whoever makes the dataclass that checks its fields."""
    warnings.warn(
        f"{old} is called {new} now; the old name goes with the next release",
        DeprecationWarning,
        stacklevel=stacklevel,
    )


def moved_names(module: str, homes: Mapping[str, str]) -> Callable[[str], object]:
    """A module's `__getattr__` for names that it had before.

    Args:
      module: the name of the module.
      homes: the module that has each name now, under the name itself or, behind a colon, another.
    """

    def find(name: str) -> object:
        if name not in homes:
            raise AttributeError(f"module {module!r} has no attribute {name!r}")
        home, _, new = homes[name].partition(":")
        warnings.warn(
            f"{module}.{name} is {home}.{new or name} now; the old name goes with the next release",
            DeprecationWarning,
            stacklevel=2,
        )
        return getattr(import_module(home), new or name)

    return find


def renamed_keyword[**P, R](old: str, new: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """A decorator of functions that take a keyword under a new name: the old one works, too."""

    def decorated(function: Callable[P, R]) -> Callable[P, R]:
        @wraps(function)
        def run(*arguments: P.args, **keywords: P.kwargs) -> R:
            if old in keywords:
                warn_renamed(old, new, stacklevel=3)
                keywords[new] = keywords.pop(old)
            return function(*arguments, **keywords)

        return run

    return decorated
