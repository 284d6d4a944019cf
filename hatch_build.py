"""Packages the folder `convert/` inside the wheel as `jaxrecon._convert`.

A checkout has it as the top-level package `convert`, which is no name to install into everybody's
environment. So the wheel holds it under a name of ours, and what imports it imports it from there.
It holds the scene of `jaxrecon demo` too, which lies among the examples of a checkout.
"""

import ast
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

FOLDER = "convert"
PACKAGED = "jaxrecon._convert"
SCENE, PACKAGED_SCENE = "examples/scene", "jaxrecon/_demo_scene"
PACKAGES = ("jaxrecon", FOLDER)


class PackagedConverter(BuildHookInterface):
    """The build hook; an editable installation sees the checkout as it is."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Adds the files that the wheel holds under another name, or with other imports."""
        if version == "editable":
            return
        for file in (Path(self.root) / SCENE).rglob("*"):
            if file.is_file():
                place = f"{PACKAGED_SCENE}/{file.relative_to(Path(self.root) / SCENE).as_posix()}"
                build_data["force_include"][str(file)] = place
        self.scratch = tempfile.TemporaryDirectory()
        for number, (place, code) in enumerate(repackaged(Path(self.root))):
            file = Path(self.scratch.name, f"{number}.py")
            file.write_text(code, encoding="utf-8")
            build_data["force_include"][str(file)] = place

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        """Removes them."""
        if version != "editable":
            self.scratch.cleanup()


def repackaged(root: Path) -> Iterator[tuple[str, str]]:
    """Path in the wheel and code of each file that differs from the checkout's."""
    for package in PACKAGES:
        for file in sorted((root / package).rglob("*.py")):
            code = file.read_text(encoding="utf-8")
            changed = with_packaged_imports(code, str(file))
            place = file.relative_to(root).as_posix()
            if package == FOLDER:
                yield place.replace(FOLDER, PACKAGED.replace(".", "/"), 1), changed
            elif changed != code:
                yield place, changed


def with_packaged_imports(code: str, label: str) -> str:
    """The code, with `from convert... import ...` turned to where the wheel has it.

    Raises:
      ValueError: it imports the package in another way.
    """
    lines = code.splitlines(keepends=True)
    for node in ast.walk(ast.parse(code, label)):
        if isinstance(node, ast.Import) and any(_is_ours(alias.name) for alias in node.names):
            raise ValueError(f"{label}:{node.lineno}: write `from {FOLDER}... import ...`")
        if isinstance(node, ast.ImportFrom) and not node.level and _is_ours(node.module or ""):
            row = node.lineno - 1
            lines[row] = lines[row].replace(f"from {FOLDER}", f"from {PACKAGED}", 1)
    return "".join(lines)


def _is_ours(module: str) -> bool:
    return module.split(".")[0] == FOLDER
