"""Every activation of π³-X that the golden cases store, in upstream's layout."""

from collections.abc import Mapping
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from convert.engine import plan, stream
from convert.pi3x import IGNORED, RULES
from golden_configs import pi3x_config
from golden_data import Golden
from jaxrecon import checkpoint
from jaxrecon.models import Prediction
from jaxrecon.models.pi3x.conditioning import CameraFrames, PosedFirst
from jaxrecon.models.pi3x.heads import placed
from jaxrecon.models.pi3x.model import Pi3X, Pi3XConfig, points_from_raw
from jaxrecon.models.pi3x.priors import KnownGeometry, known_geometry
from jaxrecon.nn.attention import attend_densely
from jaxrecon.nn.block import Stream
from jaxrecon.nn.dinov2 import DinoV2Config, encode_views
from jaxrecon.nn.patches import fold
from jaxrecon.priors import PriorArrays
from one_program import one_program
from pi3_stages import encoder_stages, layer
from upstream_state import InMemory
from vggt_stages import channels_first, channels_last

PI3X_TINY = Pi3XConfig(
    encoder=DinoV2Config(width=64, depth=3, heads=4, registers=4, patch=14, grid=5),
    heads=4,
    pairs=2,
    head_width=96,
    head_heads=6,
    point_width=80,
    camera_width=48,
    upsampled=(64, 32, 32),
    last_width=16,
    metric_width=32,
    metric_heads=4,
    metric_features=24,
    posed_pairs=(0, 1),
)


def abstract_pi3x(config: Pi3XConfig) -> Pi3X:
    return jax.eval_shape(lambda: Pi3X(config, rngs=nnx.Rngs(0)))


def build_pi3x(config: Pi3XConfig, state: Mapping[str, np.ndarray]) -> Pi3X:
    """π³-X with upstream weights, through the converter."""
    abstract, source = abstract_pi3x(config), InMemory(state)
    planned = plan(source.specs, RULES, IGNORED, checkpoint.shapes(abstract))
    return checkpoint.restore(abstract, stream(planned, source))


def priors_of(golden: Golden) -> PriorArrays | None:
    """What a case gives; None if it gives nothing.

    NaN where it gives nothing of a kind, which must not be looked at. Upstream's pixels begin at
    the corner of the image, ours at the first pixel's centre.
    """
    inputs = golden.inputs()
    if not inputs.keys() & {"depths", "intrinsics", "rays", "poses"}:
        return None
    batch, views, _, height, width = inputs["images"].shape

    def given(name: str, flag: str, shape: tuple[int, ...]) -> tuple[np.ndarray, jax.Array]:
        values = inputs.get(name, np.full((batch, views, *shape), np.nan, np.float32))
        told = name in inputs or (name == "intrinsics" and "rays" in inputs)
        known = inputs.get(flag, np.full((batch, views), told))
        return values, jnp.asarray(known.astype(bool))

    intrinsics, has_intrinsics = given("intrinsics", "mask_add_ray", (3, 3))
    depth_z, has_depth = given("depths", "mask_add_depth", (height, width))
    poses, has_pose = given("poses", "mask_add_pose", (4, 4))
    to_centre = np.zeros((3, 3), np.float32)
    to_centre[:2, 2] = 0.5
    return PriorArrays(
        intrinsics=jnp.asarray(intrinsics - to_centre),
        has_intrinsics=has_intrinsics,
        depth_z=jnp.asarray(depth_z),
        has_depth=has_depth,
        world_from_camera=jnp.asarray(poses),
        has_pose=has_pose,
        metric_depth=jnp.ones((batch, views), bool),
        metric_poses=jnp.ones((batch, views), bool),
        origin=jnp.zeros((batch, views, 3)),
    )


def rays_of(golden: Golden) -> jax.Array | None:
    """Rays that a case gives in place of intrinsics."""
    rays = golden.inputs().get("rays")
    return None if rays is None else jnp.asarray(rays)


def stages(
    model: Pi3X, images: jax.Array, priors: PriorArrays | None, rays: jax.Array | None
) -> dict[str, jax.Array]:
    """All of them, by upstream's keys; those behind the trunk from what `Pi3X.encode` returns."""
    layout, views, trunk = model.layout(images.shape), images.shape[1], model.trunk
    rope = model.rope(layout, model.config.trunk_block)
    out = encoder_stages(model.encoder, images, layout)
    x = encode_views(model.encoder, images)
    out["enc_patchtokens"] = x.reshape(-1, *x.shape[2:])
    known, after = None, None
    if priors is not None:
        assert model.conditioning is not None
        known = known_geometry(priors, rays)
        every_ray = replace(priors, has_intrinsics=jnp.ones_like(priors.has_intrinsics))
        out |= prior_stages(model, known_geometry(every_ray, rays))
        x = x + model.conditioning.features(known)
        after = model.conditioning.exchange_after(known, layout, attend_densely)
    x = model.register_tokens[...][None, None].repeat(views, 1).repeat(len(x), 0), x
    x = jnp.concatenate(x, axis=2)

    def flat(x: jax.Array) -> jax.Array:
        return x.reshape(-1, *x.shape[2:])

    frame, across = layer(trunk.frame_blocks, 0), layer(trunk.global_blocks, 0)
    out["dec_block0_attn"] = frame.attention(frame.norm1(flat(x)), layout, attend_densely, rope)
    x = trunk.within_views(frame, Stream(x), layout, attend_densely, rope).x
    out["dec_block0_frame"] = flat(x)
    scenes = x.reshape(x.shape[0], -1, x.shape[3])
    out["dec_block1_attn"] = across.attention(
        across.norm1(scenes), layout.joined(views), attend_densely, rope
    )
    stream, _ = trunk.across_views(across, Stream(x), layout, attend_densely, rope)
    x = stream.x
    out["dec_block1_global"] = x.reshape(scenes.shape)
    if after is not None and known is not None and model.conditioning is not None:
        out["pose_inject0"] = first_exchange(model, known, x[:, :, layout.leading :])
        x = after(x, jnp.int32(0))
    x = trunk.within_views(layer(trunk.frame_blocks, 1), Stream(x), layout, attend_densely, rope).x
    out["dec_block2_frame"] = flat(x)
    encoded = model.encode(images, priors=priors, rays=rays)
    (features,) = encoded.views
    out["dec_concat"] = flat(features)
    whole = model.predict_all(encoded, layout)
    return out | head_stages(model, features, layout.grid) | whole_outputs(whole)


