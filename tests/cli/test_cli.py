"""The command line: what it writes and prints, and one line for everything that goes wrong."""

import errno
import json
import os
import re
import resource
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from huggingface_hub import constants
from jax.experimental.compilation_cache import compilation_cache
from PIL import Image

import jaxrecon
from jaxrecon import registry
from jaxrecon.cli import common, main
from jaxrecon.cli.parser import Parser
from jaxrecon.errors import InputError
from jaxrecon.pipeline import Pipeline
from jaxrecon.reconstruction import Reconstruction
from jaxrecon.registry import loading
from jaxrecon.runtime.executor import Executor
from jaxrecon.sparse import KeyViews, within_views_in
from tiny_models import (
    TINY_PARAMETERS,
    tiny_entry,
    upstream_state,
    write_native,
    write_upstream,
)

NAMES = ", ".join(jaxrecon.available_models())
EVERYTHING = ("--min-confidence", "0", "--keep-edges", "--resolution", "56")
"""Keeps every point of 80x60 images processed at 56x42."""

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One cache for all tests, so that a program is compiled once."""
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="session")
def upstream(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_upstream(tmp_path_factory.mktemp("upstream") / "model.safetensors"))


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("photos")
    pixels = np.random.default_rng(0).integers(0, 256, (3, 60, 80, 3), np.uint8)
    for number, image in enumerate(pixels):
        Image.fromarray(image).save(folder / f"{number}.png")
    return str(folder)


@pytest.fixture(autouse=True)
def own_caches(home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Weights and compiled programs lie in `home`; JAX's settings are put back afterwards."""
    monkeypatch.setenv("JAXRECON_HOME", str(home))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(home / "hub"))
    monkeypatch.setattr(loading, "_stated", set())
    before = jax.config.jax_compilation_cache_dir
    compilation_cache.reset_cache()
    yield
    jax.config.update("jax_compilation_cache_dir", before)
    compilation_cache.reset_cache()


