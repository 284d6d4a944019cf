"""Programs of strangers: what is damaged or calls anything is refused before it is compiled."""

import dataclasses
import hashlib
import json
import random
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import pytest
from jax.export import DisabledSafetyCheck, Exported, deserialize, export
from jaxlib.mlir import ir

import jaxrecon
from jaxrecon.aot import checking, program_check
from jaxrecon.aot.record import read_record
from jaxrecon.aot.running import ExportedPipeline, _reported_failures
from jaxrecon.errors import InputError, WeightsError
from jaxrecon.progress import Stages
from tiny_models import write_native

SQUARE = "tensor<2x3x3xf32>"
SVD = f"({SQUARE}) -> ({SQUARE}, tensor<2x3xf32>, {SQUARE}, {SQUARE}, tensor<2xi32>)"
MODE = "mhlo.backend_config = {mode = 83 : ui8}"


def svd(
    attributes: str = MODE, types: str = SVD, name: str = "lapack_sgesdd_ffi", results: int = 5
) -> str:
    """The call of LAPACK that programs for the CPU have, or one like it."""
    quoted = f'call_target_name = "{name}"'
    return f'%r:{results} = "stablehlo.custom_call"(%a) {{{quoted}, {attributes}}} : {types}'


def module(body: str, beside: str = "", taken: str = SQUARE) -> ir.Module:
    """A module whose main function has such operations, and functions beside it."""
    lowered: Any = jax.jit(jnp.sin).lower(1.0).compiler_ir()
    context = lowered.context
    context.allow_unregistered_dialects = True
    with context:
        return ir.Module.parse(f"func.func @main(%a: {taken}) {{\n{body}\nreturn }}\n{beside}")


def test_the_call_of_a_real_program_is_let_in() -> None:
    assert program_check.refusal(module(svd()), "cpu") is None
    assert program_check.refusal(module(svd(f"{MODE}, api_version = 4 : i32")), "cpu") is None
    assert program_check.custom_calls(module(svd())) == ("lapack_sgesdd_ffi",)
    attention = svd('backend_config = "{}", api_version = 2 : i32', name="__cudnn$fmhaSoftmax")
    assert program_check.refusal(module(attention), "cuda") is None


def test_a_cumulative_sum_is_let_in() -> None:
    """JAX writes it for a GPU as a composite that asks for the size of an axis."""
    exported = export(jax.jit(jnp.cumsum), platforms=("cuda",))(jnp.ones(3))
    lowered = program_check.lowered(exported, "cuda").compiler_ir("stablehlo")
    assert program_check.refusal(lowered, "cuda") is None


FOREIGN = '"stablehlo.custom_call"(%x) {call_target_name = "xla_ffi_python_gpu_callback"} '
FUNCTION = f"""func.func private @inner(%x: tensor<f32>) -> tensor<f32> {{
%0 = {FOREIGN}: (tensor<f32>) -> tensor<f32>
return %0 : tensor<f32> }}"""
LOOP = f"""%c = stablehlo.constant dense<1.0> : tensor<f32>
%w = stablehlo.while(%x = %c) : tensor<f32>
cond {{ %t = stablehlo.constant dense<true> : tensor<i1>
stablehlo.return %t : tensor<i1> }}
do {{ %0 = {FOREIGN}: (tensor<f32>) -> tensor<f32>
stablehlo.return %0 : tensor<f32> }}"""
COMPOSITE = """%c = stablehlo.constant dense<1.0> : tensor<f32>
%0 = stablehlo.composite "NAME" %c {decomposition = @inner} : (tensor<f32>) -> tensor<f32>"""


@pytest.mark.parametrize(
    ("body", "beside"),
    [
        (LOOP, ""),
        ("", FUNCTION),
        (COMPOSITE.replace("NAME", "chlo.erf"), FUNCTION),
    ],
    ids=["loop", "function that nobody calls", "composite"],
)
def test_calls_are_found_wherever_they_stand(body: str, beside: str) -> None:
    found = program_check.refusal(module(body, beside), "cpu")
    assert found == "it calls 'xla_ffi_python_gpu_callback'"


@pytest.mark.parametrize(
    "name", ["cusolver_gesvdj_ffi", "Sharding", "lapack_sgesdd_ffi ", r"lapack_sgesdd_ffi\00", ""]
)
def test_names_must_be_those_of_the_platform(name: str) -> None:
    found = program_check.refusal(module(svd(name=name)), "cpu")
    assert found is not None
    assert found.startswith("it calls ")
    assert "in a way" not in found