def whole_outputs(whole: Prediction) -> dict[str, jax.Array]:
    """What the whole model returns, by upstream's keys."""
    assert whole.confidence_logits is not None and whole.metric_scale is not None
    return {
        "points": whole.points_world,
        "local_points": whole.points_camera,
        "camera_poses": whole.world_from_camera,
        "metric": whole.metric_scale,
        "conf": whole.confidence_logits[..., None],
        "confidence": whole.confidence,
    }


def prior_stages(model: Pi3X, known: KnownGeometry) -> dict[str, jax.Array]:
    """What the branch for priors makes of rays and depth, of all views whether it counts or not."""
    branch = model.conditioning
    assert branch is not None
    slopes = fold(known.slopes.reshape(-1, *known.slopes.shape[2:]), 14)
    return {
        "ray_embed": branch.ray_embed(slopes.reshape(len(slopes), -1, slopes.shape[-1])),
        "depth_emb": branch.depth_encoder(known.depth.reshape(-1, *known.depth.shape[2:])),
    }


def first_exchange(model: Pi3X, known: KnownGeometry, patches: jax.Array) -> jax.Array:
    """What the first block of posed views would add to all views."""
    branch, config = model.conditioning, model.config
    assert branch is not None
    rows_and_columns = patches.shape[2]
    layout = replace(model.layout((1, 1, 14, 14, 3)), leading=0)
    grid = known.depth.shape[2] // 14, known.depth.shape[3] // 14
    assert grid[0] * grid[1] == rows_and_columns
    block = layer(branch.pose_blocks, 0)
    frames = CameraFrames.of(known.world_from_camera, grid, config.encoder.width // config.heads)
    attention = PosedFirst(attend_densely, known.order, known.posed_views)
    update = block(patches, known.has_pose, frames, replace(layout, grid=grid), attention)
    return update.reshape(len(update), -1, update.shape[-1])


def head_stages(model: Pi3X, features: jax.Array, grid: tuple[int, int]) -> dict[str, jax.Array]:
    """The activations after the trunk, each head called as the model calls it."""
    views = features.shape[:2]
    layout = replace(model.layout((1, 1, 14, 14, 3)), grid=grid)
    rope = model.rope(layout, model.config.head_block)
    flat = features.reshape(-1, *features.shape[2:])
    out = {
        f"{name}_decoder": decoder(flat, layout, attend_densely, rope)
        for name, decoder in (
            ("point", model.point_decoder),
            ("conf", model.confidence_decoder),
            ("camera", model.camera_decoder),
        )
    }
    patches = {name: value[:, layout.leading :] for name, value in out.items()}
    size = grid[0] * 14, grid[1] * 14
    slopes, log_depth = model.point_head(patches["point_decoder"], grid, size)
    (logits,) = model.confidence_head(patches["conf_decoder"], grid, size)
    translation, numbers = model.camera_head.regress(patches["camera_decoder"])
    first = model.point_head.upsample_blocks[0]
    entering = patches["point_decoder"].reshape(-1, *grid, patches["point_decoder"].shape[-1])
    expanded = first.expanded(placed(entering, size[1] / size[0]))
    turned = model.rope(layout, model.config.metric_block)
    points = points_from_raw(jnp.concatenate([slopes, log_depth], axis=-1))
    rays = jnp.concatenate([slopes, jnp.ones_like(log_depth)], axis=-1)
    rays = rays / jnp.linalg.norm(rays, axis=-1, keepdims=True)

    def by_scene(x: jax.Array) -> jax.Array:
        return x.reshape(*views, *x.shape[1:])

    return out | {
        "metric_decoder": model.metric.features(features, layout, turned)[:, None],
        "point_head_up0": channels_first(expanded),
        "point_head_up0_res0": channels_first(first.residuals[0](expanded)),
        "point_head_raw_xy": channels_first(slopes),
        "point_head_raw_z": channels_first(log_depth),
        "camera_fc_t": translation,
        "camera_fc_rot": numbers,
        "raw_points": by_scene(points),
        "rays": by_scene(rays),
        "head_conf": by_scene(logits),
    }


def check_pi3x(golden: Golden) -> None:
    """Stage by stage, and the whole forward, in one program."""
    model = build_pi3x(pi3x_config(golden), golden.weights())
    images, given = channels_last(golden.inputs()["images"]), (priors_of(golden), rays_of(golden))
    found = one_program(stages)(model, images, *given)
    for key, expected in golden.outputs().items():
        golden.check(key, found[key], expected)
    metres = found["metric"][:, None, None, None, None]
    np.testing.assert_allclose(found["local_points"], found["raw_points"] * metres, rtol=2e-4)
    golden.check("conf", found["head_conf"], golden.outputs()["conf"])
    logits = np.asarray(found["conf"], np.float64)[..., 0]
    np.testing.assert_allclose(found["confidence"], 1 / (1 + np.exp(-logits)), rtol=1e-5)
