"""Every activation of VGGT that the golden cases store, in upstream's layout."""

from collections.abc import Mapping
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from convert.engine import plan, stream
from convert.vggt import IGNORED, RULES, TRACK_HEAD
from golden_configs import vggt_config
from golden_data import Golden
from jaxrecon import checkpoint
from jaxrecon.models import Encoded, Tracks
from jaxrecon.models.vggt.correlation import correlate, feature_pyramid
from jaxrecon.models.vggt.heads import activate_depth, activate_points
from jaxrecon.models.vggt.model import VGGT, VGGT_1B, VGGTConfig, VGGTOutput
from jaxrecon.models.vggt.tracks import TrackerConfig
from jaxrecon.nn.attention import AttentionFn, TokenLayout, attend_densely
from jaxrecon.nn.block import Block, Stream
from jaxrecon.nn.dinov2 import IMAGE_MEAN, IMAGE_STD, DinoV2Config
from jaxrecon.nn.dpt import DenseHead, add_position, resize_bilinear
from upstream_state import InMemory

VGGT_TINY = VGGTConfig(
    encoder=DinoV2Config(width=64, depth=3, heads=4, registers=4, patch=14, grid=5),
    heads=4,
    pairs=4,
    taps=(0, 1, 2, 3),
    camera_heads=4,
    camera_depth=2,
    channels=(16, 24, 32, 40),
    features=32,
    tracker=TrackerConfig(features=16, levels=4, radius=2, width=48, depth=2),
)
CONFIGS = {"vggt_tiny": VGGT_TINY, "vggt_full": VGGT_1B}

# Iterated through sines of up to 1000 times the motion: rounding grows from round to round.
ITERATED = ("track_iter1", "track_iter2", "track_iter3", "track", "vis", "conf")


def abstract_vggt(config: VGGTConfig) -> VGGT:
    return jax.eval_shape(lambda: VGGT(config, rngs=nnx.Rngs(0)))


def build_vggt(config: VGGTConfig, state: Mapping[str, np.ndarray]) -> VGGT:
    """VGGT with upstream weights, through the converter."""
    abstract, source = abstract_vggt(config), InMemory(state)
    ignored = IGNORED if config.track else (*IGNORED, TRACK_HEAD.ignored)
    planned = plan(source.specs, RULES, ignored, checkpoint.shapes(abstract))
    return checkpoint.restore(abstract, stream(planned, source))


def channels_last(images: np.ndarray) -> jax.Array:
    return jax.device_put(np.moveaxis(np.asarray(images, np.float32), -3, -1))


def channels_first(maps: jax.Array) -> jax.Array:
    return jnp.moveaxis(maps, -1, -3)


def _layer(blocks: Block, index: int) -> Block:
    return jax.tree.map(lambda x: x[index], blocks)


def features_of(
    model: VGGT, images: jax.Array, *, attention: AttentionFn = attend_densely
) -> jax.Array:
    """Outputs of the tapped pairs, which all heads share."""
    return model.encode(images, attention=attention).stacked[0]


def decoded(model: VGGT, features: jax.Array, layout: TokenLayout) -> VGGTOutput:
    """Cameras, depth and points from `features`."""
    return model.read(features, model.cameras(features), layout)


def tracked(
    model: VGGT, features: jax.Array, layout: TokenLayout, query_points: jax.Array
) -> Tracks:
    """Points of the first view followed through all views, from `features`."""
    return model.follow(model.track_maps(Encoded(stacked=(features,)), layout), query_points)


def trunk_stages(model: VGGT, images: jax.Array) -> dict[str, jax.Array]:
    """From pixels to the first frame and global blocks."""
    encoder, trunk, layout = model.encoder, model.trunk, model.layout(images.shape)
    rope, views = model.rope(layout), images.shape[1]
    flat = ((images - jnp.array(IMAGE_MEAN)) / jnp.array(IMAGE_STD)).reshape(-1, *images.shape[2:])
    out = {"enc_patch_embed": encoder.embed_patches(flat), "enc_block0_input": encoder.embed(flat)}
    encoded = replace(layout, leading=1 + encoder.config.registers)
    assert encoder.blocks is not None
    embedded = out["enc_block0_input"]
    out["enc_block0"] = _layer(encoder.blocks, 0)(embedded, encoded, attend_densely)
    out["enc_norm_all"] = encoder.tokens(flat)

    x = model.tokens(images)
    frame, across = _layer(trunk.frame_blocks, 0), _layer(trunk.global_blocks, 0)
    sequences = x.reshape(-1, *x.shape[2:])
    out["frame_block0_input"] = sequences
    out["frame_block0_attn"] = frame.attention(frame.norm1(sequences), layout, attend_densely, rope)
    x = trunk.within_views(frame, Stream(x), layout, attend_densely, rope).x
    out["frame_block0"] = x.reshape(sequences.shape)
    scenes = x.reshape(x.shape[0], -1, x.shape[3])
    joined = layout.joined(views)
    out["global_block0_attn"] = across.attention(across.norm1(scenes), joined, attend_densely, rope)
    stream, _ = trunk.across_views(across, Stream(x), layout, attend_densely, rope)
    x = stream.x
    out["global_block0"] = x.reshape(scenes.shape)
    x = trunk.within_views(_layer(trunk.frame_blocks, 1), Stream(x), layout, attend_densely, rope).x
    out["frame_block1"] = x.reshape(sequences.shape)
    return out


