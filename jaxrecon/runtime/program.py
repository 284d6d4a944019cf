"""The whole way from 8-bit pixels to points, cameras, intrinsics and mask, as one XLA program."""

from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, UInt8

from jaxrecon.geometry import depth_consistency, depth_normal_edges, intrinsics_from_points
from jaxrecon.models import Conditions, Encoded, Model, Prediction, TrackingModel, given_world
from jaxrecon.nn.attention import AttentionFn
from jaxrecon.nn.execution import Chunk, Chunks, chunk_size
from jaxrecon.nn.views import map_views
from jaxrecon.pytree import pytree_dataclass
from jaxrecon.runtime.options import Options, Thresholds
from jaxrecon.runtime.placement import ONE_DEVICE, Placement
from jaxrecon.runtime.quantile import quantile

EDGES_AT_ONCE = 32
"""Views in which a device looks for edges together."""


@pytree_dataclass
class Geometry:
    """What the compiled program returns for one scene: see `Reconstruction` for the fields.

    `skipped` is the share of key blocks that each head of each global layer skipped, if attention
    skips any; `track_maps` are the feature maps on which points are followed, if they were asked
    for.
    """

    points_world: Float[Array, "V H W 3"]
    points_camera: Float[Array, "V H W 3"]
    confidence: Float[Array, "V H W"]
    mask: Bool[Array, "V H W"]
    world_from_camera: Float[Array, "V 4 4"]
    intrinsics: Float[Array, "V 3 3"]
    metric_scale: Float[Array, ""] | None = None
    skipped: Float[Array, "layers N"] | None = None
    track_maps: Float[Array, "V h w C"] | None = None


def scene_program(
    attention: AttentionFn,
    options: Options,
    model: Model,
    pixels: UInt8[Array, "1 V H W 3"],
    limits: Thresholds,
    known: Conditions | None,
    *,
    placement: Placement = ONE_DEVICE,
) -> Geometry:
    """Everything between 8-bit pixels and geometry."""
    encoded = encoded_scene(attention, model, pixels, limits, known, placement=placement)
    layout = model.layout(pixels.shape)
    chosen = {} if options.points is None else {"points": options.points}
    prediction = placement.predict(model, encoded, layout, **chosen)
    if known is not None:
        prediction = prediction.moved(given_world(prediction.world_from_camera, known))
    maps = None
    if options.maps:
        maps = placement.track_maps(cast(TrackingModel, model), encoded, layout)[0]
    return geometry_of(prediction, limits, options, maps, placement=placement)


def maps_program(
    attention: AttentionFn,
    model: TrackingModel,
    pixels: UInt8[Array, "1 V H W 3"],
    limits: Thresholds,
    *,
    placement: Placement = ONE_DEVICE,
) -> Float[Array, "V h w C"]:
    """The feature maps for tracks alone."""
    encoded = encoded_scene(attention, model, pixels, limits, None, placement=placement)
    return placement.track_maps(model, encoded, model.layout(pixels.shape))[0]


def encoded_scene(
    attention: AttentionFn,
    model: Model,
    pixels: UInt8[Array, "1 V H W 3"],
    limits: Thresholds,
    known: Conditions | None,
    *,
    placement: Placement = ONE_DEVICE,
) -> Encoded:
    """All for which the views exchange."""
    images = pixels.astype(jnp.float32) / 255
    conditions: dict[str, Any] = {} if known is None else {"conditions": known}
    return placement.encode(
        model, images, attention=attention, num_valid_views=limits.views, **conditions
    )


def encoder_program(
    attention: AttentionFn,
    model: Model,
    pixels: UInt8[Array, "1 V H W 3"],
    limits: Thresholds,
    known: Conditions | None,
    *,
    placement: Placement = ONE_DEVICE,
) -> Encoded:
    """The part in which views exchange, for heads in programs of their own."""
    encoded = encoded_scene(attention, model, pixels, limits, known, placement=placement)
    return placement.waiting(encoded)


