"""Modules under the names of the release before, which can be imported for one release more."""

import importlib
import sys
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

from jaxrecon.deprecation import warn_renamed

RENAMED = {
    "jaxrecon.conditions": "jaxrecon.priors",
    "jaxrecon.export": "jaxrecon.formats",
    "jaxrecon.exported": "jaxrecon.aot",
    "jaxrecon.memory": "jaxrecon.runtime.memory",
    "jaxrecon.sharding": "jaxrecon.runtime.sharding",
}
"""New names by the old ones, which name the modules below them, too."""


class RenamedModules:
    """A finder and loader of `sys.meta_path`: an old name stands for the module of the new one."""

    def find_spec(
        self, name: str, path: Any = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """A spec for an old name."""
        return ModuleSpec(name, self, is_package=True) if _new_name(name) else None  # pyright: ignore[reportArgumentType]

    def create_module(self, spec: ModuleSpec) -> None:
        """An empty module, as by default."""

    def exec_module(self, module: ModuleType) -> None:
        """Gives the module what the new one has."""
        new = _new_name(module.__name__)
        assert new is not None
        warn_renamed(module.__name__, new, stacklevel=3)
        found = importlib.import_module(new)
        module.__getattr__ = lambda name: getattr(found, name)  # type: ignore[method-assign]


def install() -> None:
    """Makes the old names known, once."""
    if not any(isinstance(finder, RenamedModules) for finder in sys.meta_path):
        sys.meta_path.append(RenamedModules())  # pyright: ignore[reportArgumentType]


def _new_name(name: str) -> str | None:
    for old, new in RENAMED.items():
        if name == old or name.startswith(f"{old}."):
            return new + name.removeprefix(old)
    return None