@pytest.mark.parametrize(
    "call",
    [
        svd("mhlo.backend_config = {mode = 65 : ui8}"),
        svd("mhlo.backend_config = {}"),
        svd(f"{MODE}, api_version = 2 : i32"),
        svd(f"{MODE}, called_computations = [@main]"),
        svd(f"{MODE}, has_side_effect = true"),
        svd(f'{MODE}, backend_config = "x"'),
        svd(f"{MODE}, mhlo.something = 1 : i32"),
        svd(f'{MODE}, mhlo.frontend_attributes = {{_xla_compute_type = "host"}}'),
        svd(types=SVD.replace("tensor<2x3xf32>", "tensor<1x3xf32>")),
        svd(types=SVD.replace("tensor<2xi32>", "tensor<i32>")),
        svd(types=f"({SQUARE}) -> {SQUARE}", results=1),
    ],
)
def test_a_call_must_look_as_in_our_programs(call: str) -> None:
    found = program_check.refusal(module(call), "cpu")
    assert found == "it calls 'lapack_sgesdd_ffi' in a way of its own"


@pytest.mark.parametrize(
    ("body", "found"),
    [
        (
            '%t = stablehlo.create_token : !stablehlo.token\n%r:2 = "stablehlo.infeed"(%t) : '
            "(!stablehlo.token) -> (tensor<f32>, !stablehlo.token)",
            "it holds the operation stablehlo.",
        ),
        ("%r = stablehlo.partition_id : tensor<ui32>", "the operation stablehlo.partition_id"),
        ('"other.operation"() : () -> ()', "it holds the operation other.operation"),
        (COMPOSITE.replace("NAME", "chlo.other"), "the composite operation 'chlo.other'"),
    ],
)
def test_operations_that_no_program_has(body: str, found: str) -> None:
    inner = FUNCTION.replace(FOREIGN, "stablehlo.negate %x ").replace(
        ": (tensor<f32>) -> tensor<f32>\n", ": tensor<f32>\n"
    )
    assert found in str(program_check.refusal(module(body, inner), "cpu"))


# What a program says of itself


@pytest.fixture(scope="module")
def sine() -> Exported:
    return export(jax.jit(jnp.sin), platforms=("cpu",))(jax.ShapeDtypeStruct((3,), jnp.float32))


@pytest.mark.parametrize(
    ("change", "found"),
    [
        ({"platforms": ("tpu",)}, "it is for tpu"),
        ({"platforms": ("cpu", "cuda")}, "it is for cpu, cuda"),
        ({"nr_devices": 2}, "it runs on 2 devices"),
        ({"uses_global_constants": True}, "its shapes are open"),
        ({"disabled_safety_checks": (DisabledSafetyCheck.platform(),)}, "it turns checks off"),
        ({"disabled_safety_checks": (DisabledSafetyCheck.custom_call("x"),)}, "it turns checks"),
        ({"fun_name": "a b"}, "its name is none"),
        ({"module_kept_var_idx": (0, 0)}, "its arguments are mixed up"),
        ({"module_kept_var_idx": (7,)}, "its arguments are mixed up"),
        ({"calling_convention_version": 99}, "its calling convention is 99"),
    ],
)
def test_headers_are_checked(sine: Exported, change: dict[str, Any], found: str) -> None:
    doctored = bytes(dataclasses.replace(sine, **change).serialize())
    verdict = program_check.checked(doctored, "cpu")
    assert verdict["refused"].startswith(found)


def test_gradients_and_open_shapes_are_refused(sine: Exported) -> None:
    verdict = program_check.checked(bytes(sine.serialize(vjp_order=1)), "cpu")
    assert verdict == {"refused": "it brings a gradient"}
    shape = jax.export.symbolic_shape("n")
    polymorphic = export(jax.jit(jnp.sin), platforms=("cpu",))(
        jax.ShapeDtypeStruct(shape, jnp.float32)
    )
    verdict = program_check.checked(bytes(polymorphic.serialize()), "cpu")
    assert verdict == {"refused": "its shapes are open"}


def test_a_header_of_another_module(sine: Exported) -> None:
    longer = tuple(aval.update(shape=(4,)) for aval in sine.in_avals)
    for change in ({"in_avals": longer, "out_avals": longer}, {"out_avals": longer}):
        doctored = bytes(dataclasses.replace(sine, **change).serialize())
        assert "unreadable" in program_check.checked(doctored, "cpu")


