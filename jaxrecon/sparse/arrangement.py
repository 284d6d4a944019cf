"""How the tokens of a scene are laid out for block-sparse attention."""

from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxrecon.nn.attention import TokenLayout
from jaxrecon.sparse.hilbert import hilbert_order
from pallas_kernels.block_selection import Candidates

type Order = Literal["raster", "hilbert"]
type SpecialTokens = Literal["aligned", "packed"]


@dataclass(frozen=True)
class Arrangement:
    """The order of queries and keys of one scene, and the way back.

    Queries are [specials | padding to a whole block | patches]. Keys are [specials | patches]
    ("aligned": the first blocks, which hold all specials, are seen by all) or [patches | specials]
    ("packed", upstream's order: the last block of patches holds the first specials too, and
    competes). Patches stand view after view, specials too.
    """

    layout: TokenLayout
    order: Order
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
    def candidates(self) -> Candidates:
        """The keys whose blocks compete."""
        if self.special_tokens == "packed":
            return Candidates(0, self.patches)
        start = -(-self.specials // self.block_kv) * self.block_kv
        return Candidates(start, self.layout.tokens)

    @property
    def competing(self) -> int:
        """How many key blocks compete."""
        return max(0, -(-(self.candidates.stop - self.candidates.start) // self.block_kv))

    @property
    def key_blocks(self) -> int:
        return -(-self.layout.tokens // self.block_kv)

    @property
    def query_blocks(self) -> int:
        return -(-(self.dense_queries + self.patches) // self.block_q)

    @cached_property
    def _curve(self) -> np.ndarray:
        return hilbert_order(self.layout.grid)

    def queries(self, x: Float[Array, "G T N K"]) -> Float[Array, "G padded N K"]:
        specials, patches = self._split(x)
        spare = self.dense_queries - self.specials
        return jnp.concatenate(
            [jnp.pad(specials, ((0, 0), (0, spare), (0, 0), (0, 0))), patches], axis=1
        )

    def keys(self, x: Float[Array, "G T N K"]) -> Float[Array, "G T N K"]:
        specials, patches = self._split(x)
        parts = [specials, patches] if self.special_tokens == "aligned" else [patches, specials]
        return jnp.concatenate(parts, axis=1)

    def restore(self, x: Float[Array, "G padded N K"]) -> Float[Array, "G T N K"]:
        """Queries' outputs back to the model's order."""
        layout, views = self.layout, self.layout.views
        around = layout.leading + layout.trailing
        specials, patches = x[:, : self.specials], x[:, self.dense_queries :]
        own = specials[:, : views * around].reshape(x.shape[0], views, around, *x.shape[2:])
        patches = patches.reshape(x.shape[0], views, -1, *x.shape[2:])
        if self.order == "hilbert":
            patches = jnp.take(patches, np.argsort(self._curve), axis=2)
        parts = [own[:, :, : layout.leading], patches, own[:, :, layout.leading :]]
        tokens = jnp.concatenate(parts, axis=2).reshape(x.shape[0], -1, *x.shape[2:])
        return jnp.concatenate([tokens, specials[:, views * around :]], axis=1)

    def _split(self, x: Array) -> tuple[Array, Array]:
        """(specials, patches), each view after view."""
        layout, views = self.layout, self.layout.views
        end = views * layout.tokens_per_view
        seen = x[:, :end].reshape(x.shape[0], views, -1, *x.shape[2:])
        last = layout.tokens_per_view - layout.trailing
        patches = seen[:, :, layout.leading : last]
        if self.order == "hilbert":
            patches = jnp.take(patches, self._curve, axis=2)
        own = jnp.concatenate([seen[:, :, : layout.leading], seen[:, :, last:]], axis=2)
        flat = (part.reshape(x.shape[0], -1, *x.shape[2:]) for part in (own, patches))
        specials, patches = flat
        return jnp.concatenate([specials, x[:, end:]], axis=1), patches
