"""How much memory a reconstruction will need, before any weights or images are there."""

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import jax
from jax.typing import DTypeLike

from jaxrecon.compiling import compiled
from jaxrecon.errors import InputError
from jaxrecon.images import PixelTransform
from jaxrecon.memory import MemoryNeeds, bytes_limit, needs_of
from jaxrecon.models import TrackingModel
from jaxrecon.nn.attention import AttentionFn
from jaxrecon.pipeline import Options, Pipeline
from jaxrecon.pipeline.framing import bucket_of, check_program_size, serves_fewer
from jaxrecon.pipeline.tracking import Group, check_query, groups_of, queries
from jaxrecon.registry import load_abstract
from jaxrecon.sharding import WeightRules, make_mesh
from jaxrecon.sparse import AttentionName


@dataclass(frozen=True)
class MemoryPlan:
    """What a reconstruction needs on each device.

    Attributes:
      model: its name.
      views: the images to reconstruct.
      compiled_views: for how many the program is compiled; the views beyond `views` are padding.
      size: width and height of the processed images, in pixels.
      devices: over how many the views are spread.
      device_kind: what these are.
      needs: bytes on each of them, as the compiler plans them. If points are followed: of the
        program that needs more, that of the scene or that which follows them afterwards.
      limit: bytes that JAX may use on each of them; None if the device does not tell.
      tracks: how many points of every eighth image are followed; None for none.
    """

    model: str
    views: int
    compiled_views: int
    size: tuple[int, int]
    devices: int
    device_kind: str
    needs: MemoryNeeds
    limit: int | None
    tracks: int | None = None

    @property
    def fits(self) -> bool | None:
        """Whether the memory is enough; None if the device does not tell what it has."""
        return None if self.limit is None else self.needs.total <= self.limit


def memory_plan(
    model: str | Path,
    *,
    views: int,
    size: tuple[int, int],
    tracks: int | None = None,
    devices: int = 1,
    shard_weights: bool | WeightRules = False,
    attention: AttentionFn | AttentionName | None = None,
    dtype: DTypeLike | None = None,
) -> MemoryPlan:
    """Compiles the program of `Pipeline.reconstruct` and reads what it needs.

    The arguments of `reconstruct` that shape the program are left at their usual values.

    The program is compiled for the devices of this machine. Weights are neither fetched nor read.

    Args:
      model: a released model's name, a checkpoint folder or an upstream weight file.
      views: how many images.
      size: width and height of the processed images, in pixels; whole patches.
      tracks: how many points of every eighth image are followed, as by `query_points`.
      devices: over how many of this machine's the views are spread.
      shard_weights, attention, dtype: see `load`.

    Raises:
      InputError: an argument cannot be used.
    """
    mesh = make_mesh(devices) if devices != 1 else None
    pipeline = load_abstract(
        model,
        dtype=dtype,
        attention=attention,
        mesh=mesh,
        shard_weights=shard_weights,
        tracks=tracks is not None,
    )
    check_program_size(views, size, pipeline.resize.patch)
    habits, count = pipeline.habits, bucket_of(views, devices)
    options = Options(
        use_quantile=habits.confidence_quantile > 0,
        strict_edges=habits.strict_edges,
        points=habits.chosen_points(None, pipeline.name),
        framed=serves_fewer(count, devices),
        padded=serves_fewer(count, devices),
        maps=tracks is not None,
    )
    group = None if tracks is None else _group(pipeline, views, size, tracks)
    lowered = pipeline.lower((count, size[1], size[0], 3), options)
    program = compiled(lowered, pipeline.device)
    needs = _told(program, pipeline.device)
    if group is not None:
        following = _following(pipeline, lowered.out_info.track_maps, program, group, views)
        needs = max(needs, following, key=lambda each: each.total)
    return MemoryPlan(
        model=pipeline.name,
        views=views,
        compiled_views=count,
        size=size,
        devices=devices,
        device_kind=pipeline.device.device_kind,
        needs=needs,
        limit=bytes_limit(pipeline.device),
        tracks=tracks,
    )


def _group(pipeline: Pipeline, views: int, size: tuple[int, int], tracks: int) -> Group:
    """The points of the first view that are followed together."""
    check_query(tracks)
    transforms = [PixelTransform.stretch(size, size)] * views
    model = cast(TrackingModel, pipeline.model)
    (query, *_) = queries(tracks, transforms, smallest=model.smallest_tracked or 1)
    return groups_of(query, views)[0]


def _following(
    pipeline: Pipeline, maps: Any, program: Any, group: Group, views: int
) -> MemoryNeeds:
    """What following needs, beside all that the scene's program returned."""
    sharding = program.output_shardings.track_maps
    placed = jax.ShapeDtypeStruct(maps.shape, maps.dtype, sharding=sharding)
    follow = compiled(pipeline.lower_following(placed, group, views), pipeline.device)
    scene, needs = (_told(each, pipeline.device) for each in (program, follow))
    shown = math.prod(sharding.shard_shape(maps.shape)) * maps.dtype.itemsize
    return replace(needs, arguments=needs.arguments + scene.outputs - shown)


def _told(program: Any, device: Any) -> MemoryNeeds:
    needs = needs_of(program)
    if needs is None:
        raise InputError(
            f"devices: the compiler for {device.device_kind} does not tell what a program needs; "
            "plan on another machine"
        )
    return needs
