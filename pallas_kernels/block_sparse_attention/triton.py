"""Block-sparse attention for NVIDIA GPUs from Ampere on, in Pallas Triton.

One program does one query block: it walks the list of key blocks with a running softmax, as in
FlashAttention-2 (arXiv 2307.08691).
"""

import math
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jaxtyping import Array, Float

from pallas_kernels.block_sparse_attention.mask import BlockMask
from pallas_kernels.errors import UnfitError
from pallas_kernels.pallas_triton import check_triton, plgpu

LOG2_E = math.log2(math.e)
WIDEST = 128


@dataclass(frozen=True)
class TuningConfig:
    """How a program is compiled; block sizes are the mask's."""

    block_q: int = 128
    block_kv: int = 64
    warps: int = 8
    stages: int = 3

    def __post_init__(self) -> None:
        for name in ("block_q", "block_kv"):
            size = getattr(self, name)
            if size < 16 or size & (size - 1):
                raise ValueError(f"{name}={size} must be a power of two of at least 16")
        if self.warps not in (4, 8) or self.stages < 1:
            raise ValueError(f"{self.warps=} must be 4 or 8 and {self.stages=} at least 1")


def default_config(mask: BlockMask | None, width: int) -> TuningConfig:
    """The configuration for a mask's block sizes (None: all blocks) and a head width.

    Raises:
      UnfitError: the kernel cannot work with blocks of these sizes.
    """
    sizes = (128, 64) if mask is None else (mask.block_q, mask.block_kv)
    try:
        return TuningConfig(*sizes, stages=3 if width <= 64 else 2)
    except ValueError as error:
        raise UnfitError(f"triton: {error}") from error


def attention_triton(
    q: Float[Array, "B T N K"],
    k: Float[Array, "B S N K"],
    v: Float[Array, "B S N K"],
    mask: BlockMask | None,
    *,
    scale: float,
    config: TuningConfig | None = None,
    interpret: bool = False,
) -> tuple[Float[Array, "B T N K"], Float[Array, "B N T"]]:
    """Float16 and bfloat16 on NVIDIA GPUs, head widths up to 128; also returns the log of the sums.

    Args:
      config: how to compile; `default_config` if not given.
      interpret: run on the CPU, in any floating type.

    Raises:
      NotImplementedError: not on a GPU, or a JAX without Triton.
      UnfitError: the dtype, head width or block sizes are not for this kernel.
      ValueError: the configuration's block sizes are not the mask's.
    """
    if not interpret and q.dtype == jnp.float64:
        raise UnfitError(f"triton: needs bfloat16 or float16, found {q.dtype}")
    if not interpret:
        check_triton()
    if not interpret and q.dtype not in (jnp.bfloat16, jnp.float16):
        raise UnfitError(f"triton: needs bfloat16 or float16, found {q.dtype}")
    if q.shape[-1] > WIDEST:
        raise UnfitError(f"triton: head width {q.shape[-1]} is beyond {WIDEST}")
    config = default_config(mask, q.shape[-1]) if config is None else config
    if mask is not None and (config.block_q, config.block_kv) != (mask.block_q, mask.block_kv):
        raise ValueError(
            f"{config.block_q=}, {config.block_kv=} differ from the mask's {mask.block_q}, "
            f"{mask.block_kv}"
        )
    lists = () if mask is None else mask.lists
    return _call(q, k, v, *lists, scale=scale, config=config, interpret=interpret)


