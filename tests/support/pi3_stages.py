"""Every activation of π³ that the golden cases store, in upstream's layout."""

from collections.abc import Mapping
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from convert.engine import plan, stream
from convert.pi3 import IGNORED, RULES
from jaxrecon import checkpoint
from jaxrecon.checkpoint import shapes
from jaxrecon.models.pi3.model import Pi3, Pi3Config, points_from_raw
from jaxrecon.nn.attention import TokenLayout, attend_densely
from jaxrecon.nn.block import Stream
from jaxrecon.nn.dinov2 import IMAGE_MEAN, IMAGE_STD, DinoV2
from jaxrecon.registry import PI3_FAMILY
from upstream_state import InMemory


def build_pi3(config: Pi3Config, state: Mapping[str, np.ndarray]) -> Pi3:
    """π³ with upstream weights, through the converter."""
    abstract = PI3_FAMILY.abstract(config)
    source = InMemory(state)
    planned = plan(source.specs, RULES, IGNORED, checkpoint.shapes(abstract))
    return checkpoint.restore(abstract, stream(planned, source))


def layer[M: nnx.Module](blocks: M, index: int) -> M:
    return jax.tree.map(lambda x: x[index], blocks)


def pi3_stages(model: Pi3, images: jax.Array) -> dict[str, jax.Array]:
    """All activations that the golden cases store, in upstream's layout."""
    trunk = model.trunk
    layout, views = model.layout(images.shape), images.shape[1]
    rope = model.rope(layout, model.config.trunk_block)
    out = encoder_stages(model.encoder, images, layout)
    tokens = x = model.tokens(images)
    patches = x[:, :, layout.leading :]
    out["enc_patchtokens"] = patches.reshape(-1, *patches.shape[2:])

    frame, across = layer(trunk.frame_blocks, 0), layer(trunk.global_blocks, 0)
    sequences = x.reshape(-1, *x.shape[2:])
    out["dec_block0_attn"] = frame.attention(frame.norm1(sequences), layout, attend_densely, rope)
    x = trunk.within_views(frame, Stream(x), layout, attend_densely, rope).x
    out["dec_block0_frame"] = x.reshape(-1, *x.shape[2:])
    scenes = x.reshape(x.shape[0], -1, x.shape[3])
    out["dec_block1_attn"] = across.attention(
        across.norm1(scenes), layout.joined(views), attend_densely, rope
    )
    stream, _ = trunk.across_views(across, Stream(x), layout, attend_densely, rope)
    x = stream.x
    out["dec_block1_global"] = x.reshape(scenes.shape)
    x = trunk.within_views(layer(trunk.frame_blocks, 1), Stream(x), layout, attend_densely, rope).x
    out["dec_block2_frame"] = x.reshape(-1, *x.shape[2:])
    features = trunk(tokens, layout, attend_densely, rope)[0][-1]
    out["dec_concat"] = features.reshape(-1, *features.shape[2:])
    return out | head_stages(model, features, layout.grid)


def encoder_stages(encoder: DinoV2, images: jax.Array, layout: TokenLayout) -> dict[str, jax.Array]:
    """The activations on the way to the features of the patches."""
    flat = ((images - jnp.array(IMAGE_MEAN)) / jnp.array(IMAGE_STD)).reshape(-1, *images.shape[2:])
    out = {"enc_patch_embed": encoder.embed_patches(flat), "enc_block0_input": encoder.embed(flat)}
    encoded = replace(layout, leading=1 + encoder.config.registers)
    assert encoder.blocks is not None
    out["enc_block0"] = layer(encoder.blocks, 0)(out["enc_block0_input"], encoded, attend_densely)
    return out


def head_stages(model: Pi3, features: jax.Array, grid: tuple[int, int]) -> dict[str, jax.Array]:
    """The activations after the trunk, each head called as `Pi3.decode` calls it."""
    batch_views = features.shape[:2]
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
    raw = model.to_pixels(model.point_head(patches["point_decoder"]), grid)
    logits = model.to_pixels(model.confidence_head(patches["conf_decoder"]), grid)
    translation, numbers = model.camera_head.regress(patches["camera_decoder"])
    return out | {
        "point_head_raw": raw,
        "camera_fc_t": translation,
        "camera_fc_rot": numbers,
        "local_points": points_from_raw(raw).reshape(*batch_views, *raw.shape[1:]),
        "conf": logits.reshape(*batch_views, *logits.shape[1:]),
    }


def pi3_targets(config: Pi3Config) -> dict[str, tuple[int, ...]]:
    return shapes(jax.eval_shape(lambda: Pi3(config, rngs=nnx.Rngs(0))))
