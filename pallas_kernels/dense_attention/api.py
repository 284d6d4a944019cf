"""The one function that callers import, and the choice of a backend."""

from collections.abc import Callable, Mapping

from jaxtyping import Array, Float, Int

from jaxrecon.deprecation import renamed_arguments
from pallas_kernels.backends import run_backend
from pallas_kernels.dense_attention.cudnn import attention_cudnn
from pallas_kernels.dense_attention.mosaic_gpu import attention_mosaic_gpu
from pallas_kernels.dense_attention.xla import attention_xla
from pallas_kernels.float8 import is_float8, widened

IMPLEMENTATIONS: Mapping[str, Callable[..., Array]] = {
    "mosaic_gpu": attention_mosaic_gpu,
    "cudnn": widened(attention_cudnn),
    "xla": widened(attention_xla),
}
"""Backends by name, the fastest first; "mosaic_gpu" is so for long sequences of narrow heads."""

LONG = 32_768
"""Queries and keys from which on "mosaic_gpu" is chosen (docs/benchmarks.md has its speed).

It is the fastest from 8,192 on, but each process compiles it anew, for two to three seconds: JAX
0.11 keeps it in no cache. Of ten views it would save four milliseconds.
"""

NARROW = 64
"""Head width up to which it is."""


@renamed_arguments(real_keys="num_valid_keys")
def dense_attention(
    q: Float[Array, "B T N K"],
    k: Float[Array, "B S N K"],
    v: Float[Array, "B S N K"],
    *,
    scale: float | None = None,
    num_valid_keys: Int[Array, ""] | None = None,
    implementation: str | None = None,
) -> Float[Array, "B T N K"]:
    """Exact attention, `softmax(scale * q k^T) v`, softmax in float32.

    Args:
      q: queries.
      k: keys, of the same batch, heads, head width and dtype as `q`.
      v: values, shaped like `k` and of its dtype, or a wider one beside queries and keys of e4m3:
        "mosaic_gpu" multiplies these as such, others the same numbers in the wider dtype.
      scale: factor on the scores; `K ** -0.5` if not given.
      num_valid_keys: so many first keys are seen, the others are padding; all if not given.
      implementation: "mosaic_gpu", "cudnn", "xla", or None for the fastest that can do the job.

    Raises:
      ValueError: shapes or dtypes disagree, or the implementation's name is unknown.
      NotImplementedError: the backend asked for by name cannot do this job here.
    """
    _check(q, k, v)
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    backends = dict(IMPLEMENTATIONS)
    if implementation is None and not is_long(q, k):
        del backends["mosaic_gpu"]
    options = {"scale": scale, "num_valid_keys": num_valid_keys}
    return run_backend(backends, implementation, "run this attention", q, k, v, **options)


def is_long(q: Float[Array, "B T N K"], k: Float[Array, "B S N K"]) -> bool:
    """Whether this attention is for "mosaic_gpu", of backends that are not asked for by name."""
    return min(q.shape[1], k.shape[1]) >= LONG and q.shape[-1] <= NARROW


def _check(q: Array, k: Array, v: Array) -> None:
    if q.ndim != 4 or k.shape != v.shape or q.shape[:1] + q.shape[2:] != k.shape[:1] + k.shape[2:]:
        raise ValueError(
            f"q (B,T,N,K), k (B,S,N,K) and v (B,S,N,K) disagree: {q.shape=}, {k.shape=}, {v.shape=}"
        )
    if q.dtype != k.dtype or (q.dtype != v.dtype and not is_float8(q.dtype)) or is_float8(v.dtype):
        raise ValueError(
            "q, k and v must have one dtype (or q and k that of float8_e4m3fn), found "
            f"{q.dtype=}, {k.dtype=}, {v.dtype=}"
        )
