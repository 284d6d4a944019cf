"""A process in which JAX has no Pallas Triton: `python without_triton.py pytest ARGUMENTS`, or

`python without_triton.py checks`, which writes what it finds there as JSON.
"""

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

MODULE: Any = "jax.experimental.pallas.triton"


def refusals() -> dict[str, str]:
    """What each operation says when its Triton backend is asked for by name."""
    import jax.numpy as jnp

    from pallas_kernels.bias_gelu import bias_gelu
    from pallas_kernels.block_selection import attend_to_skipped, select_blocks
    from pallas_kernels.block_sparse_attention import block_sparse_attention, full_mask
    from pallas_kernels.norm import Norm
    from pallas_kernels.point_map_loss import Planes, point_map_loss
    from pallas_kernels.qk_norm_rope import qk_norm_rope
    from pallas_kernels.residual_norm import residual_norm

    q, image = jnp.zeros((1, 128, 1, 64), jnp.bfloat16), jnp.ones((1, 3, 4))
    mask = full_mask(1, 1, block_q=128, block_kv=64, q_length=128, kv_length=128)
    planes, norm = Planes(image, image, image), Norm(jnp.ones(8), jnp.zeros(8))
    calls: dict[str, Callable[..., Any]] = {
        "bias_gelu": partial(bias_gelu, jnp.ones((2, 8)), jnp.ones(8)),
        "residual_norm": partial(residual_norm, jnp.ones((2, 8)), norm=norm),
        "qk_norm_rope": partial(qk_norm_rope, jnp.ones((1, 2, 3, 1, 64))),
        "point_map_loss": partial(point_map_loss, planes, image, planes, image > 0),
        "select_blocks": partial(select_blocks, q, q, top_k=1),
        "scores": partial(select_blocks, q, q, top_k=1, pool_q=32),
        "attend_to_skipped": partial(attend_to_skipped, q, q, q, mask, group=4),
        "block_sparse_attention": partial(block_sparse_attention, q, q, q, mask),
    }
    said = {}
    for name, call in calls.items():
        try:
            call(implementation="triton")
        except NotImplementedError as error:
            said[name] = str(error)
    return said


def kernels() -> dict[str, list[str]]:
    """Which kernels a small π³'s sparse forward is lowered to, by the GPU that it is for."""
    import jax
    import jax.numpy as jnp
    from flax import nnx
    from jax.sharding import AbstractDevice

    from abstract_devices import here_is
    from jaxrecon import SparseAttention
    from jaxrecon.models import Pi3
    from tiny_models import PI3_TINY

    encoder = replace(PI3_TINY.encoder, depth=1)
    config = replace(PI3_TINY, encoder=encoder, pairs=1, head_depth=1)
    model = jax.eval_shape(lambda: Pi3(config, dtype=jnp.bfloat16, rngs=nnx.Rngs(0)))
    images = jax.ShapeDtypeStruct((1, 8, 70, 56, 3), jnp.float32)
    found = {}
    for kind in ("NVIDIA H100 80GB HBM3", "NVIDIA A100-SXM4-80GB"):
        device = AbstractDevice(device_kind=kind, num_cores=132, platform="gpu")
        with here_is(device):
            run = jax.jit(lambda model, x: model(x, attention=SparseAttention()).points_world)
            text = run.trace(model, images).lower(lowering_platforms=("cuda",)).as_text()
        calls = ("mosaic_gpu", "triton", "@attention_xla")
        found[kind] = [call for call in calls if call in text]
    return found


if __name__ == "__main__":
    sys.modules[MODULE] = None  # pyright: ignore[reportArgumentType]
    if sys.argv[1] == "pytest":
        import pytest

        sys.exit(pytest.main(sys.argv[2:]))
    sys.stdout.write(json.dumps({"refusals": refusals(), "kernels": kernels()}))
