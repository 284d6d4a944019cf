"""Whole programs in files: what they give, what they hold, and what is refused."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from jax.export import deserialize
from PIL import Image

import jaxrecon
from jaxrecon import checkpoint
from jaxrecon.aot import ExportedPipeline
from jaxrecon.aot.checking import check_labels
from jaxrecon.aot.record import ProgramRule, read_record
from jaxrecon.aot.writing import KERNEL_CALLS
from jaxrecon.cli import main
from jaxrecon.errors import InputError, OutputError, WeightsError
from jaxrecon.models import VGGT_RESIZE, ResizeRule
from jaxrecon.nn.attention import TokenLayout
from jaxrecon.pipeline import Pipeline
from jaxrecon.progress import Stages
from jaxrecon.reconstruction import Reconstruction
from kept_notes import KeptNotes
from pallas_kernels.pallas_triton import REFUSAL
from tiny_models import TINY_PARAMETERS, write_native
from triton_marks import lowers_triton, needs_triton

pytestmark = lowers_triton

VIEWS, WIDTH, HEIGHT = 18, 42, 28
ARRAYS = (
    "points_world",
    "points_camera",
    "confidence",
    "mask",
    "colors",
    "world_from_camera",
    "intrinsics",
)


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> Pipeline:
    folder = write_native(tmp_path_factory.mktemp("native") / "tiny")
    return jaxrecon.load(folder, stages=Stages(quiet=True))


@pytest.fixture(scope="module")
def folder(pipeline: Pipeline, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("exported") / "program"
    return jaxrecon.export_program(
        pipeline, folder, views=VIEWS, size=(WIDTH, HEIGHT), use_quantile=True
    )


@pytest.fixture(scope="module")
def exported(folder: Path) -> ExportedPipeline:
    return jaxrecon.load_exported(folder)


@pytest.fixture(scope="module")
def pixels() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (17, HEIGHT, WIDTH, 3), np.uint8)


def assert_equal(found: Reconstruction, expected: Reconstruction) -> None:
    for name in ARRAYS:
        np.testing.assert_array_equal(
            getattr(found, name), np.asarray(getattr(expected, name)), err_msg=name
        )
    assert found.names == expected.names
    assert found.transforms == expected.transforms
    assert found.model == expected.model
    assert found.metric_scale == expected.metric_scale


def test_the_program_gives_what_its_pipeline_gives(
    pipeline: Pipeline, exported: ExportedPipeline, pixels: np.ndarray
) -> None:
    """17 views share a program of 18 in the pipeline too, so both run the same one."""
    limits: dict[str, Any] = {"min_confidence": 0.4, "confidence_quantile": 0.1, "edge_rtol": 1e-3}
    expected = pipeline.reconstruct(pixels, resolution=WIDTH, **limits)
    found = exported.reconstruct(pixels, **limits)
    assert_equal(found, expected)
    assert 0 < np.asarray(found.mask).mean() < 1
    assert list(found.seconds) == ["read", "compile", "run"]


def test_thresholds_are_arguments(exported: ExportedPipeline, pixels: np.ndarray) -> None:
    def mask(**limits: Any) -> np.ndarray:
        given: dict[str, Any] = {"min_confidence": 0.0, "edge_rtol": None}
        return np.asarray(exported.reconstruct(pixels, **(given | limits)).mask)

    assert mask().all()
    assert not mask(min_confidence=1.0).any()
    assert mask(confidence_quantile=0.25).mean() == pytest.approx(0.75, abs=0.01)
    assert mask(edge_rtol=1e-3).mean() < 1


@pytest.mark.thorough
def test_one_program_serves_any_number_of_views(
    pipeline: Pipeline, exported: ExportedPipeline, pixels: np.ndarray
) -> None:
    for views in (1, 5):
        recon = exported.reconstruct(pixels[:views], min_confidence=0.0)
        np.testing.assert_array_equal(recon.colors, pixels[:views])
        alone = pipeline.reconstruct(pixels[:views], resolution=WIDTH).points_world
        gap = np.abs(np.asarray(recon.points_world) - np.asarray(alone)).max()
        assert gap <= 1e-5 * np.abs(np.asarray(alone)).max()
    assert len(exported._compiled) == 1


def test_what_the_folder_holds(folder: Path) -> None:
    assert sorted(path.name for path in folder.iterdir()) == [
        "export.json",
        "program-cpu.bin",
        "weights",
    ]
    record = read_record(folder)
    assert (record.views, record.width, record.height) == (VIEWS, WIDTH, HEIGHT)
    assert record.jax_version == jax.__version__
    header = checkpoint.read_config(folder / "weights")
    assert header["license"] == "CC BY-NC 4.0 (no commercial use)"
    assert header["source"] == {"repo": "yyfz233/Pi3", "file": "model.safetensors"}
    assert sum(np.prod(entry["shape"]) for entry in header["tensors"].values()) == TINY_PARAMETERS


def test_weights_are_arguments_of_the_program(folder: Path) -> None:
    """The program is far smaller than its weights of 8.8 MB, and has no constant of their size."""
    data = (folder / "program-cpu.bin").read_bytes()
    assert len(data) < 300_000
    program = deserialize(bytearray(data))
    weights = jax.tree.unflatten(program.in_tree, program.in_avals)[0][0]
    assert sum(aval.size for aval in weights.values()) == TINY_PARAMETERS


def test_the_cpu_program_calls_nothing_but_a_solver(folder: Path) -> None:
    """No host callback, and nothing of this package is needed to read the file."""
    program = deserialize(bytearray((folder / "program-cpu.bin").read_bytes()))
    assert read_record(folder).programs["cpu"].custom_calls == ("lapack_sgesdd_ffi",)
    assert "callback" not in program.mlir_module()
    assert program.platforms == ("cpu",)
    assert program.nr_devices == 1


def test_weights_of_a_folder_load_by_themselves(
    folder: Path, pipeline: Pipeline, pixels: np.ndarray
) -> None:
    again = jaxrecon.load(folder / "weights", stages=Stages(quiet=True))
    assert again.resize == pipeline.resize
    first, second = (jax.tree.leaves(each.model) for each in (again, pipeline))
    assert all(np.array_equal(x, y) for x, y in zip(first, second, strict=True))


# Programs for machines that are not here


@pytest.fixture(scope="module")
def half(pipeline: Pipeline, tmp_path_factory: pytest.TempPathFactory) -> Pipeline:
    weights = tmp_path_factory.mktemp("half") / "tiny"
    assert pipeline.header is not None
    checkpoint.save(pipeline.model, weights, pipeline.header)
    return jaxrecon.load(weights, dtype="bfloat16", stages=Stages(quiet=True))


type ForGpu = Callable[[Pipeline, int, str | None], tuple[Path, list[str]]]


@pytest.fixture(scope="module")
def for_gpu(tmp_path_factory: pytest.TempPathFactory) -> ForGpu:
    """A pipeline's program with sparse attention for a GPU, and the notes of its making."""
    made: dict[Any, tuple[Path, list[str]]] = {}

    def export(pipeline: Pipeline, block_q: int, kind: str | None) -> tuple[Path, list[str]]:
        name = (id(pipeline), block_q, kind)
        if name not in made:
            notes, folder = KeptNotes(), tmp_path_factory.mktemp("gpu") / "gpu"
            jaxrecon.export_program(
                pipeline,
                folder,
                views=4,
                size=(70, 56),
                platforms=("cuda",),
                device_kind=kind,
                attention=jaxrecon.SparseAttention(block_q=block_q),
                stages=notes,
            )
            made[name] = folder, notes.notes
        return made[name]

    return export


