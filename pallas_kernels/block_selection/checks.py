"""What the choice of blocks refuses; traced numbers cannot be looked at and pass."""

from typing import Any

import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array

from pallas_kernels.block_selection.pooling import check_pooling


def check_inputs(q: Array, k: Array) -> None:
    """Refuses queries and keys that disagree, are empty or no floats."""
    if q.ndim != 4 or k.ndim != 4 or q.shape[:1] + q.shape[2:] != k.shape[:1] + k.shape[2:]:
        raise ValueError(f"q (B,T,N,K) and k (B,S,N,K) disagree: {q.shape=}, {k.shape=}")
    if 0 in q.shape or 0 in k.shape:
        raise ValueError(f"no axis may be empty: {q.shape=}, {k.shape=}")
    if q.dtype != k.dtype or not jnp.issubdtype(q.dtype, jnp.floating):
        raise ValueError(f"q and k must have one floating dtype, found {q.dtype=}, {k.dtype=}")


def check_blocks(block_q: int, block_kv: int, dense_queries: int, part: int) -> None:
    """Refuses sizes that do not fit each other."""
    if block_q < 1 or block_kv < 1:
        raise ValueError(f"{block_q=} and {block_kv=} must be at least 1")
    if dense_queries < 0 or dense_queries % block_q:
        raise ValueError(f"{dense_queries=} must be a multiple of {block_q=}")
    if part < 1 or block_q % part:
        raise ValueError(f"pool_q={part} must divide {block_q=}")


def check_budgets(top_k: Any, top_p: Any, heads: int) -> None:
    """Refuses numbers of blocks and shares that mean nothing."""
    for name, budget in (("top_k", top_k), ("top_p", top_p)):
        if np.shape(budget) not in ((), (heads,)):
            raise ValueError(f"{name}: give one, or one for each of {heads} heads, found {budget}")
    if not isinstance(top_k, Tracer):
        least = np.asarray(top_k)
        if not np.issubdtype(least.dtype, np.integer) or least.min() < 0:
            raise ValueError(f"top_k={top_k} must be whole numbers of at least 0")
    if top_p is None or isinstance(top_p, Tracer):
        return
    share = np.asarray(top_p, np.float64)
    if not ((share > 0) & (share <= 1)).all():
        raise ValueError(f"top_p={top_p} must lie in (0, 1]")


def check_options(scale: float, pooling: str) -> None:
    """Refuses factors that are not positive and unknown poolings."""
    if not 0 < scale < float("inf"):
        raise ValueError(f"{scale=} must be positive")
    check_pooling(pooling)


def check_candidates(start: Any, stop: Any, keys: int, block_kv: int) -> None:
    """Refuses candidates that do not start with a block or end behind the keys."""
    if start < 0 or start % block_kv or stop > keys:
        raise ValueError(
            f"candidates {start} to {stop} must start at a multiple of {block_kv=} and stop within "
            f"{keys} keys"
        )
