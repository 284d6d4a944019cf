"""Names of the release before."""

import importlib
import sys

import pytest

from jaxrecon.renamed_modules import RENAMED


@pytest.mark.parametrize(
    ("old", "new"),
    [*RENAMED.items(), ("jaxrecon.exported.record", "jaxrecon.aot.record")],
)
def test_old_names_warn_and_work(old: str, new: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name == old or name.startswith(f"{old}.")]:
        monkeypatch.delitem(sys.modules, name)
    with pytest.warns(DeprecationWarning, match=f"{old} is called {new} now"):
        module = importlib.import_module(old)
    public = [name for name in vars(importlib.import_module(new)) if not name.startswith("_")]
    assert public
    assert all(getattr(module, name) is getattr(sys.modules[new], name) for name in public)


def test_other_names_are_not_found() -> None:
    with pytest.raises(ModuleNotFoundError, match=r"jaxrecon\.exports"):
        importlib.import_module("jaxrecon.exports")
