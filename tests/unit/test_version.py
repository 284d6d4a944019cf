"""One version, wherever it is stated."""

import re

import pytest

import jaxrecon
from jaxrecon.cli import main
from places import ROOT


def test_the_command_line_prints_it(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--version"])
    assert ended.value.code == 0
    assert capsys.readouterr().out == f"jaxrecon {jaxrecon.__version__}\n"


def test_the_citation_states_it() -> None:
    (stated,) = re.findall(r"(?m)^version: (.+)$", (ROOT / "CITATION.cff").read_text())
    assert stated == jaxrecon.__version__


def test_the_package_takes_it_from_one_place() -> None:
    project = (ROOT / "pyproject.toml").read_text()
    assert 'dynamic = ["version"]' in project
    assert 'path = "jaxrecon/version.py"' in project
    assert not re.search(r"(?m)^version = ", project)
