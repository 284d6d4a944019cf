"""How much memory a reconstruction will need, before any weights or images are there."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import jax
from jax.typing import DTypeLike

from jaxrecon.checks import whole_number
from jaxrecon.compiling import compiled, on_its_own
from jaxrecon.errors import InputError
from jaxrecon.images import PixelTransform
from jaxrecon.models import TrackingModel
from jaxrecon.nn.attention import AttentionFn
from jaxrecon.nn.execution import Chunks
from jaxrecon.pipeline import Pipeline, ProgramKey, Request, resolve
from jaxrecon.registry import load_abstract
from jaxrecon.runtime.bucketing import bucket_of, check_program_size, serves_fewer
from jaxrecon.runtime.executor import Executor
from jaxrecon.runtime.heads import encoded_by, lower_heads, part_size, runs_together
from jaxrecon.runtime.memory import MemoryNeeds, bytes_limit, host_limit, needs_of
from jaxrecon.runtime.options import PADDING
from jaxrecon.runtime.program import chunks_of
from jaxrecon.runtime.query_points import check_query, queries
from jaxrecon.runtime.sharding import WeightRules, make_mesh, view_devices
from jaxrecon.runtime.tracking import Group, groups_of, lower_following
from jaxrecon.sparse import AttentionName


@dataclass(frozen=True)
class StreamedNeeds:
    """What `Pipeline.stream` needs on each device.

    Attributes:
      views_at_once: so many views are worked out together.
      encoder: bytes of the program in which views exchange.
      heads: bytes of the program for a few views, beside what all views have exchanged and, if
        there are more views, the results of those before.
      between: bytes that stay on the device from the one to the other.
    """

    views_at_once: int
    encoder: MemoryNeeds
    heads: MemoryNeeds
    between: int


@dataclass(frozen=True)
class MemoryPlan:
    """What a reconstruction needs on each device.

    Attributes:
      model: its name.
      views: the images to reconstruct.
      compiled_views: for how many the program is compiled; the views beyond `views` are padding.
      size: width and height of the processed images, in pixels.
      devices: over how many the views are sharded.
      device_kind: what these are.
      needs: bytes on each of them, as the compiler plans them; of the program that needs more, if
        the scene is streamed or points are followed.
      limit: bytes that JAX may use on each of them; None if the device does not tell.
      chunks: how much of what each device works on at a time, and of how much.
      streamed: what streaming needs, if that is what was planned.
      tracks: how many points of every eighth image are followed; None for none.
      host_limit: bytes of the host's memory that may serve all devices; None if that is not known.
    """

    model: str
    views: int
    compiled_views: int
    size: tuple[int, int]
    devices: int
    device_kind: str
    needs: MemoryNeeds
    limit: int | None
    chunks: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    streamed: StreamedNeeds | None = None
    tracks: int | None = None
    host_limit: int | None = None

    @property
    def on_host(self) -> int:
        """Bytes that wait in the host's memory, of all devices."""
        return self.devices * self.needs.host

    @property
    def fits(self) -> bool | None:
        """Whether the memory is enough; None if the device does not tell what it has."""
        if self.limit is None:
            return None
        hosted = self.host_limit is None or self.on_host <= self.host_limit
        return hosted and self.needs.total <= self.limit


@on_its_own
def memory_plan(
    model: str | Path,
    *,
    views: int,
    size: tuple[int, int],
    tracks: int | None = None,
    devices: int = 1,
    shard_weights: bool | WeightRules = False,
    offload: bool = False,
    float8: bool = False,
    attention: AttentionFn | AttentionName | None = None,
    dtype: DTypeLike | None = None,
    views_at_once: int | None = None,
    priors: bool = True,
) -> MemoryPlan:
    """Compiles the program of `Pipeline.reconstruct`, or those of `stream`, and reads their needs.

    The other arguments that shape the programs are left at their usual values.

    The program is compiled for the devices of this machine. Weights are neither fetched nor read.

    Args:
      model: a released model's name, a checkpoint folder or an upstream weight file.
      views: how many images.
      size: width and height of the processed images, in pixels; whole patches.
      tracks: how many points of every eighth image are followed, as by `query_points`.
      devices: over how many of this machine's the views are sharded.
      shard_weights, offload, float8, attention, dtype: see `load`.
      views_at_once: plans `stream`, which works out so many views together.
      priors: whether the model is loaded so that it may be told what is known of the views; see
        `load`.

    Raises:
      InputError: an argument cannot be used.
    """
    if views_at_once is not None:
        whole_number("views_at_once", views_at_once, least=1)
    if tracks is not None and views_at_once is not None:
        raise InputError(f"{tracks=}: streaming follows no points; leave out views_at_once")
    mesh = make_mesh(devices) if devices != 1 else None
    pipeline = load_abstract(
        model,
        dtype=dtype,
        attention=attention,
        mesh=mesh,
        shard_weights=shard_weights,
        offload=offload,
        float8=float8,
        tracks=tracks is not None,
        priors=priors,
    )
    check_program_size(views, size, pipeline.resize.patch)
    request, count = Request(query_points=tracks), bucket_of(views, devices)
    if views_at_once is not None:
        request = request.streamed()
    key, _ = resolve(pipeline.defaults, request, pipeline.name)
    if serves_fewer(count, devices):
        key = key.taking(*PADDING)
    group = None if tracks is None else _group(pipeline, views, size, tracks)
    shape, streamed = (count, size[1], size[0], 3), None
    device = pipeline.executor.device
    if views_at_once is None:
        needs = _at_once(pipeline, shape, key, group, views)
    else:
        streamed = _streamed(pipeline, shape, key, views_at_once)
        needs = max(streamed.encoder, streamed.heads, key=lambda each: each.total)
    return MemoryPlan(
        model=pipeline.name,
        views=views,
        compiled_views=count,
        size=size,
        devices=devices,
        device_kind=device.device_kind,
        needs=needs,
        limit=bytes_limit(device),
        chunks=_chunks(pipeline, shape, views_at_once),
        streamed=streamed,
        tracks=tracks,
        host_limit=host_limit(device),
    )


