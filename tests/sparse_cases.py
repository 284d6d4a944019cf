"""Checks of the golden cases of block-sparse attention."""

from collections.abc import Mapping
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np

from golden_data import Golden
from jaxrecon.nn.attention import TokenLayout
from jaxrecon.sparse import SparseAttention, hilbert_order

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
    return mask[:, :, sparse.arrangement(layout).dense_queries // sparse.block_q :]


def check_sparse_attention(golden: Golden) -> None:
    """Curves, or masks bit for bit and outputs in all modes."""
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
        np.testing.assert_allclose(np.mean(skipped), mode["sparsity"], atol=1e-6)
        stride = 5 if tag == "r0.5_cNone" else 13
        heads_first = np.moveaxis(np.asarray(out), 2, 1)[:, :, ::stride]
        np.testing.assert_allclose(heads_first, expected[f"{tag}.out"], rtol=0, atol=1e-5)


def check_curves(tables: Mapping[str, np.ndarray]) -> None:
    for key, table in tables.items():
        kind, height, width = key.split("_")
        order = hilbert_order((int(height[1:]), int(width[1:])))
        np.testing.assert_array_equal(order if kind == "perm" else np.argsort(order), table)


class Recorder:
    """Sparse attention that keeps the mask of each global call, for calls outside `jit`."""

    def __init__(self, sparse: SparseAttention) -> None:
        self.sparse = sparse
        self.masks: list[np.ndarray] = []

    def __call__(self, q: jax.Array, k: jax.Array, v: jax.Array, layout: TokenLayout) -> jax.Array:
        if layout.views > 1:
            select = jax.jit(lambda q, k: self.sparse.select(q, k, layout).as_array())
            mask = np.asarray(select(q, k))
            self.masks.append(patch_rows(self.sparse, mask, layout))
        return self.sparse(q, k, v, layout)


def along_curve(x: jax.Array, layout: TokenLayout) -> jax.Array:
    """Tokens (..., views * P, D) with each view's patches put along the Hilbert curve."""
    views = x.reshape(*x.shape[:-2], -1, replace(layout, views=1).tokens, x.shape[-1])
    order = np.concatenate([np.arange(layout.leading), layout.leading + hilbert_order(layout.grid)])
    return views[..., order, :].reshape(x.shape)
