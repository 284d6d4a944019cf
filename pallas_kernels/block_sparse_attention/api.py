"""The one function that callers import, and the choice of a backend."""

from collections.abc import Callable, Mapping
from typing import Literal, overload

import jax.numpy as jnp
from jaxtyping import Array, Float

from pallas_kernels.backends import run_backend
from pallas_kernels.block_sparse_attention.mask import BlockMask
from pallas_kernels.block_sparse_attention.mosaic_gpu import attention_mosaic_gpu
from pallas_kernels.block_sparse_attention.mosaic_tpu import attention_mosaic_tpu
from pallas_kernels.block_sparse_attention.triton import attention_triton
from pallas_kernels.block_sparse_attention.xla import attention_xla
from pallas_kernels.float8 import is_float8, widened

IMPLEMENTATIONS: Mapping[str, Callable[..., tuple[Array, Array]]] = {
    "mosaic_gpu": attention_mosaic_gpu,
    "triton": widened(attention_triton),
    "mosaic_tpu": widened(attention_mosaic_tpu),
    "xla": widened(attention_xla),
}
"""Backends by name, the fastest first; each returns the output and the log of the sums."""


@overload
def block_sparse_attention(
    q: Array,
    k: Array,
    v: Array,
    mask: BlockMask | None,
    *,
    scale: float | None = None,
    implementation: str | None = None,
    return_logsumexp: Literal[False] = False,
) -> Array: ...


@overload
def block_sparse_attention(
    q: Array,
    k: Array,
    v: Array,
    mask: BlockMask | None,
    *,
    scale: float | None = None,
    implementation: str | None = None,
    return_logsumexp: Literal[True],
) -> tuple[Array, Array]: ...


def block_sparse_attention(
    q: Float[Array, "B T N K"],
    k: Float[Array, "B S N K"],
    v: Float[Array, "B S N K"],
    mask: BlockMask | None,
    *,
    scale: float | None = None,
    implementation: str | None = None,
    return_logsumexp: bool = False,
) -> Float[Array, "B T N K"] | tuple[Float[Array, "B T N K"], Float[Array, "B N T"]]:
    """Attention of each query block to its listed key blocks, softmax in float32.

    For inference: no backend defines a gradient.

    Args:
      q: queries.
      k: keys, of the same batch, heads, head width and dtype as `q`.
      v: values, shaped like `k` and of its dtype, or a wider one beside queries and keys of e4m3:
        "mosaic_gpu" multiplies these as such, others the same numbers in the wider dtype.
      mask: the lists; None for every key block, without reading any list.
      scale: positive factor on the scores; `K ** -0.5` if not given.
      implementation: "mosaic_gpu", "triton", "mosaic_tpu", "xla", or None for the first of these
        that can do the job.
      return_logsumexp: return `(out, log(sum(exp(scores))))` instead of `out`, the latter float32
        (float64 for float64 inputs).

    Raises:
      ValueError: shapes or dtypes disagree, the mask was made for other sizes, the scale is not
        positive, or the implementation's name is unknown.
      UnfitError (a ValueError and a NotImplementedError): the backend asked for by name has no
        machine on which it takes this dtype (float64 wherever one asks), head width or block size.
      NotImplementedError: the backend asked for by name does not run on this machine.
    """
    _check(q, k, v)
    factor = float(q.shape[-1]) ** -0.5 if scale is None else scale
    if not factor > 0:
        raise ValueError(f"{scale=} must be positive")
    if mask is not None:
        _check_mask(q, k, mask)
    job = "run this attention"
    out, sums = run_backend(IMPLEMENTATIONS, implementation, job, q, k, v, mask, scale=factor)
    return (out, sums) if return_logsumexp else out


def _check(q: Array, k: Array, v: Array) -> None:
    if q.ndim != 4 or k.ndim != 4 or v.ndim != 4:
        raise ValueError(
            f"q (B,T,N,K), k and v (B,S,N,K) need 4 axes: {q.shape=}, {k.shape=}, {v.shape=}"
        )
    if k.shape != v.shape:
        raise ValueError(f"k and v must have one shape, found {k.shape=}, {v.shape=}")
    for axis, meaning in ((0, "batch"), (2, "number of heads"), (3, "head width")):
        if q.shape[axis] != k.shape[axis]:
            raise ValueError(
                f"q and k must have one {meaning}, found {q.shape[axis]} and {k.shape[axis]}: "
                f"{q.shape=}, {k.shape=}"
            )
    if 0 in q.shape or 0 in k.shape:
        raise ValueError(f"no axis may be empty: {q.shape=}, {k.shape=}")
    one = q.dtype == k.dtype and (q.dtype == v.dtype or is_float8(q.dtype))
    if not one or not jnp.issubdtype(v.dtype, jnp.floating) or is_float8(v.dtype):
        raise ValueError(
            "q, k and v must have one floating dtype (or q and k that of float8_e4m3fn), found "
            f"{q.dtype=}, {k.dtype=}, {v.dtype=}"
        )


def _check_mask(q: Array, k: Array, mask: BlockMask) -> None:
    if (mask.q_length, mask.kv_length) != (q.shape[1], k.shape[1]):
        raise ValueError(
            f"the mask was made for {mask.q_length} queries and {mask.kv_length} keys, found "
            f"{q.shape[1]} and {k.shape[1]}"
        )
    if mask.counts.shape[:2] != (q.shape[0], q.shape[2]):
        raise ValueError(
            f"the mask was made for batch {mask.counts.shape[0]} and {mask.counts.shape[1]} heads, "
            f"found {q.shape[0]} and {q.shape[2]}"
        )
