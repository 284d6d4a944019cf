"""What every model family is."""

from dataclasses import replace
from typing import Any, ClassVar

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from jaxrecon.deprecation import renamed_arguments
from jaxrecon.models.prediction import Prediction, Tracks
from jaxrecon.nn.attention import (
    AttentionFn,
    AttentionStats,
    Count,
    TokenLayout,
    attend_densely,
)
from jaxrecon.nn.execution import INFERENCE, Chunks, ExecutionConfig
from jaxrecon.pytree import pytree_dataclass


@pytree_dataclass
class Encoded:
    """What a model knows of `V` views of `B` scenes once the views have exchanged.

    Attributes:
      views: arrays (B, V, ...).
      stacked: arrays (L, B, V, ...).
      metric_scale, skipped: see `Prediction`.
    """

    views: Any = ()
    stacked: Any = ()
    metric_scale: Any = None
    skipped: Any = None


VIEW_AXES = Encoded(views=1, stacked=2, metric_scale=-1, skipped=-1)
"""Which axis counts the views, -1 for none."""


def skipped_by_scene(stats: AttentionStats | None) -> Float[Array, "B layers N"] | None:
    """What each head of a trunk's global layers skipped, if its attention tells that."""
    return None if stats is None else jnp.moveaxis(stats.skipped, 0, 1)


class Model(nnx.Module):
    """A pytree of weights that maps the images of scenes to their geometry.

    A family defines `layout`, `encode` and `predict`; a call does all of it.
    """

    first_view_is_world: ClassVar[bool] = True
    """Of models that take known poses: whether what they predict is in the first camera's frame."""

    @renamed_arguments(real_views="num_valid_views")
    def __call__(
        self,
        images: Float[Array, "B V H W 3"],
        *,
        attention: AttentionFn = attend_densely,
        num_valid_views: Count | None = None,
        execution: ExecutionConfig = INFERENCE,
    ) -> Prediction:
        """Reconstructs `B` scenes.

        Args:
          images: RGB in [0, 1]; H and W are multiples of the patch size.
          attention: how the trunk's tokens attend; dense if not given.
          num_valid_views: so many first views count; see `encode`.
          execution: how the work is done; a static argument where this is compiled.

        Raises:
          ValueError: H or W is not a multiple of the patch size.
        """
        encoded = self.encode(
            images, attention=attention, num_valid_views=num_valid_views, execution=execution
        )
        return self.predict_all(encoded, self.layout(images.shape), execution=execution)

    def layout(self, shape: tuple[int, ...]) -> TokenLayout:
        """Token layout of one view of images of shape (B, V, H, W, 3).

        Raises:
          ValueError: H or W is not a multiple of the patch size.
        """
        raise NotImplementedError

    def encode(
        self,
        images: Float[Array, "B V H W 3"],
        *,
        attention: AttentionFn = attend_densely,
        num_valid_views: Count | None = None,
        execution: ExecutionConfig = INFERENCE,
    ) -> Encoded:
        """All that views have to exchange for.

        Args:
          images: RGB in [0, 1].
          attention: how the trunk's tokens attend; dense if not given.
          num_valid_views: so many first views count; the others are padding, which changes nothing
            of the first ones. All count if not given.
          execution: how the work is done; a static argument where this is compiled.
        """
        raise NotImplementedError

    def predict(
        self, encoded: Encoded, layout: TokenLayout, *, execution: ExecutionConfig = INFERENCE
    ) -> Prediction:
        """The geometry of each view, which does not depend on what other views are given.

        A family may take more options. `metric_scale` and `skipped` are left out.
        """
        raise NotImplementedError

    def chunks(
        self, views: int, layout: TokenLayout, attention: AttentionFn, execution: ExecutionConfig
    ) -> Chunks:
        """What `encode` and `predict` work on at a time, of one scene with so many views.

        A model that works on all of them together has nothing to say.
        """
        return {}

    def predict_all(
        self,
        encoded: Encoded,
        layout: TokenLayout,
        *,
        execution: ExecutionConfig = INFERENCE,
        **options: Any,
    ) -> Prediction:
        """The geometry of all views, with what is told of the scene."""
        prediction = self.predict(encoded, layout, execution=execution, **options)
        return replace(prediction, metric_scale=encoded.metric_scale, skipped=encoded.skipped)


class TrackingModel(Model):
    """A model that can also follow points of one view through all views, if it has the head."""

    @property
    def smallest_tracked(self) -> int | None:
        """The least height and width of images in which it can; None without the head."""
        raise NotImplementedError

    def track_maps(
        self, encoded: Encoded, layout: TokenLayout, *, execution: ExecutionConfig = INFERENCE
    ) -> Float[Array, "B V h w C"]:
        """Feature maps, each view's on its own.

        Raises:
          ValueError: the model has no track head.
        """
        raise NotImplementedError

    def follow(
        self,
        maps: Float[Array, "B V h w C"],
        query_points: Float[Array, "B Q 2"],
        num_valid_points: Count | None = None,
        *,
        execution: ExecutionConfig = INFERENCE,
    ) -> Tracks:
        """Follows points, given as (x, y) in pixels of the first view.

        Only the first `num_valid_points` count, all if not given; the others are padding, which
        changes nothing of the first ones.

        Raises:
          ValueError: the model has no track head, or the images are smaller than it can take.
        """
        raise NotImplementedError