@pytest.fixture
def tiny_is_pi3(monkeypatch: pytest.MonkeyPatch) -> None:
    """The released π³ has the small model's sizes."""
    monkeypatch.setitem(registry.MODELS, "pi3", tiny_entry())


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Exit code, standard output and standard error of one command."""

    def command(*arguments: str | Path) -> tuple[int, str, str]:
        capsys.readouterr()
        code = main([str(argument) for argument in arguments])
        out, err = capsys.readouterr()
        return code, out, err

    return command


@pytest.fixture
def refused(run: Run, tmp_path: Path) -> Callable[..., str]:
    """The only line of a command that fails, without its prefix; nothing may be left behind."""

    def command(*arguments: str | Path, lines: int = 1) -> str:
        before = tree(tmp_path)
        code, out, err = run(*arguments)
        assert (code, out) == (2, "")
        assert err.startswith("jaxrecon: ")
        assert err.endswith("\n")
        assert err.count("\n") == lines
        assert tree(tmp_path) == before
        return err.removeprefix("jaxrecon: ").removesuffix("\n")

    return command


def tree(folder: Path) -> dict[str, bytes | None]:
    """Every file with its content and every folder, hidden ones too."""
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in folder.rglob("*")
    }


class TestReconstruct:
    def test_every_format(self, run: Run, photos: str, native: str, tmp_path: Path) -> None:
        out = tmp_path / "new" / "out"
        formats = "ply,glb,npz,colmap,pictures,summary"
        code, printed, err = run(
            *("reconstruct", photos, "-m", native, "-o", out, "--formats", formats),
            *(*EVERYTHING, "--json"),
        )
        assert code == 0
        assert printed.count("\n") == 1
        summary = json.loads(printed)
        stages = ["load", "read", "compile", "run", "export"]
        assert list(summary["seconds"]) == stages
        assert all(took > 0 for took in summary["seconds"].values())
        seconds = {name: round(took, 3) for name, took in summary["seconds"].items()}
        assert set(summary.pop("settings")) >= {"images", "model", "formats"}
        assert 0 < summary.pop("fov_degrees") < 180
        assert all(isinstance(text, str) for text in summary.pop("warnings"))
        assert summary | {"seconds": seconds} == {
            "model": "pi3",
            "device": jax.devices()[0].device_kind,
            "views": 3,
            "width": 56,
            "height": 42,
            "points": 3 * 42 * 56,
            "points_written": dict.fromkeys(("scene.ply", "scene.glb", "colmap/"), 3 * 42 * 56),
            "kept": 1.0,
            "output": str(out),
            "files": [
                "scene.ply",
                "scene.glb",
                "scene.npz",
                "colmap/",
                "pictures/",
                "summary.png",
                "summary.json",
            ],
            "seconds": seconds,
            "compilations": 1,
            "failed": {},
            "sparsity": None,
        }
        assert json.loads((out / "summary.json").read_text()) == json.loads(printed)
        assert {path.name for path in out.iterdir()} == {
            name.rstrip("/") for name in summary["files"]
        }
        assert (out / "scene.ply").read_bytes().startswith(b"ply\n")
        assert (out / "scene.glb").read_bytes().startswith(b"glTF")
        assert {path.stem for path in (out / "colmap").rglob("*.bin")} >= {"cameras", "images"}
        assert len(list((out / "pictures" / "depth").iterdir())) == 3
        with Image.open(out / "summary.png") as summary:
            assert summary.format == "PNG"
        recon = Reconstruction.load(out / "scene.npz")
        assert recon.names == ("0.png", "1.png", "2.png")
        assert recon.mask.all()
        counts = {"read": " (3)", "export": " (6)"}
        # The note that untrained weights make no camera may come in between.
        told = [line for line in err.splitlines() if not line.startswith("jaxrecon: warning: ")]
        shown = [line.strip() for line in told if not line.startswith("NOTE")]
        assert [re.sub(r"\d+\.\d\d s$", "T", line) for line in shown] == [
            "load: T",
            "weights of pi3: CC BY-NC 4.0 (no commercial use)",
            *(f"{name}{counts.get(name, '')}: T" for name in stages[1:-1]),
            "programs: 1, compiled or taken from the cache",
            f"{stages[-1]}{counts[stages[-1]]}: T",
        ]

    def test_formats_of_choice(self, run: Run, photos: str, native: str, tmp_path: Path) -> None:
        out = tmp_path / "out"
        code, printed, _ = run(
            *("reconstruct", photos, "-m", native, "-o", out, "--formats", "npz, npz"), *EVERYTHING
        )
        assert code == 0
        assert re.fullmatch(
            rf"wrote {out}: 3 views, 7,056 points \(100\.0 % of the pixels\), \d+ degrees wide, "
            rf"(no warnings|1 warning|\d warnings); scene\.npz, summary\.json; to look at it: "
            rf"jaxrecon view {out}, jaxrecon report {out}\n",
            printed,
        )
        assert {path.name for path in out.iterdir()} == {"scene.npz", "summary.json"}

    def test_quiet(self, run: Run, photos: str, native: str, tmp_path: Path) -> None:
        assert run(
            *("reconstruct", photos, "-m", native, "-o", tmp_path / "out", "-q"), *EVERYTHING
        ) == (0, "", "")
        assert {path.name for path in (tmp_path / "out").iterdir()} == {
            *("scene.ply", "scene.glb", "scene.npz", "colmap", "summary.json")
        }

    def test_one_photo(self, run: Run, photos: str, native: str, tmp_path: Path) -> None:
        photo = f"{photos}/1.png"
        code, printed, _ = run(
            *("reconstruct", photo, "-m", native, "-o", tmp_path / "out", "--json"), *EVERYTHING
        )
        assert code == 0
        assert json.loads(printed)["views"] == 1
        assert Reconstruction.load(tmp_path / "out" / "scene.npz").names == ("1.png",)

    @pytest.mark.parametrize(
        ("images", "names"),
        [
            (["*.png"], ["0.png", "1.png", "2.png"]),
            (["2.png", "0.png", "1.png"], ["2.png", "0.png", "1.png"]),
            (["[02].png", "--stride", "2"], ["0.png"]),
        ],
    )
    def test_a_pattern_a_list_and_a_stride(
        self,
        images: list[str],
        names: list[str],
        run: Run,
        photos: str,
        native: str,
        tmp_path: Path,
    ) -> None:
        given = [f"{photos}/{image}" if "png" in image else image for image in images]
        code, _, _ = run(
            *("reconstruct", *given, "-m", native, "-o", tmp_path / "out", "--formats", "npz"),
            *EVERYTHING,
        )
        assert code == 0
        assert list(Reconstruction.load(tmp_path / "out" / "scene.npz").names) == names

    @pytest.mark.usefixtures("tiny_is_pi3")
    def test_a_name_with_weights(
        self, run: Run, photos: str, upstream: str, tmp_path: Path
    ) -> None:
        code, _, err = run(
            *("reconstruct", photos, "--weights", upstream, "-o", tmp_path / "out"), *EVERYTHING
        )
        assert code == 0, err

    def test_options_reach_the_pipeline(
        self, photos: str, native: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        given: dict[str, Any] = {}

        def reconstruct(self: Pipeline, images: Any, **options: Any) -> None:
            given.clear()
            given.update(options)
            raise KeyboardInterrupt

        monkeypatch.setattr(Pipeline, "reconstruct", reconstruct)
        command = ["reconstruct", photos, "-m", native, "-o", str(tmp_path / "out")]
        defaults = {
            "resolution": None,
            "stride": None,
            "fps": None,
            "max_views": None,
            "motion": None,
            "min_confidence": None,
            "confidence_quantile": None,
            "view_confidence_quantile": None,
            "multiview_confidence": False,
            "edge_rtol": 0.03,
            "depth_edge_rtol": None,
            "principal_point": "free",
            "points": None,
            "query_points": None,
            "masks": None,
        }
        main(command)
        given.pop("stages")
        assert given == defaults
        main([*command, "--shared-intrinsics", "--centre-principal-point", "--edge-rtol", "0.5"])
        given.pop("stages")
        assert given == defaults | {
            "intrinsics": "shared",
            "principal_point": "centre",
            "edge_rtol": 0.5,
        }
        main([*command, "--keep-edges", "--confidence-quantile", "0.25", "--stride", "4"])
        given.pop("stages")
        assert given == defaults | {"edge_rtol": None, "confidence_quantile": 0.25, "stride": 4}
        main([*command, "--view-confidence-quantile", "0.1", "--multiview-confidence"])
        given.pop("stages")
        told = {"view_confidence_quantile": 0.1, "multiview_confidence": True}
        assert given == defaults | told

    def test_compiled_programs_are_kept(
        self,
        run: Run,
        photos: str,
        native: str,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setenv("JAXRECON_HOME", str(tmp_path / "home"))
        run("reconstruct", f"{photos}/0.png", "-m", native, "-o", tmp_path / "out", *EVERYTHING)
        assert jax.config.jax_compilation_cache_dir == str(tmp_path / "home" / "xla")
        kept = [path.name for path in (tmp_path / "home" / "xla").iterdir()]
        assert any(name.startswith("jit_scene_program") for name in kept), kept


class TestOverwrite:
    def test_refused_then_asked_for(
        self, run: Run, refused: Callable[..., str], photos: str, native: str, tmp_path: Path
    ) -> None:
        out = tmp_path / "out"
        out.mkdir()
        command = ("reconstruct", photos, "-m", native, "-o", out, *EVERYTHING)
        assert run(*command, "-q") == (0, "", "")
        (out / "mine.txt").write_text("kept")
        assert refused(*command) == (
            f"cannot write {out}: the folder exists and is not empty; choose another, "
            "or ask to overwrite it (--overwrite, overwrite=True)"
        )
        assert run(*command, "--overwrite", "-q") == (0, "", "")
        assert not (out / "mine.txt").exists()
        assert (out / "scene.ply").exists()
        assert [path.name for path in tmp_path.iterdir()] == ["out"]

    @pytest.mark.usefixtures("tiny_is_pi3")
    def test_convert(
        self, run: Run, refused: Callable[..., str], upstream: str, tmp_path: Path
    ) -> None:
        out = tmp_path / "out"
        out.mkdir()
        (out / "mine.txt").write_text("kept")
        command = ("convert", "pi3", upstream, "-o", out)
        assert "--overwrite" in refused(*command)
        assert run(*command, "--overwrite", "-q") == (0, "", "")
        assert {path.name for path in out.iterdir()} == {"config.json", "model.safetensors"}

    def test_a_file_is_in_the_way(
        self, refused: Callable[..., str], photos: str, tmp_path: Path
    ) -> None:
        (tmp_path / "out").write_text("kept")
        text = refused("reconstruct", photos, "-o", tmp_path / "out")
        assert text == (
            f"cannot write {tmp_path}/out: a file of that name exists; choose another name"
        )

    def test_what_is_read_is_never_overwritten(self, run: Run, tmp_path: Path) -> None:
        photo = tmp_path / "photos" / "a.png"
        photo.parent.mkdir()
        Image.new("RGB", (30, 30)).save(photo)
        before = tree(tmp_path)
        for given in (photo.parent, photo, photo.parent / "*.png"):
            code, _, told = run("reconstruct", given, "-o", photo.parent, "--overwrite")
            assert code == 2 and "is read from there and would be deleted" in told
        assert tree(tmp_path) == before


@pytest.mark.usefixtures("tiny_is_pi3")
class TestConvert:
    def test_then_reconstruct(
        self, run: Run, photos: str, upstream: str, native: str, tmp_path: Path
    ) -> None:
        folder = tmp_path / "converted"
        code, printed, err = run("convert", "pi3", upstream, "-o", folder)
        assert (code, printed) == (0, f"wrote {folder}\n")
        assert re.fullmatch(
            r"  convert: \d+\.\d\d s\nweights of pi3: CC BY-NC 4.0 \(no commercial use\)\n", err
        )
        assert tree(folder) == tree(Path(native))
        code, _, _ = run("reconstruct", photos, "-m", folder, "-o", tmp_path / "out", *EVERYTHING)
        assert code == 0

    def test_json(self, run: Run, upstream: str, tmp_path: Path) -> None:
        folder = tmp_path / "converted"
        code, printed, _ = run("convert", "pi3", upstream, "-o", folder, "--json")
        summary = json.loads(printed)
        assert code == 0
        assert list(summary.pop("seconds")) == ["convert"]
        assert summary == {"model": "pi3", "output": str(folder)}

    def test_unknown_model(
        self, refused: Callable[..., str], upstream: str, tmp_path: Path
    ) -> None:
        text = refused("convert", "pi4", upstream, "-o", tmp_path / "out")
        assert text == f"unknown model 'pi4'; known models: {NAMES}; did you mean pi3?"


class TestModels:
    @pytest.mark.thorough
    def test_who_reads_the_list_may_stop(self) -> None:
        command = [sys.executable, "-m", "jaxrecon", "models"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as listing:
            assert listing.stdout is not None and listing.stderr is not None
            listing.stdout.close()
            assert listing.stderr.read() == b""
        assert listing.returncode == 1

    def test_table(self, run: Run) -> None:
        code, printed, err = run("models")
        assert (code, err) == (0, "")
        pi3, mini, *others, more = printed.splitlines()
        assert pi3.split() == [
            *("pi3", "958.7", "M", "not", "fetched"),
            *("CC", "BY-NC", "4.0", "(no", "commercial", "use)"),
        ]
        assert mini.split() == ["pi3-mini", "25.8", "M", "here", "Apache-2.0"]
        assert [line.split()[0] for line in others] == list(jaxrecon.available_models())[2:]
        assert max(map(len, printed.splitlines())) <= 80 and "--json" in more

    def test_json(
        self, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_is_pi3: None
    ) -> None:
        monkeypatch.setenv("JAXRECON_HOME", str(tmp_path))
        write_native(tmp_path / "pi3")
        code, printed, _ = run("models", "--json")
        assert code == 0
        pi3, mini, *_ = json.loads(printed)
        assert pi3 == {
            "name": "pi3",
            "parameters": TINY_PARAMETERS,
            "repo": "yyfz233/Pi3",
            "weights_licence": "CC BY-NC 4.0 (no commercial use)",
            "code_licence": "BSD 3-Clause",
            "paper": "arXiv 2507.13347",
            "here": True,
        }
        assert (mini["name"], mini["repo"]) == ("pi3-mini", None)
        assert run("models")[1].split()[3] == "here"


COMMANDS = (
    *("demo", "reconstruct", "convert", "view", "report", "save", "models", "evaluate", "train"),
    "compile",
    "plan",
    "bench",
    "calibrate",
)


class TestUsage:
    """`argparse` prints its own errors, and leaves with exit code 2 as we do."""

    @pytest.mark.parametrize("command", ["reconstruct", "convert", "models", "evaluate", "train"])
    def test_help(self, command: str, capsys: pytest.CaptureFixture[str]) -> None:
        for arguments in (["--help"], [command, "--help"]):
            with pytest.raises(SystemExit) as left:
                main(arguments)
            out, err = capsys.readouterr()
            assert (left.value.code, err) == (0, "")
            assert command in out

    @pytest.mark.parametrize(
        ("arguments", "told"),
        [
            ([], "the following arguments are required: command"),
            (["draw"], "invalid choice: 'draw'"),
            (["reconstruct", "photos"], "the following arguments are required: -o/--output"),
            (
                ["reconstruct", "p", "-o", "o", "--stride", "x"],
                "argument --stride: x is not a whole number",
            ),
            (["reconstruct", "p", "-o", "o", "--dtype", "int8"], "argument --dtype: invalid choi"),
        ],
    )
    def test_wrong_arguments(
        self, arguments: list[str], told: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        with pytest.raises(SystemExit) as left:
            main(arguments)
        out, err = capsys.readouterr()
        assert (left.value.code, out) == (2, "")
        assert err.startswith("usage: jaxrecon")
        assert told in err.splitlines()[-1]

    def test_edges_are_not_both_kept_and_found(self, run: Run) -> None:
        code, out, err = run("reconstruct", "p", "-o", "o", "--keep-edges", "--edge-rtol", "0.1")
        assert (code, out) == (2, "")
        assert "--keep-edges does not go with --edge-rtol" in err

    def test_help_fits_a_screen_and_all_of_it_is_more(
        self, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("COLUMNS", "80")
        for command in COMMANDS:
            with pytest.raises(SystemExit):
                main([command, "--help"])
            told = capsys.readouterr().out
            assert len(told.splitlines()) <= 60, command
            if "--help-all" in told:
                with pytest.raises(SystemExit):
                    main([command, "--help-all"])
                everything = capsys.readouterr().out
                options = set(re.findall(r"^  .*?(--[a-z-]+)", told, re.MULTILINE))
                assert options < set(re.findall(r"^  .*?(--[a-z-]+)", everything, re.MULTILINE))

    def test_help_tells_keys_axes_and_units(self, capsys: pytest.CaptureFixture[str]) -> None:
        with pytest.raises(SystemExit):
            main(["reconstruct", "--help-all"])
        text = " ".join(capsys.readouterr().out.split())
        for told in (
            "poses (V, 4, 4), x right, y down, z forward, in metres",
            "intrinsics (V, 3, 3) or (3, 3)",
            "depths (V, H, W) of the upright photos' size, in metres; NeRF transforms.json",
            "--metric-poses, --no-metric-poses",
        ):
            assert told in text

    def test_help_starts_without_jax(self) -> None:
        code = (
            "import sys\nfrom jaxrecon.cli import main\n"
            "try:\n    main(['--help'])\n"
            "except SystemExit:\n    sys.exit('jax' in sys.modules)"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        assert (done.returncode, done.stderr) == (0, "")

    @pytest.mark.parametrize(
        "module", [pytest.param(["jaxrecon", "convert"], marks=pytest.mark.thorough), ["convert"]]
    )
    def test_as_a_module(self, module: list[str], tmp_path: Path, run: Run) -> None:
        arguments = ["pi3", str(tmp_path / "absent.safetensors"), "-o", str(tmp_path / "out")]
        done = subprocess.run(
            [sys.executable, "-m", *module, *arguments], capture_output=True, text=True
        )
        assert (done.returncode, done.stdout, done.stderr) == run("convert", *arguments)
        assert done.returncode == 2
        assert "absent.safetensors does not exist" in done.stderr


class TestBadImages:
    @pytest.fixture
    def bad(self, photos: str, tmp_path: Path) -> Path:
        """A folder with one good image."""
        folder = tmp_path / "photos"
        folder.mkdir()
        (folder / "0.png").write_bytes(Path(photos, "0.png").read_bytes())
        return folder

    def test_empty_folder(self, refused: Callable[..., str], native: str, tmp_path: Path) -> None:
        (tmp_path / "photos").mkdir()
        text = refused(
            *("reconstruct", tmp_path / "photos", "-m", native, "-o", tmp_path / "out", "-q")
        )
        assert text.startswith(f"no images in the folder {tmp_path}/photos; ")

    def test_absent_folder(self, refused: Callable[..., str], native: str, tmp_path: Path) -> None:
        text = refused(
            *("reconstruct", tmp_path / "photos", "-m", native, "-o", tmp_path / "out", "-q")
        )
        assert text == f"{tmp_path}/photos does not exist; check the path"

    @pytest.mark.parametrize(
        ("content", "told"),
        [
            (lambda png: png[:-500], "the image is damaged or cut short"),
            (lambda png: b"These are not pixels.\n", "it is not an image of a known kind"),
            (lambda png: b"", "the file is empty"),
        ],
    )
    def test_unreadable_image(
        self,
        content: Callable[[bytes], bytes],
        told: str,
        bad: Path,
        refused: Callable[..., str],
        native: str,
        tmp_path: Path,
    ) -> None:
        (bad / "1.png").write_bytes(content((bad / "0.png").read_bytes()))
        text = refused("reconstruct", bad, "-m", native, "-o", tmp_path / "out", "-q")
        assert text.startswith(f"cannot read {bad}/1.png: {told}")


class TestAttention:
    @pytest.mark.skipif(jax.default_backend() != "cpu", reason="cuDNN may be here")
    def test_a_backend_that_cannot_run_here(
        self, photos: str, native: str, tmp_path: Path, refused: Callable[..., str]
    ) -> None:
        rest = ("-m", native, "-q", "--attention", "cudnn")
        told = (
            "attention: cannot run here (cudnn: needs an NVIDIA GPU, found cpu); choose another one"
        )
        assert refused("reconstruct", photos, "-o", tmp_path / "out", *rest) == told
        assert refused("plan", "--views", "2", "--size", "56x42", *rest[:2], *rest[3:]) == told

    @pytest.mark.parametrize(
        ("arguments", "ratio", "threshold"),
        [
            ("--sparse-ratio 0.5", 0.5, 0.9),
            ("--cdf-threshold 0.8", 0.75, 0.8),
            ("--sparse-ratio 0.5 --cdf-threshold none", 0.5, None),
            ("--sparse-ratio none --cdf-threshold 0.8", None, 0.8),
        ],
    )
    def test_budgets_that_are_not_given_are_the_class_s(
        self, arguments: str, ratio: float | None, threshold: float | None
    ) -> None:
        parser = Parser()
        common.add_computing(parser)
        sparse = common.attention_of(parser.parse_args(arguments.split()))
        assert sparse == jaxrecon.SparseAttention(ratio, threshold)
        fast = parser.parse_args(["--attention", "fast", *arguments.split()])
        assert common.attention_of(fast).sparse == sparse

    def test_the_old_name_of_an_order_still_works(self, capsys: pytest.CaptureFixture[str]) -> None:
        parser = Parser()
        common.add_computing(parser)
        sparse = common.attention_of(parser.parse_args(["--patch-order", "similar"]))
        assert sparse == jaxrecon.SparseAttention(order="pca_tree")
        assert "--patch-order similar is called pca_tree now" in capsys.readouterr().err

    def test_an_order_of_patches(self) -> None:
        parser = Parser()
        common.add_computing(parser)
        sparse = common.attention_of(parser.parse_args(["--patch-order", "raster"]))
        assert sparse == jaxrecon.SparseAttention(order="raster")
        exact = parser.parse_args(["--patch-order", "raster", "--attention", "dense"])
        with pytest.raises(InputError, match="--patch-order is for block-sparse attention, found"):
            common.attention_of(exact)

    def test_policies_by_view_and_by_layer(self) -> None:
        parser = Parser()
        common.add_computing(parser)

        def found(arguments: str) -> Any:
            return common.attention_of(parser.parse_args(arguments.split()))

        keys = jaxrecon.SparseAttention(selector=KeyViews(count=25))
        assert found("--key-views 25") == found("--key-views 25 --attention sparse") == keys
        assert found("--key-views 25 --attention fast").sparse == keys
        preset = jaxrecon.SparseAttention(budgets="middle_spared")
        assert found("--sparse-budgets middle_spared") == preset
        assert found("--within-views 0-2,5") == within_views_in((0, 1, 2, 5))
        sparse = jaxrecon.SparseAttention(0.5)
        both = found("--within-views 0-8 --sparse-ratio 0.5")
        assert both == within_views_in(range(9), sparse)
        assert found("--within-views 3 --attention xla") == within_views_in(3, "xla")
        for arguments, told in (
            ("--key-views 9 --attention dense", "--key-views is for block-sparse attention, found"),
            ("--key-views 9 --sparse-ratio 0.5", "--key-views does not go with --sparse-ratio"),
            ("--key-views 9 --patch-order pca_tree", "which KeyViews needs apart; give order="),
            ("--within-views 0-2,2", r"layers: \[2\] are named twice"),
        ):
            with pytest.raises(InputError, match=told):
                found(arguments)

    @pytest.mark.parametrize("layers", ["8-0", "", "0-", "a", "0,,1", "0-99999"])
    def test_layers_that_are_none(self, layers: str, capsys: pytest.CaptureFixture[str]) -> None:
        parser = Parser()
        common.add_computing(parser)
        with pytest.raises(SystemExit):
            parser.parse_args([f"--within-views={layers}"])
        assert "names no layers; give them from 0, such as 0-8" in capsys.readouterr().err

    def test_a_budget_that_is_no_number(self, capsys: pytest.CaptureFixture[str]) -> None:
        parser = Parser()
        common.add_computing(parser)
        with pytest.raises(SystemExit):
            parser.parse_args(["--sparse-ratio", "half"])
        told = "argument --sparse-ratio: half is neither a number nor none\n"
        assert capsys.readouterr().err.endswith(told)

    def test_no_budget_leaves_the_name(self) -> None:
        parser = Parser()
        common.add_computing(parser)
        assert common.attention_of(parser.parse_args([])) == "auto"


class TestBadOptions:
    @pytest.mark.parametrize(
        ("option", "value", "told"),
        [
            ("--stride", "0", "stride=0 takes no image"),
            ("--stride", "-1", "stride=-1 takes no image"),
            ("--resolution", "13", "resolution=13 is less than one patch"),
            ("--confidence-quantile", "1", "confidence_quantile=1.0 must be"),
            ("--edge-rtol", "-0.1", "edge_rtol=-0.1 must be"),
            (
                "--formats",
                "ply,obj",
                "--formats: found obj; choose from ply, glb, npz, colmap, nerf",
            ),
            ("--formats", ",", "--formats: found nothing; choose from ply"),
            ("--weights", "w", f"weights='w' goes with a model's name ({NAMES}), found "),
            ("--revision", "v1", "revision='v1' goes with a model's name alone"),
        ],
    )
    def test_out_of_range(
        self,
        option: str,
        value: str,
        told: str,
        refused: Callable[..., str],
        photos: str,
        native: str,
        tmp_path: Path,
    ) -> None:
        command = ("reconstruct", photos, "-m", native, "-o", tmp_path / "out", "-q")
        assert refused(*command, option, value).startswith(told)

    def test_no_point_is_left(
        self, refused: Callable[..., str], photos: str, native: str, tmp_path: Path
    ) -> None:
        text = refused(
            *("reconstruct", photos, "-m", native, "-o", tmp_path / "out", "-q"),
            *(*EVERYTHING, "--min-confidence", "0.999999", "--formats", "ply,glb,colmap"),
        )
        assert "mask" in text

    def test_a_confidence_that_no_point_can_have(
        self, refused: Callable[..., str], photos: str, native: str, tmp_path: Path
    ) -> None:
        """It is told before the model runs."""
        text = refused(
            *("reconstruct", photos, "-m", native, "-o", tmp_path / "out", "-q"),
            *("--min-confidence", "2"),
        )
        assert text.startswith("min_confidence=2 would leave no point")

    def test_unknown_model(self, refused: Callable[..., str], photos: str, tmp_path: Path) -> None:
        text = refused("reconstruct", photos, "-m", "pi4", "-o", tmp_path / "out", "-q")
        assert text == (
            f"unknown model 'pi4': not one of {NAMES}, nor a checkpoint folder or weight file; "
            "did you mean pi3?"
        )

    def test_nothing_to_fetch_from(
        self, refused: Callable[..., str], photos: str, home: Path, tmp_path: Path
    ) -> None:
        text = refused("reconstruct", photos, "-o", tmp_path / "out", "-q")
        assert text.startswith("cannot get yyfz233/Pi3/model.safetensors: ")
        assert text.endswith(f"run: jaxrecon convert pi3 model.safetensors -o {home}/pi3")


def _without(state: dict[str, np.ndarray]) -> None:
    del state["encoder.norm.bias"]


def _with_another(state: dict[str, np.ndarray]) -> None:
    state["encoder.another.weight"] = np.zeros((2, 2), np.float32)


def _of_another_shape(state: dict[str, np.ndarray]) -> None:
    state["encoder.norm.bias"] = np.zeros(65, np.float32)


@pytest.mark.usefixtures("tiny_is_pi3")
class TestBadWeights:
    @pytest.fixture(params=["convert", "reconstruct"])
    def command(
        self, request: pytest.FixtureRequest, photos: str, tmp_path: Path
    ) -> Callable[[Path], tuple[str | Path, ...]]:
        """Converts, or reconstructs with, a weight file."""
        if request.param == "convert":
            return lambda path: ("convert", "pi3", path, "-o", tmp_path / "out", "-q")
        return lambda path: (
            *("reconstruct", photos, "--weights", path, "-o", tmp_path / "out", "-q"),
        )

    @pytest.mark.parametrize(
        ("change", "counts", "difference"),
        [
            (_without, (1, 0, 0), "- missing encoder.norm.bias (64,)"),
            (_with_another, (0, 1, 0), "+ unexpected encoder.another.weight (2, 2)"),
            (_of_another_shape, (0, 0, 1), "~ encoder.norm.bias has shape (65,), expected (64,)"),
        ],
    )
    def test_tensors(
        self,
        change: Callable[[dict[str, np.ndarray]], None],
        counts: tuple[int, int, int],
        difference: str,
        command: Callable[[Path], tuple[str | Path, ...]],
        refused: Callable[..., str],
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        state = upstream_state()
        change(state)
        path = write_upstream(tmp_path / "bad.safetensors", state)
        line = (
            "{} does not fit the model: {} missing, {} unexpected, {} different; "
            "its names are those of the family 'pi3': {}".format(path, *counts, difference)
        )
        assert refused(*command(path)) == line
        monkeypatch.setenv("JAXRECON_DETAILS", "1")
        assert refused(*command(path), lines=2).splitlines() == [line, difference]

    def test_truncated(
        self,
        command: Callable[[Path], tuple[str | Path, ...]],
        refused: Callable[..., str],
        upstream: str,
        tmp_path: Path,
    ) -> None:
        path = tmp_path / "cut.safetensors"
        path.write_bytes(Path(upstream).read_bytes()[:-1])
        assert refused(*command(path)).startswith(f"{path} is damaged, incomplete, or no ")


@pytest.fixture
def full_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk says that it is full where data is forced onto it."""

    def fsync(file: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", fsync)


@pytest.mark.usefixtures("tiny_is_pi3")
class TestBadOutput:
    @pytest.mark.parametrize("existing", [False, True])
    def test_full_disk(
        self,
        existing: bool,
        full_disk: None,
        refused: Callable[..., str],
        photos: str,
        native: str,
        tmp_path: Path,
    ) -> None:
        out = tmp_path / "out"
        if existing:
            out.mkdir()
            (out / "scene.ply").write_text("an older one")
        text = refused(
            *("reconstruct", photos, "-m", native, "-o", out, "-q", "--overwrite"), *EVERYTHING
        )
        assert text.startswith("cannot write ")
        assert text.endswith(": the disk is full; free some space or choose another disk")

    def test_full_disk_while_converting(
        self, full_disk: None, refused: Callable[..., str], upstream: str, tmp_path: Path
    ) -> None:
        text = refused("convert", "pi3", upstream, "-o", tmp_path / "out", "-q")
        assert text == (
            f"cannot write {tmp_path}/out: the disk is full; free some space or choose another disk"
        )

    def test_file_size_limit(
        self, refused: Callable[..., str], upstream: str, tmp_path: Path
    ) -> None:
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, hard))
        try:
            text = refused("convert", "pi3", upstream, "-o", tmp_path / "out", "-q")
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert text == (
            f"cannot write {tmp_path}/out: "
            "the file would pass the allowed file size; raise the limit (ulimit -f)"
        )

    def test_no_permission(self, run: Run, upstream: str) -> None:
        root = os.geteuid() == 0
        with tempfile.TemporaryDirectory() as place:
            weights, locked = Path(place, "model.safetensors"), Path(place, "locked")
            weights.write_bytes(Path(upstream).read_bytes())
            locked.mkdir()
            os.chmod(place, 0o755)
            os.chmod(locked, 0o555)
            if root:
                os.seteuid(65534)
            try:
                found = run("convert", "pi3", weights, "-o", locked / "out", "-q")
            finally:
                if root:
                    os.seteuid(0)
            assert list(locked.iterdir()) == []
        assert found == (
            2,
            "",
            f"jaxrecon: cannot write {locked}/out: no permission to write there; "
            "choose another place or change its permissions\n",
        )

    def test_a_parent_is_a_file(
        self, refused: Callable[..., str], upstream: str, tmp_path: Path
    ) -> None:
        (tmp_path / "file").write_text("kept")
        text = refused("convert", "pi3", upstream, "-o", tmp_path / "file" / "out", "-q")
        assert text == (
            f"cannot write {tmp_path}/file/out: "
            "a part of the path is a file, not a folder; choose another place"
        )


@pytest.mark.parametrize(("owner", "method"), [(Executor, "run"), (Reconstruction, "scene")])
def test_interrupted(
    owner: type,
    method: str,
    run: Run,
    photos: str,
    native: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def interrupt(*arguments: object, **options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(owner, method, interrupt)
    found = run("reconstruct", photos, "-m", native, "-o", tmp_path / "out", "-q", *EVERYTHING)
    assert found == (130, "", "jaxrecon: interrupted\n")
    assert list(tmp_path.iterdir()) == []


def test_export_is_the_old_name_of_compile(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["export", "--help"])
    assert ended.value.code == 0
    assert "--device-kind" in capsys.readouterr().out
