"""Variables of the environment: one place knows them, and misspelt ones do not go unnoticed."""

import re
import warnings
from pathlib import Path

import pytest

from jaxrecon import InputError, environment, load, load_exported
from jaxrecon.cli import main
from jaxrecon.program_cache import programs_wanted
from places import ROOT

PACKAGES = ("jaxrecon", "pallas_kernels", "convert")
NAME = re.compile(r"JAXRECON_[A-Z_]*[A-Z]")


@pytest.fixture(autouse=True)
def nothing_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment, "_told", set())
    for name in environment.VARIABLES:
        monkeypatch.delenv(name, raising=False)


def test_one_place_knows_them() -> None:
    for package in PACKAGES:
        for path in (ROOT / package).rglob("*.py"):
            knows = '"JAXRECON_' in path.read_text()
            assert knows == (path.name == "environment.py"), path


def test_the_documentation_has_each_and_no_other() -> None:
    pages = "".join(path.read_text() for path in (ROOT / "docs").glob("*.md"))
    assert set(NAME.findall(pages)) == set(environment.VARIABLES)


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("JAXRECON_HOMES", "HOME"),
        ("JAXRECON_KEEP_PROGRAM", "KEEP_PROGRAMS"),
        ("JAXRECON_KEEPPROGRAMS", "KEEP_PROGRAMS"),
        ("jaxrecon_details", "DETAILS"),
        ("JAX_RECON_TOKEN", "TOKEN"),
        ("JAXRECON_NO_TRITON", "WITHOUT_TRITON"),
    ],
)
def test_a_misspelt_one_gets_the_nearest(name: str, nearest: str) -> None:
    (line,) = environment.doubts({name: "secret"})
    assert line == (
        f"the variable {name} of the environment is not read; did you mean JAXRECON_{nearest}?"
    )


def test_one_that_is_near_to_none_gets_them_all() -> None:
    (line,) = environment.doubts({"JAXRECON_CACHE": "x"})
    assert all(name in line for name in environment.VARIABLES)


def test_what_is_right_or_of_others_gets_nothing() -> None:
    ours = dict.fromkeys(environment.VARIABLES, "1")
    assert not list(environment.doubts(ours | {"JAX_PLATFORMS": "cpu", "PATH": "", "HOME": "x"}))


@pytest.mark.parametrize(
    ("value", "expected"),
    [("0", False), ("false", False), ("No", False), ("off", False), ("1", True), ("yes", True)],
)
@pytest.mark.parametrize("usually", [True, False])
def test_switches(
    value: str, expected: bool, usually: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in environment.SWITCHES:
        assert environment.is_on(name, usually=usually) is usually
        monkeypatch.setenv(name, value)
        assert environment.is_on(name, usually=usually) is expected
    assert programs_wanted() is expected
    assert not list(environment.doubts(dict.fromkeys(environment.SWITCHES, value)))


def test_a_switch_that_is_neither_on_nor_off() -> None:
    (line,) = environment.doubts({environment.KEEP_PROGRAMS: "never"})
    assert line == "JAXRECON_KEEP_PROGRAMS='never' in the environment counts as on; give 1 or 0"


def test_the_command_line_says_so_in_a_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setenv("JAXRECON_HOEM", "x")
    for expected in (1, 0):  # once a process
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            main(["models", "--json"])
        lines = [line for line in capsys.readouterr().err.splitlines() if "HOEM" in line]
        assert len(lines) == expected
        assert all(line.startswith("jaxrecon: the variable JAXRECON_HOEM") for line in lines)


@pytest.mark.parametrize("call", [load, load_exported])
def test_python_warns_whoever_loads(
    call: object, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("JAXRECON_HOEM", "x")
    assert callable(call)
    with (
        pytest.warns(UserWarning, match="JAXRECON_HOEM") as told,
        pytest.raises(InputError),
    ):
        call(tmp_path / "nowhere")
    package = str(ROOT / "jaxrecon")
    assert not any(warning.filename.startswith(package) for warning in told), "names the caller"
