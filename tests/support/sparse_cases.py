"""Checks of the golden cases of block-sparse attention, but for those of π³ (test_parity.py)."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from golden_configs import vggt_config
from golden_data import Golden, stored_stride
from jaxrecon.models.vggt.model import VGGT, VGGTOutput
from jaxrecon.nn.alternating import AlternatingAttention
from jaxrecon.nn.attention import TokenLayout
from jaxrecon.nn.block import Block, Stream
from jaxrecon.nn.rope import RotaryTable
from jaxrecon.sparse import SparseAttention, hilbert_order
from vggt_stages import build_vggt, channels_last, decoded, features_of

TINY = 1e-9


def layout_of(golden: Golden) -> TokenLayout:
    config = golden.info["config"]
    grid = (config["grid_h"], config["grid_w"])
    return TokenLayout(config["frames"], grid, config["specials"])


def qkv_of(golden: Golden) -> tuple[jax.Array, ...]:
    given = golden.inputs()
    return tuple(jnp.moveaxis(jnp.asarray(given[name]), 1, 2) for name in "qkv")


def patch_rows(sparse: SparseAttention, mask: np.ndarray, layout: TokenLayout) -> np.ndarray:
    """The rows of a mask that belong to patches: those of special queries come first."""
    return mask[:, :, sparse.block_layout(layout).dense_queries // sparse.block_q :]


def check_sparse_attention(golden: Golden) -> None:
    """Curves, or masks and counts bit for bit and outputs in all modes."""
    if "modes" not in golden.info:
        check_curves(golden.outputs())
        return
    q, k, v = qkv_of(golden)
    expected, modes = golden.outputs(), golden.info["modes"]
    # Each mode is a layer of one schedule; a share near 0 and a ratio near 1 ask for nothing.
    ratios = tuple(1 - TINY if mode["ratio"] in (None, 1.0) else mode["ratio"] for mode in modes)
    shares = tuple(TINY if mode["cdf"] is None else mode["cdf"] for mode in modes)
    sparse = SparseAttention(ratios, shares, special_tokens="packed")

    @jax.jit
    def run(layer: jax.Array) -> tuple[jax.Array, ...]:
        layout = replace(layout_of(golden), layers=len(modes), layer=layer)
        return *sparse.attend(q, k, v, layout), sparse.select(q, k, layout).as_array()

    for layer, mode in enumerate(modes):
        out, skipped, mask = run(jnp.int32(layer))
        tag, chosen = mode["tag"], patch_rows(sparse, np.asarray(mask), layout_of(golden))
        np.testing.assert_array_equal(chosen, expected[f"{tag}.mask"].astype(bool))
        # The golden counts are those before upstream's rule of at least one.
        taken = chosen[..., : chosen.shape[-1] - mode["sink_blocks"]].sum(-1)
        np.testing.assert_array_equal(taken, np.maximum(1, expected[f"{tag}.count"]))
        np.testing.assert_allclose(np.mean(skipped), mode["sparsity"], atol=1e-6)
        stored = golden.info["outputs"][f"{tag}.out"]["stored_shape"]
        stride = stored_stride(out.shape[1:2], stored[2:3])
        heads_first = np.moveaxis(np.asarray(out), 2, 1)[:, :, ::stride]
        golden.check(f"{tag}.out", heads_first, expected[f"{tag}.out"])
        # The manifest's own hint is closer than the README's rule.
        np.testing.assert_allclose(heads_first, expected[f"{tag}.out"], rtol=0, atol=1e-5)


def check_curves(tables: Mapping[str, np.ndarray]) -> None:
    for key, table in tables.items():
        kind, height, width = key.split("_")
        order = hilbert_order((int(height[1:]), int(width[1:])))
        np.testing.assert_array_equal(order if kind == "perm" else np.argsort(order), table)


class Pair(NamedTuple):
    """What one pair of blocks of a trunk computes."""

    framed: jax.Array
    attended: jax.Array
    out: jax.Array
    mask: jax.Array


def walk(
    trunk: AlternatingAttention,
    tokens: jax.Array,
    layout: TokenLayout,
    sparse: SparseAttention,
    rope: RotaryTable,
) -> list[Pair]:
    """Every pair in turn, with the mask that its global block uses."""

    @jax.jit
    def run(blocks: tuple[Block, Block], index: jax.Array, x: jax.Array) -> Pair:
        frame, across = jax.tree.map(lambda leaf: leaf[index], blocks)
        masks = []

        def attend(q: jax.Array, k: jax.Array, v: jax.Array, layout: TokenLayout) -> Any:
            masks.append(sparse.select(q, k, layout).as_array())
            return sparse(q, k, v, layout)

        framed = trunk.within_views(frame, Stream(x), layout, sparse, rope).x
        scene = framed.reshape(x.shape[0], -1, x.shape[3])
        joined = layout.joined(x.shape[1])
        attended = across.attention(across.norm1(scene), joined, attend, rope)
        stream, _ = trunk.across_views(across, Stream(framed), layout, sparse, rope)
        out = stream.x
        return Pair(framed, attended, out, masks[0])

    pairs, x = [], tokens
    for index in range(trunk.pairs):
        pairs.append(run((trunk.frame_blocks, trunk.global_blocks), jnp.int32(index), x))
        x = pairs[-1].out
    return pairs


def along_curve(x: np.ndarray, layout: TokenLayout) -> np.ndarray:
    """Tokens (..., views * P, D) with each view's patches put along the Hilbert curve."""
    views = x.reshape(*x.shape[:-2], -1, replace(layout, views=1).tokens, x.shape[-1])
    order = np.concatenate([np.arange(layout.leading), layout.leading + hilbert_order(layout.grid)])
    return views[..., order, :].reshape(x.shape)


