"""Imports point down: see docs/architecture.md."""

import ast
from pathlib import Path

import pytest

from places import ROOT

# Rooms from the ground up. A file may import rooms of lower floors, and rooms listed earlier on
# its own floor. Entry points are on top.
FLOORS = (
    (
        "jaxrecon.version",
        "jaxrecon.choices",
        "jaxrecon.environment",
        "jaxrecon.deprecation",
        "jaxrecon.renamed_modules",
        "jaxrecon.errors",
        "jaxrecon.forgiving",
        "jaxrecon.answers",
        "jaxrecon.extras",
        "jaxrecon.machine",
        "jaxrecon.browsing",
        "jaxrecon.visitors",
        "jaxrecon.checks",
        "jaxrecon.reading",
        "jaxrecon.files",
        "jaxrecon.forking",
        "jaxrecon.program_cache",
        "jaxrecon.compiling",
        "jaxrecon.progress",
        "jaxrecon.pytree",
        "jaxrecon.sizes",
        "jaxrecon.structured",
        "pallas_kernels",
        "convert",
    ),
    (
        "jaxrecon.geometry",
        "jaxrecon.scenes",
        "jaxrecon.images",
        "jaxrecon.formats",
        "jaxrecon.priors",
        "jaxrecon.reconstruction",
        "jaxrecon.bundle_adjustment",
        "jaxrecon.nn",
        "jaxrecon.sparse",
    ),
    ("jaxrecon.models",),
    (
        "jaxrecon.runtime",
        "jaxrecon.pipeline",
        "jaxrecon.checkpoint",
        "jaxrecon.hub",
        "jaxrecon.registry",
        "jaxrecon.plan",
        "jaxrecon.benchmark",
        "jaxrecon.calibration",
        "jaxrecon.peers",
        "jaxrecon.aot",
        "jaxrecon.evaluation",
        "jaxrecon.training",
        "jaxrecon.serving",
    ),
    ("jaxrecon.cli", "jaxrecon.__main__", "convert.__main__", "jaxrecon"),
)
ROOMS = [
    (room, (floor, place)) for floor, rooms in enumerate(FLOORS) for place, room in enumerate(rooms)
]
PACKAGES = ("jaxrecon", "pallas_kernels", "convert")
FILES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))


def room_of(module: str) -> str:
    """The room with the longest name that contains the module."""
    rooms = [room for room, _ in ROOMS if module == room or module.startswith(f"{room}.")]
    inside = [room for room in rooms if room != "jaxrecon" or module == "jaxrecon"]
    assert inside, f"{module} is in no room: add it to FLOORS and to docs/architecture.md"
    return max(inside, key=len)


def module_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def imports_of(path: Path) -> set[str]:
    """Modules of this project that a file imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: relative imports hide the room"
            base = node.module or ""
            found |= {base if _is_file(base) else f"{base}.{alias.name}" for alias in node.names}
    return {name for name in found if name.split(".")[0] in PACKAGES}


def _is_file(module: str) -> bool:
    """Whether `from module import name` names something inside a file, not a submodule."""
    return module.split(".")[0] not in PACKAGES or module not in PACKAGES


def order_of(room: str) -> tuple[int, int]:
    return dict(ROOMS)[room]


@pytest.mark.parametrize("path", FILES, ids=lambda path: module_of(path))
def test_imports_point_down(path: Path) -> None:
    here = room_of(module_of(path))
    for name in imports_of(path):
        there = room_of(name)
        allowed = here == there or order_of(there) < order_of(here)
        assert allowed, f"{module_of(path)} imports {name}: {there} is not below {here}"


def test_the_rule_catches_an_upward_arrow() -> None:
    assert order_of(room_of("jaxrecon.models.pi3.model")) > order_of(room_of("jaxrecon.nn.block"))
    assert order_of(room_of("jaxrecon.cli")) > order_of(room_of("jaxrecon.registry"))


def test_geometry_knows_neither_layers_nor_models() -> None:
    for path in (ROOT / "jaxrecon" / "geometry").rglob("*.py"):
        assert not [name for name in imports_of(path) if ".nn" in name or ".models" in name]
