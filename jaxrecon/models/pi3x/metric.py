"""How many metres a unit of π³-X is: one token of the scene attends to all others."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float

from jaxrecon.nn.attention import Count, TokenLayout
from jaxrecon.nn.block import BlockConfig
from jaxrecon.nn.execution import INFERENCE, ExecutionConfig
from jaxrecon.nn.layers import HIGHEST, Mlp, apply_norm, layer_norm, linear, scan_layers, stack
from jaxrecon.nn.rope import RotaryTable, apply_rotary
from jaxrecon.nn.views import map_views


class MetricDecoder(nnx.Module):
    """A token of the scene, blocks of cross-attention to the tokens of all views, and a number.

    The token attends to each view by itself, and what it found there is merged as one softmax
    over all of them: so views may be worked through a few at a time, and devices that share the
    scene exchange but a vector for each view.

    Source: upstream `ContextOnlyTransformerDecoder` (`pi3/models/layers/transformer_head.py`).
    """

    def __init__(
        self,
        block: BlockConfig,
        depth: int,
        width_in: int,
        features: int,
        *,
        dtype: DTypeLike,
        rngs: nnx.Rngs,
    ) -> None:
        self.token = nnx.Param(1e-6 * jax.random.normal(rngs.params(), (width_in,)))
        self.project_token = linear(width_in, block.width, dtype=dtype, rngs=rngs)
        self.project_views = linear(width_in, block.width, dtype=dtype, rngs=rngs)
        self.blocks = stack(lambda keys: _CrossBlock(block, dtype=dtype, rngs=keys), depth, rngs)
        self.out = linear(block.width, features, dtype=dtype, rngs=rngs)
        self.log_scale = linear(features, 1, dtype=jnp.float32, rngs=rngs)

    def __call__(
        self,
        features: Float[Array, "B V P E"],
        layout: TokenLayout,
        rope: RotaryTable,
        *,
        num_valid_views: Count | None = None,
        execution: ExecutionConfig = INFERENCE,
    ) -> Float[Array, "B"]:
        """Metres a unit of the model.

        Args:
          features: all tokens of the views.
          layout: of one view's.
          rope: turns the tokens that are attended to.
          num_valid_views: so many first views of the scene count; all if not given.
        """
        found = self.features(
            features, layout, rope, num_valid_views=num_valid_views, execution=execution
        )
        return jnp.exp(self.log_scale(found.astype(jnp.float32))[:, 0])

    def features(
        self,
        features: Float[Array, "B V P E"],
        layout: TokenLayout,
        rope: RotaryTable,
        *,
        num_valid_views: Count | None = None,
        execution: ExecutionConfig = INFERENCE,
    ) -> Float[Array, "B F"]:
        """The token behind the blocks; see `__call__`."""
        batch, views = features.shape[:2]
        at_once, collectives = execution.at_once(layout.tokens), execution.collectives
        flat = features.reshape(-1, *features.shape[2:])
        context = map_views(self.project_views, flat, at_once=at_once, execution=execution)
        token = self.project_token(self.token[...]).astype(jnp.float32)
        counted = np.arange(collectives.devices * views)[None]
        counted = counted < (counted.size if num_valid_views is None else num_valid_views)

        def step(x: Array, block: "_CrossBlock") -> tuple[Array, None]:
            queries = jnp.repeat(block.queries(x), views, axis=0)

            def attend(given: tuple[Array, Array]) -> tuple[Array, Array, Array]:
                return block.attend_to_view(*given, rope=rope)

            parts = map_views(attend, (queries, context), at_once=at_once, execution=execution)
            found = (
                collectives.all_gather(part.reshape(batch, views, *part.shape[1:]), axis=1)
                for part in parts
            )
            most, weights, values = found
            return block.leave(x, merged(most, weights, values, jnp.asarray(counted))), None

        x = jnp.broadcast_to(token, (batch, token.shape[-1]))
        return self.out(scan_layers(step, x, self.blocks, execution=execution)[0])


class _CrossBlock(nnx.Module):
    """`x += attention(norm x, norm of views); x += mlp(norm x)` of one token `x` of each scene."""

    def __init__(self, config: BlockConfig, *, dtype: DTypeLike, rngs: nnx.Rngs) -> None:
        width, eps = config.width, config.norm_eps
        self.heads = config.heads
        self.norm1 = layer_norm(width, eps=eps, dtype=dtype, rngs=rngs)
        self.norm_views = layer_norm(width, eps=eps, dtype=dtype, rngs=rngs)
        self.query = linear(width, width, dtype=dtype, rngs=rngs)
        self.key = linear(width, width, dtype=dtype, rngs=rngs)
        self.value = linear(width, width, dtype=dtype, rngs=rngs)
        self.out = linear(width, width, dtype=dtype, rngs=rngs)
        self.norm2 = layer_norm(width, eps=eps, dtype=dtype, rngs=rngs)
        self.mlp = Mlp(width, config.hidden, dtype=dtype, rngs=rngs)

    def queries(self, x: Float[Array, "B D"]) -> Float[Array, "B N K"]:
        """Queries of the scenes' tokens, which are at the position of no patch."""
        return self.query(apply_norm(self.norm1, x)).reshape(x.shape[0], self.heads, -1)

    def attend_to_view(
        self,
        queries: Float[Array, "G N K"],
        context: Float[Array, "G P D"],
        *,
        rope: RotaryTable,
    ) -> tuple[Float[Array, "G N"], Float[Array, "G N"], Float[Array, "G N K"]]:
        """Of each view by itself: the largest score, and sums of exponentials beyond it.

        The sums are of the weights, and of the values by their weights.
        """
        context = apply_norm(self.norm_views, context)
        keys, values = (
            layer(context).reshape(*context.shape[:2], self.heads, -1)
            for layer in (self.key, self.value)
        )
        keys = apply_rotary(keys.astype(jnp.float32), rope).astype(values.dtype)
        precision = HIGHEST if values.dtype == jnp.float32 else None
        scores = jnp.einsum(
            "gnk,gpnk->gnp",
            queries,
            keys,
            precision=precision,
            preferred_element_type=jnp.float32,
        )
        scores = scores * queries.shape[-1] ** -0.5
        most = jnp.max(scores, axis=-1)
        weights = jnp.exp(scores - most[..., None])
        found = jnp.einsum(
            "gnp,gpnk->gnk",
            weights.astype(values.dtype),
            values,
            precision=precision,
            preferred_element_type=jnp.float32,
        )
        return most, jnp.sum(weights, axis=-1), found

    def leave(self, x: Float[Array, "B D"], attended: Float[Array, "B N K"]) -> Array:
        """The tokens after attention and MLP."""
        flat = attended.reshape(x.shape).astype(self.out.kernel[...].dtype)
        x = x + self.out(flat).astype(jnp.float32)
        return x + self.mlp(apply_norm(self.norm2, x)).astype(jnp.float32)


def merged(
    most: Float[Array, "B V N"],
    weights: Float[Array, "B V N"],
    found: Float[Array, "B V N K"],
    counted: Bool[Array, "1 V"],
) -> Float[Array, "B N K"]:
    """Attention to all views that count, from that to each; see `_CrossBlock.attend_to_view`."""
    seen = jnp.where(counted[..., None], most, -jnp.inf)
    shares = jnp.exp(seen - jnp.max(seen, axis=1, keepdims=True))
    total = jnp.sum(shares * weights, axis=1)
    return jnp.sum(shares[..., None] * found, axis=1) / total[..., None]