def policy_of(golden: Golden) -> SparseAttention:
    """The policy that a whole model's case was made with."""
    config = golden.info["config"]
    return SparseAttention(
        config["sparse_ratio"],
        config["cdf_threshold"],
        order="hilbert" if config["use_hilbert"] else "raster",
        special_tokens="packed",
    )


def stored_order(x: jax.Array, layout: TokenLayout, sparse: SparseAttention) -> np.ndarray:
    """Tokens of all views as upstream has them inside its trunk: (B, views * P, D)."""
    flat = np.asarray(x).reshape(x.shape[0], -1, x.shape[-1])
    return along_curve(flat, layout) if sparse.order == "hilbert" else flat


def check_masks(
    pairs: list[Pair], layout: TokenLayout, sparse: SparseAttention, expected: dict[str, np.ndarray]
) -> None:
    """Takes the masks out of `expected`, which must be those of all pairs, bit for bit."""
    names = [f"block_mask_layer{index}" for index in range(len(pairs))]
    assert names == sorted(key for key in expected if key.startswith("block_mask"))
    joined = layout.joined(pairs[0].out.shape[1])
    for name, pair in zip(names, pairs, strict=True):
        mask = patch_rows(sparse, np.asarray(pair.mask), joined)
        np.testing.assert_array_equal(mask, expected.pop(name).astype(bool), name)


def check_sparse_vggt(golden: Golden) -> None:
    """Layer by layer with the masks bit for bit, then the whole forward as one program."""
    expected, sparse = golden.outputs(), policy_of(golden)
    model = build_vggt(vggt_config(golden), golden.weights())
    images = channels_last(golden.inputs()["images_u8"] / np.float32(255))
    layout = model.layout(images.shape)
    tokens = jax.jit(lambda m, x: m.tokens(x))(model, images)
    pairs = walk(model.trunk, tokens, layout, sparse, model.rope(layout))
    first = stored_order(pairs[0].out, layout, sparse)
    golden.check("global_block0", first, expected.pop("global_block0"))
    check_masks(pairs, layout, sparse, expected)

    @jax.jit
    def run(model: VGGT, images: jax.Array) -> tuple[jax.Array, VGGTOutput]:
        features = features_of(model, images, attention=sparse)
        return features, decoded(model, features, model.layout(images.shape))

    features, output = run(model, images)
    actual = {
        "agg_last": features[-1],
        "pose_enc": output.pose_encodings[-1],
        "depth": output.depth_z[..., None],
        "depth_conf": output.depth_confidence,
        "world_points": output.points_world,
        "world_points_conf": output.points_confidence,
    }
    assert actual.keys() == expected.keys()
    for key, value in actual.items():
        golden.check(key, np.asarray(value), expected[key])
