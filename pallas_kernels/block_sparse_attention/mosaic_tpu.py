"""Block-sparse attention for TPUs in Pallas Mosaic.

The lists are prefetched to scalar memory, where the pipeline looks up which key blocks to copy
next; a few listed blocks make one step. Scalar memory is small, so the query blocks are handed
over in portions.
"""

import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jaxtyping import Array, Float

from pallas_kernels.block_sparse_attention.mask import BlockMask, full_mask, without_padding
from pallas_kernels.errors import UnfitError
from pallas_kernels.platform import target_platform

SCALAR_WORDS = 2**16
"""Most list entries that are handed over at once (a TPU core has about 1 MiB of scalar memory)."""

GATHER = 4
"""Listed blocks of one step."""

LANES = 128


def attention_mosaic_tpu(
    q: Float[Array, "B T N K"],
    k: Float[Array, "B S N K"],
    v: Float[Array, "B S N K"],
    mask: BlockMask | None,
    *,
    scale: float,
    interpret: Any = False,
) -> tuple[Float[Array, "B T N K"], Float[Array, "B N T"]]:
    """Float32 and bfloat16 on TPUs; also returns the log of the sums.

    Args:
      interpret: `pltpu.InterpretParams` to run on the CPU.

    Raises:
      NotImplementedError: not on a TPU.
      UnfitError: the dtype or block sizes are not for this kernel.
    """
    if q.dtype == jnp.float64:
        raise UnfitError(f"mosaic_tpu: needs bfloat16 or float32, found {q.dtype}")
    if not interpret and target_platform() != "tpu":
        raise NotImplementedError(f"mosaic_tpu: needs a TPU, found {target_platform()}")
    if q.dtype not in (jnp.bfloat16, jnp.float32):
        raise UnfitError(f"mosaic_tpu: needs bfloat16 or float32, found {q.dtype}")
    batch, queries, heads, width = q.shape
    if mask is None:
        sizes: Any = {"q_length": queries, "kv_length": k.shape[1]}
        mask = full_mask(batch, heads, block_q=128, block_kv=128, **sizes)
    if mask.block_q % 16 or mask.block_kv % 16:
        raise UnfitError(
            f"mosaic_tpu: blocks must be multiples of 16, found {mask.block_q} x {mask.block_kv}"
        )
    keys = tuple(_by_head(x, mask.block_kv) for x in (k, without_padding(v, mask)))
    out, sums = _by_portions(_by_head(q, mask.block_q), keys, mask, scale, interpret)
    out = out.reshape(batch, heads, -1, out.shape[-1])[:, :, :queries, :width]
    return out.swapaxes(1, 2), sums.reshape(batch, heads, -1)[:, :, :queries]


def _by_head(x: Float[Array, "B T N K"], size: int) -> Float[Array, "G T_padded K_padded"]:
    batch, tokens, heads, width = x.shape
    padded = jnp.pad(x, ((0, 0), (0, -tokens % size), (0, 0), (0, -width % LANES)))
    return padded.swapaxes(1, 2).reshape(batch * heads, padded.shape[1], padded.shape[3])