def dense_stages(
    head: DenseHead, features: jax.Array, layout: TokenLayout, size: tuple[int, int]
) -> dict[str, jax.Array]:
    """Inside one dense head, all views at once."""
    dpt, aspect = head.dpt, size[1] / size[0]
    patches = features.reshape(4, -1, *features.shape[3:])[:, :, layout.leading :]
    maps = [dpt.normed(tokens, layout.grid) for tokens in patches]
    levels = (dpt.level1, dpt.level2, dpt.level3, dpt.level4)
    out = {"norm_first": maps[0].reshape(patches.shape[1:])}
    resized = [level.resized(x, aspect) for level, x in zip(levels, maps, strict=True)]
    out |= {f"resize{i}": channels_first(x) for i, x in enumerate(resized)}
    map1, map2, map3, map4 = (level.out(x) for level, x in zip(levels, resized, strict=True))
    fused4 = dpt.fusion4(map4, None, (map3.shape[1], map3.shape[2]))
    fused3 = dpt.fusion3(fused4, map3, (map2.shape[1], map2.shape[2]))
    fused1 = dpt.fuse(map1, map2, map3, map4)
    out |= {"refinenet4": channels_first(fused4), "refinenet3": channels_first(fused3)}
    out |= {"refinenet1": channels_first(fused1), "output_conv1": channels_first(dpt.out(fused1))}
    full = add_position(resize_bilinear(dpt.out(fused1), size), aspect)
    out["output_raw"] = channels_first(head.out(jax.nn.relu(head.conv(full))))
    return out


def track_stages(
    model: VGGT, features: jax.Array, layout: TokenLayout, query_points: jax.Array
) -> dict[str, jax.Array]:
    """Inside the tracker's first round, then the positions of every round."""
    assert model.track_head is not None
    tracker = model.track_head.tracker
    maps = model.track_head.maps(features, layout, model.size(layout))
    pyramid = feature_pyramid(tracker.map_norm(maps), tracker.config.levels)
    start, places, targets = tracker.start(pyramid, query_points)
    window = correlate(pyramid, targets, places, tracker.config.radius)
    entering = tracker.tokens(window, places, targets) + tracker.fixed_tokens(start, maps.shape)
    positions, visibility, confidence = tracker(maps, query_points)
    return {
        "track_fmaps": channels_first(maps),
        "track_corr_mlp_in": window.swapaxes(1, 2).reshape(-1, window.shape[1], window.shape[3]),
        "track_updateformer_in": entering,
        "track_updateformer_out": tracker.transformer(entering),
        **{f"track_iter{i}": position for i, position in enumerate(positions)},
        "track": positions[-1],
        "vis": visibility,
        "conf": confidence,
    }


def stages(model: VGGT, images: jax.Array, query_points: jax.Array | None) -> dict[str, jax.Array]:
    """All of them, by upstream's keys."""
    layout, out = model.layout(images.shape), trunk_stages(model, images)
    features = features_of(model, images)
    head, camera = model.camera_head, features[-1, :, :, 0]
    normed = head.token_norm(camera)
    out |= {
        "agg_last": features[-1],
        "camera_token_norm": normed,
        "camera_trunk_iter0": head.attend(normed, head.first_encoding(camera)),
    }
    depth = dense_stages(model.depth_head, features, layout, model.size(layout))
    out |= {f"depth_dpt_{key}": value for key, value in depth.items()}
    point = model.dense(model.point_head, features, layout)
    out["point_dpt_output_raw"] = channels_first(point.reshape(-1, *point.shape[2:]))
    raw = jnp.moveaxis(depth["output_raw"], 1, -1).reshape(*point.shape[:-1], 2)
    depth_z, depth_confidence = activate_depth(raw)
    points_world, points_confidence = activate_points(point)
    encodings = head(camera)
    out |= {
        "pose_enc_iters": encodings,
        "pose_enc": encodings[-1],
        "depth": depth_z[..., None],
        "depth_conf": depth_confidence,
        "world_points": points_world,
        "world_points_conf": points_confidence,
    }
    if query_points is not None:
        out |= track_stages(model, features, layout, query_points)
    return out


def check_iterated(golden: Golden, key: str, actual: np.ndarray, expected: np.ndarray) -> None:
    """The golden rule for tracks after the first round: max(1e-3, 20 times the hint)."""
    hint = golden.info["outputs"][key]["f32_vs_f64"]["max_abs"]
    assert actual.shape == expected.shape
    gap, limit = np.abs(actual - expected).max(), max(1e-3, 20 * hint)
    assert gap <= limit, f"{golden.name} {key}: off by {gap:.3e}, allowed {limit:.3e}"


def check_vggt(golden: Golden) -> None:
    """Every stored activation, tracks included."""
    inputs, model = golden.inputs(), build_vggt(vggt_config(golden), golden.weights())
    points = jnp.asarray(inputs["query_points"]) if "query_points" in inputs else None
    outputs = golden.outputs()

    @jax.jit
    def stored(model: VGGT, images: jax.Array, points: jax.Array | None) -> dict[str, jax.Array]:
        found = stages(model, images, points)
        return {key: found[key] for key in outputs}

    actual = stored(model, channels_last(inputs["images"]), points)
    for key, expected in outputs.items():
        value = np.asarray(actual[key])
        if key in ITERATED:
            check_iterated(golden, key, value, expected)
        else:
            golden.check(key, value, expected)
