"""Pages of documentation: their links, anchors and code blocks."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from places import ROOT

DOCS = ROOT / "docs"
PAGES = sorted((*ROOT.glob("*.md"), *DOCS.rglob("*.md")))

_BLOCK = re.compile(r"^( *)```(\w*)\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)
_NOT_RUN = re.compile(r"<!-- not run: (.+?) -->\n$")
_HEADING = re.compile(r"^#{1,6} +(.+)$", re.MULTILINE)
_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")


@dataclass(frozen=True)
class Block:
    """A fenced block of code.

    Attributes:
      language: as its fence names it.
      text: what it holds.
      line: the number of the line after its fence.
      not_run: why it cannot run in a test, as the comment before it says; None if it can.
    """

    language: str
    text: str
    line: int
    not_run: str | None = None


def blocks(page: Path) -> Iterator[Block]:
    """The blocks of code of a page, in their order."""
    text = page.read_text()
    for match in _BLOCK.finditer(text):
        before = text[: match.start()]
        reason = _NOT_RUN.search(before)
        line = before.count("\n") + 2
        yield Block(match[2], match[3], line, reason[1] if reason else None)


def prose(page: Path) -> str:
    """A page without its code."""
    return re.sub(r"`[^`\n]*`", "", _BLOCK.sub("", page.read_text()))


def links(page: Path) -> list[str]:
    """Targets of the links and pictures of a page, without those on the web."""
    found = _LINK.findall(prose(page))
    return [target for target in found if not re.match(r"[a-z]+:", target)]


def anchors(page: Path) -> set[str]:
    """Anchors of a page's headings, as GitHub and the built pages name them."""
    headings = _HEADING.findall(_BLOCK.sub("", page.read_text()))
    plain = [
        re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).replace("`", "") for heading in headings
    ]
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in plain}