@needs_triton
@pytest.mark.parametrize(
    ("kind", "calls"),
    [
        (None, {"mosaic_gpu_v2", "__gpu$xla.gpu.triton", "cusolver_gesvdj_ffi"}),
        ("NVIDIA A100-SXM4-80GB", {"__gpu$xla.gpu.triton", "cusolver_gesvdj_ffi"}),
    ],
)
def test_sparse_attention_for_a_gpu_that_is_not_here(
    half: Pipeline, for_gpu: ForGpu, kind: str | None, calls: set[str]
) -> None:
    assert jaxrecon.SparseAttention().block_q == 128
    folder, notes = for_gpu(half, 128, kind)
    programs = read_record(folder).programs
    assert calls <= set(programs["cuda"].custom_calls) <= calls | set(KERNEL_CALLS)
    assert programs["cuda"].device_kind == kind or kind is None
    cudnn = "__cudnn$fmhaSoftmax" in programs["cuda"].custom_calls
    assert cudnn != any("XLA's, which is slower" in note for note in notes)
    if jax.default_backend() == "cpu":
        with pytest.raises(InputError, match=r"made for cuda, this machine runs cpu; export"):
            jaxrecon.load_exported(folder)


@pytest.mark.parametrize(
    ("dtype", "block_q", "slow", "kind"),
    [
        ("bfloat16", 128, False, None),
        ("bfloat16", 96, True, None),
        ("float32", 128, True, None),
        ("bfloat16", 128, False, "NVIDIA A100-SXM4-80GB"),
        pytest.param("bfloat16", 96, True, "NVIDIA A100-SXM4-80GB", marks=pytest.mark.thorough),
        pytest.param("float32", 128, True, "NVIDIA A100-SXM4-80GB", marks=pytest.mark.thorough),
    ],
)
def test_slow_sparse_attention_is_told(
    pipeline: Pipeline,
    half: Pipeline,
    for_gpu: ForGpu,
    dtype: str,
    block_q: int,
    slow: bool,
    kind: str | None,
) -> None:
    _, notes = for_gpu(half if dtype == "bfloat16" else pipeline, block_q, kind)
    slow |= REFUSAL is not None and kind is not None
    assert slow == any("block-sparse attention in the program" in note for note in notes)


