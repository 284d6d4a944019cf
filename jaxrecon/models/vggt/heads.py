"""VGGT's cameras, found by refinement, and how its dense heads' numbers become geometry."""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from jaxrecon.nn.attention import Count, TokenLayout, attend_densely
from jaxrecon.nn.block import BlockConfig, scan_blocks, stack_blocks
from jaxrecon.nn.execution import INFERENCE, ExecutionConfig
from jaxrecon.nn.layers import Mlp, layer_norm, linear

NORM_EPS = 1e-5
ADAPTIVE_EPS = 1e-6
NUMBERS = 9


class CameraHead(nnx.Module):
    """Camera tokens to pose encodings, refined in a few rounds; all in float32.

    In each round the tokens are modulated by the encoding so far (as in DiT, arXiv 2212.09748),
    the cameras of a scene attend to each other, and a correction is added to the encoding.

    Source: upstream `CameraHead` (`vggt/heads/camera_head.py`).
    """

    def __init__(self, block: BlockConfig, depth: int, *, rounds: int, rngs: nnx.Rngs) -> None:
        width, float32 = block.width, jnp.float32
        self.rounds = rounds
        self.token_norm = layer_norm(width, eps=NORM_EPS, dtype=float32, rngs=rngs)
        self.first_pose = nnx.Param(jnp.zeros((NUMBERS,), float32))
        self.embed_pose = linear(NUMBERS, width, dtype=float32, rngs=rngs)
        self.modulation = linear(width, 3 * width, dtype=float32, rngs=rngs)
        self.adaptive_norm = nnx.LayerNorm(
            width,
            epsilon=ADAPTIVE_EPS,
            use_bias=False,
            use_scale=False,
            use_fast_variance=False,
            rngs=rngs,
        )
        self.blocks = stack_blocks(block, depth, dtype=float32, rngs=rngs)
        self.norm = layer_norm(width, eps=NORM_EPS, dtype=float32, rngs=rngs)
        self.pose = Mlp(width, width // 2, NUMBERS, dtype=float32, rngs=rngs)

    def __call__(
        self,
        tokens: Float[Array, "B V D"],
        num_valid_views: Count | None = None,
        *,
        execution: ExecutionConfig = INFERENCE,
    ) -> Float[Array, "rounds B V 9"]:
        """The pose encodings after each round; the last are the result.

        Gradients of a round do not reach the rounds before it. Views from `num_valid_views` on are
        padding, which the others do not see.
        """
        tokens = self.token_norm(tokens)
        first = self.first_encoding(tokens)

        def step(carry: tuple[Array, Array], _: None) -> tuple[tuple[Array, Array], Array]:
            total, seen = carry
            total = total + self.correction(tokens, seen, num_valid_views, execution=execution)
            passed = jax.lax.stop_gradient(total)
            return (passed, passed), total

        start = jnp.zeros_like(first), first
        encodings = jax.lax.scan(step, start, None, length=self.rounds)[1]
        return activate_pose(encodings)

    def first_encoding(self, tokens: Float[Array, "B V D"]) -> Float[Array, "B V 9"]:
        """The learnt encoding that the first round sees; it is not part of the sum."""
        return jnp.broadcast_to(self.first_pose[...], (*tokens.shape[:2], NUMBERS))

    def correction(
        self,
        tokens: Float[Array, "B V D"],
        encoding: Float[Array, "B V 9"],
        num_valid_views: Count | None = None,
        *,
        execution: ExecutionConfig = INFERENCE,
    ) -> Float[Array, "B V 9"]:
        """What one round adds to the encoding."""
        attended = self.attend(tokens, encoding, num_valid_views, execution=execution)
        return self.pose(self.norm(attended), execution=execution)

    def attend(
        self,
        tokens: Float[Array, "B V D"],
        encoding: Float[Array, "B V 9"],
        num_valid_views: Count | None = None,
        *,
        execution: ExecutionConfig = INFERENCE,
    ) -> Float[Array, "B V D"]:
        """Modulated tokens after the blocks; `tokens` have passed `token_norm`."""
        modulation = self.modulation(jax.nn.silu(self.embed_pose(encoding)))
        shift, scale, gate = jnp.split(modulation, 3, axis=-1)
        modulated = tokens + gate * (self.adaptive_norm(tokens) * (1 + scale) + shift)
        collectives = execution.collectives
        views, shards = collectives.devices * tokens.shape[1], collectives.devices
        layout = TokenLayout(views, (1, 1), shards=shards, num_valid_views=num_valid_views)
        attention = collectives.across_views(attend_densely)
        return scan_blocks(self.blocks, modulated, layout, attention, execution=execution)


def activate_pose(encoding: Float[Array, "*dims 9"]) -> Float[Array, "*dims 9"]:
    """Makes the angles of view non-negative."""
    return jnp.concatenate([encoding[..., :7], jax.nn.relu(encoding[..., 7:])], axis=-1)


def activate_depth(
    raw: Float[Array, "*dims H W 2"],
) -> tuple[Float[Array, "*dims H W"], Float[Array, "*dims H W"]]:
    """Depth and its confidence, which is above 1."""
    return jnp.exp(raw[..., 0]), 1 + jnp.exp(raw[..., 1])


def activate_points(
    raw: Float[Array, "*dims H W 4"],
) -> tuple[Float[Array, "*dims H W 3"], Float[Array, "*dims H W"]]:
    """Points (`sign(y) (exp |y| - 1)` of each number) and their confidence, which is above 1."""
    y = raw[..., :3]
    return jnp.sign(y) * jnp.expm1(jnp.abs(y)), 1 + jnp.exp(raw[..., 3])
