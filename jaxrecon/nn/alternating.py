"""The trunk of all families: attention within each view, then across all views, in turns."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from jaxrecon.nn.attention import AttentionFn, TokenLayout
from jaxrecon.nn.block import Block, BlockConfig, stack_blocks
from jaxrecon.nn.rope import RotaryTable


class AlternatingAttention(nnx.Module):
    """`pairs` times (frame block, global block), scanned; returns the outputs of a few pairs.

    Source: VGGT (arXiv 2503.11651), section 3.2.
    """

    def __init__(
        self,
        config: BlockConfig,
        pairs: int,
        *,
        taps: tuple[int, ...],
        dtype: DTypeLike,
        rngs: nnx.Rngs,
    ) -> None:
        if tuple(sorted(set(taps))) != taps or not 0 <= taps[0] <= taps[-1] < pairs:
            raise ValueError(f"{taps=} must rise within 0 .. {pairs - 1}")
        self.pairs, self.taps, self.dtype = pairs, taps, dtype
        self.frame_blocks = stack_blocks(config, pairs, dtype=dtype, rngs=rngs)
        self.global_blocks = stack_blocks(config, pairs, dtype=dtype, rngs=rngs)

    def __call__(
        self,
        tokens: Float[Array, "B V P D"],
        layout: TokenLayout,
        attention: AttentionFn,
        rope: RotaryTable | None = None,
    ) -> Float[Array, "taps B V P 2*D"]:
        """Output of each tapped pair: [frame block | global block] on the channels.

        Args:
          tokens: the tokens of each view; `layout` describes one view's.
          attention: used in both kinds of block; the layout that it receives tells them apart.
        """
        # Layer i writes slot i, until the tap at or after it: the last to write a slot is its tap.
        slots = np.searchsorted(self.taps, np.arange(self.pairs)).clip(max=len(self.taps) - 1)
        last = self.taps[-1] + 1
        layers = jax.tree.map(lambda x: x[:last], (self.frame_blocks, self.global_blocks, slots))
        buffer = jnp.zeros((len(self.taps), *tokens.shape[:3], 2 * tokens.shape[3]), self.dtype)

        def step(carry: tuple[Array, Array], layer: tuple[Block, Block, Array]) -> tuple:
            x, taps = carry
            frame_block, global_block, slot = layer
            framed = self.within_views(frame_block, x, layout, attention, rope)
            x = self.across_views(global_block, framed, layout, attention, rope)
            both = jnp.concatenate([framed, x], axis=-1).astype(taps.dtype)
            return (x, jax.lax.dynamic_update_index_in_dim(taps, both, slot, 0)), None

        return jax.lax.scan(step, (tokens, buffer), layers)[0][1]

    def within_views(
        self,
        block: Block,
        x: Float[Array, "B V P D"],
        layout: TokenLayout,
        attention: AttentionFn,
        rope: RotaryTable | None,
    ) -> Float[Array, "B V P D"]:
        """One frame block: each view is a sequence of its own."""
        flat = x.reshape(-1, *x.shape[2:])
        return block(flat, layout, attention, rope).reshape(x.shape)

    def across_views(
        self,
        block: Block,
        x: Float[Array, "B V P D"],
        layout: TokenLayout,
        attention: AttentionFn,
        rope: RotaryTable | None,
    ) -> Float[Array, "B V P D"]:
        """One global block: all views of a scene are one sequence, view after view."""
        flat = x.reshape(x.shape[0], -1, x.shape[3])
        return block(flat, layout.joined(x.shape[1]), attention, rope).reshape(x.shape)
