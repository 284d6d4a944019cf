"""Budgets by layer and head: how they are measured, shared out, written, read and refused."""

import json
import warnings
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import replace
from functools import partial
from io import StringIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
import pytest

import jaxrecon
from convert.safetensors_file import TensorSpec
from jaxrecon import FastAttention, SparseAttention, checkpoint, export_program
from jaxrecon.benchmark import measure
from jaxrecon.calibration import Calibration, calibrate, kept_shares
from jaxrecon.cli import main
from jaxrecon.errors import InputError
from jaxrecon.nn.attention import TokenLayout, attend_densely
from jaxrecon.pipeline import Pipeline
from jaxrecon.progress import Stages
from jaxrecon.sparse import (
    AttentionByLayer,
    CalibratedBudgets,
    KeyViews,
    check_budgets,
    read_budgets,
    write_budgets,
)
from jaxrecon.sparse.calibrated import shared_out
from jaxrecon.sparse.measured import SHARES, MeasuredAttention, errors_of
from jaxrecon.sparse.notation import policy_of
from one_program import one_program
from tiny_models import PI3_TINY, write_native

BUDGETS = CalibratedBudgets("toy", "abc", 8, (70, 56), ((0.1, 0.5), (0.25, 1.0)))
LAYERS, HEADS = PI3_TINY.pairs, PI3_TINY.heads


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_native(tmp_path_factory.mktemp("native") / "tiny")


@pytest.fixture(scope="module")
def pipeline(weights: Path) -> Pipeline:
    return jaxrecon.load(weights, stages=Stages(quiet=True))


class Commanded(NamedTuple):
    """What `jaxrecon calibrate` was given, measured, wrote and printed."""

    photos: str
    measured: Calibration
    file: Path
    out: str
    err: str


