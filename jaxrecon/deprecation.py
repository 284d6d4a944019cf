"""Names of the release before, which work for one release more."""

import warnings
from collections.abc import Callable, Mapping
from functools import wraps
from importlib import import_module
from typing import Any


def warn_renamed(old: str, new: str, *, stacklevel: int = 4) -> None:
    """Warns of an old name, by default whoever makes the dataclass that checks its fields."""
    warnings.warn(
        f"{old} is called {new} now; the old name goes with the next release",
        DeprecationWarning,
        stacklevel=stacklevel,
    )


def renamed_arguments[**P, R](**names: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Lets a function take keyword arguments under their old names, too: `old="new"`.

    Where both are given the old one counts: `dataclasses.replace` fills in all fields.
    """

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        @wraps(function)
        def taking_old_names(*args: P.args, **given: P.kwargs) -> R:
            renamed: dict[str, Any] = dict(given)
            for old in names.keys() & renamed.keys():
                warn_renamed(f"{function.__qualname__}({old}=)", f"{names[old]}=", stacklevel=3)
                renamed[names[old]] = renamed.pop(old)
            return function(*args, **renamed)  # pyright: ignore[reportCallIssue]

        return taking_old_names

    return decorate


def renamed_fields[C](**names: str) -> Callable[[type[C]], type[C]]:
    """Lets a dataclass be made with old names of its fields, and read by them: `old="new"`."""

    def reading(cls: type[C], old: str, new: str) -> property:
        def read(self: C) -> Any:
            warn_renamed(f"{cls.__name__}.{old}", new, stacklevel=3)
            return getattr(self, new)

        return property(read)

    def decorate(cls: type[C]) -> type[C]:
        cls.__init__ = renamed_arguments(**names)(cls.__init__)
        for old, new in names.items():
            setattr(cls, old, reading(cls, old, new))
        return cls

    return decorate


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
