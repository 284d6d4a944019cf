"""`jaxrecon train`: what it hands to the training run, and what it refuses before it starts."""

import json
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from jaxrecon import checkpoint, registry, training
from jaxrecon.cli import main
from jaxrecon.models import PI3, PI3_MINI, Pi3Config

Run = Callable[..., tuple[int, str, str]]

PLAIN = replace(PI3_MINI, refine_width=0, filter_width=0)


@pytest.fixture
def given(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What the command hands to a run that is not made; the run ends if `weights` is set."""
    seen: dict[str, Any] = {"weights": None}

    def train(config: training.TrainConfig, folder: Path, **options: Any) -> Path | None:
        seen.update(options, config=config, folder=folder)
        return seen["weights"]

    monkeypatch.setattr(training, "train", train)
    return seen


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Exit code, standard output and standard error of one command."""

    def command(*arguments: str | Path) -> tuple[int, str, str]:
        code = main(["train", *(str(argument) for argument in arguments)])
        out, err = capsys.readouterr()
        return code, out, err

    return command


def test_defaults(run: Run, given: dict[str, Any], tmp_path: Path) -> None:
    assert run("-o", tmp_path / "run") == (0, "", "")
    assert given["config"] == training.MINI
    assert given["folder"] == tmp_path / "run"
    assert (given["init"], given["stop_after"], given["stages"].quiet) == (None, None, False)


def test_the_weights_are_named(run: Run, given: dict[str, Any], tmp_path: Path) -> None:
    given["weights"] = tmp_path / "run" / "weights"
    assert run("-o", tmp_path / "run") == (0, f"wrote {tmp_path}/run/weights\n", "")
    assert run("-o", tmp_path / "run", "-q") == (0, "", "")
    assert given["stages"].quiet


def test_fields_of_the_config(run: Run, given: dict[str, Any], tmp_path: Path) -> None:
    run("-o", tmp_path, "--set", "learning_rate=5e-4", "losses.points=2", "--steps", "7000")
    changed = {
        "learning_rate": 5e-4,
        "losses": asdict(training.MINI.losses) | {"points": 2.0},
        "steps": 7000,
    }
    assert asdict(given["config"]) == asdict(training.MINI) | changed


def test_config_from_a_file(run: Run, given: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "mine.json"
    path.write_text(json.dumps({"steps": 9000, "seed": 3}))
    run("-o", tmp_path / "run", "--config", path, "--set", "seed=4")
    assert asdict(given["config"]) == asdict(training.MINI) | {"steps": 9000, "seed": 4}


def test_weights_to_start_from(run: Run, given: dict[str, Any], tmp_path: Path) -> None:
    run("-o", tmp_path / "run", "--init", tmp_path / "weights", "--stop-after", "60")
    assert (given["init"], given["stop_after"]) == (tmp_path / "weights", 60.0)


def test_pictures_for_the_surfaces(run: Run, given: dict[str, Any], tmp_path: Path) -> None:
    run("-o", tmp_path / "run", "--config", "mini-real", "--textures", tmp_path / "pictures")
    assert given["config"] == training.MINI_REAL
    assert given["textures"] == str(tmp_path / "pictures")


def test_a_model_to_start_from(
    run: Run, given: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registry, "native_folder", lambda entry: tmp_path / entry.name)
    run("-o", tmp_path / "run", "--init", "pi3-mini")
    assert given["init"] == tmp_path / "pi3-mini"


def test_lists_that_are_given_twice_are_joined(
    run: Run, given: dict[str, Any], tmp_path: Path
) -> None:
    changes = ("--set", "steps=4000", "--set", "seed=7", "learning_rate=1e-4")
    assert run("-o", tmp_path / "run", *changes, "--data", "a", "--data", "b")[0] == 0
    wanted = replace(training.FINE_TUNING, steps=4000, seed=7, learning_rate=1e-4)
    assert (given["config"], given["data"]) == (wanted, ["a", "b"])


def test_own_scenes(run: Run, given: dict[str, Any], tmp_path: Path) -> None:
    options = ("--data", "a", "b", "--data-share", "0.25", "--data-held-out", "8")
    assert run("-o", tmp_path / "run", *options)[0] == 0
    assert given["data"] == ["a", "b"]
    changed = {"data_share": 0.25, "data_held_out": 8}
    assert asdict(given["config"]) == asdict(training.FINE_TUNING) | changed
    assert run("-o", tmp_path / "run", "--config", "mini", "--data", "a")[0] == 0
    assert given["config"] == training.MINI


def test_the_config_has_the_sizes_of_the_weights_to_start_from(
    run: Run, given: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registry, "native_folder", lambda entry: tmp_path / entry.name)
    assert run("-o", tmp_path / "run", "--init", "pi3", "--data", "a")[0] == 0
    assert given["config"] == replace(training.FINE_TUNING, model=PI3)
    assert given["init"] == tmp_path / "pi3"
    run("-o", tmp_path / "run", "--config", "mini-fine", "--init", "pi3-mini")
    assert given["config"] == replace(training.CONFIGS["mini-fine"], model=PI3_MINI)
    code, _, err = run("-o", tmp_path / "run", "--init", "vggt")
    assert (code, err) == (
        2,
        "jaxrecon: --init: vggt is neither a π³ nor a MapAnything, and no other is trained\n",
    )


@pytest.mark.parametrize(
    ("stored", "expected"),
    [
        (PLAIN, PI3_MINI),
        (replace(PI3_MINI, filter_width=0), PI3_MINI),
        (replace(PI3_MINI, refine_width=8), replace(PI3_MINI, refine_width=8)),
        (replace(PLAIN, refine_width=8), replace(PLAIN, refine_width=8)),
        (replace(PLAIN, pairs=5), replace(PLAIN, pairs=5)),
    ],
)
def test_a_refiner_and_a_filter_are_added_to_what_is_else_the_same(
    stored: Pi3Config, expected: Pi3Config, run: Run, given: dict[str, Any], tmp_path: Path
) -> None:
    header = {"family": "pi3", "model": "m", "license": "", "source": {}, "config": asdict(stored)}
    checkpoint.write(tmp_path / "init", [], {}, header)
    start = ("--config", "mini-edges", "--init", tmp_path / "init")
    assert run("-o", tmp_path / "run", *start)[0] == 0
    assert given["config"].model == expected


def test_a_run_goes_on_only_if_asked_to(run: Run, given: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "train.json").write_text("{}")
    assert run("-o", tmp_path) == (
        2,
        "",
        f"jaxrecon: {tmp_path} is not empty; add --resume to go on with its run, "
        "or choose another folder\n",
    )
    assert "config" not in given
    assert run("-o", tmp_path, "--resume")[0] == 0
    assert given["folder"] == tmp_path


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--set", "rate=1"], "--set: found 'rate=1'; give name=value, with a name out of model, "),
        (["--set", "seed"], "--set: found 'seed'; give name=value"),
        (["--set", "seed=x"], "--set: "),
        (["--config", "absent.json"], "cannot read absent.json: "),
    ],
)
def test_refusals(
    arguments: list[str], told: str, run: Run, given: dict[str, Any], tmp_path: Path
) -> None:
    code, out, err = run("-o", tmp_path / "run", *arguments)
    assert (code, out) == (2, "")
    assert err.startswith(f"jaxrecon: {told}")
    assert err.count("\n") == 1
    assert "config" not in given
    assert not (tmp_path / "run").exists()


def test_a_file_is_in_the_way(run: Run, given: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "run").write_text("kept")
    assert run("-o", tmp_path / "run", "--resume") == (
        2,
        "",
        f"jaxrecon: cannot write {tmp_path}/run: a file of that name exists; choose another name\n",
    )