def test_sparse_attention_for_a_tpu_that_is_not_here(half: Pipeline, tmp_path: Path) -> None:
    arguments: dict[str, Any] = {"views": 4, "size": (WIDTH, HEIGHT)}
    arguments["attention"] = jaxrecon.SparseAttention()
    jaxrecon.export_program(half, tmp_path / "both", platforms=("cpu", "tpu"), **arguments)
    programs = read_record(tmp_path / "both").programs
    assert programs["cpu"].custom_calls == ("lapack_sgesdd_ffi",)
    assert "tpu_custom_call" in programs["tpu"].custom_calls
    with pytest.raises(InputError, match="device_kind='TPU v0' is no TPU that JAX knows"):
        jaxrecon.export_program(
            half, tmp_path / "new", **arguments, platforms=("tpu",), device_kind="TPU v0"
        )


def test_kernels_of_another_gpu_are_refused(folder: Path, tmp_path: Path) -> None:
    def change(values: Any) -> None:
        values["programs"]["cpu"]["custom_calls"] = ["mosaic_gpu_v2"]
        values["programs"]["cpu"]["device_kind"] = "NVIDIA H100"

    with pytest.raises(InputError, match="kernels are for NVIDIA H100, this machine has cpu"):
        jaxrecon.load_exported(changed(folder, tmp_path, change))


@pytest.mark.gpu
def test_a_program_with_kernels_runs_on_the_gpu(half: Pipeline, tmp_path: Path) -> None:
    images = np.random.default_rng(1).integers(0, 256, (17, 56, 70, 3), np.uint8)
    sparse = jaxrecon.SparseAttention()
    jaxrecon.export_program(half, tmp_path / "gpu", views=18, size=(70, 56), attention=sparse)
    found = jaxrecon.load_exported(tmp_path / "gpu").reconstruct(images, min_confidence=0.0)
    expected = half.reconstruct(images, resolution=70, min_confidence=0.0, attention=sparse)
    for name in ARRAYS:
        np.testing.assert_allclose(getattr(found, name), getattr(expected, name), atol=1e-6)
    np.testing.assert_array_equal(found.stats.sparsity, expected.stats.sparsity)


# Images that do not fit


def test_more_views_than_the_program_takes(exported: ExportedPipeline) -> None:
    images = np.zeros((VIEWS + 1, HEIGHT, WIDTH, 3), np.uint8)
    with pytest.raises(InputError, match=r"found 19, the program was made for up to 18 views"):
        exported.reconstruct(images)
    assert len(exported.reconstruct(images, stride=2)) == 10


def test_images_of_another_shape(exported: ExportedPipeline) -> None:
    images = np.zeros((2, 40, 40, 3), np.uint8)
    with pytest.raises(InputError) as caught:
        exported.reconstruct(images)
    assert str(caught.value) == (
        "images: the first of 40x40 pixels would be processed at 504x504 or 42x42, the program "
        "was made for 42x28; give images of that shape, or export one for theirs"
    )
    with pytest.raises(InputError, match="would be processed at 70x42, the program"):
        exported.reconstruct(np.zeros((2, 84, 126, 3), np.uint8), resolution=70)


def test_photos_come_to_the_programs_size(tmp_path: Path, exported: ExportedPipeline) -> None:
    for name, size in (("a.png", (84, 56)), ("b.png", (60, 60))):
        Image.new("RGB", size, (200, 100, 50)).save(tmp_path / name)
    recon = exported.reconstruct(tmp_path)
    assert recon.names == ("a.png", "b.png")
    assert [t.original_size for t in recon.transforms] == [(84, 56), (60, 60)]
    assert recon.mask.shape == (2, HEIGHT, WIDTH)


def test_the_models_own_size_is_tried_first() -> None:
    rule = ProgramRule(14, ResizeRule(pixel_limit=5_000), (70, 70), 9)
    assert rule.fit(1000, 1000).transform((1000, 1000)).size == (70, 70)
    with pytest.raises(InputError, match="processed at 84x56 or 70x42, the program was made for"):
        rule.fit(1500, 1000)


