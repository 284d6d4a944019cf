"""Points of some views followed through all views, by programs of their own."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jaxrecon.formats import PointTracks
from jaxrecon.images import ImageBatch
from jaxrecon.models import TrackingModel, Tracks
from jaxrecon.nn.attention import AttentionFn
from jaxrecon.nn.execution import INFERENCE, ExecutionConfig
from jaxrecon.progress import Stages
from jaxrecon.runtime.bucketing import bucket_of, padded
from jaxrecon.runtime.executor import Executor
from jaxrecon.runtime.options import ProgramKey
from jaxrecon.runtime.program import maps_program
from jaxrecon.runtime.query_points import Query
from jaxrecon.runtime.sharding import view_devices

POINT_VIEWS_AT_ONCE = 2**18
"""Most points followed together, times views: bounds the memory."""
LEAST_POINTS = 16
"""Fewer points are padded up to so many."""


@dataclass(frozen=True, eq=False)
class Group:
    """Points of one view that are followed together.

    Attributes:
      view: the number of the view.
      points: in pixels of the processed image; from `num_valid` on they are padding, so that few
        programs serve many numbers of points.
      num_valid: how many count.
      first: the first one whose track is wanted; those before it are in another group too.
    """

    view: int
    points: Float[np.ndarray, "P 2"]
    num_valid: int
    first: int

    @property
    def arguments(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """What `follow_program` takes of it."""
        return self.points, np.asarray(self.view, np.int32), np.asarray(self.num_valid, np.int32)

    def wanted(self, followed: Tracks) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Positions (V, Q, 2), visibility and confidence (V, Q) of the tracks that are wanted."""
        arrays = followed.positions, followed.visibility, followed.confidence
        xy, visibility, confidence = (np.asarray(x)[:, self.first : self.num_valid] for x in arrays)
        return xy, visibility, confidence


def groups_of(query: Query, views: int) -> list[Group]:
    """The points in groups of one size, the last of which reaches back.

    The points of a group exchange, so that a point's track depends a little on the others.
    """
    count = len(query.points)
    size = -(-count // -(-count * views // POINT_VIEWS_AT_ONCE))
    groups = []
    for wanted in range(0, count, size):
        start = min(wanted, count - size)
        points = padded(query.points[start : start + size], padded_count(size))
        groups.append(Group(query.view, points, size, wanted - start))
    return groups


def padded_count(points: int) -> int:
    """The number of points for which a program is compiled: `points`, rounded up a little."""
    return max(LEAST_POINTS, bucket_of(points))


def follow_program(
    views: int,
    model: TrackingModel,
    maps: Float[Array, "V h w C"],
    query_points: Float[Array, "P 2"],
    query_view: Int[Array, ""],
    num_valid_points: Int[Array, ""],
    *,
    execution: ExecutionConfig = INFERENCE,
) -> Tracks:
    """Follows the first points of one view through the first `views`; no batch axis."""
    order = jnp.arange(views)
    swapped = jnp.where(order == query_view, 0, order).at[0].set(query_view)
    entering = maps[:views][swapped][None]
    tracks = model.follow(entering, query_points[None], num_valid_points, execution=execution)
    return jax.tree.map(lambda x: x[0][swapped], tracks)


def track_maps(
    executor: Executor, batch: ImageBatch, attention: AttentionFn, stages: Stages
) -> Float[Array, "V h w C"]:
    """The feature maps on which points are followed, of all views and those of padding."""
    key = ProgramKey()
    pixels, inputs, key = executor.padded(batch, key.abstract_inputs(0), key)
    with stages.stage("compile"):
        program = executor.once(
            ("maps", pixels.shape, key, attention),
            lambda: executor.lowered(
                partial(maps_program, attention, placement=executor.placement),
                *executor.abstract_arguments(pixels.shape, key)[:3],
            ),
        )
    with stages.stage("run"):
        scene = executor.put_by_view(pixels[None])
        return jax.block_until_ready(program(executor.model, scene, inputs))


def follow(
    executor: Executor,
    maps: Float[Array, "V h w C"],
    asked: Sequence[Query],
    views: int,
    stages: Stages,
) -> PointTracks:
    """Tracks through the first `views` views, in pixels of the processed images."""
    groups = [group for query in asked for group in groups_of(query, views)]
    with stages.stage("compile"):
        programs = [_compiled(executor, maps, group, views) for group in groups]
    with stages.stage("track"):
        parts = [
            group.wanted(program(executor.model, maps, *group.arguments))
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


def _compiled(executor: Executor, maps: Float[Array, "V h w C"], group: Group, views: int) -> Any:
    """The executable that follows such a group, compiled on first use."""
    key = ("follow", views, maps.shape, group.points.shape)
    return executor.once(key, lambda: lower_following(executor, maps, group, views))


def lower_following(
    executor: Executor,
    maps: Float[Array | jax.ShapeDtypeStruct, "V h w C"],
    group: Group,
    views: int,
) -> Any:
    """The program that follows such a group on such maps, lowered and not yet compiled."""
    one_device = view_devices(executor.mesh) == 1
    execution = replace(executor.execution, kernels=one_device)
    program = partial(follow_program, views, execution=execution)
    return executor.lowered(program, executor.model, maps, *group.arguments)
