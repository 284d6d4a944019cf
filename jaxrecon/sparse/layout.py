"""How the tokens of a scene are laid out for block-sparse attention."""

from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int, Shaped, UInt32

from jaxrecon.deprecation import warn_renamed
from jaxrecon.errors import InputError
from jaxrecon.nn.attention import Count, TokenLayout
from pallas_kernels.block_selection import Candidates, NumValid
from pallas_kernels.platform import target_platform

type SpecialTokens = Literal["aligned", "packed"]


class Permutation(NamedTuple):
    """An order of the patches of a scene: one within each view, or one across all views.

    Attributes:
      within_view: row-by-row numbers of a view's patches, for every view the same.
      queries, keys: numbers of the patches of all views, counted view after view and row by row;
        those of padding views come last.
    """

    within_view: Int[np.ndarray, " patches"] | None = None
    queries: Int[Array, "G patches"] | None = None
    keys: Int[Array, "G patches"] | None = None


@runtime_checkable
class PatchOrder(Protocol):
    """Decides which patches share a block. Instances must be hashable: they are static."""

    def order(
        self, q: Float[Array, "G T N K"], k: Float[Array, "G T N K"], layout: "BlockLayout"
    ) -> Permutation:
        """An order of the patches of these queries and of these keys.

        Args:
          q, k: queries and keys in the model's order; `layout.patches_of` picks the patches.
          layout: what the tokens are, and the sizes of the blocks.
        """
        ...


class TokenOrders(NamedTuple):
    """Where each of the model's tokens goes: what `BlockLayout.orders` makes of a permutation.

    Attributes:
      within_view: as in `Permutation`.
      queries, keys: numbers of the model's tokens, where an order across views is used. A number
        that no token has stands for padding.
    """

    within_view: Int[np.ndarray, " patches"] | None = None
    queries: Int[Array, "G padded"] | None = None
    keys: Int[Array, "G T"] | None = None


MODEL_ORDER = TokenOrders()
"""Patches view after view and row by row."""


