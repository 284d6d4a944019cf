"""The trunk of all families: attention within each view and across all views, in turns."""

from collections.abc import Callable
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from jaxrecon.errors import InputError
from jaxrecon.nn.attention import (
    AttentionFn,
    AttentionStats,
    TokenLayout,
    attention_chunks,
)
from jaxrecon.nn.block import Block, BlockConfig, Stream, block_chunks, stack_blocks, streamed
from jaxrecon.nn.execution import INFERENCE, Chunks, Collectives, ExecutionConfig
from jaxrecon.nn.layers import scan_layers
from jaxrecon.nn.offload import to_host
from jaxrecon.nn.rope import RotaryTable


class BlockPairs(nnx.Module):
    """`pairs` frame blocks and as many global ones, of which a trunk runs one of each in turns.

    Args:
      config: of each block.
      pairs: how many there are of either kind.
      taps: whose outputs are returned, in rising order.
      dtype: of the blocks' matrices, and of what is returned.

    Raises:
      ValueError: the taps do not rise, or one does not exist.
    """

    TAPS_PER_PAIR = 1
    """Between how many outputs of a pair taps tell."""

    def __init__(
        self,
        config: BlockConfig,
        pairs: int,
        *,
        taps: tuple[int, ...],
        dtype: DTypeLike,
        rngs: nnx.Rngs,
    ) -> None:
        count = self.TAPS_PER_PAIR * pairs
        if tuple(sorted(set(taps))) != taps or not 0 <= taps[0] <= taps[-1] < count:
            raise ValueError(f"{taps=} must rise within 0 .. {count - 1}")
        self.pairs, self.taps, self.dtype = pairs, taps, dtype
        self.frame_blocks = stack_blocks(config, pairs, dtype=dtype, rngs=rngs)
        self.global_blocks = stack_blocks(config, pairs, dtype=dtype, rngs=rngs)

    def chunks(
        self, views: int, layout: TokenLayout, attention: AttentionFn, execution: ExecutionConfig
    ) -> Chunks:
        """What blocks work on at a time, of one scene with so many views on this device.

        Args:
          layout: describes one view's tokens, and how many the scene has.
          attention: that of both kinds of block.
        """
        heads, collectives = self.global_blocks.attention.heads, execution.collectives
        whole = layout.joined(collectives.devices * views, collectives.devices)
        across = attention_chunks(collectives.across_views(attention), whole, heads)
        return block_chunks(layout.joined(views), execution) | across

    def within_views(
        self,
        block: Block,
        stream: Stream,
        layout: TokenLayout,
        attention: AttentionFn,
        rope: RotaryTable | None,
        *,
        next_norm: nnx.LayerNorm | None = None,
        execution: ExecutionConfig = INFERENCE,
    ) -> Stream:
        """One frame block: each view is a sequence of its own.

        Args:
          stream: its arrays are (B, V, P, D).
          next_norm: of the block behind it, see `Block.forward`.
        """
        shape = stream.x.shape
        flat = stream.reshaped(-1, *shape[2:])
        out, _ = block.forward(
            flat, layout, attention, rope, next_norm=next_norm, execution=execution
        )
        return out.reshaped(*shape)

    def _layers(
        self, first: Block, second: Block, slots: Int[np.ndarray, "pairs *blocks"]
    ) -> tuple[Block, Block, Int[np.ndarray, "pairs *blocks"], Int[np.ndarray, "pairs"]]:
        """What a scan goes through: blocks, slots and number of each pair up to the last tap."""
        last = self.taps[-1] // self.TAPS_PER_PAIR + 1
        return jax.tree.map(lambda x: x[:last], (first, second, slots, np.arange(self.pairs)))


