"""Which key blocks each query block attends to."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Bool, Float, Int

from jaxrecon.deprecation import renamed_arguments, renamed_fields

CHILDREN = ("counts", "indices", "num_valid_keys")
SIZES = ("block_q", "block_kv", "q_length", "kv_length")
FIELDS = ("counts", "indices", *SIZES, "num_valid_keys")

type Count = int | Int[Array | np.ndarray, ""]


@jax.tree_util.register_pytree_with_keys_class
@renamed_fields(real_keys="num_valid_keys")
@dataclass(frozen=True)
class BlockMask:
    """For each (batch, head, query block) a list of key blocks; a dense meaning: `as_array()`.

    Queries 0 to `q_length` are cut into blocks of `block_q`, keys 0 to `kv_length` into blocks of
    `block_kv`; the last block of either may be shorter. Query block `t` attends to the key blocks
    `indices[b, n, t, :counts[b, n, t]]`, which rise strictly. The rest of `indices` has no meaning
    and may hold anything. No list is empty.

    Attributes:
      counts: int32 (B, N, query blocks), each at least 1.
      indices: int16 or int32 (B, N, query blocks, capacity).
      block_q, block_kv: tokens of a block; static.
      q_length, kv_length: tokens of the sequences that the mask was made for; static.
      num_valid_keys: an int32 scalar in 1 .. `kv_length`: so many first keys can be seen, the
        others are padding, and no list names a block of padding alone; None for all `kv_length`.

    Traced values are taken on trust: kernels give no meaningful result, and may read beyond the
    inputs, where they break what is said above.

    Raises:
      ValueError: shapes or dtypes do not fit the sizes; or, where the values can be looked at, a
        list is empty, does not rise, or names a block that does not exist or is padding alone, or
        `num_valid_keys` is out of range.
    """

    counts: Int[Array, "B N query_blocks"]
    indices: Int[Array, "B N query_blocks capacity"]
    block_q: int
    block_kv: int
    q_length: int
    kv_length: int
    num_valid_keys: Int[Array, ""] | None = None

    def __post_init__(self) -> None:
        for name in SIZES:
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be at least 1")
        if self.counts.dtype != jnp.int32 or self.indices.dtype not in (jnp.int16, jnp.int32):
            raise ValueError(
                "counts must be int32 and indices int16 or int32, found "
                f"{self.counts.dtype=}, {self.indices.dtype=}"
            )
        if self.indices.ndim != 4 or self.counts.shape != self.indices.shape[:3]:
            raise ValueError(
                "counts (B,N,query blocks) and indices (B,N,query blocks,capacity) disagree: "
                f"{self.counts.shape=}, {self.indices.shape=}"
            )
        if self.counts.shape[2] != self.query_blocks or not (
            1 <= self.indices.shape[3] <= self.key_blocks
        ):
            raise ValueError(
                f"{self.indices.shape=} does not fit {self.query_blocks} query blocks and "
                f"{self.key_blocks} key blocks"
            )
        _check_num_valid_keys(self.num_valid_keys, self.kv_length)
        if _has_values(self.counts) and _has_values(self.indices):
            keys = int(self.keys) if _has_values(self.keys) else self.kv_length
            blocks = -(-keys // self.block_kv)
            _check_lists(np.asarray(self.counts), np.asarray(self.indices), blocks)

    @property
    def query_blocks(self) -> int:
        return -(-self.q_length // self.block_q)

    @property
    def key_blocks(self) -> int:
        return -(-self.kv_length // self.block_kv)

    @property
    def keys(self) -> Count:
        """How many keys can be seen."""
        return self.kv_length if self.num_valid_keys is None else self.num_valid_keys

    @property
    def lists(self) -> tuple[Array, ...]:
        """What a kernel reads: counts, indices and, if there is padding, (1,) `num_valid_keys`."""
        number = () if self.num_valid_keys is None else (self.num_valid_keys.reshape(1),)
        return (self.counts, self.indices, *number)

    @property
    def capacity(self) -> int:
        """Length of the longest list that there is room for."""
        return self.indices.shape[3]

    def as_array(self) -> Bool[Array, "B N query_blocks key_blocks"]:
        """True where a query block attends to a key block."""
        listed = jnp.arange(self.capacity) < self.counts[..., None]
        places = jnp.where(listed, self.indices, self.key_blocks)
        empty = jnp.zeros((*self.counts.shape, self.key_blocks), bool)
        return jnp.put_along_axis(empty, places, True, axis=-1, inplace=False, mode="drop")

    def token_mask(self) -> Bool[Array, "B N T S"]:
        """True where a query attends to a key: for small sizes."""
        rows = jnp.repeat(self.as_array(), self.block_q, axis=2)[:, :, : self.q_length]
        seen = jnp.repeat(rows, self.block_kv, axis=3)[..., : self.kv_length]
        return seen & (jnp.arange(self.kv_length) < self.keys)

    @staticmethod
    def from_array(
        array: Bool[np.ndarray, "B N query_blocks key_blocks"] | Bool[Array, "B N Tb Sb"],
        *,
        block_q: int,
        block_kv: int,
        q_length: int,
        kv_length: int,
    ) -> "BlockMask":
        """The mask with this dense meaning. `array` must hold values, not placeholders.

        Raises:
          ValueError: the shape does not fit the sizes, or a query block has no key block.
        """
        dense = np.asarray(array)
        blocks = (-(-q_length // block_q), -(-kv_length // block_kv))
        if dense.ndim != 4 or dense.shape[2:] != blocks or dense.dtype != bool:
            raise ValueError(
                f"the array must be bool (B, N, {blocks[0]}, {blocks[1]}) for {q_length=}, "
                f"{kv_length=}, {block_q=}, {block_kv=}; found {dense.dtype} {dense.shape}"
            )
        counts = dense.sum(-1)
        capacity = max(1, int(counts.max()))
        order = np.argsort(~dense, axis=-1, kind="stable")[..., :capacity]
        return BlockMask(
            jnp.asarray(counts, jnp.int32),
            jnp.asarray(order, index_dtype(blocks[1])),
            block_q,
            block_kv,
            q_length,
            kv_length,
        )

    def tree_flatten_with_keys(self) -> tuple[Any, tuple[int, ...]]:
        children = tuple((jax.tree_util.GetAttrKey(n), getattr(self, n)) for n in CHILDREN)
        return children, tuple(getattr(self, name) for name in SIZES)

    @classmethod
    def tree_unflatten(cls, sizes: tuple[int, ...], children: Any) -> "BlockMask":
        # JAX rebuilds trees with placeholders too, so the constructor's checks are passed by.
        value = object.__new__(cls)
        counts, indices, num_valid_keys = children
        for name, part in zip(FIELDS, (counts, indices, *sizes, num_valid_keys), strict=True):
            object.__setattr__(value, name, part)
        return value


def index_dtype(blocks: int) -> Any:
    """The smaller of int16 and int32 that can number so many blocks."""
    return jnp.int16 if blocks <= np.iinfo(np.int16).max else jnp.int32


@renamed_arguments(real_keys="num_valid_keys")
def full_mask(
    batch: int,
    heads: int,
    *,
    block_q: int,
    block_kv: int,
    q_length: int,
    kv_length: int,
    num_valid_keys: Int[Array, ""] | None = None,
) -> BlockMask:
    """Every query block attends to every key block that is not padding alone."""
    query_blocks, key_blocks = -(-q_length // block_q), -(-kv_length // block_kv)
    shape = (batch, heads, query_blocks)
    seen = key_blocks if num_valid_keys is None else -(-num_valid_keys // block_kv)
    return BlockMask(
        jnp.full(shape, seen, jnp.int32),
        jnp.broadcast_to(
            jnp.arange(key_blocks, dtype=index_dtype(key_blocks)), (*shape, key_blocks)
        ),
        block_q,
        block_kv,
        q_length,
        kv_length,
        num_valid_keys,
    )


def without_padding(v: Float[Array, "B S N K"], mask: BlockMask | None) -> Float[Array, "B S N K"]:
    """Values with zeros behind the last valid key, in the one listed block that holds padding.

    A kernel multiplies what it does not see by zero, which mends no infinity.
    """
    if mask is None or mask.num_valid_keys is None:
        return v
    size = min(mask.block_kv, v.shape[1])
    start = (mask.num_valid_keys - 1) // mask.block_kv * mask.block_kv
    start = jnp.clip(start, 0, v.shape[1] - size)
    block = jax.lax.dynamic_slice_in_dim(v, start, size, axis=1)
    valid = (start + jnp.arange(size) < mask.num_valid_keys)[:, None, None]
    block = jnp.where(valid, block, jnp.zeros((), v.dtype))
    return jax.lax.dynamic_update_slice_in_dim(v, block, start, axis=1)


def _has_values(x: Any) -> bool:
    return not isinstance(x, Tracer | jax.ShapeDtypeStruct)


def _check_num_valid_keys(num_valid_keys: Any, kv_length: int) -> None:
    if num_valid_keys is None:
        return
    if num_valid_keys.shape != () or num_valid_keys.dtype != jnp.int32:
        raise ValueError(
            f"num_valid_keys must be an int32 scalar, found {num_valid_keys.dtype} "
            f"{num_valid_keys.shape}"
        )
    if _has_values(num_valid_keys) and not 1 <= int(num_valid_keys) <= kv_length:
        raise ValueError(f"num_valid_keys={int(num_valid_keys)} must lie in 1 .. {kv_length=}")


def _check_lists(counts: np.ndarray, indices: np.ndarray, key_blocks: int) -> None:
    capacity = indices.shape[-1]
    if counts.min() < 1 or counts.max() > capacity:
        raise ValueError(
            f"each list must hold 1 to {capacity} key blocks, found {counts.min()} to "
            f"{counts.max()}: a query block that attends to nothing has no result"
        )
    listed = np.arange(capacity) < counts[..., None]
    if indices[listed].min() < 0 or indices[listed].max() >= key_blocks:
        raise ValueError(
            f"listed blocks of valid keys must lie in 0 .. {key_blocks - 1}, found "
            f"{indices[listed].min()} to {indices[listed].max()}"
        )
    if (np.diff(indices.astype(np.int32), axis=-1)[listed[..., 1:]] <= 0).any():
        raise ValueError("each list of key blocks must rise strictly")