def test_bytes_that_are_no_program(sine: Exported) -> None:
    whole = bytes(sine.serialize())
    for data in (b"", b"\0" * 64, whole[: len(whole) // 2], b"\xff" * 4096, b"module {}"):
        assert "unreadable" in program_check.checked(data, "cpu")
    assert program_check.checked(whole, "cpu") == {"calls": ()}


# Loading


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("exported")
    quiet = Stages(quiet=True)
    pipeline = jaxrecon.load(write_native(place / "tiny"), stages=quiet)
    return jaxrecon.export_program(pipeline, place / "program", views=2, size=(28, 28))


@pytest.fixture(scope="module")
def loaded(folder: Path) -> ExportedPipeline:
    return jaxrecon.load_exported(folder)


@pytest.fixture
def copy(folder: Path, tmp_path: Path) -> Path:
    return shutil.copytree(folder, tmp_path / "copy")


def with_program(copy: Path, data: bytes) -> Path:
    """The folder with another program, and its hash made to fit."""
    (copy / "program-cpu.bin").write_bytes(data)
    return with_record(copy, lambda v: v["programs"]["cpu"].update(sha256=_sha256(data)))


def with_record(copy: Path, change: Callable[[Any], Any]) -> Path:
    values = json.loads((copy / "export.json").read_text())
    change(values)
    (copy / "export.json").write_text(json.dumps(values))
    return copy


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def refused(copy: Path) -> str:
    """The line with which the folder is refused."""
    with pytest.raises(WeightsError) as caught:
        jaxrecon.load_exported(copy)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_foreign_call_is_refused_by_name(copy: Path) -> None:
    """The name is as long as the one in its place, so that its bytes can be swapped."""
    data = (copy / "program-cpu.bin").read_bytes()
    assert data.count(b"lapack_sgesdd_ffi") == 1
    told = refused(with_program(copy, data.replace(b"lapack_sgesdd_ffi", b"lapack_sgetrf_ffi")))
    assert "program-cpu.bin is refused: it calls 'lapack_sgetrf_ffi', which no program" in told


def test_damaged_bytecode_is_refused(copy: Path) -> None:
    data = bytearray((copy / "program-cpu.bin").read_bytes())
    code = deserialize(bytearray(data)).mlir_module_serialized
    start, chance = data.index(code), random.Random(0)
    for _ in range(40):
        data[start + chance.randrange(len(code))] ^= 1 << chance.randrange(8)
    told = refused(with_program(copy, bytes(data)))
    assert "cannot read" in told
    assert told.endswith("export the program again")


@pytest.mark.parametrize(
    ("script", "error", "told"),
    [
        ("import os; os.abort()", WeightsError, "reading it crashes or does not end"),
        ("import time; time.sleep(60)", WeightsError, "reading it does not end"),
        ("raise SystemExit(3)", WeightsError, "reading it crashes"),
        ("import nothing_of_this_name", InputError, "No module named"),
    ],
)
def test_checks_that_do_not_come_to_an_end(
    copy: Path,
    monkeypatch: pytest.MonkeyPatch,
    script: str,
    error: type[Exception],
    told: str,
) -> None:
    (copy / "script.py").write_text(script)
    monkeypatch.setattr(program_check, "__file__", str(copy / "script.py"))
    monkeypatch.setattr(checking, "PATIENCE", 2)
    monkeypatch.setattr(checking, "_passed", {})
    with pytest.raises(error, match=told) as caught:
        jaxrecon.load_exported(copy)
    assert "\n" not in str(caught.value)


def test_without_a_python_to_check_with(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checking, "_passed", {})
    for executable in ("", str(copy / "none")):
        monkeypatch.setattr("sys.executable", executable)
        with pytest.raises(InputError, match=r"cannot check .*does not start"):
            jaxrecon.load_exported(copy)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda v: v["rule_fields"].update(patch=0), "patch is 0; it must be"),
        (lambda v: v["rule_fields"].update(pixel_limit=-5), "pixel_limit is -5; it must be"),
        (
            lambda v: v["rule_fields"].update(pixel_limit=10**30),
            "must fit into 64 bits @ config.pixel_limit",
        ),
        (lambda v: v["rule_fields"].update(other=1), "other"),
        (lambda v: v.update(rule="AspectRule", rule_fields={"sizes": []}), "sizes is empty"),
        (
            lambda v: v.update(rule="AspectRule", rule_fields={"sizes": [[0.0, 5, 5]]}),
            "the ratio must be above 0",
        ),
        (lambda v: v.update(views=10**15), "no machine holds 1000000000000000 images"),
        (lambda v: v.update(views=-2), "views=-2 must be at least 1"),
        (lambda v: v.update(width=29), "29x28 must be multiples of 14"),
        (lambda v: v.update(confidence_quantile=1.5), "confidence_quantile=1.5 must be"),
        (lambda v: v.update(min_confidence=float("nan")), "found nan @ config.min_confidence"),
        (lambda v: v.update(model="vggt"), "model is 'vggt', its weights say 'pi3'; export the"),
        (
            lambda v: v["rule_fields"].update(pixel_limit=50176),
            "'pixel_limit': 50176}, its weights say {'patch': 14, 'pixel_limit': 255000}",
        ),
        (lambda v: v["options"].update(maps=True), "options name what no program"),
        (lambda v: v.update(programs={}), "there is none"),
        (lambda v: v.update(jax_version=""), "jax_version is '', no version of JAX"),
        (lambda v: v.update(jax_version="newest"), "jax_version is 'newest', no version"),
        (lambda v: v.update(jax_version="0.12\n"), "no version of JAX"),
        (lambda v: v.update(jax_version="0.12 " * 99), "no version of JAX"),
        (lambda v: v["programs"]["cpu"].update(file="\0"), "cannot read"),
        (lambda v: v["programs"]["cpu"].update(file=""), "cannot read"),
        (lambda v: v["programs"]["cpu"].update(custom_calls=[]), "export.json says nothing"),
        (lambda v: v["programs"]["cpu"].update(custom_calls=["a\n"]), "json says 'a"),
    ],
)
@pytest.mark.usefixtures("loaded")
def test_records_that_no_export_writes(
    copy: Path, change: Callable[[Any], Any], message: str
) -> None:
    assert message in refused(with_record(copy, change))


