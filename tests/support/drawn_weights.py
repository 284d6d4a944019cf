"""Modules with random weights that NumPy draws.

To compile the draws of JAX would take longer than most tests that need some weights.
"""

import math
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

CONSTANT = {"scale": 1.0, "gamma": 0.5}


def drawn[Made](make: Callable[[], Made]) -> Made:
    """What `make` returns, each weight drawn anew; its layers change what passes through.

    (LayerScale starts so small in released models that a trunk of random weights would do nothing.)
    """
    random = np.random.default_rng(0)

    def weight(path: Any, like: jax.ShapeDtypeStruct) -> jax.Array:
        leaf = jax.tree_util.keystr(path, simple=True, separator=".").split(".")[-2]
        if leaf in CONSTANT:
            return jax.device_put(np.full(like.shape, CONSTANT[leaf], like.dtype))
        # Kernels of layers may be stacked, those of convolutions are not.
        inputs = like.shape[:-1] if like.ndim == 4 else like.shape[-2:-1]
        spread = math.prod(inputs) ** -0.5 if leaf == "kernel" else 0.02
        # Unlike `jnp.asarray`, this compiles nothing.
        return jax.device_put((spread * random.standard_normal(like.shape)).astype(like.dtype))

    return jax.tree_util.tree_map_with_path(weight, jax.eval_shape(make))
