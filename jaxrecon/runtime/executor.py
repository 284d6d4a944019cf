"""Compiles a model's programs, each on first use, and runs them."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Float, UInt8

from jaxrecon.compiling import compiled, told_refusals, without_x64
from jaxrecon.deprecation import renamed_fields
from jaxrecon.formats import PointTracks
from jaxrecon.images import ImageBatch, ImageRule, PixelTransform
from jaxrecon.models import Model
from jaxrecon.nn.attention import AttentionFn, attend_densely
from jaxrecon.nn.execution import ExecutionConfig
from jaxrecon.priors import PriorArrays, abstract_priors, padded_priors
from jaxrecon.progress import Stages
from jaxrecon.runtime.bucketing import (
    bucket_of,
    has_margins,
    padded,
    serves_fewer,
    valid_regions,
)
from jaxrecon.runtime.defaults import MODEL_DEFAULTS, ModelDefaults
from jaxrecon.runtime.fingerprint import digest, stable_name
from jaxrecon.runtime.memory import check_compiled, default_device
from jaxrecon.runtime.options import PADDING, ProgramKey, RuntimeInputs
from jaxrecon.runtime.placement import Placement, sharded_weights
from jaxrecon.runtime.program import Geometry, encoder_program, maps_program, scene_program
from jaxrecon.runtime.sharding import (
    by_view,
    check_alike,
    check_mesh,
    gathered,
    in_many_processes,
    put,
    view_devices,
)
from jaxrecon.runtime.tracking import Group, Query, follow_program, groups_of


@renamed_fields(habits="defaults")
@dataclass(frozen=True)
class Engine:
    """A model with its weights on the devices, ready to reconstruct.

    Attributes:
      model: the network with its weights.
      name: what the model is called in results.
      resize: the size that the model's upstream gives its images.
      attention: how the trunk's tokens attend.
      mesh: devices over which the views are sharded; None for one device.
      defaults: what the model's family does where the caller does not say.
      exact_views: compiles for each number of views, in place of padding it up to the next of a
        few numbers that share a program (see `bucket_of`).
      offload: whether the features that the heads read wait in the host's memory.
      header: what the checkpoint of the weights says of itself; see `checkpoint.write`.

    Raises:
      InputError: views cannot be sharded over the mesh; see `sharding.check_mesh`.
    """

    model: Model
    name: str
    resize: ImageRule
    attention: AttentionFn = attend_densely
    mesh: Mesh | None = None
    defaults: ModelDefaults = MODEL_DEFAULTS
    exact_views: bool = False
    offload: bool = False
    header: Mapping[str, Any] | None = field(default=None, repr=False, compare=False)
    _compiled: dict[Any, Any] = field(default_factory=dict, repr=False, compare=False)

    def __post_init__(self) -> None:
        check_mesh(self.mesh)

    def run(
        self,
        batch: ImageBatch,
        inputs: RuntimeInputs,
        key: ProgramKey,
        stages: Stages,
        *,
        priors: PriorArrays | None = None,
        attention: AttentionFn | None = None,
    ) -> Geometry:
        """Runs the program for these shapes, compiled before or now."""
        pixels, inputs, key = self.padded(batch, inputs, key)
        program = self.compile(pixels.shape, key, attention)
        with stages.stage("run"):
            if in_many_processes(self.mesh):
                check_alike(self.mesh, {"images": digest(pixels)})
            where = by_view(self.mesh) if self.mesh else None
            scene = put(pixels[None], where)
            priors = self.placed(priors, len(pixels))
            geometry = jax.block_until_ready(program(self.model, scene, inputs, priors))
        geometry = gathered(geometry)
        return without_padding(geometry, len(batch.names))

    @property
    def compilations(self) -> int:
        """How many programs this pipeline has compiled, or taken from the cache on disk."""
        return len(self._compiled)

    def compile(
        self,
        shape: tuple[int, ...],
        key: ProgramKey | None = None,
        attention: AttentionFn | None = None,
    ) -> Any:
        """The executable for images of `shape` (V, H, W, 3), compiled on first use."""
        wanted = shape, key or ProgramKey(), attention or self.attention
        return self.once(wanted, lambda: self.lower(*wanted))

    def lower(
        self,
        shape: tuple[int, ...],
        key: ProgramKey | None = None,
        attention: AttentionFn | None = None,
    ) -> Any:
        """The program for images of `shape` (V, H, W, 3), lowered and not yet compiled."""
        key, attention = key or ProgramKey(), attention or self.attention
        program = partial(scene_program, attention, key, placement=self.placement)
        return self.lowered(program, *self._abstract(shape, key))

    def compile_encoder(
        self, shape: tuple[int, ...], key: ProgramKey, attention: AttentionFn
    ) -> Any:
        """The executable of the part in which views exchange, compiled on first use."""
        wanted = shape, key, attention
        return self.once(("encode", *wanted), lambda: self.lower_encoder(*wanted))

    def lower_encoder(self, shape: tuple[int, ...], key: ProgramKey, attention: AttentionFn) -> Any:
        """The program of that part, lowered and not yet compiled."""
        program = partial(encoder_program, attention, placement=self.placement)
        return self.lowered(program, *self._abstract(shape, key))

    def maps(self, batch: ImageBatch, stages: Stages) -> Float[Array, "V h w C"]:
        """The feature maps for tracks."""
        key = ProgramKey()
        pixels, inputs, key = self.padded(batch, key.abstract_inputs(0), key)
        shape, attention = pixels.shape, self.attention
        with stages.stage("compile"):
            program = self.once(
                ("maps", shape, key, attention),
                lambda: self.lowered(
                    partial(maps_program, attention, placement=self.placement),
                    *self._abstract(shape, key)[:3],
                ),
            )
        with stages.stage("run"):
            scene = put(pixels[None], by_view(self.mesh) if self.mesh else None)
            return jax.block_until_ready(program(self.model, scene, inputs))

    def follow(
        self, maps: Float[Array, "V h w C"], asked: Sequence[Query], views: int, stages: Stages
    ) -> PointTracks:
        """Tracks in pixels of the processed images."""
        groups = [group for query in asked for group in groups_of(query, views)]
        with stages.stage("compile"):
            programs = [self._following(maps, group, views) for group in groups]
        with stages.stage("track"):
            parts = [
                group.wanted(program(self.model, maps, *group.arguments))
                for program, group in zip(programs, groups, strict=True)
            ]
        xy, visibility, confidence = (np.concatenate(x, axis=1) for x in zip(*parts, strict=True))
        counts = [len(query.points) for query in asked]
        return PointTracks(
            xy=xy,
            visibility=visibility,
            confidence=confidence,
            query_view=np.repeat([query.view for query in asked], counts),
        )

    def _following(self, maps: Float[Array, "V h w C"], group: Group, views: int) -> Any:
        """The executable that follows such a group, compiled on first use."""
        key = ("follow", views, maps.shape, group.points.shape)
        return self.once(key, lambda: self.lower_following(maps, group, views))

    def lower_following(
        self, maps: Float[Array | jax.ShapeDtypeStruct, "V h w C"], group: Group, views: int
    ) -> Any:
        """The program that follows such a group on such maps, lowered and not yet compiled."""
        parted = view_devices(self.mesh) > 1
        execution = replace(self.execution, kernels=not parted)
        program = partial(follow_program, views, execution=execution)
        return self.lowered(program, self.model, maps, *group.arguments)

    def placed(self, priors: PriorArrays | None, views: int) -> PriorArrays | None:
        """What is known, on the devices, with unknown views behind it."""
        if priors is None:
            return None
        return put(padded_priors(priors, views), by_view(self.mesh) if self.mesh else None)

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
            told = {"images": digest(transforms), "arguments": digest(name, arguments)}
            check_alike(self.mesh, told)

    def _padding(
        self, transforms: Sequence[PixelTransform], inputs: RuntimeInputs, key: ProgramKey
    ) -> tuple[int, RuntimeInputs, ProgramKey]:
        """How many views the program has, and what padding and margins add to inputs and key."""
        real, devices = len(transforms), view_devices(self.mesh)
        views = -(-real // devices) * devices if self.exact_views else bucket_of(real, devices)
        fewer = views > real or (not self.exact_views and serves_fewer(views, devices))
        region = valid_regions(transforms)
        if not fewer and not has_margins(region, transforms):
            return views, inputs, key
        inputs = replace(inputs, valid_region=padded(region, views))
        if fewer:
            inputs = replace(inputs, num_valid_views=np.asarray(real, np.int32))
        return views, inputs, key.taking(*(PADDING if fewer else PADDING[:1]))

    def _abstract(self, shape: tuple[int, ...], key: ProgramKey) -> tuple[Any, ...]:
        """What a program takes: the model, and shapes of images, numbers and priors."""
        sharding = by_view(self.mesh) if self.mesh else None
        inputs = key.abstract_inputs(shape[0])
        priors = abstract_priors(shape, sharding) if key.priors else None
        pixels = jax.ShapeDtypeStruct((1, *shape), jnp.uint8, sharding=sharding)
        return self.model, pixels, inputs, priors

    @property
    def execution(self) -> ExecutionConfig:
        """How the programs do their work."""
        return ExecutionConfig(offload=self.offload)

    @property
    def placement(self) -> Placement:
        """Where the parts of the programs run."""
        sharded = sharded_weights(self.model) if self.mesh else ()
        return Placement(self.execution, self.mesh, sharded)

    @without_x64
    @told_refusals("run here")
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
        """The executable of that key, compiled on first use.

        Raises:
          InputError: it needs more memory than the device has.
        """
        if key not in self._compiled:
            program = compiled(lower(), self.device)
            check_compiled(program, self.device)
            self._compiled[key] = program
        return self._compiled[key]

    @property
    def device(self) -> Any:
        """The first of this process's devices (`jax.Device`) that the programs run on."""
        return self.mesh.local_devices[0] if self.mesh else default_device()


def without_padding(geometry: Geometry, views: int) -> Geometry:
    """Without the padding views; feature maps keep them.

    What is sharded over devices comes to the host: they cannot share every number of views evenly.
    """
    if len(geometry.mask) == views:
        return geometry

    def real(array: Any) -> Any:
        sharded = isinstance(array, jax.Array) and len(array.sharding.device_set) > 1
        return (np.asarray(array) if sharded else array)[:views]

    names = ("points_world", "points_camera", "confidence", "mask", "world_from_camera")
    chosen = {name: real(getattr(geometry, name)) for name in (*names, "intrinsics")}
    return replace(geometry, **chosen)
