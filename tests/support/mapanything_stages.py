"""Every activation of MapAnything that the golden cases store, in upstream's layout."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from convert.engine import plan, stream
from convert.mapanything import IGNORED, RULES, repeated
from golden_configs import mapanything_config
from golden_data import Golden
from jaxrecon import checkpoint, geometry
from jaxrecon.models.mapanything.model import (
    MAPANYTHING,
    MAPANYTHING_V1,
    Features,
    MapAnything,
    MapAnythingConfig,
)
from jaxrecon.models.mapanything.output import MapAnythingOutput, metres
from jaxrecon.models.mapanything.priors import distances, geometry_of
from jaxrecon.nn.attention import TokenLayout, attend_densely
from jaxrecon.nn.block import Block, Stream
from jaxrecon.nn.dinov2 import IMAGE_MEAN, IMAGE_STD
from jaxrecon.priors import PriorArrays
from upstream_state import InMemory
from vggt_stages import channels_first, channels_last

_TINY = {
    "pairs": 3,
    "dense_widths": (40, 48, 56),
    "vector_widths": (16, 24, 32),
    "channels": (12, 16, 20, 24),
    "features": 32,
    "scale_width": 20,
}
MAPANYTHING_TINY = replace(
    MAPANYTHING,
    encoder=replace(MAPANYTHING.encoder, width=64, depth=3, heads=4, grid=5),
    width=64,
    heads=4,
    taps=(2, 3, 5),
    **_TINY,
)
MAPANYTHING_V1_TINY = replace(
    MAPANYTHING_V1,
    encoder=replace(MAPANYTHING_V1.encoder, width=64, depth=3, heads=4, grid=5),
    width=48,
    heads=3,
    taps=(2, 4, 5),
    **_TINY,
)
CONFIGS = {
    "mapanything_v11_tiny": MAPANYTHING_TINY,
    "mapanything_v1_tiny": MAPANYTHING_V1_TINY,
    "mapanything_v11_full": MAPANYTHING,
    "mapanything_v1_full": MAPANYTHING_V1,
}


def abstract_mapanything(config: MapAnythingConfig) -> MapAnything:
    return jax.eval_shape(lambda: MapAnything(config, rngs=nnx.Rngs(0)))


def build_mapanything(config: MapAnythingConfig, state: Mapping[str, np.ndarray]) -> MapAnything:
    """MapAnything with upstream weights, through the converter."""
    abstract, source = abstract_mapanything(config), InMemory(state)
    ignored = (*IGNORED, *repeated(state))
    planned = plan(source.specs, RULES, ignored, checkpoint.shapes(abstract))
    return checkpoint.restore(abstract, stream(planned, source))


def images_of(inputs: Mapping[str, np.ndarray]) -> jax.Array:
    return channels_last(np.swapaxes(inputs["images"], 0, 1))


def priors_of(golden: Golden) -> PriorArrays:
    """What a case gives; NaN where it gives nothing, which must not be looked at."""
    inputs, flags = golden.inputs(), golden.info["geometric_flags"]
    views, batch, _, height, width = inputs["images"].shape

    def given(name: str, shape: tuple[int, ...]) -> tuple[jax.Array, jax.Array]:
        used = np.zeros(views, bool)
        values = np.full((views, batch, *shape), np.nan, np.float32)
        if name in inputs:
            used = inputs.get(f"use_{name}", np.ones(views)).astype(bool)
            values[used] = inputs[name][used]
        has = np.broadcast_to(used, (batch, views))
        return jnp.asarray(np.swapaxes(values, 0, 1)), jnp.asarray(has)

    intrinsics, has_intrinsics = given("intrinsics", (3, 3))
    depth_z, has_depth = given("depth_z", (height, width))
    poses, has_pose = given("camera_poses", (4, 4))
    metric = inputs.get("is_metric_scale", np.ones((views, batch))).astype(bool).T
    return PriorArrays(
        intrinsics=intrinsics,
        has_intrinsics=has_intrinsics,
        depth_z=depth_z,
        has_depth=has_depth,
        world_from_camera=poses,
        has_pose=has_pose,
        metric_depth=jnp.asarray(metric & flags["use_depth_scale"]),
        metric_poses=jnp.asarray(metric & flags["use_pose_scale"]),
        origin=jnp.zeros((batch, views, 3)),
    )


def _layer(blocks: Block, index: int) -> Block:
    return jax.tree.map(lambda x: x[index], blocks)


def view_major(x: jax.Array) -> jax.Array:
    """(B, V, ...) to upstream's (V * B, ...)."""
    return x.swapaxes(0, 1).reshape(-1, *x.shape[2:])