def test_an_exported_program_is_no_checkpoint(folder: Path) -> None:
    told = r"is an exported program, .* jaxrecon\.load_exported"
    with pytest.raises(InputError, match=told):
        jaxrecon.load(folder)
    with pytest.raises(InputError, match=told):
        jaxrecon.load("pi3", weights=folder)


def test_a_record_nested_too_deep(copy: Path) -> None:
    deep = "[" * 100_000 + "]" * 100_000
    (copy / "export.json").write_text('{"format": "jaxrecon-export", "q": ' + deep + "}")
    assert "nested too deep" in refused(copy)


# Programs that take or tell something else


def test_other_arguments_and_results(loaded: ExportedPipeline, folder: Path) -> None:
    exported, record = loaded.exported, read_record(folder)
    avals, tree = exported.in_avals, exported.in_tree
    pixels = next(i for i, aval in enumerate(avals) if aval.dtype == jnp.uint8)
    floating = avals[pixels].update(dtype=jnp.dtype(jnp.float32))
    told = jax.tree.unflatten(exported.out_tree, exported.out_avals)
    fewer = {name: told[name] for name in told if name != "mask"}
    another = {**told, "track_maps": told["mask"]}
    wider = {**told, "mask": told["mask"].update(shape=(2, 28, 29))}
    doctored = [
        {"in_avals": (*avals[:pixels], floating, *avals[pixels + 1 :])},
        {"in_tree": jax.tree.structure((tuple(avals), {}))},
        {"in_tree": jax.tree.structure(((*jax.tree.unflatten(tree, avals)[0], None), {}))},
        *(_results(results) for results in (fewer, another, wider, list(told.values()))),
    ]
    for change in doctored:
        with pytest.raises(WeightsError, match=r"the program (takes|tells) other"):
            checking.check_belongs_together(
                dataclasses.replace(exported, **change), record, loaded.weights, folder
            )
    checking.check_belongs_together(exported, record, loaded.weights, folder)


def _results(told: Any) -> dict[str, Any]:
    return {"out_tree": jax.tree.structure(told), "out_avals": tuple(jax.tree.leaves(told))}


@pytest.mark.parametrize("version", [jax.__version__, "0.4.30", "0.12.0.dev20260101+ab1"])
def test_failures_of_the_compiler_are_told(copy: Path, version: str) -> None:
    record = read_record(with_record(copy, lambda v: v.update(jax_version=version)))
    why = "" if version == jax.__version__ else f": JAX {version} wrote it, this is "
    told = re.escape(f"the program cannot be compiled (one two){why}")
    with (
        pytest.raises(WeightsError, match=f"{told}.*; export it"),
        _reported_failures("be compiled", record),
    ):
        raise jax.errors.JaxRuntimeError("one\ntwo")
    with pytest.raises(InputError, match="mine"), _reported_failures("run", record):
        raise InputError("mine")
    with pytest.raises(jax.errors.JaxRuntimeError), _reported_failures("run", record):
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory")


def test_what_loading_would_refuse_is_not_written(folder: Path, tmp_path: Path) -> None:
    def attend(q: jax.Array, k: jax.Array, v: jax.Array, layout: Any) -> Any:
        factor = jnp.linalg.cholesky(jnp.eye(2, dtype=v.dtype))
        return v * factor[0, 0], None

    pipeline = jaxrecon.load(folder / "weights", stages=Stages(quiet=True))
    with pytest.raises(InputError, match=r"cannot be written for cpu \(it calls 'lapack_spotrf"):
        jaxrecon.export_program(
            pipeline,
            tmp_path / "new",
            views=2,
            size=(28, 28),
            platforms=("cpu",),
            attention=attend,
        )
    assert not list(tmp_path.iterdir())