@dataclass(frozen=True)
class BlockLayout:
    """How queries and keys of one scene are laid out in blocks, and the way back.

    Queries are [specials | padding to a whole block | patches]. Keys are [specials | patches]
    ("aligned": the first blocks, which hold all specials, are seen by all) or [patches | specials]
    ("packed", upstream's order: the last block of patches holds the first specials too, and
    competes). Specials stand view after view, and so do patches, unless the order mixes views.
    Where only some views are valid, keys of padding views come behind all others.

    Attributes:
      layout: what the model's tokens are.
      order: which patches share a block.
      special_tokens: where specials go; see `SparseAttention`.
      block_q, block_kv: tokens of a block of queries and of keys.
    """

    layout: TokenLayout
    order: PatchOrder
    special_tokens: SpecialTokens
    block_q: int
    block_kv: int

    @property
    def patches(self) -> int:
        return self.layout.views * self.layout.grid[0] * self.layout.grid[1]

    @property
    def specials(self) -> int:
        return self.layout.tokens - self.patches

    @property
    def dense_queries(self) -> int:
        """Queries before the first patch."""
        return -(-self.specials // self.block_q) * self.block_q

    @property
    def counted_views(self) -> Count:
        """How many views are valid."""
        return (
            self.layout.views
            if self.layout.num_valid_views is None
            else self.layout.num_valid_views
        )

    @property
    def candidates(self) -> Candidates:
        """The keys whose blocks compete."""
        layout, views = self.layout, self.counted_views
        patches = views * layout.grid[0] * layout.grid[1]
        if self.special_tokens == "packed":
            return Candidates(0, patches)
        tokens = views * layout.tokens_per_view + layout.scene
        start = -(-(tokens - patches) // self.block_kv) * self.block_kv
        return Candidates(start, tokens)

    @property
    def real(self) -> NumValid | None:
        """The former name of `num_valid`."""
        warn_renamed("BlockLayout.real", "num_valid", stacklevel=3)
        return self.num_valid

    @property
    def num_valid(self) -> NumValid | None:
        """How many queries and keys are not of padding views; None if all."""
        if self.layout.num_valid_views is None:
            return None
        views, layout = jnp.asarray(self.layout.num_valid_views, jnp.int32), self.layout
        return NumValid(
            self.dense_queries + views * (layout.grid[0] * layout.grid[1]),
            views * layout.tokens_per_view + layout.scene,
        )

    def of(self, views: int) -> "BlockLayout":
        """The layout of so many such views, all valid."""
        return replace(self, layout=replace(self.layout, views=views, num_valid_views=None))

    @property
    def competing(self) -> int:
        """How many key blocks compete, where all views are valid."""
        start, stop = int(self.candidates.start), int(self.candidates.stop)
        return max(0, -(-(stop - start) // self.block_kv))

    @property
    def key_blocks(self) -> int:
        return -(-self.layout.tokens // self.block_kv)

    @property
    def query_blocks(self) -> int:
        return -(-(self.dense_queries + self.patches) // self.block_q)

    def for_heads(self, first: Count, heads: int) -> "BlockLayout":
        """The layout where inputs are cut to some heads, from the `first` of those that they had.

        Args:
          first: may be a traced number.
          heads: how many heads the inputs had.
        """
        every = heads if self.layout.heads is None else self.layout.heads
        part = replace(self.layout, heads=every, first_head=self.layout.first_head + first)
        return replace(self, layout=part)

    def orders(self, q: Float[Array, "G T N K"], k: Float[Array, "G T N K"]) -> TokenOrders:
        """Where the tokens of these queries and of these keys go."""
        found = self._permutation(q, k)
        if found.queries is None or found.keys is None:
            return TokenOrders(found.within_view)
        numbers = jnp.broadcast_to(jnp.arange(self.layout.tokens, dtype=jnp.int32), q.shape[:2])
        specials, patches = self._split(numbers)
        queries, keys = (
            jnp.take_along_axis(patches, order, axis=1, mode="promise_in_bounds")
            for order in (found.queries, found.keys)
        )
        return TokenOrders(
            queries=self._joined_queries(specials, queries, self.layout.tokens),
            keys=self._joined_keys(numbers, specials, keys),
        )

    def _permutation(self, q: Array, k: Array) -> Permutation:
        """What the order says, once its shapes are checked; the numbers are taken on trust."""
        found: Any = self.order.order(q, k, self)
        name = f"order: {type(self.order).__name__}.order returned"
        if not isinstance(found, Permutation):
            raise InputError(f"{name} a {type(found).__name__}; return a Permutation")
        across = len(q), self.patches
        expected = {
            "within_view": (self.layout.grid[0] * self.layout.grid[1],),
            "queries": across,
            "keys": across,
        }
        for field, shape in expected.items():
            given = getattr(found, field)
            if given is None:
                continue
            if np.shape(given) != shape or not jnp.issubdtype(given.dtype, jnp.integer):
                raise InputError(
                    f"{name} {field} of {given.dtype}{list(np.shape(given))}; it needs whole "
                    f"numbers of the shape {list(shape)}"
                )
        return found

    def patches_of(self, x: Shaped[Array, "G T *rest"]) -> Shaped[Array, "G patches *rest"]:
        """The patches among the model's tokens, view after view and row by row."""
        return self._split(x)[1]

    def queries(
        self, x: Float[Array, "G T N K"], orders: TokenOrders = MODEL_ORDER
    ) -> Float[Array, "G padded N K"]:
        """Queries in blocks, as `orders` says."""
        if orders.queries is not None:
            return _taken(x, orders.queries)
        return self._joined_queries(*self._split(x, orders.within_view), 0)

    def keys(
        self, x: Float[Array, "G T N K"], orders: TokenOrders = MODEL_ORDER
    ) -> Float[Array, "G T N K"]:
        """Keys or values in blocks, as `orders` says."""
        if orders.keys is not None:
            return _taken(x, orders.keys)
        return self._joined_keys(x, *self._split(x, orders.within_view))

    def _joined_queries(
        self, specials: Array, patches: Array, padding: int
    ) -> Shaped[Array, "G padded *rest"]:
        spare = [(0, 0), (0, self.dense_queries - self.specials)] + [(0, 0)] * (patches.ndim - 2)
        specials = jnp.pad(specials, spare, constant_values=padding)
        return jnp.concatenate([specials, patches], axis=1)

    def _joined_keys(self, x: Array, specials: Array, patches: Array) -> Shaped[Array, "G T *rest"]:
        if self.layout.num_valid_views is not None:
            return self._valid_first(x, specials, patches)
        parts = [specials, patches] if self.special_tokens == "aligned" else [patches, specials]
        return jnp.concatenate(parts, axis=1)

    def _valid_first(self, x: Array, specials: Array, patches: Array) -> Array:
        """Keys with those of padding views behind all others: each part overwrites the last's."""
        layout, views = self.layout, self.counted_views
        around = layout.leading + layout.trailing
        own = specials[:, : layout.views * around], views * around
        scene = specials[:, layout.views * around :], layout.scene
        seen = patches, views * layout.grid[0] * layout.grid[1]
        aligned = self.special_tokens == "aligned"
        start = 0
        for part, count in (own, scene, seen) if aligned else (seen, own, scene):
            if part.shape[1]:
                x = jax.lax.dynamic_update_slice_in_dim(x, part, start, 1)
            start = start + count
        return x

    def restore(
        self, x: Float[Array, "G padded N K"], orders: TokenOrders = MODEL_ORDER
    ) -> Float[Array, "G T N K"]:
        """Queries' outputs back to the model's order."""
        if orders.queries is not None:
            return _taken(x, _inverse(orders.queries, self.layout.tokens))
        layout, views = self.layout, self.layout.views
        around = layout.leading + layout.trailing
        specials, patches = x[:, : self.specials], x[:, self.dense_queries :]
        own = specials[:, : views * around].reshape(x.shape[0], views, around, *x.shape[2:])
        patches = patches.reshape(x.shape[0], views, -1, *x.shape[2:])
        if orders.within_view is not None:
            patches = jnp.take(patches, np.argsort(orders.within_view), axis=2)
        parts = [own[:, :, : layout.leading], patches, own[:, :, layout.leading :]]
        tokens = jnp.concatenate(parts, axis=2).reshape(x.shape[0], -1, *x.shape[2:])
        return jnp.concatenate([tokens, specials[:, views * around :]], axis=1)

    def _split(
        self, x: Array, within_view: Int[np.ndarray, " patches"] | None = None
    ) -> tuple[Array, Array]:
        """(specials, patches), each view after view."""
        layout, views = self.layout, self.layout.views
        end = views * layout.tokens_per_view
        seen = x[:, :end].reshape(x.shape[0], views, -1, *x.shape[2:])
        last = layout.tokens_per_view - layout.trailing
        patches = seen[:, :, layout.leading : last]
        if within_view is not None:
            patches = jnp.take(patches, within_view, axis=2)
        own = jnp.concatenate([seen[:, :, : layout.leading], seen[:, :, last:]], axis=2)
        flat = (part.reshape(x.shape[0], -1, *x.shape[2:]) for part in (own, patches))
        specials, patches = flat
        return jnp.concatenate([specials, x[:, end:]], axis=1), patches


def _taken(x: Float[Array, "G T N K"], order: Int[Array, "G P"]) -> Float[Array, "G P N K"]:
    """Tokens by number; zero for a number that there is not."""

    def scene(x: Array, order: Array) -> Array:
        return x.at[order].get(mode="fill", fill_value=0)

    # Rows of whole tokens, and a barrier: XLA would write them once more with heads before tokens
    # for what pools them, and turn that back for the kernel.
    rows = x.reshape(*x.shape[:2], -1)
    if moves_pairs(rows):
        # XLA moves four numbers at a time. As numbers of 32 bits rows take three quarters as long,
        # but cannot be gathered from what computes them.
        halves = paired(jax.lax.optimization_barrier(rows))
        rows = unpaired(jax.vmap(scene)(halves, order), x.dtype)
    else:
        rows = jax.vmap(scene)(rows, order)
    return jax.lax.optimization_barrier(rows).reshape(*order.shape, *x.shape[2:])


def moves_pairs(rows: Float[Array, "... n"]) -> bool:
    """Whether rows are better moved as `paired` numbers: those of 16 bits, on GPUs."""
    return rows.dtype.itemsize == 2 and rows.shape[-1] % 2 == 0 and target_platform() == "gpu"


def paired(rows: Float[Array, "*dims n"]) -> UInt32[Array, "*dims half"]:
    """Two neighbours of 16 bits as one number each."""
    halves = rows.reshape(*rows.shape[:-1], -1, 2)
    return jax.lax.bitcast_convert_type(halves, jnp.uint32)


def unpaired(pairs: UInt32[Array, "*dims half"], dtype: DTypeLike) -> Float[Array, "*dims n"]:
    """The rows of which `paired` made these."""
    return jax.lax.bitcast_convert_type(pairs, dtype).reshape(*pairs.shape[:-1], -1)


def _inverse(order: Int[Array, "G P"], tokens: int) -> Int[Array, "G T"]:
    """Where each token stands in an order."""

    def scene(order: Array) -> Array:
        places = jnp.arange(order.shape[0], dtype=jnp.int32)
        return jnp.zeros(tokens, jnp.int32).at[order].set(places, mode="drop")

    return jax.vmap(scene)(order)
