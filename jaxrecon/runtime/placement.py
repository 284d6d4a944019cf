"""Where the parts of a program run: on one device, or on each of a mesh for its own views."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import jax
from flax import nnx
from jax.sharding import AbstractMesh, Mesh, PartitionSpec
from jaxtyping import Array, Float

from jaxrecon.models import VIEW_AXES, Encoded, Model, Prediction, TrackingModel
from jaxrecon.nn.attention import AttentionFn, Count, TokenLayout
from jaxrecon.nn.execution import INFERENCE, ExecutionConfig
from jaxrecon.nn.offload import to_host
from jaxrecon.pytree import leaf_path
from jaxrecon.runtime.collectives import (
    SHARD_AXIS,
    VIEW_AXIS,
    ViewCollectives,
    is_variable,
)

SCANNED = "trunk."
"""Weights whose paths begin so are stacked by layer; parts of them are gathered layer by layer."""


@dataclass(frozen=True)
class Placement:
    """Where the parts of a program run, and how.

    Models know of one device. With a mesh, each device runs the same code on its share of the
    views, inside one `jax.shard_map` for `encode` and one for what makes geometry of the views.

    Attributes:
      execution: how the work is done, as on one device.
      mesh: devices over which views are sharded; None for one device.
      sharded: of the weights of which each device has a part, path and axis.
    """

    execution: ExecutionConfig = INFERENCE
    mesh: Mesh | AbstractMesh | None = None
    sharded: tuple[tuple[str, int], ...] = ()

    @property
    def local(self) -> ExecutionConfig:
        """How each device does its work."""
        if self.mesh is None:
            return self.execution
        return replace(self.execution, collectives=ViewCollectives(self.mesh.shape[VIEW_AXIS]))

    def encode(
        self,
        model: Model,
        images: Float[Array, "B V H W 3"],
        *,
        attention: AttentionFn,
        num_valid_views: Count | None = None,
        **arguments: Any,
    ) -> Encoded:
        """All for which the views exchange; see `Model.encode`.

        Args:
          arguments: what else the family takes of the views, pytrees of arrays (B, V, ...).
        """

        def work(given: tuple[Model, Count | None], views: tuple[Array, Any]) -> Encoded:
            (model, num_valid_views), (images, arguments) = given, views
            return model.encode(
                images,
                attention=attention,
                num_valid_views=num_valid_views,
                execution=self.local,
                **arguments,
            )

        return self.each_view(work, (model, num_valid_views), (images, arguments), out=VIEW_AXES)

    def predict(
        self, model: Model, encoded: Encoded, layout: TokenLayout, **options: Any
    ) -> Prediction:
        """The geometry of all views, with what is told of the scene; see `Model.predict`."""

        def work(model: Model, views: Encoded) -> Prediction:
            return model.predict(views, layout, execution=self.local, **options)

        prediction = self.each_view(work, model, encoded, axis=VIEW_AXES)
        return replace(prediction, metric_scale=encoded.metric_scale, skipped=encoded.skipped)

    def track_maps(
        self, model: TrackingModel, encoded: Encoded, layout: TokenLayout
    ) -> Float[Array, "B V h w C"]:
        """See `TrackingModel.track_maps`."""

        def work(model: TrackingModel, views: Encoded) -> Array:
            return model.track_maps(views, layout, execution=self.local)

        return self.each_view(work, model, encoded, axis=VIEW_AXES)

    def waiting(self, encoded: Encoded) -> Encoded:
        """Between programs: what is there of the views, in the host's memory if that is wanted."""
        views, stacked = (to_host(x, self.execution) for x in (encoded.views, encoded.stacked))
        return replace(encoded, views=views, stacked=stacked)

    def each_view[W, X, Y](
        self,
        work: Callable[[W, X], Y],
        given: W,
        views: X,
        *,
        axis: Any = 1,
        out: Any = 1,
    ) -> Y:
        """`work(given, views)`, each device on the views that it has.

        Args:
          work: maps arrays of some views to arrays of the same views.
          given: what all views share: modules, and arrays of which every device has the whole.
          views: arrays of all views.
          axis: the axis of `views` that counts them; or a tree of axes, -1 for arrays that have
            none.
          out: the same, of what `work` returns.
        """
        if self.mesh is None:
            return work(given, views)
        marked = self._marked(given)
        sharded = jax.shard_map(
            work,
            mesh=self.mesh,
            in_specs=(jax.tree.map(_spec, marked, is_leaf=is_variable), _by_view(axis)),
            out_specs=_by_view(out),
            check_vma=False,
        )
        return sharded(marked, views)

    def _marked[W](self, given: W) -> W:
        """Modules whose variables tell which axis is sharded, if a layer's turn gathers them."""
        axes = dict(self.sharded)

        def mark(keys: tuple[Any, ...], leaf: Any) -> Any:
            axis = axes.get(leaf_path(keys))
            return leaf if axis is None else leaf.replace(**{SHARD_AXIS: axis - leaf.ndim})

        def marked(part: Any) -> Any:
            if not _is_module(part):
                return part
            return jax.tree_util.tree_map_with_path(mark, part, is_leaf=is_variable)

        return jax.tree.map(marked, given, is_leaf=_is_module)


def sharded_weights(model: Model) -> tuple[tuple[str, int], ...]:
    """Weights of which each device has a part that a layer's turn gathers: path and axis.

    What else is sharded is gathered when the program begins.
    """
    leaves = jax.tree_util.tree_flatten_with_path(model)[0]
    found = ((leaf_path(keys), _sharded_axis(leaf)) for keys, leaf in leaves)
    return tuple((path, axis) for path, axis in found if axis and path.startswith(SCANNED))


def _sharded_axis(leaf: Any) -> int | None:
    """The axis that is split over the devices that share a scene."""
    spec = getattr(leaf.sharding, "spec", ())
    return next((axis for axis, names in enumerate(spec) if _mentions_views(names)), None)


def _mentions_views(names: Any) -> bool:
    return VIEW_AXIS in (names if isinstance(names, tuple) else (names,))


def _is_module(part: Any) -> bool:
    return isinstance(part, nnx.Module)


def _spec(leaf: Any) -> Any:
    """Where a leaf of what all views share lies: whole on each device, unless it is marked."""
    if not is_variable(leaf):
        return PartitionSpec()
    axis = leaf.get_metadata(SHARD_AXIS, None)
    place = -1 if axis is None else leaf.ndim + axis
    return leaf.replace(_by_view(place))


def _by_view(axis: Any) -> Any:
    """Specs of arrays by the axis that counts views, -1 for none."""

    def spec(axis: int) -> PartitionSpec:
        return PartitionSpec() if axis < 0 else PartitionSpec(*(None,) * axis, VIEW_AXIS)

    return jax.tree.map(spec, axis)


ONE_DEVICE = Placement()
"""The default device."""
