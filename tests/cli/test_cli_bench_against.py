"""`jaxrecon bench --against`: the PyTorch original beside ours, here a stand-in for it."""

import importlib.util
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import cast

import pytest

from jaxrecon import benchmark, registry
from jaxrecon.benchmark import Timing
from jaxrecon.cli import main
from jaxrecon.peers import checkout
from jaxrecon.registry import ModelEntry
from places import BENCHMARKS, fresh_process
from stand_in_torch import write_pi3, write_torch
from tiny_models import tiny_entry

SMALL = ("--size", "42x28", "--repeats", "1", "-q")
TOO_MANY = "if views > 2: raise torch.cuda.OutOfMemoryError\n        time.sleep(0.05)"


@pytest.fixture
def tiny_pi3(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """π³ is small, takes no time, and there is a stand-in for PyTorch."""
    monkeypatch.setenv("JAXRECON_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("PYTHONUNBUFFERED", raising=False)
    monkeypatch.setitem(cast(dict[str, ModelEntry], registry.MODELS), "pi3", tiny_entry())
    monkeypatch.syspath_prepend(write_torch(tmp_path / "site"))
    monkeypatch.setattr(benchmark, "measure", fake_measure)


def fake_measure(*arguments: object, views: int, **options: object) -> Timing:
    return Timing(views, views, run=0.01)


def test_its_rows_follow_ours(
    tiny_pi3: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "bench.json"
    files = "--json", str(path), "--plot", str(tmp_path / "bench.png")
    folder = write_pi3(tmp_path / "Pi3", TOO_MANY)
    code = main(["bench", "pi3", "--against", str(folder), "--views", "2", "4", *SMALL, *files])
    out, err = capsys.readouterr()
    assert (code, err) == (0, "")
    _, weights, theirs, head, dense, sparse, two, _, _, four, note = out.splitlines()
    assert weights.startswith("random weights")
    assert theirs == "torch: PyTorch 9.9 on Stand-in GPU, bfloat16 autocast, random weights"
    assert "images/s to dense" in head
    assert (dense.split()[-3:], sparse.split()[-3:]) == (["-"] * 3, ["-"] * 3)
    assert two.split()[:5] == ["2", "torch", "-", "-", "-"]
    assert two.split()[-2:] == ["3.00", "GiB"]
    assert four.split() == ["4", "torch", *["-"] * 8]
    assert note.strip() == "out of memory"

    told = json.loads(path.read_text())
    assert told["original"] == "PyTorch 9.9 on Stand-in GPU"
    rows = {(row["policy"], row["views"]): row for row in told["rows"]}
    seconds = rows["torch", 2]["seconds"]["run"]
    assert 0.05 < seconds < 5
    assert rows["torch", 2]["ratio_to_dense"] == pytest.approx(seconds / 0.01)
    assert rows["torch", 2]["peak_bytes"] == 3 * 2**30
    assert rows["dense", 2]["ratio_to_dense"] is rows["torch", 4]["ratio_to_dense"] is None
    assert rows["torch", 4]["note"] == "out of memory"
    assert (tmp_path / "bench.png").stat().st_size > 1000


@pytest.mark.thorough
def test_without_a_dense_row_there_is_no_ratio(
    tiny_pi3: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_pi3(tmp_path / "Pi3")
    arguments = "--against", str(folder), "--views", "2", "--ways", "0.75", *SMALL
    assert main(["bench", "pi3", *arguments]) == 0
    row = capsys.readouterr().out.splitlines()[-1].split()
    assert (row[1], row[-3]) == ("torch", "-")


def never(*arguments: object, **options: object) -> None:
    raise AssertionError("it is refused first")


@pytest.mark.parametrize(
    ("model", "folder", "told"),
    [
        ("pi3-mini", "Pi3", "pi3-mini has no original to run; choose from pi3, pi3x, vggt, "),
        ("mapanything-v1", "Pi3", "mapanything-v1 has no original to run"),
        ("pi3", "absent", "absent: no such folder; give a checkout of upstream's code"),
        ("pi3", "empty", "empty: it holds no pi3/models/pi3, nor do its folders src, external/"),
        ("vggt-commercial", "Pi3", "it holds no vggt/models/vggt or mapanything/models/external"),
        ("pi3", "Pi3", "the original does not run (RuntimeError: no such kernel); mend that"),
    ],
)
def test_refusals(
    model: str,
    folder: str,
    told: str,
    tiny_pi3: None,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(benchmark, "load_for_timing", never)
    write_pi3(tmp_path / "Pi3", "raise RuntimeError('no such kernel')")
    (tmp_path / "empty").mkdir()
    assert main(["bench", model, "--against", str(tmp_path / folder), *SMALL]) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert err.startswith("jaxrecon: --against")
    assert told in err


def test_torch_is_missing(
    tiny_pi3: None,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(checkout, "find_spec", lambda name: None)
    monkeypatch.setattr(benchmark, "load_for_timing", never)
    folder = write_pi3(tmp_path / "Pi3")
    assert main(["bench", "pi3", "--against", str(folder), *SMALL]) == 2
    err = capsys.readouterr().err
    assert err.startswith("jaxrecon: --against runs PyTorch, which is not installed here; install")


def test_torch_has_no_gpu(
    tiny_pi3: None,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.syspath_prepend(write_torch(tmp_path / "cpu", gpu=False))
    monkeypatch.setattr(benchmark, "load_for_timing", never)
    folder = write_pi3(tmp_path / "Pi3")
    assert main(["bench", "pi3", "--against", str(folder), *SMALL]) == 2
    assert "(PyTorch 9.9 finds no CUDA GPU; install a build of it for one)" in (
        capsys.readouterr().err
    )
    assert "torch" not in sys.modules


_ORDER = """
import jax._src.xla_bridge as bridge
from jaxrecon import benchmark
from jaxrecon.cli import main
from jaxrecon.errors import InputError
from jaxrecon.peers.checkout import Original

def times(*arguments):
    assert not bridge._backends, "JAX has a device, and with it memory of the GPU"
    raise InputError("as wanted")

Original.times = times
main(["bench", "pi3", "--against", {folder!r}, "--ways", "dense", "0.75@0", "-q"])
"""


@pytest.mark.thorough
def test_jax_takes_no_device_before_the_original_has_ended(tmp_path: Path) -> None:
    environment = fresh_process()
    environment["PYTHONPATH"] += f":{write_torch(tmp_path / 'site')}"
    code = _ORDER.format(folder=str(write_pi3(tmp_path / "Pi3")))
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.stderr == "jaxrecon: as wanted\n"


_STARTED = "import pathlib; pathlib.Path({path!r}).write_text(str(os.getpid())); time.sleep(60)"


@pytest.mark.thorough
def test_an_interrupt_ends_it(tmp_path: Path) -> None:
    started = tmp_path / "pid"
    folder = write_pi3(tmp_path / "Pi3", _STARTED.format(path=str(started)))
    environment = fresh_process()
    environment["PYTHONPATH"] += f":{write_torch(tmp_path / 'site')}"
    arguments = "bench", "pi3", "--against", str(folder), *SMALL
    command = [sys.executable, "-m", "jaxrecon", *arguments]
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as process:
        _wait_for(lambda: started.exists() and started.read_text() != "")
        process.terminate()  # it alone, unlike Ctrl-C of a terminal
        _, err = process.communicate(timeout=20)
    assert (process.returncode, err) == (143, "jaxrecon: terminated\n")
    assert not Path(f"/proc/{started.read_text()}").exists()


def _wait_for(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_the_script_of_benchmarks_times_them_too(tmp_path: Path) -> None:
    environment = fresh_process()
    environment["PYTHONPATH"] += f":{write_torch(tmp_path / 'site')}"
    folder = write_pi3(tmp_path / "Pi3")
    arguments = "pi3", str(folder), "--views", "3", "--size", "28", "42", "--repeats", "0"
    command = [sys.executable, str(BENCHMARKS / "peers.py"), *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    (row,) = map(json.loads, done.stdout.splitlines())
    assert (row["views"], row["side"], row["peak"]) == (3, "torch", 3.0)
    assert "upstream talks" in done.stderr


def test_originals_are_models_of_ours() -> None:
    entries = registry.MODELS
    found = {name: checkout._same_sizes(entry) for name, entry in entries.items()}
    assert found["vggt-commercial"] == "vggt"
    assert found["mapanything-apache"] == "mapanything"
    assert [name for name, same in found.items() if same is None] == [
        "pi3-mini",
        "mapanything-v1",
        "mapanything-apache-v1",
    ]
    assert importlib.util.find_spec("jaxrecon.peers.upstream") is not None
