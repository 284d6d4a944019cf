"""What every model family is."""

from flax import nnx
from jaxtyping import Array, Float

from jaxrecon.models.prediction import Prediction
from jaxrecon.nn.attention import AttentionFn


class Model(nnx.Module):
    """A pytree of weights that maps the images of scenes to their geometry."""

    def __call__(self, images: Float[Array, "B V H W 3"], *, attention: AttentionFn) -> Prediction:
        """Reconstructs `B` scenes from RGB images in [0, 1], attending as told."""
        raise NotImplementedError
