"""Writing a program and its weights."""

import hashlib
import re
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import jax
from jax.export import DisabledSafetyCheck, Exported, default_export_platform, export
from jax.sharding import AbstractDevice, AbstractMesh

from jaxrecon import checkpoint
from jaxrecon.aot import program_check
from jaxrecon.aot.program import abstract_arguments, flat_program
from jaxrecon.aot.program_check import KERNEL_CALLS
from jaxrecon.aot.record import (
    PLATFORMS,
    WEIGHTS_FOLDER,
    ProgramFile,
    Record,
    StoredOptions,
    write_record,
)
from jaxrecon.checks import path_of, truth_value
from jaxrecon.choices import meant
from jaxrecon.compiling import on_its_own, reported_refusals
from jaxrecon.errors import InputError
from jaxrecon.files import check_output_folder, replacing_folder
from jaxrecon.nn.attention import AttentionFn
from jaxrecon.nn.float8_blocks import is_in_float8
from jaxrecon.pipeline import CameraConfig, MaskConfig, Pipeline, ProgramKey, Request, resolve
from jaxrecon.progress import Stages, quiet_stages
from jaxrecon.runtime.bucketing import check_program_size
from jaxrecon.runtime.cameras import FittedIntrinsics, PrincipalPoint
from jaxrecon.runtime.defaults import PointsChoice
from jaxrecon.runtime.options import PADDING
from jaxrecon.sparse import AttentionName, check_budgets, chosen_attention

DEFAULT_KINDS = {"cpu": "cpu", "cuda": "NVIDIA H100 80GB HBM3", "tpu": "TPU v5e"}
"""The accelerators for which kernels are chosen where none is named or present."""


@dataclass(frozen=True)
class _Program:
    """A program, and what it calls beside XLA's own operations."""

    exported: Exported
    calls: tuple[str, ...]


@dataclass(frozen=True)
class _Target:
    platform: str
    device_kind: str
    present: bool

    def tracing(self) -> AbstractContextManager[Any]:
        """Code traced inside chooses its kernels for the target."""
        if self.present:
            return nullcontext()
        kind = "gpu" if self.platform == "cuda" else self.platform
        device = AbstractDevice(device_kind=self.device_kind, num_cores=1, platform=kind)
        return jax.sharding.use_abstract_mesh(AbstractMesh((), (), abstract_device=device))