def encoder_stages(
    model: MapAnything, images: jax.Array, priors: PriorArrays, fused: jax.Array
) -> dict[str, jax.Array]:
    """From pixels and priors to the fused features."""
    encoder, layout = model.encoder, model.layout(images.shape)
    normalised = (view_major(images) - jnp.array(IMAGE_MEAN)) / jnp.array(IMAGE_STD)
    embedded = encoder.embed(normalised)
    encoded = replace(layout, leading=1, trailing=0)
    assert encoder.blocks is not None
    tokens = encoder.tokens(normalised)

    def as_map(patches: jax.Array) -> jax.Array:
        return channels_first(patches.reshape(-1, *layout.grid, patches.shape[-1]))

    given, encoders = geometry_of(priors), model.geometry
    return {
        "enc_patch_embed": encoder.embed_patches(normalised),
        "enc_block0_input": embedded,
        "enc_block0": _layer(encoder.blocks, 0)(embedded, encoded, attend_densely),
        "enc_features": as_map(tokens[:, 1:]),
        "enc_registers": tokens[:, 0, :, None],
        "ray_dirs_encoder": as_map(view_major(encoders.rays(given.rays))),
        "depth_encoder": as_map(view_major(encoders.depth(given.depth))),
        "depth_scale_encoder": view_major(encoders.depth_scale(given.depth_scale)),
        "cam_rot_encoder": view_major(encoders.rotation(given.rotations)),
        "cam_trans_encoder": view_major(encoders.translation(given.translations)),
        "cam_trans_scale_encoder": view_major(encoders.translation_scale(given.translation_scale)),
        "fused": view_major(fused.reshape(*fused.shape[:2], *layout.grid, -1)),
    }


def input_stages(priors: PriorArrays) -> dict[str, jax.Array]:
    """What upstream makes of the inputs before the model sees them; zero where it has none."""
    posed = priors.has_pose[..., None]
    distance = distances(priors.depth_z, priors.intrinsics)[..., None]
    rotation = priors.world_from_camera[..., :3, :3]
    out = {
        "pre_ray_directions_cam": geometry_of(priors).rays,
        "pre_depth_along_ray": jnp.where(priors.has_depth[..., None, None, None], distance, 0),
        "pre_camera_pose_quats": jnp.where(posed, geometry.quaternion_from_rotation(rotation), 0),
        "pre_camera_pose_trans": jnp.where(posed, priors.world_from_camera[..., :3, 3], 0),
    }
    return {key: value.swapaxes(0, 1) for key, value in out.items()}


def trunk_stages(
    model: MapAnything, layout: TokenLayout, x: jax.Array, scene: jax.Array
) -> dict[str, jax.Array]:
    """Each block of the trunk run by itself, whether it is tapped or not."""
    trunk = model.trunk

    def whole(x: jax.Array, scene: jax.Array) -> jax.Array:
        return jnp.concatenate([x.reshape(x.shape[0], -1, x.shape[3]), scene], axis=1)

    def pair(carry: tuple[jax.Array, ...], blocks: tuple[Block, Block]) -> tuple[Any, Any]:
        x, scene, _ = trunk.across_scene(blocks[0], carry[0], layout, attend_densely, carry[1])
        across = whole(x, scene)
        x = trunk.within_views(blocks[1], Stream(x), layout, attend_densely, None).x
        return (x, scene), (across, x, jnp.stack([across, whole(x, scene)]))

    blocks = trunk.global_blocks, trunk.frame_blocks
    _, (across, frames, after) = jax.lax.scan(pair, (x, scene), blocks)
    after = after.reshape(-1, *after.shape[2:])
    return {
        "aat_block0_global_input": whole(x, scene),
        "aat_block0_global": across[0],
        "aat_block1_frame": frames[0].reshape(-1, *x.shape[2:]),
        "aat_block2_global": across[1],
    } | {f"aat_norm.{i}": model.norm(after[tap]) for i, tap in enumerate(trunk.taps)}


