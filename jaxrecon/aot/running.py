"""Running a program from its folder."""

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.export import Exported
from jaxtyping import Array

from jaxrecon import checkpoint
from jaxrecon.aot.checking import check_belongs_together, check_labels, read_checked, told_versions
from jaxrecon.aot.program import stored_inputs
from jaxrecon.aot.record import (
    WEIGHTS_FOLDER,
    ProgramFile,
    Record,
    check_views,
    read_program,
    read_record,
)
from jaxrecon.checks import path_of
from jaxrecon.choices import EDGE_RTOL
from jaxrecon.compiling import compiled, on_its_own
from jaxrecon.environment import warn_of_doubts
from jaxrecon.errors import InputError, JaxreconError, WeightsError, reason_of
from jaxrecon.images import USUAL_FPS, ImageBatch, ImageSource, Sampling, loading_images
from jaxrecon.images.resize import valid_regions
from jaxrecon.pipeline import Geometry, MaskConfig, Request, RuntimeInputs, resolve
from jaxrecon.pipeline.result import note_oddities, reconstruction_of
from jaxrecon.progress import Stages, quiet_stages
from jaxrecon.reconstruction import Reconstruction
from jaxrecon.runtime.bucketing import padded
from jaxrecon.runtime.cameras import CameraConfig, check_one_camera
from jaxrecon.runtime.executor import without_padding
from jaxrecon.runtime.memory import check_compiled, default_device
from pallas_kernels.platform import target_is_hopper, target_platform

_one_at_a_time = threading.Lock()
"""Held by the thread that compiles a program; others wait, as they may want the same one."""


@dataclass(frozen=True)
class ExportedPipeline:
    """A program from a file with its weights on the device, ready to reconstruct.

    Attributes:
      record: what the program was made for.
      exported: the program.
      weights: by their paths in the checkpoint.
    """

    record: Record
    exported: Exported
    weights: Mapping[str, Array] = field(repr=False)
    _compiled: dict[str, Any] = field(default_factory=dict, repr=False, compare=False)

    @on_its_own
    def reconstruct(
        self,
        images: ImageSource,
        *,
        resolution: int | None = None,
        stride: int | None = None,
        fps: int | float | None = None,
        max_views: int | None = None,
        motion: int | float | None = None,
        min_confidence: float | None = None,
        confidence_quantile: float | None = None,
        edge_rtol: float | None = EDGE_RTOL,
        stages: Stages | None = None,
    ) -> Reconstruction:
        """Reconstructs the scene that the images show: `Pipeline.reconstruct` in a file.

        Args:
          images: up to `record.views` of them, of a shape that gives the program's size.
          resolution: longest side of the processed images in pixels; if not given, the model's own
            size or the longest side of the program's, whichever gives the program's size.
          stride, fps, max_views, motion, min_confidence, confidence_quantile, edge_rtol, stages:
            see `Pipeline.reconstruct`.

        Raises:
          InputError: the images are too many or of another size, or an argument cannot be used.
          WeightsError: the program cannot be compiled or run, although it could be read.
        """
        stages = quiet_stages(stages)
        mask = MaskConfig(min_confidence, confidence_quantile, edge_rtol=edge_rtol)
        inputs = self._inputs(mask)
        with loading_images(
            images,
            rule=self.record.image_rule.unstretched(),
            resolution=resolution,
            sampling=Sampling(stride, fps, max_views, USUAL_FPS, motion=motion),
            stages=stages,
        ) as loading:
            batch = loading.batch()
        check_views(len(batch.names), self.record.views)
        options = self.record.options
        camera = CameraConfig(options.intrinsics, options.principal_point)
        check_one_camera(camera, batch.transforms, lambda: batch.names)
        with stages.stage("compile"):
            program = self._program()
        arguments = self._arguments(batch, inputs)
        with stages.stage("run"), _reported_failures("run", self.record):
            results = jax.block_until_ready(program(*arguments))
        geometry = without_padding(Geometry(**results), len(batch.names))
        note_oddities(geometry, stages)
        return reconstruction_of(geometry, batch, self.record.model, None, stages)

    def _inputs(self, mask: MaskConfig) -> RuntimeInputs:
        """What such a mask makes of the program's inputs.

        Raises:
          InputError: the program was made without what the mask looks at.
        """
        record = self.record
        _, inputs = resolve(record.defaults, Request(mask=mask), record.model)
        if inputs.confidence_quantile is not None and not record.options.use_quantile:
            raise InputError(
                f"confidence_quantile={mask.confidence_quantile}: the program was made without it; "
                "leave it out, or export with use_quantile=True (--quantile)"
            )
        return inputs

    def _arguments(self, batch: ImageBatch, inputs: RuntimeInputs) -> tuple[Any, ...]:
        views = self.record.views
        inputs = replace(
            inputs,
            valid_region=padded(valid_regions(batch.transforms), views),
            num_valid_views=np.asarray(len(batch.names), np.int32),
        )
        return self.weights, padded(batch.pixels, views)[None], stored_inputs(inputs)

    def _program(self) -> Any:
        with _one_at_a_time:
            if "program" not in self._compiled:
                self._compiled["program"] = self._made()
        return self._compiled["program"]

    def _made(self) -> Any:
        device = default_device()
        shapes = jax.tree.map(_shape_of, self.exported.in_avals)
        arguments, _ = jax.tree.unflatten(self.exported.in_tree, shapes)
        with _reported_failures("be compiled", self.record):
            program = compiled(jax.jit(self.exported.call).lower(*arguments), device)
        check_compiled(program, device)
        return program