@on_its_own
def export_program(
    pipeline: Pipeline,
    folder: str | Path,
    *,
    views: int,
    size: tuple[int, int],
    platforms: Sequence[str] | None = None,
    device_kind: str | None = None,
    intrinsics: FittedIntrinsics = "per_view",
    principal_point: PrincipalPoint = "free",
    points: PointsChoice | None = None,
    use_quantile: bool | None = None,
    attention: AttentionFn | AttentionName | None = None,
    overwrite: bool = False,
    stages: Stages | None = None,
) -> Path:
    """Writes the program from 8-bit pixels to geometry, and its weights, into a folder.

    `load_exported` runs it. Weights, thresholds and the number of views up to `views` are the
    program's arguments; everything else is fixed.

    Args:
      pipeline: a loaded model.
      folder: where to: `export.json`, a program for each platform, and `weights/`, a native
        checkpoint.
      views: the most views that the program takes; it works as long for fewer.
      size: width and height of the processed images, in pixels; whole patches.
      platforms: of "cpu", "cuda" and "tpu"; that of this machine if not given.
      device_kind: the accelerator to choose kernels for, as `jax.Device.device_kind` has it. If
        not given: this machine's; else an H100, or a TPU v5e.
      intrinsics, principal_point, points: see `Pipeline.reconstruct`.
      use_quantile: whether the mask may leave out a share of the points; as the model's family
        does if not given.
      attention: in place of the pipeline's own: a function or a name, as `load` takes them.
      overwrite: replace the folder if it exists.
      stages: shows the time of each stage; silent if not given.

    Returns:
      The folder.

    Raises:
      InputError: an argument cannot be used, or the attention cannot be kept in a file.
      OutputError: the folder exists and is not empty, holds the file or folder of the pipeline's
        weights, or cannot be written.
    """
    stages = quiet_stages(stages)
    folder = path_of("folder", folder)
    read = () if pipeline.weights_path is None else (pipeline.weights_path,)
    check_output_folder(folder, overwrite=overwrite, inputs=read)
    header = _header(pipeline)
    if use_quantile is not None:
        truth_value("use_quantile", use_quantile)
    check_program_size(views, size, pipeline.resize.patch)
    targets = _targets(platforms, device_kind)
    request = Request(
        mask=MaskConfig(confidence_quantile=None if use_quantile is None else 0.0),
        camera=CameraConfig(intrinsics, principal_point),
        points=points,
    )
    key, _ = resolve(pipeline.defaults, request, pipeline.name)
    attend = chosen_attention(attention, pipeline.attention)
    check_budgets(attend, pipeline.name, pipeline.config_digest, pipeline.weights_digest)
    key = key.taking(*PADDING, *(["confidence_quantile"] if use_quantile else []))
    arguments = abstract_arguments(checkpoint.flatten(pipeline.model), views, size)
    with stages.stage("export", total=len(targets)) as advance:
        programs: dict[str, _Program] = {}
        for target in targets:
            exported = _exported(pipeline, target, arguments, key, attend)
            programs[target.platform] = _Program(exported, _allowed_calls(exported, target))
            advance()
            _note_missing_cudnn(programs[target.platform], pipeline, stages)
            _note_slow_blocks(programs[target.platform], stages)
    with stages.stage("write"), replacing_folder(folder, overwrite=overwrite) as place:
        checkpoint.save(pipeline.model, place / WEIGHTS_FOLDER, header)
        files = {
            target.platform: _write_program(programs[target.platform], target, place)
            for target in targets
        }
        write_record(_record(pipeline, views, size, key, files), place)
    return folder


def _header(pipeline: Pipeline) -> dict[str, Any]:
    """What the written checkpoint says of itself."""
    if pipeline.mesh is not None:
        raise InputError(
            f"mesh: a program in a file runs on one device, found {pipeline.mesh.size}; load the "
            "model without a mesh"
        )
    if pipeline.header is None:
        raise InputError(
            "pipeline: it does not tell where its weights are from; make it with jaxrecon.load"
        )
    if is_in_float8(pipeline.model):
        raise InputError("float8: a program in a file has no such weights; load the model without")
    return {**pipeline.header, "model": pipeline.name, "resize": asdict(pipeline.resize)}


def _targets(platforms: Sequence[str] | None, device_kind: str | None) -> list[_Target]:
    here = default_export_platform()
    chosen = (here,) if platforms is None else tuple(dict.fromkeys(platforms))
    unknown = [platform for platform in chosen if platform not in PLATFORMS]
    if unknown or not chosen:
        found = ", ".join(unknown) or "none"
        near = meant(unknown[0], PLATFORMS) if unknown else ""
        raise InputError(f"platforms: found {found}; choose from {', '.join(PLATFORMS)}{near}")
    if device_kind is not None and len(set(chosen) - {"cpu"}) != 1:
        raise InputError(
            f"{device_kind=} goes with one of the platforms cuda and tpu, found "
            f"{', '.join(chosen)}; leave it out, or export for one of them"
        )
    targets = []
    for platform in chosen:
        named = device_kind if platform != "cpu" else None
        present = platform == here and named in (None, jax.devices()[0].device_kind)
        kind = jax.devices()[0].device_kind if present else named or DEFAULT_KINDS[platform]
        targets.append(_Target(platform, kind, present))
    return targets