class AlternatingAttention(BlockPairs):
    """`pairs` times (frame block, global block), scanned; returns the outputs of a few pairs.

    Source: VGGT (arXiv 2503.11651), section 3.2.
    """

    def __call__(
        self,
        tokens: Float[Array, "B V P D"],
        layout: TokenLayout,
        attention: AttentionFn,
        rope: RotaryTable | None = None,
        *,
        after_pair: Callable[[Array, Array], Array] | None = None,
        execution: ExecutionConfig = INFERENCE,
    ) -> tuple[Float[Array, "taps B V P 2*D"], AttentionStats | None]:
        """Output of each tapped pair: [frame block | global block] on the channels.

        With it comes what the attention of the global blocks found out, stacked by layer.

        Args:
          tokens: the tokens of each view; `layout` describes one view's.
          attention: used in both kinds of block; the layout that it receives tells them apart.
          after_pair: what becomes of the tokens behind each pair, of which it gets the number.
        """
        layers = self._layers(self.frame_blocks, self.global_blocks, _slots(self.taps, self.pairs))
        alone = len(self.taps) == 1
        kept = jnp.zeros_like(tokens) if alone else self._buffer(tokens, execution)
        flat = tokens.reshape(-1, *tokens.shape[2:])
        stream, norms = Stream(flat), None
        if after_pair is None:
            stream, norms = streamed(layers[0], flat, layout, execution)

        def step(
            carry: tuple[Stream, Array],
            layer: tuple[tuple[Block, Block, Array, Array], nnx.LayerNorm | None],
        ) -> tuple[tuple[Stream, Array], AttentionStats | None]:
            stream, kept = carry
            (frame_block, global_block, slot, number), norm = layer
            here = replace(layout, layers=self.pairs, layer=number)
            given = here, attention, rope
            own = None if norm is None else global_block.norm1
            stream = self.within_views(
                frame_block, stream, *given, next_norm=own, execution=execution
            )
            framed = stream.x
            stream, stats = self.across_views(
                global_block, stream, *given, next_norm=norm, execution=execution
            )
            x = stream.x
            if after_pair is not None:
                stream = Stream(x := after_pair(x, number))
            if alone:
                return (stream, framed), stats
            return (stream, _written(kept, _joined(framed, x), slot, execution)), stats

        start = stream.reshaped(*tokens.shape), kept
        (stream, kept), stats = scan_layers(step, start, (layers, norms), execution=execution)
        if alone:  # the last pair's, whose halves are there
            kept = to_host(_joined(kept, stream.x).astype(self.dtype)[None], execution)
        return kept, stats

    def _buffer(
        self, tokens: Float[Array, "B V P D"], execution: ExecutionConfig
    ) -> Float[Array, "taps B V P 2*D"]:
        shape = len(self.taps), *tokens.shape[:3], 2 * tokens.shape[3]
        return to_host(jnp.zeros(shape, self.dtype), execution)

    def across_views(
        self,
        block: Block,
        stream: Stream,
        layout: TokenLayout,
        attention: AttentionFn,
        rope: RotaryTable | None,
        *,
        next_norm: nnx.LayerNorm | None = None,
        execution: ExecutionConfig = INFERENCE,
    ) -> tuple[Stream, AttentionStats | None]:
        """One global block: all views of a scene are one sequence, view after view.

        Args:
          stream: its arrays are (B, V, P, D).
          next_norm: of the block behind it, see `Block.forward`.
        """
        shape = stream.x.shape
        joined, attention = _across(stream.x, layout, attention, execution.collectives)
        flat = stream.reshaped(shape[0], -1, shape[3])
        out, stats = block.forward(
            flat, joined, attention, rope, next_norm=next_norm, execution=execution
        )
        return out.reshaped(*shape), stats


