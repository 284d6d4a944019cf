"""The whole way from 8-bit pixels to points, cameras, intrinsics and mask, as one XLA program."""

from typing import Any, cast

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, UInt8

from jaxrecon.models import Encoded, Model, Prediction, TrackingModel
from jaxrecon.nn.attention import AttentionFn
from jaxrecon.nn.execution import HEAD_VIEWS, Chunk, Chunks, chunk_size
from jaxrecon.priors import PriorArrays, prior_world
from jaxrecon.pytree import pytree_dataclass
from jaxrecon.runtime.cameras import intrinsics_of
from jaxrecon.runtime.masks import EDGES_AT_ONCE, agreement, mask_of
from jaxrecon.runtime.options import ProgramKey, RuntimeInputs
from jaxrecon.runtime.placement import ONE_DEVICE, Placement


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
    key: ProgramKey,
    model: Model,
    pixels: UInt8[Array, "1 V H W 3"],
    inputs: RuntimeInputs,
    priors: PriorArrays | None,
    *,
    placement: Placement = ONE_DEVICE,
) -> Geometry:
    """Everything between 8-bit pixels and geometry."""
    encoded = encoded_scene(attention, model, pixels, inputs, priors, placement=placement)
    layout = model.layout(pixels.shape)
    chosen = {} if key.points is None else {"points": key.points}
    prediction = placement.predict(model, encoded, layout, **chosen)
    if priors is not None:
        found = prediction.world_from_camera
        world = prior_world(found, priors, first_view_is_world=model.first_view_is_world)
        prediction = prediction.moved(world)
    maps = None
    if key.maps:
        maps = placement.track_maps(cast(TrackingModel, model), encoded, layout)[0]
    return geometry_of(prediction, inputs, key, maps, placement=placement)


def maps_program(
    attention: AttentionFn,
    model: TrackingModel,
    pixels: UInt8[Array, "1 V H W 3"],
    inputs: RuntimeInputs,
    *,
    placement: Placement = ONE_DEVICE,
) -> Float[Array, "V h w C"]:
    """The feature maps for tracks alone."""
    encoded = encoded_scene(attention, model, pixels, inputs, None, placement=placement)
    return placement.track_maps(model, encoded, model.layout(pixels.shape))[0]


def encoded_scene(
    attention: AttentionFn,
    model: Model,
    pixels: UInt8[Array, "1 V H W 3"],
    inputs: RuntimeInputs,
    priors: PriorArrays | None,
    *,
    placement: Placement = ONE_DEVICE,
) -> Encoded:
    """All for which the views exchange."""
    images = pixels.astype(jnp.float32) / 255
    arguments: dict[str, Any] = {} if priors is None else {"priors": priors}
    return placement.encode(
        model, images, attention=attention, num_valid_views=inputs.num_valid_views, **arguments
    )


def encoder_program(
    attention: AttentionFn,
    model: Model,
    pixels: UInt8[Array, "1 V H W 3"],
    inputs: RuntimeInputs,
    priors: PriorArrays | None,
    *,
    placement: Placement = ONE_DEVICE,
) -> Encoded:
    """The part in which views exchange, for heads in programs of their own."""
    encoded = encoded_scene(attention, model, pixels, inputs, priors, placement=placement)
    return placement.waiting(encoded)


def geometry_of(
    prediction: Prediction,
    inputs: RuntimeInputs,
    key: ProgramKey,
    maps: Float[Array, "V h w C"] | None = None,
    *,
    placement: Placement = ONE_DEVICE,
) -> Geometry:
    """What is told of the one scene."""
    scene: Prediction = jax.tree.map(lambda x: x[0], prediction)
    views, region = inputs.num_valid_views, inputs.valid_region
    size = scene.points_world.shape[1:3]
    inside = None if region is None else _inside(jnp.asarray(region), size)
    confidence = agreement(scene, views, inside) if key.multiview else scene.confidence
    return Geometry(
        points_world=scene.points_world,
        points_camera=scene.points_camera,
        confidence=confidence,
        mask=mask_of(
            scene,
            confidence,
            inputs,
            inside=inside,
            strict_edges=key.strict_edges,
            placement=placement,
        ),
        world_from_camera=scene.world_from_camera,
        intrinsics=intrinsics_of(scene, key.camera, views, inside),
        metric_scale=scene.metric_scale,
        skipped=scene.skipped,
        track_maps=maps,
    )


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
    heads = model.chunks(predicted, layout, attention, execution)
    found |= {what: chunk for what, chunk in heads.items() if what == HEAD_VIEWS}
    return found | {"edge views": Chunk(chunk_size(predicted, EDGES_AT_ONCE), predicted)}


def _inside(valid_region: Int[Array, "V 4"], size: tuple[int, ...]) -> Bool[Array, "V H W"]:
    """Which pixels show a photo."""
    left, top, right, bottom = valid_region.T[:, :, None, None]
    row, column = jnp.arange(size[0])[None, :, None], jnp.arange(size[1])[None, None]
    return (column >= left) & (column < right) & (row >= top) & (row < bottom)