def _exported(
    pipeline: Pipeline,
    target: _Target,
    arguments: tuple[Any, ...],
    key: ProgramKey,
    attention: AttentionFn,
) -> Exported:
    """The program for one platform, which takes arguments of such shapes.

    Raises:
      InputError: the attention cannot be had there, or calls back into Python.
    """
    placement = pipeline.executor.placement
    # The platform it is for need not be here. Those who load it compile it as `compiled` does.
    execution = replace(placement.execution, cublas_gelu=target.platform == "cuda")
    placement = replace(placement, execution=execution)
    program = jax.jit(partial(flat_program, attention, key, pipeline.model, placement=placement))
    allowed = [DisabledSafetyCheck.custom_call(name) for name in KERNEL_CALLS]
    make = export(program, platforms=(target.platform,), disabled_checks=allowed)
    try:
        refusals = reported_refusals(f"be written for {target.platform}")
        with target.tracing(), refusals:
            return make(*arguments)
    except ValueError as error:
        if "Unsupported TPU device kind" in str(error):
            raise InputError(
                f"device_kind={target.device_kind!r} is no TPU that JAX knows; give one such as "
                f"{DEFAULT_KINDS['tpu']!r}"
            ) from error
        if "custom calls" not in str(error):
            raise
        names = ", ".join(sorted(set(re.findall(r'call_target_name = "([^"]+)"', str(error)))))
        raise InputError(
            f"attention: cannot be written for {target.platform} (it calls {names}, which JAX does "
            "not promise to keep); choose another one"
        ) from error


def _allowed_calls(program: Exported, target: _Target) -> tuple[str, ...]:
    """What the program calls beside XLA's own operations.

    Raises:
      InputError: `load_exported` would refuse it.
    """
    module = program_check.lowered(program, target.platform).compiler_ir("stablehlo")
    refused = program_check.refusal(module, target.platform)
    if refused is not None:
        raise InputError(
            f"attention: cannot be written for {target.platform} ({refused}, which "
            "load_exported refuses); choose another one"
        )
    return program_check.custom_calls(module)


def _note_missing_cudnn(program: _Program, pipeline: Pipeline, stages: Stages) -> None:
    half = any(leaf.dtype.itemsize == 2 for leaf in jax.tree.leaves(pipeline.model))
    has_cudnn = any(name.startswith("__cudnn") for name in program.calls)
    if program.exported.platforms == ("cuda",) and half and not has_cudnn:
        stages.note(
            "NOTE: dense attention in the program for cuda is XLA's, which is slower than cuDNN's; "
            "to get cuDNN's, export on a machine that has it"
        )


def _note_slow_blocks(program: _Program, stages: Stages) -> None:
    """Where no kernel attends to the blocks that are chosen for a GPU."""
    by_xla = "@attention_xla" in program.exported.mlir_module()
    if program.exported.platforms == ("cuda",) and by_xla:
        stages.note(
            "NOTE: block-sparse attention in the program for cuda is XLA's, which is far slower "
            "than the kernels'; these take bfloat16 and float16, head widths up to 128, and blocks "
            "such as 128 x 64, and but for Hopper a jax that has Pallas Triton"
        )


def _write_program(program: _Program, target: _Target, folder: Path) -> ProgramFile:
    data = bytes(program.exported.serialize())
    file = f"program-{target.platform}.bin"
    (folder / file).write_bytes(data)
    sha256 = hashlib.sha256(data).hexdigest()
    return ProgramFile(file, sha256, target.device_kind, program.calls)


def _record(
    pipeline: Pipeline,
    views: int,
    size: tuple[int, int],
    key: ProgramKey,
    programs: dict[str, ProgramFile],
) -> Record:
    defaults, looks_at_quantile = pipeline.defaults, "confidence_quantile" in key.inputs
    return Record(
        model=pipeline.name,
        views=views,
        width=size[0],
        height=size[1],
        options=StoredOptions.of(key),
        min_confidence=defaults.min_confidence,
        confidence_quantile=defaults.confidence_quantile if looks_at_quantile else 0.0,
        rule=type(pipeline.resize).__name__,
        rule_fields=asdict(pipeline.resize),
        programs=programs,
        jax_version=jax.__version__,
    )
