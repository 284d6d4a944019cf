"""The transformer block that every family is made of."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from jaxrecon.nn.attention import Attention, AttentionFn, TokenLayout
from jaxrecon.nn.layers import LayerScale, Mlp, layer_norm, stack
from jaxrecon.nn.rope import RotaryTable


@dataclass(frozen=True)
class BlockConfig:
    """Sizes and options of a block; `layer_scale` is the initial factor, None for no LayerScale."""

    width: int
    heads: int
    mlp_ratio: int = 4
    qk_norm: bool = False
    layer_scale: float | None = None
    norm_eps: float = 1e-6

    def __post_init__(self) -> None:
        if self.width % self.heads:
            raise ValueError(f"{self.width=} must be a multiple of {self.heads=}")


class Block(nnx.Module):
    """Pre-norm transformer block: `x += ls1(attention(norm1 x)); x += ls2(mlp(norm2 x))`.

    The residual stream `x` is float32 whatever the dtype of the matrices: 100 additions in
    bfloat16 would lose what the layers compute. (Upstream's autocast keeps it in float32 too.)
    """

    def __init__(self, config: BlockConfig, *, dtype: DTypeLike, rngs: nnx.Rngs) -> None:
        width, eps = config.width, config.norm_eps
        self.norm1 = layer_norm(width, eps=eps, dtype=dtype, rngs=rngs)
        self.attention = Attention(
            width, config.heads, qk_norm=config.qk_norm, dtype=dtype, rngs=rngs
        )
        self.norm2 = layer_norm(width, eps=eps, dtype=dtype, rngs=rngs)
        self.mlp = Mlp(width, config.mlp_ratio * width, dtype=dtype, rngs=rngs)
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
    ) -> Float[Array, "G T D"]:
        x = x + _scaled(self.attention(self.norm1(x), layout, attention, rope), self.scale1)
        return x + _scaled(self.mlp(self.norm2(x)), self.scale2)


def _scaled(update: Array, scale: LayerScale | None) -> Array:
    return update.astype(jnp.float32) if scale is None else scale(update)


def stack_blocks(config: BlockConfig, depth: int, *, dtype: DTypeLike, rngs: nnx.Rngs) -> Block:
    """`depth` blocks as one module with stacked parameters, for `scan_blocks`."""
    return stack(lambda keys: Block(config, dtype=dtype, rngs=keys), depth, rngs)


def scan_blocks(
    blocks: Block,
    x: Float[Array, "G T D"],
    layout: TokenLayout,
    attention: AttentionFn,
    rope: RotaryTable | None = None,
) -> Float[Array, "G T D"]:
    """Runs stacked blocks one after another; the block is traced once."""

    def step(carry: Array, block: Block) -> tuple[Array, None]:
        return block(carry, layout, attention, rope), None

    return jax.lax.scan(step, x, blocks)[0]