@contextmanager
def _reported_failures(what: str, record: Record) -> Iterator[None]:
    """Tells the user of a program that could be read, and yet cannot do `what`.

    It says so if another JAX wrote it.

    Raises:
      WeightsError: in place of JAX's errors, but for those about memory.
    """
    try:
        yield
    except Exception as error:
        if isinstance(error, JaxreconError) or "RESOURCE_EXHAUSTED" in str(error):
            raise
        other = told_versions(record)
        why = f": {other}" if other else ""
        raise WeightsError(
            f"the program cannot {what} ({reason_of(error)[:160]}){why}; export it again"
        ) from error


def _shape_of(aval: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(aval.shape, aval.dtype)


@on_its_own
def load_exported(folder: str | Path, *, stages: Stages | None = None) -> ExportedPipeline:
    """Loads a program that `export_program` or `jaxrecon compile` wrote.

    A program is code, so load those of people whom you trust. Each is first read in a process of
    its own, which takes one or two seconds: what is damaged, or calls any function that programs of
    jaxrecon do not, is refused, and nothing of it is compiled or run. Kernels for GPUs and TPUs
    hold machine code, of which nothing can be checked.

    Raises:
      InputError: the folder holds none, or none for this machine.
      WeightsError: the program or its weights are damaged, do not belong together, hold what no
        program of jaxrecon does, or are of a newer format.
    """
    warn_of_doubts()
    stages = quiet_stages(stages)
    folder = path_of("folder", folder)
    with stages.stage("load"):
        record = read_record(folder)
        program = _for_this_machine(record, folder)
        data = read_program(folder, program)
        exported = read_checked(data, _platform(), record, folder / program.file)
        check_labels(record, folder)
        weights = {
            path: jax.device_put(tensor, may_alias=True).block_until_ready()
            for path, tensor in checkpoint.read_tensors(folder / WEIGHTS_FOLDER, ahead=True)
        }
        check_belongs_together(exported, record, weights, folder)
    return ExportedPipeline(record, exported, weights)


def _for_this_machine(record: Record, folder: Path) -> ProgramFile:
    platform = _platform()
    program = record.programs.get(platform)
    if program is None:
        raise InputError(
            f"{folder}: the program was made for {', '.join(record.programs)}, this machine runs "
            f"{platform}; export it with platforms=({platform!r},) (--platform {platform})"
        )
    if any(name.startswith("mosaic_gpu") for name in program.custom_calls):
        _check_hopper(program, folder)
    return program


def _platform() -> str:
    """This machine's, as programs name it."""
    return {"gpu": "cuda"}.get(target_platform(), target_platform())


def _check_hopper(program: ProgramFile, folder: Path) -> None:
    if not target_is_hopper():
        here = default_device().device_kind
        raise InputError(
            f"{folder}: the program's kernels are for {program.device_kind}, this machine has "
            f"{here}; export it with device_kind={here!r} (--device-kind)"
        )
