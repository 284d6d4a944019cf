"""The documentation: links and anchors exist, pages are listed, code runs, options exist."""

import re
import shlex
from collections import Counter
from pathlib import Path

import pytest

import jaxrecon
from jaxrecon.cli.commands import _parser
from jaxrecon.registry import MODELS, HubFile
from pages import DOCS, PAGES, anchors, blocks, links
from places import EXAMPLES, ROOT

FIRST_PAGES = (ROOT / "README.md", DOCS / "index.md")
REFERENCE = "\n".join(page.read_text() for page in (DOCS / "reference").glob("*.md"))
PYTHON = [(page, block) for page in PAGES for block in blocks(page) if block.language == "python"]
COMMANDS = [
    (page, line)
    for page in PAGES
    for block in blocks(page)
    for line in block.text.replace("\\\n", " ").splitlines()
    if line.startswith("jaxrecon ")
]


def place(page: Path, line: object) -> str:
    return f"{page.relative_to(ROOT)}:{line}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_and_anchors_lead_somewhere(page: Path) -> None:
    for link in links(page):
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), f"{link}: there is no {target}"
        if DOCS in page.parents:
            assert DOCS in target.parents, f"{link}: leads out of docs/, which the built pages hold"
        if anchor:
            assert anchor in anchors(target), f"{link}: {target.name} has no such heading"


def test_every_page_is_in_the_navigation_once() -> None:
    (nav,) = re.findall(r"(?ms)^nav:\n(.*?)^\S", (ROOT / "mkdocs.yml").read_text())
    listed = Counter(re.findall(r"[\w/-]+\.md", nav))
    assert listed == Counter(page.relative_to(DOCS).as_posix() for page in DOCS.rglob("*.md"))


@pytest.mark.parametrize("name", jaxrecon.__all__)
def test_every_public_name_is_in_the_reference(name: str) -> None:
    assert f"::: jaxrecon.{name}\n" in REFERENCE + "\n"


def test_tables_of_models_agree_with_the_registry() -> None:
    short, long = (ROOT / "README.md").read_text(), (DOCS / "models.md").read_text()
    for entry in MODELS.values():
        (row,) = re.findall(rf"(?m)^\| `{entry.name}` \|.*$", short)
        assert f"| {entry.parameters / 1e6:.1f} M |" in row
        (row,) = re.findall(rf"(?m)^\| `{entry.name}` \|.*$", long)
        assert f"| {entry.weights_licence} | {entry.code_licence} |" in row
        if isinstance(entry.source, HubFile):
            assert f"| `{entry.source.repo}` |" in row


@pytest.mark.parametrize(
    ("page", "block"),
    [
        pytest.param(page, block, marks=() if page in FIRST_PAGES else pytest.mark.thorough)
        for page, block in PYTHON
    ],
    ids=[place(page, block.line) for page, block in PYTHON],
)
def test_python_runs(page: Path, block, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = compile(block.text, place(page, block.line), "exec")
    if block.not_run:
        pytest.skip(block.not_run)
    (tmp_path / "scene").symlink_to(EXAMPLES / "scene")
    photos = sorted((EXAMPLES / "scene" / "images").iterdir())[:2]
    (tmp_path / "photos").mkdir()
    for photo in photos:
        (tmp_path / "photos" / photo.name).symlink_to(photo)
    monkeypatch.chdir(tmp_path)
    exec(code, {"__name__": "__main__"})


def test_only_blocks_that_need_more_than_this_machine_are_not_run() -> None:
    reasons = {block.not_run for _, block in PYTHON if block.not_run}
    assert all(reason.startswith("needs ") for reason in reasons)
    assert len(PYTHON) - sum(1 for _, block in PYTHON if block.not_run) >= 8


@pytest.mark.parametrize(
    ("page", "line"), COMMANDS, ids=[place(page, line[:60]) for page, line in COMMANDS]
)
def test_commands_have_these_options(page: Path, line: str) -> None:
    words = shlex.split(re.sub(r"[\[\]]", "", line), comments=True)
    assert _parser().parse_args(words[1:]).run
