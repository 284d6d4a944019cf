"""What `view` and `report` read of large and broken sequences."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import oracle
from jaxrecon.cli import main, results, view
from jaxrecon.formats import Scene
from oracle import film


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sequence of two segments, of 8 and of 13 views."""
    out = tmp_path_factory.mktemp("results") / "out"
    pixels = film(21, places=np.repeat([1, 2], [8, 13]))
    oracle.oracle().reconstruct_sequence(pixels, out, chunk=6, allow_gaps=True)
    return out


def test_the_longest_segment_is_read(folder: Path) -> None:
    path, scene, left_out = results.read_result(str(folder))
    assert path == folder and isinstance(scene, Scene)
    assert scene.names == tuple(f"view_{view:04d}" for view in range(8, 21))
    assert left_out == "the longest of 2 segments, each a world of its own"


def test_of_many_views_some_are_read(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(results, "MOST_VIEWS", 4)
    _, scene, left_out = results.read_result(str(folder))
    assert isinstance(scene, Scene)
    assert scene.names == ("view_0008", "view_0012", "view_0016", "view_0020")
    assert left_out.endswith(", 4 of 13 views")


def test_the_commands_say_what_was_left_out(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    page = tmp_path / "a.html"
    assert main(["report", str(folder), "-o", str(page), "--no-open"]) == 0
    told = capsys.readouterr().out
    assert told == f"wrote {page} (the longest of 2 segments, each a world of its own)\n"


def test_view_of_a_folder_is_the_command_without_options(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Any] = []
    monkeypatch.setattr(view, "serve_until_stopped", lambda *given: seen.append(given))
    view.show_folder(str(folder))
    ((content, name, options),) = seen
    assert len(content.names) == 13
    assert name.startswith(f"{folder} (the longest of 2 ")
    assert (options.host, options.port, options.no_open) == ("localhost", 8080, False)