def _chunks(pipeline: Pipeline, shape: tuple[int, ...], views_at_once: int | None) -> Chunks:
    """How much of what each device works on at a time."""
    executor = pipeline.executor
    exchanging = predicted = shape[0] // view_devices(executor.mesh)
    if views_at_once is not None:
        predicted = part_size(executor, shape[0], views_at_once)
    return chunks_of(
        pipeline.model,
        pipeline.attention,
        shape,
        exchanging=exchanging,
        predicted=predicted,
        placement=executor.placement,
    )


def _at_once(
    pipeline: Pipeline, shape: tuple[int, ...], key: ProgramKey, group: Group | None, views: int
) -> MemoryNeeds:
    """What the program of `reconstruct` needs, or that which follows points afterwards."""
    executor = pipeline.executor
    lowered = executor.lower(shape, key, pipeline.attention)
    program = compiled(lowered, executor.device)
    needs = _needs_of(program, executor)
    if group is None:
        return needs
    following = _following(executor, lowered.out_info.track_maps, program, group, views)
    return max(needs, following, key=lambda each: each.total)


def _group(pipeline: Pipeline, views: int, size: tuple[int, int], tracks: int) -> Group:
    """The points of the first view that are followed together."""
    check_query(tracks)
    transforms = [PixelTransform.stretch(size, size)] * views
    model = cast(TrackingModel, pipeline.model)
    (query, *_) = queries(tracks, transforms, smallest=model.smallest_tracked or 1)
    return groups_of(query, views)[0]


def _following(
    executor: Executor, maps: Any, program: Any, group: Group, views: int
) -> MemoryNeeds:
    """What following needs, beside all that the scene's program returned."""
    sharding = program.output_shardings.track_maps
    placed = jax.ShapeDtypeStruct(maps.shape, maps.dtype, sharding=sharding)
    follow = compiled(lower_following(executor, placed, group, views), executor.device)
    scene, needs = (_needs_of(each, executor) for each in (program, follow))
    shown = math.prod(sharding.shard_shape(maps.shape)) * maps.dtype.itemsize
    return replace(needs, arguments=needs.arguments + scene.outputs - shown)


def _streamed(
    pipeline: Pipeline, shape: tuple[int, ...], key: ProgramKey, views_at_once: int
) -> StreamedNeeds:
    """What both programs of `stream` need."""
    executor = pipeline.executor
    lowered = executor.lower_encoder(shape, key, pipeline.attention)
    encoder = compiled(lowered, executor.device)
    count = part_size(executor, shape[0], views_at_once)
    encoded = encoded_by(executor, encoder)
    heads = lower_heads(executor, encoded, count, shape, key, posed=False)
    first, second = (
        _needs_of(program, executor) for program in (encoder, compiled(heads, executor.device))
    )
    return StreamedNeeds(
        views_at_once=count * view_devices(executor.mesh),
        encoder=first,
        heads=second.keeping(runs_together(executor, count, shape[0])),
        between=first.outputs,
    )


def _needs_of(program: Any, executor: Executor) -> MemoryNeeds:
    needs = needs_of(program)
    if needs is None:
        raise InputError(
            f"devices: the compiler for {executor.device.device_kind} does not tell what a program "
            "needs; plan on another machine"
        )
    return needs
