"""A model on its devices: compiles its programs, each on first use, and runs them."""

import re
import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import UInt8

from jaxrecon.compiling import (
    background_threads,
    compiled,
    has_cublas_gelu,
    reported_refusals,
    without_x64,
)
from jaxrecon.errors import InputError
from jaxrecon.images import ImageBatch, PixelTransform
from jaxrecon.images.resize import valid_regions
from jaxrecon.models import Model
from jaxrecon.nn.attention import AttentionFn
from jaxrecon.nn.execution import ExecutionConfig
from jaxrecon.priors import PriorArrays, abstract_priors, padded_priors
from jaxrecon.progress import Stages
from jaxrecon.runtime.bucketing import (
    bucket_of,
    has_margins,
    padded,
    serves_fewer,
)
from jaxrecon.runtime.fingerprint import digest, stable_name
from jaxrecon.runtime.memory import check_compiled, default_device
from jaxrecon.runtime.options import PADDING, ProgramKey, RuntimeInputs
from jaxrecon.runtime.placement import Placement, sharded_weights
from jaxrecon.runtime.program import Geometry, encoder_program, scene_program
from jaxrecon.runtime.sharding import (
    by_view,
    check_alike,
    check_mesh,
    gathered,
    in_many_processes,
    put,
    view_devices,
)

_GUARD = "jax_transfer_guard"


