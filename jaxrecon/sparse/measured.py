"""How far block-sparse attention is from dense attention, head by head, inside a dense run."""

from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from jaxrecon.nn.attention import AttentionStats, TokenLayout, attend_densely
from jaxrecon.sparse.attention import SparseAttention

SHARES = (0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.55, 0.75)
"""Of the competing key blocks that a head keeps where it is measured."""


@dataclass(frozen=True)
class MeasuredAttention:
    """An `AttentionFn` that attends densely, and tells what sparse attention would have done.

    In place of the share that each head skips its statistics hold, for each head, the squared
    difference of its output from the dense one, summed over its tokens and channels, at each of
    the shares, and then the squared output: see `errors_of`.

    Attributes:
      shares: of the competing key blocks, that heads keep.
    """

    shares: tuple[float, ...] = SHARES

    def __call__(
        self,
        q: Float[Array, "G T N K"],
        k: Float[Array, "G S N K"],
        v: Float[Array, "G S N K"],
        layout: TokenLayout,
    ) -> tuple[Float[Array, "G T N K"], AttentionStats | None]:
        """Dense within one view and across views; measures across views."""
        out, _ = attend_densely(q, k, v, layout)
        if layout.views == 1:
            return out, None
        # Each share is a layer of one schedule, so that one program serves all of them.
        sparse = SparseAttention(tuple(1 - share for share in self.shares), None)
        seen = _is_counted(layout)[None, :, None, None]

        def squares(x: Array) -> Float[Array, "G N"]:
            return jnp.where(seen, jnp.square(x.astype(jnp.float32)), 0.0).sum((1, 3))

        def error(number: Array) -> Float[Array, "G N"]:
            one = replace(layout, layers=len(self.shares), layer=number)
            found, _ = sparse.attend(q, k, v, one)
            return squares(found.astype(jnp.float32) - out.astype(jnp.float32))

        errors = jax.lax.map(error, jnp.arange(len(self.shares)))
        told = jnp.concatenate([errors, squares(out)[None]])
        return out, AttentionStats(jnp.moveaxis(told, 0, -1).reshape(q.shape[0], -1))


def _is_counted(layout: TokenLayout) -> Bool[Array, " T"]:
    """Which tokens are not of padding views."""
    token = jnp.arange(layout.tokens)
    of_views = layout.views * layout.tokens_per_view
    if layout.num_valid_views is None:
        return token < layout.tokens
    valid = jnp.asarray(layout.num_valid_views, jnp.int32) * layout.tokens_per_view
    return (token < valid) | (token >= of_views)


def errors_of(
    told: Float[np.ndarray, "layers N"], shares: tuple[float, ...] = SHARES
) -> Float[np.ndarray, "layers heads shares"]:
    """Of the statistics of a `MeasuredAttention`: each head's squared error over its square."""
    layers = told.shape[0]
    sums = np.asarray(told, np.float64).reshape(layers, -1, len(shares) + 1)
    return sums[..., :-1] / np.maximum(sums[..., -1:], np.finfo(np.float32).tiny)