def dense_stages(model: MapAnything, features: Features, images: jax.Array) -> dict[str, jax.Array]:
    """Inside the dense head, all views at once."""
    layout, dpt = model.layout(images.shape), model.dense_head.dpt
    tapped = (model.patches(view_major(x), layout) for x in features.tapped)
    patches = view_major(features.fused), *tapped
    levels = (dpt.level1, dpt.level2, dpt.level3, dpt.level4)
    maps = [
        level(dpt.normed(x, layout.grid), 1.0) for level, x in zip(levels, patches, strict=True)
    ]
    sizes = [(x.shape[1], x.shape[2]) for x in maps]
    deepest = dpt.deepest(maps[3], sizes[2])
    raw = view_major(model.dense(features.fused, features.tapped, layout))
    return {f"dpt_input_process{i}": channels_first(x) for i, x in enumerate(maps)} | {
        "dpt_refinenet4": channels_first(
            dpt.fusion4(maps[3], None, (2 * sizes[3][0], 2 * sizes[3][1]))
        ),
        "dpt_refinenet3": channels_first(dpt.fusion3(deepest, maps[2], sizes[1])),
        "dpt_feature": channels_first(dpt.fuse(*maps)),
        "dense_raw": channels_first(raw),
    }


def decoded(model: MapAnything, features: Features, layout: TokenLayout) -> MapAnythingOutput:
    """Geometry from `features`."""
    scale = metres(model.scale(features.scale))
    return model.read(features.fused, features.tapped, scale, layout)


def stages(model: MapAnything, images: jax.Array, priors: PriorArrays) -> dict[str, jax.Array]:
    """All of them, by upstream's keys."""
    layout = model.layout(images.shape)
    features = model.features(images, priors=priors)
    fused, scene = model.fused(images, priors)
    out = input_stages(priors) | encoder_stages(model, images, priors, fused)
    out |= trunk_stages(model, layout, *model.tokens(fused, scene))
    out |= dense_stages(model, features, images)
    output = decoded(model, features, layout)

    def by_view(x: jax.Array) -> jax.Array:
        return x.swapaxes(0, 1)

    return out | {
        "pose_raw": view_major(model.poses(features.tapped, layout)),
        "scale_raw": model.scale(features.scale)[:, None, None],
        "pts3d": by_view(output.points_world),
        "pts3d_cam": by_view(output.points_camera),
        "ray_directions": by_view(output.ray_directions),
        "depth_along_ray": by_view(output.depth_along_ray)[..., None],
        "cam_trans": by_view(output.translations),
        "cam_quats": by_view(output.quaternions),
        "metric_scaling_factor": output.metric_scale[:, None],
        "conf": by_view(output.confidence),
        "non_ambiguous_mask": by_view(output.unambiguous),
        "non_ambiguous_mask_logits": by_view(output.mask_logits),
    }


def check_mapanything(golden: Golden) -> None:
    """Every stored activation; the last ones are what `MapAnything.__call__` is made of."""
    model = build_mapanything(mapanything_config(golden), golden.weights())
    actual = jax.jit(stages)(model, images_of(golden.inputs()), priors_of(golden))
    for key, expected in golden.outputs().items():
        value = np.asarray(actual[key])
        if key == "non_ambiguous_mask":
            np.testing.assert_array_equal(value, expected.astype(bool))
        else:
            golden.check(key, value, expected)