@dataclass(frozen=True)
class Executor:
    """A model with its weights on the devices, which compiles its programs and runs them.

    Attributes:
      model: the network with its weights, or with their shapes if nothing is to run.
      mesh: devices over which the views are sharded; None for one device.
      exact_views: compiles for each number of views, in place of padding it up to the next of a
        few numbers that share a program (see `bucket_of`).
      offload: whether the features that the heads read wait in the host's memory.

    Raises:
      InputError: views cannot be sharded over the mesh; see `sharding.check_mesh`.
    """

    model: Model
    mesh: Mesh | None = None
    exact_views: bool = False
    offload: bool = False
    _compiled: dict[Any, Any] = field(default_factory=dict, repr=False, compare=False)
    _turns: dict[Any, threading.Lock] = field(default_factory=dict, repr=False, compare=False)

    def __post_init__(self) -> None:
        check_mesh(self.mesh)

    def __getstate__(self) -> dict[str, Any]:
        """What copies and other processes get: all but the programs, which they compile anew."""
        return vars(self) | {"_compiled": {}, "_turns": {}}

    @property
    def compilations(self) -> int:
        """How many programs were compiled, or taken from the cache on disk."""
        return len(self._compiled)

    @property
    def device(self) -> Any:
        """The first of this process's devices (`jax.Device`) that the programs run on."""
        return self.mesh.local_devices[0] if self.mesh else default_device()

    @property
    def execution(self) -> ExecutionConfig:
        """How the programs do their work."""
        return ExecutionConfig(offload=self.offload, cublas_gelu=has_cublas_gelu(self.device))

    @property
    def placement(self) -> Placement:
        """Where the parts of the programs run."""
        sharded = sharded_weights(self.model) if self.mesh else ()
        return Placement(self.execution, self.mesh, sharded)

    def run(
        self,
        batch: ImageBatch,
        inputs: RuntimeInputs,
        key: ProgramKey,
        attention: AttentionFn,
        stages: Stages,
        *,
        priors: PriorArrays | None = None,
    ) -> Geometry:
        """Runs the program for these shapes, compiled before or now."""
        pixels, inputs, key = self.padded(batch, inputs, key)
        program = self.compile(pixels.shape, key, attention)
        with stages.stage("run"):
            if in_many_processes(self.mesh):
                check_alike(self.mesh, {"images": digest(pixels)})
            scene = self.put_by_view(pixels[None])
            priors = self.placed(priors, len(pixels))
            geometry = jax.block_until_ready(program(self.model, scene, inputs, priors))
        geometry = gathered(geometry)
        return without_padding(geometry, len(batch.names))

    def compile(self, shape: tuple[int, ...], key: ProgramKey, attention: AttentionFn) -> Any:
        """The executable for images of `shape` (V, H, W, 3), compiled on first use."""
        wanted = shape, key, attention
        return self.once(wanted, lambda: self.lower(*wanted))

    def compile_all(
        self, wanted: Iterable[tuple[tuple[int, ...], ProgramKey, AttentionFn]], stages: Stages
    ) -> None:
        """Traces one program after another, and compiles those behind it meanwhile.

        Of the weights the shapes alone count.

        Raises:
          InputError: one needs more memory than the device has.
        """
        missing = [each for each in dict.fromkeys(wanted) if each not in self._compiled]
        with stages.stage("warm", total=len(missing)) as done, background_threads() as pool:
            made = {each: pool.submit(compiled, self.lower(*each), self.device) for each in missing}
            for each, program in made.items():
                self._keep(each, program.result())
                done()

    def with_weights(self, model: Model) -> "Executor":
        """The same with a model of the same shapes and places, which runs what is compiled.

        Raises:
          InputError: its shapes or dtypes are others.
        """
        if _kinds(model) != _kinds(self.model):
            raise InputError(
                "model: its weights have other shapes or dtypes than those that programs were "
                "compiled for; load the same model with the same arguments"
            )
        return replace(self, model=model)

    def lower(self, shape: tuple[int, ...], key: ProgramKey, attention: AttentionFn) -> Any:
        """The program for images of `shape` (V, H, W, 3), lowered and not yet compiled."""
        program = partial(scene_program, attention, key, placement=self.placement)
        return self.lowered(program, *self.abstract_arguments(shape, key))

    def compile_encoder(
        self, shape: tuple[int, ...], key: ProgramKey, attention: AttentionFn
    ) -> Any:
        """The executable of the part in which views exchange, compiled on first use."""
        wanted = shape, key, attention
        return self.once(("encode", *wanted), lambda: self.lower_encoder(*wanted))

    def lower_encoder(self, shape: tuple[int, ...], key: ProgramKey, attention: AttentionFn) -> Any:
        """The program of that part, lowered and not yet compiled."""
        program = partial(encoder_program, attention, placement=self.placement)
        return self.lowered(program, *self.abstract_arguments(shape, key))

    def placed(self, priors: PriorArrays | None, views: int) -> PriorArrays | None:
        """Priors on the devices, with unknown views behind them up to so many `views`."""
        return None if priors is None else self.put_by_view(padded_priors(priors, views))

    def put_by_view[X](self, arrays: X) -> X:
        """Host arrays (B, V, ...) on the devices that have their views."""
        return put(arrays, by_view(self.mesh) if self.mesh else None)

    def padded(
        self, batch: ImageBatch, inputs: RuntimeInputs, key: ProgramKey
    ) -> tuple[UInt8[np.ndarray, "V H W 3"], RuntimeInputs, ProgramKey]:
        """Images with padding views behind them, and what that adds to inputs and program."""
        views, inputs, key = self._padding(batch.transforms, inputs, key)
        return padded(batch.pixels, views), inputs, key

    def expected_program(
        self, transforms: Sequence[PixelTransform], inputs: RuntimeInputs, key: ProgramKey
    ) -> tuple[tuple[int, ...], ProgramKey]:
        """Shape and key for which `compile` makes the program that images of these transforms,
        which need not be there yet, will run.
        """
        views, _, key = self._padding(transforms, inputs, key)
        width, height = transforms[0].size
        return (views, height, width, 3), key

    def check_alike(
        self,
        transforms: Sequence[PixelTransform],
        attention: AttentionFn,
        *arguments: Any,
    ) -> None:
        """Refuses to compile where the processes of the mesh would not compile the same program.

        Raises:
          InputError: they were given other images, or other arguments.
        """
        if in_many_processes(self.mesh):
            name = re.sub(r" at 0x[0-9a-f]+", "", stable_name(attention))
            digests = {"images": digest(transforms), "arguments": digest(name, arguments)}
            check_alike(self.mesh, digests)

    def _padding(
        self, transforms: Sequence[PixelTransform], inputs: RuntimeInputs, key: ProgramKey
    ) -> tuple[int, RuntimeInputs, ProgramKey]:
        """How many views the program has, and what padding and margins add to inputs and key."""
        num_valid, devices = len(transforms), view_devices(self.mesh)
        exact = -(-num_valid // devices) * devices
        views = exact if self.exact_views else bucket_of(num_valid, devices)
        fewer = views > num_valid or (not self.exact_views and serves_fewer(views, devices))
        region = valid_regions(transforms)
        if not fewer and not has_margins(region, transforms):
            return views, inputs, key
        inputs = replace(inputs, valid_region=padded(region, views))
        if fewer:
            inputs = replace(inputs, num_valid_views=np.asarray(num_valid, np.int32))
        return views, inputs, key.taking(*(PADDING if fewer else PADDING[:1]))

    def abstract_arguments(self, shape: tuple[int, ...], key: ProgramKey) -> tuple[Any, ...]:
        """What a program takes: the model, and shapes of images, numbers and priors."""
        sharding = by_view(self.mesh) if self.mesh else None
        inputs = key.abstract_inputs(shape[0])
        priors = abstract_priors(shape, sharding) if key.priors else None
        pixels = jax.ShapeDtypeStruct((1, *shape), jnp.uint8, sharding=sharding)
        return self.model, pixels, inputs, priors

    @without_x64
    @reported_refusals("run here")
    def lowered(self, program: Callable[..., Any], *arguments: Any) -> Any:
        """A program lowered for these arguments and devices.

        Arguments that it does not use are kept: they take memory all the same.

        Raises:
          InputError: the attention asked for by name cannot run on these devices.
        """
        if self.mesh is None:
            return jax.jit(program, keep_unused=True).lower(*arguments)
        with jax.set_mesh(self.mesh):
            return jax.jit(program, keep_unused=True).lower(*arguments)

    def once(self, key: Any, lower: Callable[[], Any]) -> Any:
        """The executable of that key, compiled on first use; other threads wait for it.

        Raises:
          InputError: it needs more memory than the device has, or JAX is set to do without
            executables, or to refuse transfers.
        """
        _check_settings(self.device)
        with self._turns.setdefault(key, threading.Lock()):
            if key not in self._compiled:
                self._keep(key, compiled(lower(), self.device))
        return self._compiled[key]

    def _keep(self, key: Any, program: Any) -> None:
        """Has an executable for later calls, unless it needs more memory than the device has."""
        check_compiled(program, self.device)
        self._compiled[key] = program


def _check_settings(device: Any) -> None:
    """Refuses settings of JAX with which no program of ours runs.

    Raises:
      InputError: naming the setting.
    """
    if jax.config.jax_disable_jit:
        raise InputError(
            "jax_disable_jit is set (JAX_DISABLE_JIT, jax.disable_jit()), but a reconstruction "
            "is a program that is compiled as a whole; unset it here"
        )
    guards = [f"{_GUARD}_host_to_device"]
    if device.platform != "cpu":  # whose memory is the host's
        guards.append(f"{_GUARD}_device_to_host")
    for guard in guards:
        found = getattr(jax.config, guard)
        if found in ("disallow", "disallow_explicit"):
            raise InputError(
                f"{guard} is {found} ({_GUARD.upper()}, jax.transfer_guard()), but photos go to "
                "the device and results come back; allow transfers here"
            )


def _kinds(model: Model) -> tuple[Any, list[tuple[tuple[int, ...], Any]]]:
    """What a program depends on of a model's weights."""
    leaves, structure = jax.tree.flatten(model)
    return structure, [(leaf.shape, leaf.dtype) for leaf in leaves]


def without_padding(geometry: Geometry, views: int) -> Geometry:
    """Without the padding views; feature maps keep them.

    What is sharded over devices comes to the host: they cannot share every number of views evenly.
    """
    if len(geometry.mask) == views:
        return geometry

    def first_views(array: Any) -> Any:
        sharded = isinstance(array, jax.Array) and len(array.sharding.device_set) > 1
        return (np.asarray(array) if sharded else array)[:views]

    names = ("points_world", "points_camera", "confidence", "mask", "world_from_camera")
    chosen = {name: first_views(getattr(geometry, name)) for name in (*names, "intrinsics")}
    return replace(geometry, **chosen)
