"""`jaxrecon bench`: the table, the files, what is refused, and what an interrupt leaves."""

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import cast

import jax
import pytest
from jax.experimental.compilation_cache import compilation_cache
from PIL import Image

from jaxrecon import benchmark, registry
from jaxrecon.benchmark import Timing
from jaxrecon.cli import main
from jaxrecon.errors import InputError
from jaxrecon.registry import ModelEntry, fetching
from jaxrecon.runtime.memory import MemoryNeeds
from tiny_models import tiny_entry

SMALL = ("--size", "42x28", "--repeats", "1")

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Run]:
    """Exit code, standard output and standard error of one command; JAX's settings are put back."""
    monkeypatch.setenv("JAXRECON_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("JAXRECON_KEEP_PROGRAMS", "0")
    before = jax.config.jax_compilation_cache_dir
    compilation_cache.reset_cache()

    def command(*arguments: str | Path) -> tuple[int, str, str]:
        code = main(["bench", *(str(argument) for argument in arguments)])
        out, err = capsys.readouterr()
        return code, out, err

    yield command
    assert jax.config.jax_compilation_cache_dir == before
    compilation_cache.reset_cache()


def faked(*found: Timing | BaseException) -> Callable[..., Timing]:
    """What measures in turn these."""
    rest = iter(found)

    def measure(*arguments: object, **options: object) -> Timing:
        timing = next(rest)
        if isinstance(timing, BaseException):
            raise timing
        return timing

    return measure


def test_the_table_and_the_files(run: Run, native: str, tmp_path: Path) -> None:
    files = tmp_path / "out" / "bench.json", tmp_path / "bench.png"
    code, table, err = run(
        *(native, "--views", "2", "2", "--ways", "dense", *SMALL, "-q"),
        *("--encoder", "--json", files[0], "--plot", files[1]),
    )
    assert (code, err) == (0, "")
    title, head, row = table.splitlines()
    assert title == "pi3, 42x28 pixels, float32, 1 x cpu; seconds, median of 1"
    assert head.split() == [
        *("views", "policy", "trace", "compile", "cached", "run", "encode"),
        *("images/s", "plan", "peak"),
    ]
    assert row.split()[:2] == ["2", "dense"]
    assert row.endswith("         -"), "a CPU tells no peak"

    told = json.loads(files[0].read_text())
    assert told["complete"]
    assert (told["model"], told["weights"], told["dtype"]) == ("pi3", "its own", "float32")
    assert (told["size"], told["device"], told["devices"]) == ([42, 28], "cpu", 1)
    assert told["jax"] == jax.__version__
    (row,) = told["rows"]
    seconds = row["seconds"]
    assert set(seconds) == {"trace", "compile", "cached", "run", "encode"}
    assert all(took > 0 for took in seconds.values())
    assert seconds["cached"] < seconds["compile"]
    assert row["images_per_second"] == pytest.approx(2 / seconds["run"])
    assert row["plan_bytes"] > 1e6
    assert (row["views"], row["policy"]) == (2, "dense")
    assert (row["peak_bytes"], row["note"]) == (None, None)
    with Image.open(files[1]) as plot:
        assert plot.format == "PNG"
    assert {path.name for path in tmp_path.iterdir()} <= {"home", "out", "bench.png"}


@pytest.mark.thorough
def test_weights_that_are_not_here_are_random(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(cast(dict[str, ModelEntry], registry.MODELS), "pi3", tiny_entry())
    monkeypatch.setattr(fetching, "fetch", faked(AssertionError("nothing is downloaded")))
    code, table, err = run("pi3", "--views", "2", "--ways", "0.5", *SMALL)
    assert code == 0
    assert re.fullmatch(r"draw random weights: \d+\.\d\d s\n", err)
    _, weights, _, row = table.splitlines()
    assert weights.startswith("random weights: its own are not on this machine")
    assert "-" not in row.split()[:-1]
    assert not list(tmp_path.iterdir())

    monkeypatch.setattr(benchmark, "bytes_limit", lambda device: 1_000_000)
    code, table, err = run("pi3", *SMALL)
    assert (code, table) == (2, "")
    assert err.startswith("jaxrecon: model: pi3 needs 8.43 MiB of memory on each device")


def test_a_program_that_does_not_fit_is_a_row(
    run: Run, native: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(benchmark, "compiled", lambda lowered, device: None)
    needs = MemoryNeeds(arguments=2**30, outputs=0, temporaries=2**30)
    monkeypatch.setattr(benchmark, "needs_of", lambda program: needs)
    monkeypatch.setattr(benchmark, "bytes_limit", lambda device: 2**30)
    code, table, err = run(native, "--views", "1", "--ways", "dense", *SMALL, "-q")
    assert (code, err) == (0, "")
    *_, row, note = table.splitlines()
    assert row.split()[4:] == ["-", "-", "-", "2.00", "GiB", "-"]
    assert note.strip() == ("does not fit: it needs 2.00 GiB on each device, which has 1.00 GiB")


def test_what_an_interrupt_leaves(
    run: Run, native: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(benchmark, "measure", faked(Timing(2, 2, run=0.5), KeyboardInterrupt()))
    path = tmp_path / "bench.json"
    code, table, err = run(native, "-q", "--json", path)
    assert (code, err) == (130, "jaxrecon: interrupted\n")
    assert len(table.splitlines()) == 3
    told = json.loads(path.read_text())
    assert not told["complete"]
    (row,) = told["rows"]
    assert (row["views"], row["policy"], row["images_per_second"]) == (2, "dense", 4)
    assert row["seconds"]["compile"] is None


def test_before_the_first_row_an_interrupt_leaves_nothing(
    run: Run, native: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(benchmark, "measure", faked(KeyboardInterrupt()))
    files = "--json", tmp_path / "a" / "bench.json", "--plot", tmp_path / "bench.png"
    assert run(native, "-q", *files)[0] == 130
    assert not list(tmp_path.iterdir())


def test_a_policy_that_this_machine_refuses_is_a_line(
    run: Run, native: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    refused = ["cudnn", "dense@7"]
    code, table, err = run(native, "--views", "2", "--ways", *refused, *SMALL, "-q")
    assert code == 2
    cudnn, layer, none = err.splitlines()
    assert cudnn.startswith("jaxrecon: cudnn with 2 views: attention: cannot run here (cudnn: ")
    assert layer.startswith("jaxrecon: dense@7 with 2 views: ")
    assert none == "jaxrecon: --ways: pi3 ran in none of them; choose others"
    assert len(table.splitlines()) == 2

    error = InputError("not here")
    monkeypatch.setattr(benchmark, "measure", faked(error, Timing(2, 2, run=0.5)))
    code, table, err = run(native, "--views", "2", "-q")
    assert (code, err) == (1, "jaxrecon: dense with 2 views: not here\n")
    assert table.splitlines()[-1].split()[:2] == ["2", "0.75"]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--ways", "dence"], "policy 'dence': 'dence' is unknown; give a share of key blocks"),
        (["--ways", "0.75@x"], "policy '0.75@x': 'x' names no layers"),
        (["--size", "42"], "--size 42: give width and height in pixels, such as 518x392"),
        (["--size", "43x28"], "size: 43x28 must be multiples of 14 pixels"),
        (["--views", "99999999999"], "views=99999999999"),
        (["--resolution", "3"], "resolution=3 is less than one patch; give at least 14"),
        (["--json", "{}/file/a.json"], "a part of the path is a file, not a folder"),
        (["--json", "{}"], "a folder of that name exists; choose another name"),
        (["--plot", "{}/bench.txt"], "choose a name that ends in .png, .pdf, .svg, .jpg"),
    ],
)
def test_refusals(arguments: list[str], told: str, run: Run, native: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("kept")
    code, out, err = run(native, "-q", *(each.format(tmp_path) for each in arguments))
    assert (code, out) == (2, "")
    assert err.startswith("jaxrecon: ")
    assert told in err
    assert err.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("option", ["--views", "--repeats", "--resolution"])
def test_numbers_below_one(option: str, run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        run("pi3-mini", option, "0")
    assert left.value.code == 2
    told = capsys.readouterr().err
    assert f"argument {option}: 0 is not a whole number of at least 1" in told


def test_an_unknown_model(run: Run) -> None:
    code, out, err = run("pi3-minni", "-q")
    assert (code, out) == (2, "")
    assert "unknown model 'pi3-minni'" in err and "did you mean pi3-mini?" in err