def _call(
    q: Array, k: Array, v: Array, *lists: Array, scale: float, config: TuningConfig, interpret: bool
) -> tuple[Array, Array]:
    batch, queries, heads, width = q.shape
    blocks = pl.cdiv(queries, config.block_q)
    wide = max(16, pl.next_power_of_2(width))
    rows = pl.BlockSpec((None, config.block_q, None, wide), lambda t, n, b: (b, t, n, 0))
    padded_keys = pl.cdiv(k.shape[1], config.block_kv) * config.block_kv
    keys = pl.BlockSpec((None, padded_keys, None, wide), lambda t, n, b: (b, 0, n, 0))
    list_specs = [
        pl.BlockSpec((None, None, None, *x.shape[3:]), lambda t, n, b, x=x: (b, n, t, 0)[: x.ndim])
        for x in lists[:2]
    ]
    list_specs += [pl.BlockSpec((None,), lambda t, n, b: (0,)) for _ in lists[2:]]
    sums = jax.ShapeDtypeStruct((batch, heads, queries), jnp.float32)
    kernel = partial(
        _kernel, config=config, scale=scale, queries=queries, keys=k.shape[1], width=width
    )
    out, sums = pl.pallas_call(
        kernel,
        grid=(blocks, heads, batch),
        in_specs=[rows, keys, keys, *list_specs],
        out_specs=(rows, pl.BlockSpec((None, None, config.block_q), lambda t, n, b: (b, n, t))),
        out_shape=(jax.ShapeDtypeStruct(q.shape, q.dtype), sums),
        compiler_params=plgpu.CompilerParams(num_warps=config.warps, num_stages=config.stages),
        interpret=interpret,
        name="block_sparse_attention",
    )(q, k, v, *lists)
    return out, sums


def _kernel(
    q_ref: Any,
    k_ref: Any,
    v_ref: Any,
    *refs: Any,
    config: TuningConfig,
    scale: float,
    queries: int,
    keys: int,
    width: int,
) -> None:
    *lists, out_ref, sums_ref = refs
    seen_keys = lists[2][...] if len(lists) > 2 else keys
    ragged = len(lists) > 2 or keys % config.block_kv != 0
    wide = q_ref.shape[-1]
    real = (jnp.arange(wide) < width)[None, :]
    # Loads beyond an array's end are masked by hand: a block of keys starts wherever the list says,
    # so Pallas cannot pad it.
    rows = pl.program_id(0) * config.block_q + jnp.arange(config.block_q) < queries
    q = plgpu.load(q_ref, mask=rows[:, None] & real, other=0.0)
    factor = scale * LOG2_E

    def fold(
        position: Array | int, running: tuple[Array, Array, Array], whole: bool = True
    ) -> tuple[Array, Array, Array]:
        """Folds a listed block into the running softmax; checks each key unless all are `whole`."""
        weighted, top, total = running
        # `list[position]` is a load from global memory in each turn; Triton's pipeliner issues it
        # ahead together with the keys that depend on it (`num_stages`).
        block = lists[1][position].astype(jnp.int32) if lists else position
        span = pl.ds(block * config.block_kv, config.block_kv)
        seen = block * config.block_kv + jnp.arange(config.block_kv) < seen_keys
        read = real if whole else seen[:, None] & real
        mask = {} if whole and wide == width else {"mask": read, "other": 0.0}
        scores = plgpu.dot(q, plgpu.load(k_ref.at[span, :], **mask).T)
        scores = scores if whole else jnp.where(seen[None, :], scores, -jnp.inf)
        new_top = jnp.maximum(top, scores.max(axis=1) * factor)
        shrink, weights = jnp.exp2(top - new_top), jnp.exp2(scores * factor - new_top[:, None])
        v = plgpu.load(v_ref.at[span, :], **mask)
        weighted = weighted * shrink[:, None] + plgpu.dot(weights.astype(v.dtype), v)
        return weighted, new_top, total * shrink + weights.sum(axis=1)

    start = (
        jnp.zeros((config.block_q, wide), jnp.float32),
        jnp.full((config.block_q,), -jnp.inf, jnp.float32),
        jnp.zeros((config.block_q,), jnp.float32),
    )
    count = lists[0][...] if lists else pl.cdiv(keys, config.block_kv)
    # The one block that may be cut short goes first: behind the loop it costs it registers.
    start = fold(count - 1, start, whole=False) if ragged else start
    weighted, top, total = jax.lax.fori_loop(0, count - 1 if ragged else count, fold, start)
    out = (weighted / total[:, None]).astype(out_ref.dtype)
    plgpu.store(out_ref, out, mask=rows[:, None] & real)
    plgpu.store(sums_ref, top * (1 / LOG2_E) + jnp.log(total), mask=rows)