class GlobalFirstAttention(BlockPairs):
    """`pairs` times (global block, frame block), scanned; returns the outputs of a few blocks.

    The scene may have tokens of its own. They lie behind all views, take part in global blocks and
    pass frame blocks unchanged. Taps are blocks, counted through from 0: even ones are global.

    Source: upstream `MultiViewAlternatingAttentionTransformerIFR`
    (`uniception/models/info_sharing/alternating_attention_transformer.py`).
    """

    TAPS_PER_PAIR = 2

    def __call__(
        self,
        tokens: Float[Array, "B V P D"],
        layout: TokenLayout,
        attention: AttentionFn,
        scene: Float[Array, "B S D"],
        *,
        execution: ExecutionConfig = INFERENCE,
    ) -> tuple[Float[Array, "taps B V P D"], Float[Array, "B S D"], AttentionStats | None]:
        """Output of each tapped block, and the scene's tokens after the last one.

        With them comes what the attention of the global blocks found out, stacked by layer.

        Args:
          tokens: the tokens of each view; `layout` describes one view's.
          attention: used in both kinds of block; the layout that it receives tells them apart.
          scene: tokens of the scene itself.
        """
        slots = _slots(self.taps, 2 * self.pairs).reshape(-1, 2)
        layers = self._layers(self.global_blocks, self.frame_blocks, slots)
        buffer = to_host(jnp.zeros((len(self.taps), *tokens.shape), self.dtype), execution)

        def step(
            carry: tuple[Array, Array, Array], layer: tuple[Block, Block, Array, Array]
        ) -> tuple[tuple[Array, Array, Array], AttentionStats | None]:
            x, scene, taps = carry
            global_block, frame_block, slots, number = layer
            here = replace(layout, layers=self.pairs, layer=number)
            x, scene, stats = self.across_scene(
                global_block, x, here, attention, scene, execution=execution
            )
            taps = _written(taps, x, slots[0], execution)
            x = self.within_views(
                frame_block, Stream(x), here, attention, None, execution=execution
            ).x
            return (x, scene, _written(taps, x, slots[1], execution)), stats

        (_, scene, taps), stats = scan_layers(
            step, (tokens, scene, buffer), layers, execution=execution
        )
        return taps, scene, stats

    def across_scene(
        self,
        block: Block,
        x: Float[Array, "B V P D"],
        layout: TokenLayout,
        attention: AttentionFn,
        scene: Float[Array, "B S D"],
        *,
        execution: ExecutionConfig = INFERENCE,
    ) -> tuple[Float[Array, "B V P D"], Float[Array, "B S D"], AttentionStats | None]:
        """One global block: all views and then the scene's tokens are one sequence.

        Where devices share the scene, each has a copy of its tokens behind its own views: they
        need not exchange tokens to share the sequence evenly.
        """
        with_scene = replace(layout, scene=scene.shape[1])
        joined, attention = _across(x, with_scene, attention, execution.collectives)
        flat = jnp.concatenate([x.reshape(x.shape[0], -1, x.shape[3]), scene], axis=1)
        stream, stats = block.forward(Stream(flat), joined, attention, execution=execution)
        out = stream.x
        end = out.shape[1] - scene.shape[1]
        return out[:, :end].reshape(x.shape), out[:, end:], stats


def _across(
    x: Float[Array, "B V P D"],
    layout: TokenLayout,
    attention: AttentionFn,
    collectives: Collectives,
) -> tuple[TokenLayout, AttentionFn]:
    """Layout and attention of the sequence of all views, of which this device has `x`."""
    shards = collectives.devices
    return layout.joined(shards * x.shape[1], shards), collectives.across_views(attention)


def check_taps(taps: tuple[int, ...], count: int, what: str) -> None:
    """Refuses taps that do not rise to the last of `count` pairs or blocks.

    Raises:
      InputError: naming them.
    """
    if tuple(sorted(set(taps))) != taps or taps[0] < 0 or taps[-1] != count - 1:
        raise InputError(
            f"{taps=} must rise from 0 or more and must end with the last {what}, {count - 1}"
        )


def _slots(taps: tuple[int, ...], count: int) -> Int[np.ndarray, "layers"]:
    """Where each layer writes its output: the last to write a slot is its tap.

    Layer i writes the slot of the tap at or after it.
    """
    return np.searchsorted(taps, np.arange(count)).clip(max=len(taps) - 1)


def _joined(
    framed: Float[Array, "B V P D"], x: Float[Array, "B V P D"]
) -> Float[Array, "B V P 2*D"]:
    return jnp.concatenate([framed, x], axis=-1)


def _written(
    taps: Float[Array, "taps *shape"],
    x: Float[Array, "*shape"],
    slot: Int[Array, ""],
    execution: ExecutionConfig,
) -> Float[Array, "taps *shape"]:
    """The buffer of tapped outputs with `x` in a slot."""
    return jax.lax.dynamic_update_index_in_dim(
        taps, to_host(x.astype(taps.dtype), execution), slot, 0
    )