def test_images_of_several_sizes_count_by_their_largest() -> None:
    """VGGT's rule lays images in the middle of the largest: 518x294 and 518x392 give the latter."""
    rule = ProgramRule(14, VGGT_RESIZE, (518, 392), 2)
    fit = rule.fit_all([(1920, 1080), (640, 480)])
    assert fit.transform((1920, 1080)).size == (518, 294)
    with pytest.raises(InputError, match="would be processed at 518x294, the program"):
        rule.fit_all([(1920, 1080), (1920, 1080)])


# Arguments of the export


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"views": 0}, "views=0 must be at least 1"),
        ({"size": (42, 30)}, "size: 42x30 must be multiples of 14 pixels; .* 42x28"),
        ({"size": (0, 28)}, "size: 0x28 must be multiples of 14 pixels; .* 14x28"),
        ({"platforms": ("gpu",)}, "platforms: found gpu; choose from cpu, cuda, tpu"),
        ({"platforms": ()}, "platforms: found none; choose from cpu, cuda, tpu"),
        ({"platforms": ("cpu",), "device_kind": "X"}, "device_kind='X' goes with one of"),
        ({"platforms": ("cuda", "tpu"), "device_kind": "X"}, "one of the platforms cuda and tpu,"),
        ({"points": "depth"}, "points='depth': pi3 has one kind of points"),
    ],
)
@pytest.mark.usefixtures("without_shape_checks")
def test_bad_arguments(
    pipeline: Pipeline, tmp_path: Path, arguments: dict[str, Any], message: str
) -> None:
    given: dict[str, Any] = {"views": 2, "size": (42, 28)}
    with pytest.raises(InputError, match=message) as caught:
        jaxrecon.export_program(pipeline, tmp_path / "new", **(given | arguments))
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_attention_that_needs_this_process(pipeline: Pipeline, tmp_path: Path) -> None:
    def attend(q: jax.Array, k: jax.Array, v: jax.Array, layout: TokenLayout) -> Any:
        return jax.pure_callback(lambda x: x, v, v), None

    with pytest.raises(InputError, match=r"cannot be written for cpu \(.*host_callbacks"):
        jaxrecon.export_program(
            pipeline, tmp_path / "new", views=2, size=(42, 28), platforms=("cpu",), attention=attend
        )
    assert not list(tmp_path.iterdir())


def test_attention_that_the_platform_does_not_have(pipeline: Pipeline, tmp_path: Path) -> None:
    sparse = jaxrecon.SparseAttention(implementation="mosaic_gpu")
    with pytest.raises(InputError, match=r"cannot be written for cpu \(mosaic"):
        jaxrecon.export_program(
            pipeline, tmp_path / "new", views=2, size=(42, 28), platforms=("cpu",), attention=sparse
        )


def test_pipelines_that_cannot_be_written(pipeline: Pipeline, tmp_path: Path) -> None:
    here: dict[str, Any] = {"folder": tmp_path / "new", "views": 2, "size": (42, 28)}
    with pytest.raises(InputError, match="load the model without a mesh"):
        jaxrecon.export_program(replace(pipeline, mesh=jaxrecon.make_mesh(1)), **here)
    with pytest.raises(InputError, match=r"make it with jaxrecon\.load"):
        jaxrecon.export_program(replace(pipeline, header=None), **here)


