"""Regression of a camera from the features of its view's patches."""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from jaxrecon.nn.exact import Apply, plainly
from jaxrecon.nn.execution import INFERENCE, ExecutionConfig
from jaxrecon.nn.layers import linear, stack


class ResidualMlp(nnx.Module):
    """`x + relu(fc3(relu(fc2(relu(fc1 x)))))`."""

    def __init__(self, width: int, *, rngs: nnx.Rngs) -> None:
        self.fc1 = linear(width, width, dtype=jnp.float32, rngs=rngs)
        self.fc2 = linear(width, width, dtype=jnp.float32, rngs=rngs)
        self.fc3 = linear(width, width, dtype=jnp.float32, rngs=rngs)

    def __call__(
        self, x: Float[Array, "*dims D"], apply: Apply = plainly
    ) -> Float[Array, "*dims D"]:
        hidden = jax.nn.relu(apply(self.fc1, x))
        return x + jax.nn.relu(apply(self.fc3, jax.nn.relu(apply(self.fc2, hidden))))


class PoseRegressor(nnx.Module):
    """Residual layers on each patch, the mean over the patches, then two linear outputs; float32.

    Source: Reloc3r's head (arXiv 2412.08376), used by π³ and MapAnything.
    """

    def __init__(self, width: int, rotation: int, *, rngs: nnx.Rngs) -> None:
        self.residual = stack(lambda keys: ResidualMlp(width, rngs=keys), 2, rngs)
        self.mlp1 = linear(width, width, dtype=jnp.float32, rngs=rngs)
        self.mlp2 = linear(width, width, dtype=jnp.float32, rngs=rngs)
        self.translation = linear(width, 3, dtype=jnp.float32, rngs=rngs)
        self.rotation = linear(width, rotation, dtype=jnp.float32, rngs=rngs)

    def regress(
        self,
        x: Float[Array, "G P D"],
        *,
        apply: Apply = plainly,
        execution: ExecutionConfig = INFERENCE,
    ) -> tuple[Float[Array, "G 3"], Float[Array, "G R"]]:
        """Translation, and the numbers that stand for the rotation.

        Args:
          x: float32 features of the patches of each view.
          apply: how layers are applied to patches.
          execution: how the work is done.
        """

        def step(x: Array, layer: ResidualMlp) -> tuple[Array, None]:
            return layer(x, apply), None

        x = jax.lax.scan(step, x, self.residual, unroll=execution.training)[0]
        pooled = jnp.mean(x, axis=1)
        features = jax.nn.relu(self.mlp2(jax.nn.relu(self.mlp1(pooled))))
        return self.translation(features), self.rotation(features)