def _by_portions(
    q: Array, keys: tuple[Array, ...], mask: BlockMask, scale: float, interpret: Any
) -> tuple[Array, Array]:
    """One kernel call for as many query blocks of one head as scalar memory has room for."""
    groups, _, width = q.shape
    blocks = mask.query_blocks
    portion = max(1, min(blocks, SCALAR_WORDS // mask.capacity))
    portions = -(-blocks // portion)
    spare = ((0, 0), (0, portions * portion - blocks))

    def cut(x: Array, *shape: int) -> Array:
        padded = jnp.pad(x, spare + ((0, 0),) * (x.ndim - 2), mode="edge")
        return padded.reshape(groups * portions, portion, *shape)

    counts = cut(mask.counts.reshape(groups, blocks))
    indices = cut(mask.indices.reshape(groups, blocks, -1), mask.capacity).astype(jnp.int32)
    rows = cut(q.reshape(groups, blocks, mask.block_q, width), mask.block_q, width)

    def work(item: tuple[Array, ...]) -> tuple[Array, Array]:
        group, counts, indices, rows = item
        k, v = (jax.lax.dynamic_index_in_dim(x, group, keepdims=False) for x in keys)
        lists = (counts, indices, *mask.lists[2:])
        return _call(lists, rows, k, v, mask=mask, scale=scale, interpret=interpret)

    group = jnp.repeat(jnp.arange(groups), portions)
    out, sums = jax.lax.map(work, (group, counts, indices, rows))
    out = out.reshape(groups, portions * portion, mask.block_q, width)[:, :blocks]
    return out, sums.reshape(groups, portions * portion, mask.block_q)[:, :blocks]


def _call(
    lists: tuple[Array, ...],
    q: Float[Array, "rows block_q K"],
    k: Float[Array, "S K"],
    v: Float[Array, "S K"],
    *,
    mask: BlockMask,
    scale: float,
    interpret: Any,
) -> tuple[Float[Array, "rows block_q K"], Float[Array, "rows block_q"]]:
    rows, block_q, width = q.shape
    steps = -(-mask.capacity // GATHER)

    def listed(place: int) -> pl.BlockSpec:
        def block(row: Array, step: Array, counts: Any, indices: Any, *_: Any) -> tuple[Any, int]:
            # Beyond the list its last block repeats. The pipeline copies no block that it has got
            # already, so the spare steps of short lists cost no traffic.
            position = jnp.minimum(step * GATHER + place, counts[row] - 1)
            return indices[row, position], 0

        return pl.BlockSpec((mask.block_kv, width), block)

    # The same block in all steps of a row: it is copied in once, and out after the last step.
    own = pl.BlockSpec((None, block_q, width), lambda row, step, *_: (row, 0, 0))
    own_sums = pl.BlockSpec((None, block_q, LANES), lambda row, step, *_: (row, 0, 0))
    gathered = [listed(place) for place in range(GATHER)]
    out, sums = pl.pallas_call(
        partial(_kernel, len(lists), mask=mask, scale=scale, steps=steps),
        grid_spec=pltpu.PrefetchScalarGridSpec(
            num_scalar_prefetch=len(lists),
            grid=(rows, steps),
            in_specs=[own, *gathered, *gathered],
            out_specs=[own, own_sums],
            scratch_shapes=[
                pltpu.VMEM((block_q, width), jnp.float32),
                # One number a query, repeated over the lanes: a vector register is 8 x 128.
                pltpu.VMEM((block_q, LANES), jnp.float32),
                pltpu.VMEM((block_q, LANES), jnp.float32),
            ],
        ),
        out_shape=(
            jax.ShapeDtypeStruct(q.shape, q.dtype),
            jax.ShapeDtypeStruct((rows, block_q, LANES), jnp.float32),
        ),
        compiler_params=pltpu.CompilerParams(dimension_semantics=("parallel", "arbitrary")),
        interpret=interpret,
        name="block_sparse_attention",
    )(*lists, q, *(k,) * GATHER, *(v,) * GATHER)
    return out, sums[..., 0]


def _kernel(prefetched: int, *refs: Any, mask: BlockMask, scale: float, steps: int) -> None:
    lists, q_ref, refs = refs[:prefetched], refs[prefetched], refs[prefetched + 1 :]
    keys, values = refs[:GATHER], refs[GATHER : 2 * GATHER]
    out_ref, sums_ref, weighted_ref, top_ref, total_ref = refs[2 * GATHER :]
    row, step = pl.program_id(0), pl.program_id(1)

    @pl.when(step == 0)
    def _start() -> None:
        weighted_ref[...] = jnp.zeros_like(weighted_ref)
        top_ref[...] = jnp.full_like(top_ref, -math.inf)
        total_ref[...] = jnp.zeros_like(total_ref)

    @pl.when(step * GATHER < lists[0][row])
    def _fold() -> None:
        k = jnp.concatenate([ref[...] for ref in keys])
        v = jnp.concatenate([ref[...] for ref in values])
        precision = jax.lax.Precision.HIGHEST if k.dtype == jnp.float32 else None
        product = partial(
            jax.lax.dot_general, precision=precision, preferred_element_type=jnp.float32
        )
        scores = scale * product(q_ref[...], k, (((1,), (1,)), ((), ())))
        scores = jnp.where(_seen(lists, row, step, mask), scores, -math.inf)
        top = top_ref[:, :1]
        new_top = jnp.maximum(top, scores.max(axis=1, keepdims=True))
        shrink, weights = jnp.exp(top - new_top), jnp.exp(scores - new_top)
        total = total_ref[:, :1] * shrink + weights.sum(axis=1, keepdims=True)
        added = product(weights.astype(v.dtype), v, (((1,), (0,)), ((), ())))
        weighted_ref[...] = weighted_ref[...] * shrink + added
        top_ref[...] = jnp.broadcast_to(new_top, top_ref.shape)
        total_ref[...] = jnp.broadcast_to(total, total_ref.shape)

    @pl.when(step == steps - 1)
    def _end() -> None:
        out_ref[...] = (weighted_ref[...] / total_ref[:, :1]).astype(out_ref.dtype)
        sums_ref[...] = top_ref[...] + jnp.log(total_ref[...])


def _seen(lists: Sequence[Any], row: Array, step: Array, mask: BlockMask) -> Array:
    """(1, GATHER * block_kv): which places of a step hold a key that is listed and valid.

    Lists rise, so only the last listed block can be cut short by the end of the keys.
    """
    count = lists[0][row]
    places = (count - step * GATHER) * mask.block_kv
    keys = lists[2][0] if len(lists) > 2 else jnp.int32(mask.kv_length)
    blocks = (keys + mask.block_kv - 1) // mask.block_kv
    missing = blocks * mask.block_kv - keys
    last = lists[1][row, count - 1] == blocks - 1
    places -= jnp.where(last, missing, 0)
    column = jax.lax.broadcasted_iota(jnp.int32, (1, GATHER * mask.block_kv), 1)
    return column < places