def test_a_folder_in_use_is_kept(pipeline: Pipeline, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("kept")
    with pytest.raises(OutputError, match="exists and is not empty"):
        jaxrecon.export_program(pipeline, tmp_path, views=2, size=(42, 28))
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_the_checkpoint_that_was_loaded_is_kept(tmp_path: Path) -> None:
    quiet = Stages(quiet=True)
    (tmp_path / "models").mkdir()
    place = write_native(tmp_path / "models" / "tiny")
    (tmp_path / "link").symlink_to(place)
    before = {path.name: path.read_bytes() for path in place.iterdir()}
    for loaded, written in ((place, place), (tmp_path / "link", place), (place, place.parent)):
        pipeline = jaxrecon.load(loaded, stages=quiet)
        with pytest.raises(OutputError, match="is read from there and would be deleted; choose"):
            jaxrecon.export_program(pipeline, written, views=2, size=(28, 28), overwrite=True)
    assert {path.name: path.read_bytes() for path in place.iterdir()} == before


def test_a_model_of_another_name(pipeline: Pipeline, tmp_path: Path) -> None:
    """The results have the name that the pipeline had, and so have the weights beside it."""
    named = replace(pipeline, name="mine")
    folder = jaxrecon.export_program(named, tmp_path / "program", views=1, size=(14, 14))
    assert read_record(folder).model == "mine"
    assert checkpoint.read_config(folder / "weights")["model"] == "mine"
    check_labels(read_record(folder), folder)


def test_a_quantile_must_have_been_exported(exported: ExportedPipeline) -> None:
    options = replace(exported.record.options, use_quantile=False)
    without = replace(exported, record=replace(exported.record, options=options))
    images = np.zeros((1, HEIGHT, WIDTH, 3), np.uint8)
    with pytest.raises(InputError, match=r"confidence_quantile=0\.5: the program was made without"):
        without.reconstruct(images, confidence_quantile=0.5)


# Folders that are damaged or something else


def changed(folder: Path, tmp_path: Path, change: Callable[[Any], Any]) -> Path:
    """A copy of the folder with another `export.json`."""
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    values = json.loads((copy / "export.json").read_text())
    change(values)
    (copy / "export.json").write_text(json.dumps(values))
    return copy


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda v: v.update(format_version=2), "format_version 2, this version reads 1; install"),
        (lambda v: v.update(format="jaxrecon"), "does not describe an exported program"),
        (lambda v: v.pop("views"), "export.json is damaged .*views"),
        (lambda v: v.update(views="many"), "export.json is damaged .*must be int, found 'many'"),
        (lambda v: v.update(extra=1), "export.json is damaged .*extra"),
        (lambda v: v.update(rule="Other"), "damaged .*rule 'Other' is unknown"),
        (lambda v: v["options"].update(intrinsics="none"), "export.json is damaged"),
        (lambda v: v["programs"]["cpu"].update(file="../x"), "'../x' is not the name of a file"),
        (lambda v: v["programs"]["cpu"].update(file="x"), "cannot read .*x: No such file"),
        (lambda v: v.update(views=17), "takes images of shape .*export.json says"),
    ],
)
def test_records_that_cannot_be_used(
    folder: Path, tmp_path: Path, change: Callable[[Any], Any], message: str
) -> None:
    with pytest.raises(WeightsError, match=message) as caught:
        jaxrecon.load_exported(changed(folder, tmp_path, change))
    assert "\n" not in str(caught.value)


def test_no_record_at_all(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"is not an exported program: it holds no export\.json"):
        jaxrecon.load_exported(tmp_path)
    (tmp_path / "export.json").write_text("{")
    with pytest.raises(WeightsError, match=r"cannot read .*export\.json"):
        jaxrecon.load_exported(tmp_path)


def test_damaged_files(folder: Path, tmp_path: Path) -> None:
    for number, name in enumerate(("program-cpu.bin", "weights/model.safetensors")):
        copy = tmp_path / str(number)
        shutil.copytree(folder, copy)
        data = bytearray((copy / name).read_bytes())
        data[-1] ^= 1
        (copy / name).write_bytes(data)
        with pytest.raises(WeightsError, match=f"{name} is damaged"):
            jaxrecon.load_exported(copy)


def test_a_program_of_another_jax(folder: Path, tmp_path: Path) -> None:
    import hashlib

    def change(values: Any) -> None:
        values["jax_version"] = "9.9"
        values["programs"]["cpu"]["sha256"] = hashlib.sha256(b"something else").hexdigest()

    copy = changed(folder, tmp_path, change)
    (copy / "program-cpu.bin").write_bytes(b"something else")
    with pytest.raises(WeightsError, match=r"JAX 9\.9 wrote it, this is .*; export the program"):
        jaxrecon.load_exported(copy)


# The command line


def test_the_command(
    pipeline: Pipeline,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("JAXRECON_HOME", str(tmp_path / "home"))
    native, out = write_native(tmp_path / "tiny"), tmp_path / "out"
    shape = ("--views", "3", "--size", "42x28", "--platform", "cpu")
    code = main(["compile", str(native), "-o", str(out), *shape, "--quantile", "-q", "--json"])
    assert code == 0
    assert json.loads(capsys.readouterr().out)["output"] == str(out)
    record = read_record(out)
    assert (record.views, record.width, record.height) == (3, 42, 28)
    assert record.options.use_quantile
    assert main(["compile", str(native), "-o", str(out), *shape]) == 2
    assert "is not empty" in capsys.readouterr().err
    assert main(["compile", str(native), "-o", "new", "--views", "3", "--size", "42"]) == 2
    assert capsys.readouterr().err == (
        "jaxrecon: --size 42: give width and height in pixels, such as 518x392\n"
    )