@pytest.fixture(scope="module")
def commanded(weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Commanded:
    from PIL import Image

    folder = tmp_path_factory.mktemp("photos")
    random = np.random.default_rng(0)
    for number in range(8):
        pixels = random.integers(0, 256, (70, 70, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
    photos, file = str(folder / "*.png"), folder / "b.json"
    measured: list[Calibration] = []

    def noted(*args: Any, **options: Any) -> Calibration:
        measured.append(calibrate(*args, **options))
        return measured[-1]

    sizes = ["--resolution", "70", "--within-layers"]
    out, err = StringIO(), StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        patch.setattr("jaxrecon.calibration.calibrate", noted)
        assert main(["calibrate", str(weights), photos, "-o", str(file), *sizes]) == 0
    return Commanded(photos, measured[0], file, out.getvalue(), err.getvalue())


@pytest.fixture(scope="module")
def found(commanded: Commanded) -> Calibration:
    return commanded.measured


# Sharing out


def test_the_steepest_parts_come_first() -> None:
    """Worked out by hand: slopes 10 and 1 of one head, 4 and 2 of the other."""
    errors = np.array([[[1.4, 0.4], [1.4, 1.0]]])  # at 0.1 and 0.2, zero at 0.6
    shares = np.array([0.1, 0.2])
    share = partial(shared_out, errors, shares, least=0.1, most=0.6)
    np.testing.assert_allclose(share(total=0.15), [[0.2, 0.1]])
    np.testing.assert_allclose(share(total=0.2), [[0.2, 0.2]])
    np.testing.assert_allclose(share(total=0.35), [[0.2, 0.5]])
    np.testing.assert_allclose(share(total=0.5), [[0.4, 0.6]])


def test_a_bump_does_not_hide_what_comes_behind_it() -> None:
    errors = np.array([[[1.0, 2.0], [1.0, 0.95]]])
    kept = shared_out(errors, np.array([0.1, 0.5]), total=0.55, least=0.1)
    np.testing.assert_allclose(kept.mean(), 0.55)
    np.testing.assert_allclose(kept, [[1.0, 0.1]])


@pytest.mark.parametrize("total", [0.1, 0.25, 0.6])
def test_budgets_add_up_between_the_bounds(total: float) -> None:
    random = np.random.default_rng(0)
    errors = np.sort(random.uniform(size=(3, 4, len(SHARES))))[..., ::-1]
    kept = shared_out(errors, np.array(SHARES), total=total, least=0.05, most=0.7)
    np.testing.assert_allclose(kept.mean(), total)
    assert kept.min() >= 0.05
    assert kept.max() <= 0.7 + 1e-12


@pytest.mark.parametrize("wrong", [(0.25, 0.3, 1.0), (0.25, 0.0, 1.0), (0.8, 0.1, 0.7)])
def test_bounds_that_cannot_be_are_refused(wrong: tuple[float, ...]) -> None:
    total, least, most = wrong
    with pytest.raises(InputError, match="must lie above 0 and up to 1, and rise"):
        shared_out(np.ones((1, 1, 1)), np.array([0.5]), total=total, least=least, most=most)


# Measuring


@pytest.mark.thorough
@pytest.mark.parametrize("valid", [None, 3])
def test_measured_errors_are_those_of_sparse_attention(valid: int | None) -> None:
    """Padding views count for nothing, and what goes on is dense."""
    layout = TokenLayout(views=4, grid=(8, 8), leading=1)
    if valid is not None:
        layout = replace(layout, num_valid_views=jnp.int32(valid))
    random = np.random.default_rng(0)
    shape = (1, layout.tokens, 2, 8)
    q, k, v = (random.normal(size=shape).astype(np.float32) for _ in range(3))
    shares = (0.3, 0.6)

    def run(q: Any, k: Any, v: Any) -> Any:
        out, stats = MeasuredAttention(shares)(q, k, v, layout)
        assert stats is not None
        dense, _ = attend_densely(q, k, v, layout)
        sparse = [SparseAttention(1 - share, None)(q, k, v, layout)[0] for share in shares]
        return out, stats.skipped, dense, sparse

    out, told, dense, sparse = one_program(run)(q, k, v)
    np.testing.assert_array_equal(out, dense)
    seen = layout.tokens_per_view * (4 if valid is None else valid)
    squares = [np.square(x[:, :seen] - dense[:, :seen]).sum((1, 3))[0] for x in sparse]
    wanted = np.stack(squares, -1) / np.square(dense[:, :seen]).sum((1, 3))[0][:, None]
    assert (wanted > 1e-4).all()
    np.testing.assert_allclose(errors_of(told, shares)[0], wanted, rtol=1e-3)


def test_photos_give_budgets_of_every_head(found: Calibration, pipeline: Pipeline) -> None:
    budgets = found.budgets
    assert np.shape(budgets.kept) == (LAYERS, HEADS)
    assert (budgets.model, budgets.views, budgets.size) == (pipeline.name, 8, (70, 70))
    assert budgets.total == pytest.approx(0.25, abs=1e-5)
    assert found.error(budgets.kept) <= found.error(0.25)
    assert found.error(1.0) == 0


def test_layers_share_by_what_they_do_to_the_points(found: Calibration) -> None:
    """Without effects every layer keeps as much; with them the layer that matters keeps more."""
    whole = np.asarray(found.budgets.kept).mean(1)
    np.testing.assert_allclose(whole, 0.25, atol=1e-5)
    kept = kept_shares(found.errors, (0.25, 0.05, 1.0), np.array([1.0, 1e6]))
    np.testing.assert_allclose(kept.mean(), 0.25)
    assert (kept[0] == 0.05).all()
    alone = kept_shares(found.errors, (0.25, 0.05, 1.0), np.array([0.0, 1e-9]))
    np.testing.assert_allclose(alone[1], kept[1])


@pytest.mark.thorough
def test_effects_are_measured_layer_by_layer(pipeline: Pipeline) -> None:
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (8, 70, 70, 3), np.uint8)
    options: dict[str, Any] = {"resolution": 70, "stages": Stages(quiet=True)}
    before = pipeline.compilations
    budgets = calibrate(pipeline, images, **options).budgets
    assert pipeline.compilations >= before + LAYERS
    assert budgets.total == pytest.approx(0.25, abs=1e-5)


@pytest.mark.parametrize("faked", [True, pytest.param(False, marks=pytest.mark.thorough)])
def test_what_cannot_be_measured_is_refused(
    faked: bool, pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With what reconstructions tell of one view, and of two small ones; or with those."""

    def told(self: Pipeline, images: np.ndarray, **_: Any) -> Any:
        skipped = None if len(images) == 1 else np.ones((LAYERS, HEADS * (len(SHARES) + 1)))
        return SimpleNamespace(
            mask=np.ones(images.shape[:3], bool), stats=SimpleNamespace(sparsity=skipped)
        )

    if faked:
        monkeypatch.setattr(Pipeline, "reconstruct", told)
    images = np.zeros((2, 28, 28, 3), np.uint8)
    quiet = Stages(quiet=True)
    with pytest.raises(InputError, match="give at least 2 images"):
        calibrate(pipeline, images[:1], resolution=28, stages=quiet)
    with pytest.raises(InputError, match="have too few blocks to skip any"):
        calibrate(pipeline, images, resolution=28, stages=quiet)
    with pytest.raises(InputError, match="does not tell where its weights are from"):
        calibrate(replace(pipeline, header=None), images)


# Files


def test_files_hold_what_was_written(tmp_path: Path) -> None:
    write_budgets(BUDGETS, tmp_path / "b.json")
    assert read_budgets(tmp_path / "b.json") == BUDGETS
    assert [path.name for path in tmp_path.iterdir()] == ["b.json"]
    policy = policy_of(f"budgets={tmp_path / 'b.json'}:order=raster")
    assert policy == SparseAttention(budgets=BUDGETS, order="raster")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": "other"}, "is no file of budgets"),
        ({"format_version": 3}, "has format_version 3, this version reads up to 2"),
        ({"format_version": True}, "has format_version True"),
        ({"format_version": 1}, "must have the keys format, .* found"),
        ({"more": 1}, "must have the keys format, .* found"),
        ({"kept": [[0.5], [0.5, 0.5]]}, "give a row for each layer"),
        ({"kept": []}, "give a row for each layer"),
        ({"kept": [[]]}, "give a row for each layer"),
        ({"kept": [[0.5, 0.0]]}, r"layer 0 has 0\.0; shares lie in \(0, 1\]"),
        ({"kept": [[0.5], [1.5]]}, r"layer 1 has 1\.5; shares lie in \(0, 1\]"),
        ({"kept": [[float("nan")]]}, r"layer 0 has nan; shares lie in \(0, 1\]"),
        ({"kept": [[1e-30]]}, "layer 0 has 1e-30"),
        ({"kept": [[True]]}, "expected rows of numbers"),
        ({"kept": [["0.5"]]}, "expected rows of numbers"),
        ({"kept": 0.5}, "expected rows of numbers"),
        ({"size": [70]}, "size"),
        ({"views": 0}, "views"),
        ({"model": 3}, "model"),
        ({"weights": 3}, "weights"),
        ({"weights": ""}, "weights"),
    ],
)
def test_unsound_files_are_refused(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    path = tmp_path / "b.json"
    write_budgets(BUDGETS, path)
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(InputError, match=message) as caught:
        read_budgets(path)
    assert str(path) in str(caught.value)
    assert "`jaxrecon calibrate`" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_is_no_json_is_refused(tmp_path: Path) -> None:
    (tmp_path / "b.json").write_text("0.75")
    with pytest.raises(InputError, match="is no file of budgets"):
        read_budgets(tmp_path / "b.json")
    (tmp_path / "b.json").write_text("{")
    with pytest.raises(InputError, match="it is no sound JSON"):
        read_budgets(tmp_path / "b.json")
    with pytest.raises(InputError, match=r"'none\.json' is no preset, and there is no such"):
        policy_of("budgets=none.json")


# In use


def test_budgets_are_a_ratio_by_layer_and_head() -> None:
    plain = SparseAttention(((0.9, 0.5), (0.75, 0.0)), None)
    made = SparseAttention(budgets=BUDGETS)
    assert (made.sparse_ratio, made.cdf_threshold) == (plain.sparse_ratio, None)
    assert replace(made, order="raster").order == "raster"
    hash(made)
    others: list[dict[str, Any]] = [
        {"sparse_ratio": 0.5},
        {"cdf_threshold": None},
        {"selector": KeyViews(count=2)},
    ]
    for other in others:
        with pytest.raises(InputError, match="budgets: they take the place of"):
            SparseAttention(budgets=BUDGETS, **other)


@pytest.mark.parametrize(
    "attention",
    [
        SparseAttention(budgets=BUDGETS),
        FastAttention(SparseAttention(budgets=BUDGETS)),
        AttentionByLayer(None, {1: SparseAttention(budgets=BUDGETS)}),
    ],
)
def test_budgets_of_another_model_are_refused(attention: Any, pipeline: Pipeline) -> None:
    check_budgets(attention, "toy")
    check_budgets(attention, "toy", "abc")
    with pytest.raises(InputError, match="measured on toy, found pi3"):
        check_budgets(attention, "pi3")
    with pytest.raises(InputError, match="measured on a toy of another config"):
        check_budgets(attention, "toy", "abd")
    images, before = np.zeros((2, 28, 28, 3), np.uint8), pipeline.compilations
    with pytest.raises(InputError, match="budgets: they were measured on toy, found"):
        pipeline.reconstruct(images, attention=attention)
    assert pipeline.compilations == before


def test_files_of_the_first_version_tell_no_weights(tmp_path: Path) -> None:
    path = tmp_path / "b.json"
    write_budgets(replace(BUDGETS, weights="00ff"), path)
    assert read_budgets(path).weights == "00ff"
    values = json.loads(path.read_text()) | {"format_version": 1}
    del values["weights"]
    path.write_text(json.dumps(values))
    assert read_budgets(path) == BUDGETS


@pytest.mark.parametrize(("own", "other"), [(None, "ab"), ("ab", None), ("ab", "ab"), ("ab", "cd")])
def test_other_weights_are_warned_of_where_both_are_known(
    own: str | None, other: str | None
) -> None:
    attention = FastAttention(SparseAttention(budgets=replace(BUDGETS, weights=own)))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        check_budgets(attention, "toy", "abc", other)
    told = [str(warning.message) for warning in caught]
    assert [text.partition(",")[0] for text in told] == (
        ["budgets: they were measured on other weights of toy than these"]
        if {own, other} == {"ab", "cd"}
        else []
    )


def test_weights_that_were_trained_further_are_other_weights(
    found: Calibration, weights: Path, tmp_path: Path
) -> None:
    """A copy in other files is the same weights."""
    attention = SparseAttention(budgets=found.budgets)
    assert found.budgets.weights is not None
    header = checkpoint.read_config(weights)
    specs = {
        name: TensorSpec(tuple(entry["shape"]), np.dtype(entry["dtype"]))
        for name, entry in header["tensors"].items()
    }
    for folder, change in (("same", 0), ("other", 1)):
        tensors = ((name, array + change) for name, array in checkpoint.read_tensors(weights))
        about = checkpoint.header_of(header)
        checkpoint.write(tmp_path / folder, tensors, specs, about, max_shard_bytes=2**20)
    jaxrecon.load(tmp_path / "same", attention=attention, stages=Stages(quiet=True))
    told = "budgets: they were measured on other weights of"
    with pytest.warns(UserWarning, match=told):
        jaxrecon.load(tmp_path / "other", attention=attention, stages=Stages(quiet=True))


@pytest.mark.thorough
def test_other_weights_are_told_wherever_budgets_are_given(
    found: Calibration, weights: Path
) -> None:
    attention = SparseAttention(budgets=replace(found.budgets, weights="0"))
    told = "budgets: they were measured on other weights of"
    other = jaxrecon.load(weights, stages=Stages(quiet=True))
    with pytest.warns(UserWarning, match=told):
        other.reconstruct(np.zeros((2, 28, 28, 3), np.uint8), attention=attention)
    with pytest.warns(UserWarning, match=told):
        measure(other, attention, views=2, size=(28, 28), repeats=1)


def test_they_are_refused_before_weights_are_read(found: Calibration, weights: Path) -> None:
    own = found.budgets
    jaxrecon.load(weights, attention=SparseAttention(budgets=own), stages=Stages(quiet=True))
    wrong = replace(own, config="0")
    header = json.loads((weights / "config.json").read_text())
    assert header["model"] == own.model
    with pytest.raises(InputError, match="of another config; calibrate"):
        jaxrecon.load(weights, attention=SparseAttention(budgets=wrong))


def test_those_of_another_config_are_refused_wherever_they_are_given(
    pipeline: Pipeline, tmp_path: Path
) -> None:
    config = pipeline.config_digest
    assert config is not None
    kept = ((0.5,) * HEADS,) * LAYERS
    own = CalibratedBudgets(pipeline.name, config, 2, (28, 28), kept)
    other = SparseAttention(budgets=replace(own, config="0"))
    images, before = np.zeros((2, 28, 28, 3), np.uint8), pipeline.compilations
    for use in (
        lambda: pipeline.reconstruct(images, attention=other),
        lambda: replace(pipeline, attention=other).reconstruct(images),
        lambda: pipeline.stream(images, tmp_path / "views", attention=other),
        lambda: export_program(
            pipeline, tmp_path / "program", views=2, size=(28, 28), attention=other
        ),
        lambda: measure(pipeline, other, views=2, size=(28, 28), repeats=1),
    ):
        with pytest.raises(InputError, match="of another config; calibrate"):
            use()
    assert pipeline.compilations == before
    assert not list(tmp_path.iterdir())
    check_budgets(SparseAttention(budgets=own), pipeline.name, pipeline.config_digest)


# On the command line


def test_a_file_is_made_and_used(
    commanded: Commanded, weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "relative error of the heads on these photos" in commanded.out
    assert "never trained (random or deterministic ones) are no evidence" in commanded.err
    assert read_budgets(commanded.file) == commanded.measured.budgets
    model = ["-m", str(weights), "--resolution", "70", "-q"]

    def command(budgets: Path) -> list[str]:
        return ["reconstruct", commanded.photos, *model, "--sparse-budgets", str(budgets), "-o"]

    out = [str(tmp_path / "out"), "--formats", "npz"]
    assert main([*command(commanded.file), *out]) == 0
    both = [*command(commanded.file), str(tmp_path / "other"), "--sparse-ratio", "0.5"]
    assert main(both) == 2
    assert "--sparse-budgets does not go with --sparse-ratio" in capsys.readouterr().err
    write_budgets(BUDGETS, tmp_path / "toy.json")
    assert main([*command(tmp_path / "toy.json"), str(tmp_path / "other")]) == 2
    assert "measured on toy, found" in capsys.readouterr().err
    assert not (tmp_path / "other").exists()