def geometry_of(
    prediction: Prediction,
    limits: Thresholds,
    options: Options,
    maps: Float[Array, "V h w C"] | None = None,
    *,
    placement: Placement = ONE_DEVICE,
) -> Geometry:
    """What is told of the one scene."""
    scene: Prediction = jax.tree.map(lambda x: x[0], prediction)
    confidence = _agreement(scene, limits) if options.multiview else scene.confidence
    return Geometry(
        points_world=scene.points_world,
        points_camera=scene.points_camera,
        confidence=confidence,
        mask=_mask(scene, confidence, limits, options, placement),
        world_from_camera=scene.world_from_camera,
        intrinsics=_intrinsics(scene, limits, options),
        metric_scale=scene.metric_scale,
        skipped=scene.skipped,
        track_maps=maps,
    )


def _intrinsics(scene: Prediction, limits: Thresholds, options: Options) -> Float[Array, "V 3 3"]:
    """The model's own, unless it has none or the caller asks for what it does not promise."""
    free = options.intrinsics == "per_view" and options.principal_point == "free"
    if free and scene.intrinsics is not None:
        return scene.intrinsics
    return intrinsics_from_points(
        scene.points_camera,
        sharing=options.intrinsics,
        principal_point=options.principal_point,
        views=limits.views,
    )


def _agreement(scene: Prediction, limits: Thresholds) -> Float[Array, "V H W"]:
    """How far the views agree on each point; see `depth_consistency`."""
    depth = scene.points_camera[..., 2]
    return depth_consistency(
        depth,
        jnp.ones(depth.shape, bool) if scene.mask is None else scene.mask,
        scene.world_from_camera,
        _intrinsics(scene, limits, Options()),
        views=limits.views,
    )


def _mask(
    scene: Prediction,
    confidence: Float[Array, "V H W"],
    limits: Thresholds,
    options: Options,
    placement: Placement,
) -> Bool[Array, "V H W"]:
    """Confident pixels of the photos that are not on an edge, as upstream's examples keep them."""
    mask = confidence > limits.min_confidence
    if scene.mask is not None:
        mask &= scene.mask
    inside: Array | bool = True
    if limits.frames is not None:
        inside = _inside(jnp.asarray(limits.frames), mask.shape[1:])
        mask &= inside
    if options.use_quantile:
        mask &= confidence >= quantile(confidence, limits.confidence_quantile, inside)
    share = limits.view_confidence_quantile
    if share is not None:
        counted = jnp.broadcast_to(inside, confidence.shape)
        least = jax.vmap(quantile, (0, None, 0))(confidence, jnp.asarray(share), counted)
        mask &= confidence > least[:, None, None]
    if options.use_edges:
        points, rtol = scene.points_camera, limits.edge_rtol
        mask &= ~_edges(points, mask, rtol, options.strict_edges, placement)
    return mask


def _edges(
    points_camera: Float[Array, "V H W 3"],
    mask: Bool[Array, "V H W"],
    rtol: Float[Array | np.ndarray, ""] | float,
    strict: bool,
    placement: Placement,
) -> Bool[Array, "V H W"]:
    """Where depth and normals jump: what it needs beside its results would fill the memory."""

    def work(rtol: Array, views: tuple[Array, Array]) -> Array:
        def some(views: tuple[Array, Array]) -> Array:
            return depth_normal_edges(views[0], rtol=rtol, mask=views[1], strict=strict)

        return map_views(some, views, at_once=EDGES_AT_ONCE)

    return placement.each_view(work, jnp.asarray(rtol), (points_camera, mask), axis=0, out=0)


def chunks_of(
    model: Model,
    attention: AttentionFn,
    shape: tuple[int, ...],
    *,
    exchanging: int,
    predicted: int,
    placement: Placement,
) -> Chunks:
    """What the programs of a scene work on at a time, on each device.

    Args:
      shape: of the program's images, (V, H, W, 3).
      exchanging: of how many views each device makes features.
      predicted: of how many it makes geometry in one run.
    """
    layout, execution = model.layout((1, *shape)), placement.local
    found = model.chunks(exchanging, layout, attention, execution)
    heads = model.chunks(predicted, layout, attention, execution)["head views"]
    edges = Chunk(chunk_size(predicted, EDGES_AT_ONCE), predicted)
    return found | {"head views": heads, "edge views": edges}


def _inside(frames: Int[Array, "V 4"], size: tuple[int, ...]) -> Bool[Array, "V H W"]:
    """Which pixels show a photo."""
    left, top, right, bottom = frames.T[:, :, None, None]
    row, column = jnp.arange(size[0])[:, None], jnp.arange(size[1])
    return (column >= left) & (column < right) & (row >= top) & (row < bottom)
