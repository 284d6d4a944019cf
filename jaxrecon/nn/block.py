"""The transformer block that every family is made of."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from jaxrecon.nn.attention import (
    Attention,
    AttentionFn,
    AttentionStats,
    TokenLayout,
    attend,
    takes_scale,
)
from jaxrecon.nn.execution import INFERENCE, Chunks, ExecutionConfig
from jaxrecon.nn.float8 import Float8Linear
from jaxrecon.nn.layers import (
    AnyLinear,
    LayerScale,
    Mlp,
    SwiGlu,
    apply_norm,
    bias_of,
    layer_norm,
    norm_parameters,
    product,
    scan_layers,
    stack,
)
from jaxrecon.nn.rope import RotaryTable
from jaxrecon.nn.views import chunked_map, chunked_update, token_chunk
from jaxrecon.sizes import MOST_WIDTH, check_heads, check_real, check_whole
from pallas_kernels.residual_norm import residual_norm, residual_sum

type MlpKind = Literal["gelu", "swiglu"]


class Stream(NamedTuple):
    """The residual stream in front of a block, and what the block's first norm makes of it.

    Attributes:
      x: the tokens, float32.
      normed: as the block takes it, of the shape of `x` or one filled-up matrix; None if the block
        is to norm the tokens itself.
    """

    x: Float[Array, "*dims D"]
    normed: Float[Array, "..."] | None = None

    def reshaped(self, *shape: int) -> "Stream":
        """With the tokens in an array of another shape; a filled-up matrix stays one."""
        normed = self.normed
        if normed is not None and normed.ndim == self.x.ndim:
            normed = normed.reshape(shape)
        return Stream(self.x.reshape(shape), normed)


@dataclass(frozen=True)
class BlockConfig:
    """Sizes and options of a block.

    Attributes:
      mlp: kind of the MLP. A SwiGLU has three matrices for two, so its hidden width is two thirds
        of `mlp_ratio * width`, rounded up to a multiple of 8.
      layer_scale: the initial factor, None for no LayerScale.
      normed_residual: the attention's update is added to `norm1(x)` rather than to `x`, as in
        VGGSfM's trackers.
      cross: keys and values come from other tokens, which pass a norm of their own.

    Raises:
      InputError: a size is out of range, or the heads do not divide the width.
    """

    width: int
    heads: int
    mlp_ratio: int = 4
    qk_norm: bool = False
    layer_scale: float | None = None
    norm_eps: float = 1e-6
    normed_residual: bool = False
    cross: bool = False
    mlp: MlpKind = "gelu"

    def __post_init__(self) -> None:
        check_whole(self, "width", most=MOST_WIDTH)
        check_whole(self, "mlp_ratio", most=64)
        check_heads(self, "heads", self.width)
        check_real(self, "norm_eps", least=1e-12, most=1.0)
        if self.layer_scale is not None:
            check_real(self, "layer_scale", least=-1e6, most=1e6)

    @property
    def hidden(self) -> int:
        """Hidden width of the MLP."""
        full = self.mlp_ratio * self.width
        return full if self.mlp == "gelu" else -(-(full * 2 // 3) // 8) * 8


class Block(nnx.Module):
    """Pre-norm transformer block: `x += ls1(attention(norm1 x)); x += ls2(mlp(norm2 x))`.

    The residual stream `x` is float32 whatever the dtype of the matrices: 100 additions in
    bfloat16 would lose what the layers compute. (Upstream's autocast keeps it in float32 too.)
    """

    def __init__(self, config: BlockConfig, *, dtype: DTypeLike, rngs: nnx.Rngs) -> None:
        width, eps = config.width, config.norm_eps
        self.normed_residual = config.normed_residual
        entering = jnp.float32 if config.normed_residual else dtype
        self.norm1 = layer_norm(width, eps=eps, dtype=entering, rngs=rngs)
        self.norm_context = (
            layer_norm(width, eps=eps, dtype=dtype, rngs=rngs) if config.cross else None
        )
        self.attention = Attention(
            width, config.heads, qk_norm=config.qk_norm, dtype=dtype, rngs=rngs
        )
        self.norm2 = layer_norm(width, eps=eps, dtype=dtype, rngs=rngs)
        mlp = SwiGlu if config.mlp == "swiglu" else Mlp
        self.mlp = mlp(width, config.hidden, dtype=dtype, rngs=rngs)
        if config.layer_scale is None:
            self.scale1 = self.scale2 = None
        else:
            self.scale1 = LayerScale(width, config.layer_scale)
            self.scale2 = LayerScale(width, config.layer_scale)

    def __call__(
        self,
        x: Float[Array, "G T D"],
        layout: TokenLayout,
        attention: AttentionFn,
        rope: RotaryTable | None = None,
        context: Float[Array, "G S D"] | None = None,
        *,
        execution: ExecutionConfig = INFERENCE,
    ) -> Float[Array, "G T D"]:
        """The tokens after the block; see `forward`."""
        return self.forward(Stream(x), layout, attention, rope, context, execution=execution)[0].x

    def forward(
        self,
        stream: Stream,
        layout: TokenLayout,
        attention: AttentionFn,
        rope: RotaryTable | None = None,
        context: Float[Array, "G S D"] | None = None,
        *,
        next_norm: nnx.LayerNorm | None = None,
        execution: ExecutionConfig = INFERENCE,
    ) -> tuple[Stream, AttentionStats | None]:
        """The tokens after the block, and what the attention function found out.

        Args:
          stream: the tokens of G sequences; normed only where `norms_ahead` says so.
          layout: what the tokens of a sequence are.
          attention: how they attend.
          rope: rotary table of a view's tokens, if queries and keys are turned.
          context: tokens that keys and values come from, of a block with `cross`.
          next_norm: the first norm of the block that follows, if this one is to norm its tokens for
            it, where `norms_ahead` says so.
        """
        x = stream.x
        if self.in_float8 and execution.training:
            raise NotImplementedError("float8 products have no gradient; train without them")
        if context is None and not execution.training and takes_scale(attention):
            layout = self.attention.with_scores(layout, self.in_float8)
        inputs = partial(
            self._inputs,
            rope=rope,
            context=context,
            scale=layout.scale,
            joint=execution.training or self.in_float8,
            backend=execution.backend,
        )
        if stream.normed is None:
            enter = partial(self._entering, inputs=inputs, backend=execution.backend)
            if context is None:
                unit = layout.tokens_per_view
                enter = partial(chunked_map, enter, unit=unit, execution=execution)
            entered, q, k, v = enter(x)
            if execution.training or self.normed_residual:
                x = entered  # else the same, of which chunks would make a copy
        else:
            q, k, v = inputs(x, stream.normed)
        out, stats = attend(attention, q, k, v, layout)
        attended = out.reshape(x.shape)
        leave = partial(self._leaving, next_norm=next_norm, execution=execution)
        if next_norm is not None:
            return Stream(*leave(x, attended)), stats
        x = chunked_update(lambda *some: leave(*some)[0], x, attended, execution=execution)
        return Stream(x), stats

    def norms_ahead(
        self, x: Float[Array, "G T D"], layout: TokenLayout, execution: ExecutionConfig
    ) -> bool:
        """Whether blocks like this one can norm their tokens for the block that follows.

        The sum that ends a block and the norm that begins the next are then one pass over the
        tokens, which have to be worked on all together.
        """
        groups, length, _ = x.shape
        units = 1, layout.tokens_per_view
        chunks = [token_chunk(groups, length, unit, execution) for unit in units]
        whole = all(chunk.size == chunk.of for chunk in chunks)
        return whole and not (execution.training or self.normed_residual)

    @property
    def in_float8(self) -> bool:
        """Whether the products are float8's; see `jaxrecon.nn.float8_blocks`."""
        return isinstance(self.attention.qkv, Float8Linear)

    def _entering(
        self,
        x: Float[Array, "g t D"],
        *,
        inputs: Callable[[Array, Array], tuple[Array, ...]],
        backend: str | None,
    ) -> tuple[Array, Array, Array, Array]:
        """What the updates are added to, and the queries, keys and values."""
        x, normed = residual_norm(x, **self._norm(self.norm1), implementation=backend)
        q, k, v = inputs(x, normed)
        return normed if self.normed_residual else x, q, k, v

    def _inputs(
        self,
        x: Float[Array, "g t D"],
        normed: Float[Array, "..."],
        *,
        rope: RotaryTable | None,
        context: Float[Array, "g s D"] | None,
        scale: float | None,
        joint: bool,
        backend: str | None,
    ) -> tuple[Array, ...]:
        """Queries, keys and values of normed tokens."""
        if self.norm_context is not None and context is not None:
            context = apply_norm(self.norm_context, context)
        sequences = (x.shape[0], x.shape[1]) if self.in_float8 else None
        options: dict[str, Any] = {"sequences": sequences, "joint": joint, "backend": backend}
        return self.attention.inputs(normed, rope, context, scale=scale, **options)

    def _leaving(
        self,
        x: Float[Array, "g t D"],
        attended: Float[Array, "g t D"],
        *,
        next_norm: nnx.LayerNorm | None,
        execution: ExecutionConfig,
    ) -> tuple[Float[Array, "g t D"], Array | None]:
        """The tokens, and what attention made of them, to those after the MLP, and their norm."""
        backend = execution.backend
        update = _update(self.attention.out, attended, self.scale1)
        norm = self._norm(self.norm2, fill_up=self.mlp.fills_up(execution))
        x, normed = residual_norm(x, **update, **norm, implementation=backend)
        hidden = self.mlp.hidden(normed, execution=execution)
        update = _update(self.mlp.fc2, hidden, self.scale2)
        if next_norm is not None:
            return residual_norm(x, **update, **self._norm(next_norm), implementation=backend)
        return residual_sum(x, **update, implementation=backend), None

    def _norm(self, norm: nnx.LayerNorm, *, fill_up: bool = False) -> dict[str, Any]:
        """One of the norms, as `residual_norm` takes it."""
        return {
            "norm": norm_parameters(norm),
            "eps": norm.epsilon,
            "dtype": norm.dtype,
            "fill_up": fill_up or self.in_float8,
        }


def _gamma(scale: LayerScale | None) -> Array | None:
    return None if scale is None else scale.gamma[...]


def _update(layer: AnyLinear, x: Array, scale: LayerScale | None) -> dict[str, Any]:
    """What a linear layer adds to the residual stream, as `residual_norm` takes it."""
    return {"update": product(layer, x), "update_bias": bias_of(layer), "gamma": _gamma(scale)}


def stack_blocks(config: BlockConfig, depth: int, *, dtype: DTypeLike, rngs: nnx.Rngs) -> Block:
    """`depth` blocks as one module with stacked parameters, for `scan_blocks`."""
    return stack(lambda keys: Block(config, dtype=dtype, rngs=keys), depth, rngs)


def scan_blocks(
    blocks: Block,
    x: Float[Array, "G T D"],
    layout: TokenLayout,
    attention: AttentionFn,
    rope: RotaryTable | None = None,
    *,
    execution: ExecutionConfig = INFERENCE,
) -> Float[Array, "G T D"]:
    """Runs stacked blocks one after another; the block is traced once."""

    def step(stream: Stream, layer: tuple[Block, nnx.LayerNorm | None]) -> tuple[Stream, None]:
        block, norm = layer
        given: dict[str, Any] = {"next_norm": norm, "execution": execution}
        return block.forward(stream, layout, attention, rope, **given)[0], None

    stream, norms = streamed(blocks, x, layout, execution)
    return scan_layers(step, stream, (blocks, norms), execution=execution)[0].x


def streamed(
    blocks: Block, x: Float[Array, "G T D"], layout: TokenLayout, execution: ExecutionConfig
) -> tuple[Stream, nnx.LayerNorm | None]:
    """The stream in front of stacked blocks, and for each the first norm of the one that follows.

    There is neither a norm nor normed tokens where blocks do not norm ahead. The last block's is
    that of the first, whose outcome nobody reads.
    """
    if not blocks.norms_ahead(x, layout, execution):
        return Stream(x), None
    first = jax.tree.map(lambda leaf: leaf[0], blocks)
    first = execution.collectives.all_gather_weights(first.norm1)
    norm = blocks._norm(first)
    stream = Stream(*residual_norm(x, **norm, implementation=execution.backend))
    return stream, jax.tree.map(lambda leaf: jnp.roll(leaf, -1, axis=0), blocks.norm1)


def block_chunks(layout: TokenLayout, execution: ExecutionConfig) -> Chunks:
    """How many tokens of one sequence a block works on at a time."""
    return {
        "attention tokens": token_chunk(1, layout.tokens, layout.tokens_per_view, execution),
        "MLP tokens": token_chunk(1, layout.tokens, 1, execution),
    }
