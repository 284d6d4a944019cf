"""The model on the command line: first, or behind `-m`; the same for every command."""

import argparse
import subprocess
import sys
from pathlib import Path

import pytest

from jaxrecon.cli import common, main
from jaxrecon.cli.commands import _parser

FIRST = {
    "evaluate": [],
    "bench": [],
    "compile": ["-o", "out", "--views", "2", "--size", "56x42"],
    "plan": ["--views", "2", "--size", "56x42"],
    "convert": ["absent.safetensors", "-o", "out"],
}
"""Commands that take a model first, and what else they need."""


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The one line by which a command is refused."""
    assert main(arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("jaxrecon: ")
    assert err.count("\n") == 1
    return err


@pytest.mark.parametrize("command", FIRST)
@pytest.mark.parametrize(
    "named", [["pi3-mni"], ["-m", "pi3-mni"], ["--model", "pi3-mni"], ["pi3-mni", "-m", "pi3-mni"]]
)
def test_first_or_by_the_option(
    command: str,
    named: list[str],
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("JAXRECON_HOME", str(tmp_path / "home"))
    assert "did you mean pi3-mini?" in refused(capsys, command, *named, *FIRST[command])


@pytest.mark.parametrize("command", FIRST)
def test_two_models(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    told = refused(capsys, command, "pi3", *FIRST[command], "-m", "vggt")
    assert told.endswith("found the model pi3 and -m vggt; leave one of them out\n")


@pytest.mark.parametrize("command", ["evaluate", "bench", "compile"])
def test_no_model(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    told = refused(capsys, command, *FIRST[command])
    assert "no model is named; give a model's name (jaxrecon models)" in told


def test_the_plan_has_a_default() -> None:
    options = _parser().parse_args(["plan", *FIRST["plan"]])
    common.settle_model(options, common.DEFAULT_MODEL)
    assert options.model == "pi3"


@pytest.mark.parametrize(
    "words",
    [
        ["pi3", "a.pt", "-o", "out"],
        ["pi3", "-o", "out", "a.pt"],
        ["-o", "out", "pi3", "a.pt"],
        ["-m", "pi3", "a.pt", "-o", "out"],
        ["a.pt", "-o", "out", "-m", "pi3"],
        ["-m", "pi3", "pi3", "a.pt", "-o", "out"],
    ],
)
def test_convert_tells_the_model_from_the_file(words: list[str]) -> None:
    options = _parser().parse_args(["convert", *words])
    common.settle_model_and_weights(options)
    assert (options.model, options.weights, options.output) == ("pi3", "a.pt", "out")


@pytest.mark.parametrize("words", [["pi3"], ["-m", "pi3"]])
def test_convert_without_a_file(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    told = refused(capsys, "convert", *words, "-o", "out")
    assert told.endswith("convert pi3: no weights are named; give the model, then the file\n")


def test_convert_without_anything(capsys: pytest.CaptureFixture[str]) -> None:
    assert "no model is named" in refused(capsys, "convert", "-o", "out")


def test_the_help_of_both(capsys: pytest.CaptureFixture[str]) -> None:
    for command in FIRST:
        with pytest.raises(SystemExit):
            main([command, "--help"])
        told = capsys.readouterr().out
        assert "[-m NAME]" in told
        assert "[model]" in told


def test_photos_are_no_model(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    absent = str(tmp_path / "absent")
    told = refused(capsys, "reconstruct", absent, "-m", "pi3-mini", "-o", str(tmp_path / "out"))
    assert absent in told


@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_the_shell_completes_models_with_files(shell: str) -> None:
    pytest.importorskip("shtab", reason="needs shtab")
    script = subprocess.run(
        [sys.executable, "-m", "jaxrecon", "--print-completion", shell],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    for option in ("--model", "--dataset"):
        assert option in script
    assert "--set," not in script and argparse.SUPPRESS not in script
    if shell == "bash":
        assert "_shtab_jaxrecon_bench__m_COMPGEN=_shtab_compgen_files" in script
        assert "_shtab_jaxrecon_bench_pos_0_COMPGEN=_shtab_compgen_files" in script


@pytest.mark.parametrize(
    "words",
    [
        ["pi3", "a.jpg", "b.jpg"],
        ["-m", "pi3", "a.jpg", "b.jpg"],
        ["a.jpg", "b.jpg", "-m", "pi3"],
        ["a.jpg", "b.jpg", "-o", "x.json", "-m", "pi3"],
    ],
)
def test_calibrate_tells_the_model_from_the_photos(words: list[str]) -> None:
    options = _parser().parse_args(["calibrate", "-o", "budgets.json", *words])
    common.settle_model_and_images(options)
    assert (options.model, options.images) == ("pi3", ["a.jpg", "b.jpg"])


def test_calibrate_of_photos_alone(capsys: pytest.CaptureFixture[str]) -> None:
    assert "no model is named" in refused(capsys, "calibrate", "a.jpg", "-o", "budgets.json")
