"""Arguments of wrong types and absurd sizes: refused by name, before any long work."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flax import nnx

import jaxrecon
from drawn_weights import drawn
from jaxrecon import Reconstruction, SequenceReconstruction
from jaxrecon.aot import export_program, load_exported
from jaxrecon.bundle_adjustment import bundle_adjust
from jaxrecon.checks import path_given, shown
from jaxrecon.errors import MAX_MESSAGE, InputError, WeightsError, one_line
from jaxrecon.evaluation import Report, Settings, evaluate, open_dataset
from jaxrecon.files import check_output_file, check_output_folder
from jaxrecon.images import check_source, load_images
from jaxrecon.models import PI3_RESIZE, VGGT, VGGT_RESIZE, Pi3
from jaxrecon.pipeline import Pipeline
from jaxrecon.priors import colmap_images, read_sparse_depths, read_view_priors
from jaxrecon.runtime.bucketing import check_program_size
from jaxrecon.runtime.query_points import MOST_POINTS
from jaxrecon.sparse import FastAttention, SparseAttention
from jaxrecon.sparse.calibrated import read_budgets
from jaxrecon.training import MINI, train
from random_recon import random_recon
from tiny_models import PI3_TINY
from vggt_stages import VGGT_TINY

PIXELS = np.zeros((1, 28, 28, 3), np.uint8)
NAN, INF = float("nan"), float("inf")
HUGE = 10**5000


@pytest.fixture(scope="module")
def pi3() -> Pipeline:
    return Pipeline(drawn(lambda: Pi3(PI3_TINY, rngs=nnx.Rngs(0))), "tiny", PI3_RESIZE)


@pytest.fixture(scope="module")
def vggt() -> Pipeline:
    return Pipeline(drawn(lambda: VGGT(VGGT_TINY, rngs=nnx.Rngs(0))), "tiny", VGGT_RESIZE)


def refused(name: str, call: Callable[[], object]) -> None:
    start = time.monotonic()
    with pytest.raises(InputError) as caught:
        call()
    message = str(caught.value)
    assert name in message and message.isprintable() and len(message) <= MAX_MESSAGE
    assert time.monotonic() - start < 5


RATES = ("2", [2], True, NAN, INF, 0, -1.0, {}, HUGE)
WRONG_NUMBERS = ("56", [56], None, True, NAN, INF, -INF, 14.5, {}, np.array([28]), HUGE, -HUGE, 0)
SHARED = {
    "resolution": [value for value in WRONG_NUMBERS if value is not None] + [10**6, 60_000, 2**40],
    "stride": [value for value in WRONG_NUMBERS if value not in (HUGE, None)] + [np.float32(1)],
    "fps": list(RATES),
    "max_views": ["2", [2], True, NAN, 1.5, 0, -1, {}],
    "motion": ["a", [0.1], True, NAN, INF, 0, -0.1, 0.21, 5, {}, HUGE],
    "min_confidence": ["a", [1, 2], NAN, True, {}, np.zeros(2), HUGE, 1j, np.bool_(True)],
    "view_confidence_quantile": ["a", [0.5], NAN, INF, 1, -0.1, True, HUGE],
    "edge_rtol": ["a", [0.5], NAN, -1, False, HUGE],
    "depth_edge_rtol": ["a", [0.5], NAN, -1, False, HUGE],
    "intrinsics": [3, "none", "", True, 1.5],
    "principal_point": [None, 3, ["free"], "middle", np.array(["free"] * 2), True],
    "points": [3, ["depth"], "depth", True],
    "poses": ["a", 3, [[1, [2]]], np.eye(4), {"0": np.eye(4)}, {HUGE: np.eye(4)}],
    "depths": ["a", 3.5, np.zeros(3), {True: np.zeros((28, 28))}],
    "metric_poses": [None, 1, "yes", [True]],
    "metric_depths": [None, 0, "no", np.array([True])],
    "attention": [3, "none", ["xla"], True, SparseAttention, FastAttention],
    "stages": [3, "quiet", True, []],
}
CASES = [(name, value) for name, values in SHARED.items() for value in values]
SCENES = {
    "confidence_quantile": ["a", [0.5], NAN, 1.0, -1e-9, True, HUGE],
    "multiview_confidence": [1, "yes", None, [True]],
    "query_points": ["a", {}, 3],
}


def case_id(value: object) -> str:
    return one_line(shown(value), 40)


@pytest.mark.parametrize(("name", "value"), CASES, ids=case_id)
def test_arguments_of_reconstruct_and_stream(
    pi3: Pipeline, name: str, value: object, tmp_path: Path, without_shape_checks: None
) -> None:
    options: dict[str, Any] = {"resolution": 28} | {name: value}
    refused(name, lambda: pi3.reconstruct(PIXELS, **options))
    refused(name, lambda: pi3.stream(PIXELS, tmp_path / "out", **options))
    refused(name, lambda: pi3.reconstruct_sequence(PIXELS, tmp_path / "out", **options))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", SCENES)
def test_arguments_of_reconstruct_alone(
    pi3: Pipeline, name: str, without_shape_checks: None
) -> None:
    for value in SCENES[name]:
        options: dict[str, Any] = {name: value}
        refused(name, lambda options=options: pi3.reconstruct(PIXELS, resolution=28, **options))


def test_arguments_of_stream_alone(
    pi3: Pipeline, tmp_path: Path, without_shape_checks: None
) -> None:
    wrong = {
        "views_at_once": [0, "a", 1.5, None, True, -HUGE, NAN],
        "overwrite": [1, None, "yes"],
        "folder": [None, 3, "", b"out", "a\0b", ["out"]],
    }
    for name, values in wrong.items():
        for value in values:
            options: dict[str, Any] = {"folder": tmp_path / "out"} | {name: value}
            refused(name, lambda options=options: pi3.stream(PIXELS, resolution=28, **options))


@pytest.mark.parametrize(
    "points", [0, -HUGE, HUGE, MOST_POINTS + 1, True, NAN, 1.5, "a", None, {}], ids=case_id
)
def test_points_to_follow(vggt: Pipeline, points: Any, without_shape_checks: None) -> None:
    pixels = np.zeros((1, 56, 56, 3), np.uint8)
    refused("query_points", lambda: vggt.track(pixels, points, resolution=56))


@pytest.mark.parametrize(
    "points",
    [{HUGE: 3}, {True: 3}, {0: HUGE}, {"0": 3}, {1: 3}, [[1, 2], [3]], [["a", "b"]], [[NAN, 1]]],
    ids=case_id,
)
def test_points_by_view(vggt: Pipeline, points: Any, without_shape_checks: None) -> None:
    pixels = np.zeros((1, 56, 56, 3), np.uint8)
    refused("query_points", lambda: vggt.track(pixels, points, resolution=56))


def test_numbers_of_numpy_are_numbers(pi3: Pipeline, without_shape_checks: None) -> None:
    plain = pi3.reconstruct(PIXELS, resolution=28, stride=1, min_confidence=0.5)
    same = pi3.reconstruct(
        PIXELS,
        resolution=np.int8(28),  # pyright: ignore[reportArgumentType]
        stride=np.uint8(1),  # pyright: ignore[reportArgumentType]
        min_confidence=np.float32(0.5),  # pyright: ignore[reportArgumentType]
    )
    np.testing.assert_array_equal(plain.mask, same.mask)


def test_a_stride_beyond_all_views_takes_the_first(pi3: Pipeline) -> None:
    pixels = np.zeros((3, 28, 28, 3), np.uint8)
    assert len(pi3.reconstruct(pixels, resolution=28, stride=10**30).names) == 1


@pytest.mark.parametrize(
    ("views", "size"),
    [
        (0, (28, 28)),
        (1.5, (28, 28)),
        (HUGE, (28, 28)),
        (10**9, (518, 392)),
        (1, (14 * 10**5,) * 2),
        (1, (28.0, 28)),
        (1, (28,)),
        (1, "28x28"),
        (1, (HUGE, 28)),
        (1, (27, 28)),
    ],
    ids=case_id,
)
def test_sizes_of_programs(views: Any, size: Any, without_shape_checks: None) -> None:
    with pytest.raises(InputError, match=r"^(views|size)") as caught:
        check_program_size(views, size, 14)
    assert str(caught.value).isprintable()


# Evaluation


@pytest.mark.parametrize("name", ["scenes", "views", "stride", "seed", "size", "allow_outside"])
def test_numbers_of_evaluation_sets(name: str, without_shape_checks: None) -> None:
    wrong: list[Any] = [-1, -HUGE, 1.5, "8", NAN, [8]]
    for value in wrong:
        refused(name, lambda value=value: open_dataset("procedural", **{name: value}))


def test_arguments_of_evaluation_sets(tmp_path: Path, without_shape_checks: None) -> None:
    kinds: list[Any] = [None, 3, "none", ["tum"]]
    for kind in kinds:
        refused("unknown evaluation set", lambda kind=kind: open_dataset(kind, tmp_path))
    paths: list[Any] = ["", "a\0b", 3, b"a"]
    for path in paths:
        refused("path", lambda path=path: open_dataset("tum", path))
    absurd: list[tuple[str, Any]] = [("size", 10**6), ("views", 10**7), ("size", HUGE)]
    for name, value in absurd:
        refused(name, lambda name=name, value=value: open_dataset("procedural", **{name: value}))


def test_arguments_of_evaluate(pi3: Pipeline, without_shape_checks: None) -> None:
    refused("model", lambda: evaluate(3, []))  # pyright: ignore[reportArgumentType]
    refused("truths", lambda: evaluate(pi3, 3))  # pyright: ignore[reportArgumentType]
    refused("truths", lambda: evaluate(pi3, ["a"]))  # pyright: ignore[reportArgumentType]
    refused("settings", lambda: evaluate(pi3, [], settings=3))  # pyright: ignore[reportArgumentType]
    wrong: dict[str, list[Any]] = {
        "min_overlap": ["a", NAN, 2, None, True],
        "depth_alignment": [None, 3, "none", ["scale"]],
        "fold_sign": [1, None, "yes"],
        "max_points": [-1, 1.5, "a", None, True],
        "icp_distance": [-1, "a", NAN, None],
        "seed": [-1, 1.5, None],
    }
    for name, values in wrong.items():
        for value in values:
            refused(name, lambda name=name, value=value: Settings(**{name: value}))


# Stages.


@pytest.mark.parametrize("stages", [3, "quiet", True, []], ids=repr)
def test_what_is_no_stages(
    pi3: Pipeline, stages: Any, tmp_path: Path, without_shape_checks: None
) -> None:
    recon, out = random_recon(), tmp_path / "out"
    calls: list[Callable[[], object]] = [
        lambda: recon.save(tmp_path / "a.ply", stages=stages),
        lambda: export_program(pi3, out, views=1, size=(28, 28), stages=stages),
        lambda: load_exported(out, stages=stages),
        lambda: train(MINI, out, stages=stages),
        lambda: load_images(PIXELS, rule=pi3.resize, stages=stages),
        lambda: bundle_adjust(recon, stages=stages),
    ]
    for call in calls:
        refused("stages: found ", call)
    assert not list(tmp_path.iterdir())


def test_no_stages_are_silent_ones(
    tmp_path: Path, capsys: pytest.CaptureFixture, without_shape_checks: None
) -> None:
    random_recon().save(tmp_path / "a.npz", stages=None)  # pyright: ignore[reportArgumentType]
    assert capsys.readouterr() == ("", "")


# Paths, names and addresses.

NO_PATHS = (None, 5, b"a.npz", ["a.npz"], np.zeros(2), "", "s3://bucket/a.npz", "https://a.b/c.npz")


@pytest.mark.parametrize("path", NO_PATHS, ids=repr)
def test_what_is_no_path(pi3: Pipeline, path: Any, without_shape_checks: None) -> None:
    recon, report = random_recon(), Report("pi3", Settings(), ())
    calls: dict[str, list[Callable[[], object]]] = {
        "path": [
            lambda: Reconstruction.load(path),
            lambda: recon.save(path),
            lambda: recon.save_pictures(path),
            lambda: recon.save_summary(path),
            lambda: report.to_json(path),
            lambda: report.plot(path),
            lambda: read_view_priors(path, ["a"], sizes=[(1, 1)]),
            lambda: read_sparse_depths(path, ["a"], sizes=[(1, 1)]),
        ],
        "folder": [
            lambda: pi3.stream(PIXELS, path),
            lambda: SequenceReconstruction.load(path),
            lambda: load_exported(path),
            lambda: export_program(pi3, path, views=1, size=(28, 28)),
            lambda: colmap_images(path),
        ],
        "budgets": [lambda: read_budgets(path)],
        "output": [lambda: check_output_folder(path), lambda: check_output_file(path)],
    }
    for name, each in calls.items():
        for call in each:
            refused(f"{name}: ", call)


def test_an_address_is_no_photo_but_drives_of_windows_are(tmp_path: Path) -> None:
    refused("images: https://a.b/c.jpg is an address", lambda: check_source("https://a.b/c.jpg"))
    refused("images: file:///a.jpg is an address", lambda: check_source(["file:///a.jpg"]))
    assert path_given("a", "C://photos/a.jpg") == "C://photos/a.jpg"


def test_a_current_folder_that_is_not_there_any_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recon, gone = random_recon(), tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    for call in (
        lambda: recon.save("a.ply"),
        lambda: Reconstruction.load("a.npz"),
        lambda: check_output_folder("out"),
        lambda: check_source("photos"),
        lambda: check_source(["a.jpg"]),
    ):
        with pytest.raises(InputError, match="relative to the current folder, which is not there"):
            call()
    assert recon.save(tmp_path / "a.ply").exists()


def test_the_home_of_the_user(
    pi3: Pipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever takes a path takes one that begins with a tilde."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    recon = random_recon()
    assert recon.save_summary("~/a.png") == tmp_path / "a.png"
    assert recon.save("~/a.npz") == tmp_path / "a.npz"
    assert Reconstruction.load("~/a.npz").names == recon.names
    folder = pi3.stream(PIXELS, "~/views", resolution=28, min_confidence=0.0)
    assert folder == tmp_path / "views" and Reconstruction.load("~/views").mask.shape[0] == 1
    (tmp_path / "weights").mkdir()
    calls = (
        lambda: jaxrecon.load("~/weights"),
        lambda: jaxrecon.load("pi3-mini", weights="~/weights"),
    )
    for call in calls:
        with pytest.raises(WeightsError, match=f"{tmp_path}/weights holds no safetensors"):
            call()
    assert not (tmp_path / "~").exists()


@pytest.mark.parametrize(
    ("name", "values"),
    {
        "name": [None, 5, b"pi3-mini", ["pi3-mini"], np.zeros(2)],
        "offload": ["yes", 1, None],
        "float8": ["yes", 1, None],
        "tracks": ["no", 0],
        "priors": ["no", 0],
        "stages": [2, "quiet", True],
    }.items(),
)
def test_arguments_of_load(name: str, values: list[Any], without_shape_checks: None) -> None:
    for value in values:
        refused(name, lambda value=value: jaxrecon.load(**{"name": "pi3-mini", name: value}))


@pytest.mark.parametrize(
    ("name", "values"),
    {"port": ["80", -1, 2**16, 80.5, None, True], "host": [None, 5, b"localhost"]}.items(),
)
def test_arguments_of_the_viewer(name: str, values: list[Any], without_shape_checks: None) -> None:
    pytest.importorskip("viser")
    recon = random_recon()
    for value in values:
        refused(name, lambda value=value: recon.view(**{name: value}))
