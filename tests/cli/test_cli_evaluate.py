"""`jaxrecon evaluate`: table, report, and what is refused before a model is loaded."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import jax
import pytest
from jax.experimental.compilation_cache import compilation_cache
from PIL import Image

import colmap_models
from jaxrecon.cli import main
from jaxrecon.cli.evaluate import SETS
from jaxrecon.evaluation import DATASETS
from own_folders import write_pictures
from places import EXAMPLES

SCENE = EXAMPLES / "scene"

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where compiled programs are kept, for all tests here."""
    return tmp_path_factory.mktemp("home")


@pytest.fixture
def run(
    capsys: pytest.CaptureFixture[str], home: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Run]:
    """Exit code, standard output and standard error of one command; JAX's settings are put back."""
    monkeypatch.setenv("JAXRECON_HOME", str(home))
    before = jax.config.jax_compilation_cache_dir
    compilation_cache.reset_cache()

    def command(*arguments: str | Path) -> tuple[int, str, str]:
        code = main(["evaluate", *(str(argument) for argument in arguments)])
        out, err = capsys.readouterr()
        return code, out, err

    yield command
    jax.config.update("jax_compilation_cache_dir", before)
    compilation_cache.reset_cache()


def on_the_scene(native: str, *more: str | Path) -> tuple[str | Path, ...]:
    return (
        native,
        "--dataset",
        "folder",
        "--path",
        SCENE,
        "--views",
        "3",
        "--resolution",
        "56",
        "-q",
        *more,
    )


def test_the_table_and_the_report(run: Run, native: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    code, table, err = run(*on_the_scene(native, "-o", out))
    assert (code, err) == (0, "")
    assert {path.name for path in out.iterdir()} == {"report.txt", "report.json", "report.png"}
    assert (out / "report.txt").read_text() == table
    assert json.loads((out / "report.json").read_text())
    with Image.open(out / "report.png") as plot:
        assert plot.format == "PNG"


def test_json(run: Run, native: str) -> None:
    code, printed, _ = run(*on_the_scene(native, "--json"))
    report = json.loads(printed)
    assert code == 0
    assert report["model"] == "pi3"
    assert [scene["views"] for scene in report["scenes"]] == [3]
    assert report["mean"]["abs_rel"] > 0


@pytest.mark.thorough
def test_photos_with_a_colmap_model(run: Run, native: str, tmp_path: Path) -> None:
    """Pairs are chosen by angle, as the points tell no overlap; the third view is turned by 90."""
    folder, half = write_pictures(tmp_path / "scene"), 0.5**0.5
    poses = (1, 0, 0, 0, 0, 0, 0), (1, 0, 0, 0, -1, 0, 0), (half, 0, half, 0, 0, 0, 4)
    seen = ((21.0, 14.0, 5), (30.0, 9.0, 8), (5.0, 20.0, 9))
    model = colmap_models.Model(
        tuple(colmap_models.Image(f"{view}.png", seen, pose) for view, pose in enumerate(poses)),
        {5: (0.0, 0.0, 4.0), 8: (1.0, -0.5, 4.0), 9: (-1.0, 0.5, 3.0)},
        (colmap_models.Camera((42, 28), (42.0, 42.0, 21.0, 14.0)),),
    )
    model.write(folder / "sparse" / "0", text=False)
    arguments = (native, "--dataset", "folder", "--path", folder, "--resolution", "56", "-q")
    code, printed, err = run(*arguments, "--json")
    assert (code, err) == (0, "")
    (scene,) = json.loads(printed)["scenes"]
    assert (scene["views"], scene["all_pairs"], scene["pairs"]) == (3, 3, 1)
    assert (scene["by_overlap"], scene["max_angle"]) == (False, 60)
    assert scene["views_without_depth"] == 0
    assert scene["abs_rel"] > 0
    code, table, _ = run(*arguments, "--max-angle", "180")
    assert code == 0
    assert "pairs: all (1 scene);" in table
    assert "the depth is too sparse to tell overlap" in table
    (folder / "sparse" / "0" / "points3D.bin").write_bytes(b"cut")
    code, _, err = run(*arguments)
    assert (code, err.count("\n")) == (2, 1)
    assert "points3D.bin: it is damaged or cut short" in err


def test_every_set_can_be_asked_for() -> None:
    assert ("procedural", *DATASETS) == SETS


def test_without_an_output_folder(run: Run, native: str, tmp_path: Path) -> None:
    code, table, _ = run(*on_the_scene(native))
    assert code == 0
    assert len(table.splitlines()) > 2
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--dataset", "tum"], "--dataset tum needs --path, the folder where it lies"),
        (
            ["--dataset", "folder", "--path", "x", "--size", "112"],
            "--size 112 is of procedural images; those of --dataset folder come to the model's own "
            "size, or to --resolution",
        ),
        (["--path", "x"], "--path x goes with a --dataset that lies on disk"),
        (["--dataset", "folder", "--path", "absent"], "absent"),
        (["--scenes", "0"], "scenes"),
        (["--views", "0"], "views"),
        (["--seed", "-1"], "seed"),
    ],
)
def test_refusals(arguments: list[str], told: str, run: Run, native: str, tmp_path: Path) -> None:
    code, out, err = run(native, "-q", "-o", tmp_path / "out", *arguments)
    assert (code, out) == (2, "")
    assert err.startswith("jaxrecon: ")
    assert told in err
    assert err.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_a_folder_in_use(run: Run, native: str, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("kept")
    code, _, err = run(*on_the_scene(native, "-o", tmp_path / "out"))
    assert code == 2
    assert "the folder exists and is not empty" in err


def test_the_old_name_of_the_dataset(run: Run, native: str) -> None:
    code, out, err = run(native, "-q", "--set", "tum")
    assert (code, out) == (2, "")
    renamed, refused = err.splitlines()
    assert renamed == (
        "jaxrecon: --set is called --dataset now; the old name goes with the next release"
    )
    assert "--dataset tum needs --path" in refused
