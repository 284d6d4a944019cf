"""How much of global attention is kept: budgets for all layers, for each, or for each head."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxrecon.errors import InputError
from jaxrecon.sparse.layout import BlockLayout
from jaxrecon.sparse.presets import PresetBudgets

type Budget = float | Sequence[float] | Sequence[Sequence[float]] | np.ndarray | PresetBudgets
"""One number; or one for each global layer; or for each global layer one a head.

A preset, of ratios alone, is one for each global layer, of however many the model has.
"""


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Budgets:
    """Of one layer, by head: least number of blocks, and share of the softmax or None."""

    top_k: Any
    top_p: Any


SPANS: dict[str, tuple[str, Callable[[float], bool]]] = {
    "sparse_ratio": ("[0, 1)", lambda x: 0 <= x < 1),
    "cdf_threshold": ("(0, 1]", lambda x: 0 < x <= 1),
}
"""The budgets by name, and what their numbers may be."""


def checked_budget(name: str, budget: Any) -> Any:
    """The budget of that name in floats and tuples, which can be hashed, or as the preset it is.

    None stays None.

    Raises:
      InputError: it is no number, sequence of numbers or table of them, or they are out of range.
    """
    if budget is None or (isinstance(budget, PresetBudgets) and name == "sparse_ratio"):
        return budget
    span, inside = SPANS[name]
    try:
        found = _as_tuples(budget)
        values = np.asarray(found, np.float64)
    except (TypeError, ValueError) as error:
        raise InputError(
            f"{name}: give a number, one a layer, or rows of one a head (rows of one length), "
            f"found {budget!r}"
        ) from error
    if values.ndim > 2 or not values.size or not all(inside(x) for x in values.flat):
        raise InputError(f"{name}={budget!r} must be numbers in {span}")
    return found


def _as_tuples(value: Any) -> Any:
    """Floats, in tuples where they are in sequences or arrays."""
    if isinstance(value, np.ndarray | np.generic | jax.Array):
        value = value.tolist()
    if isinstance(value, list | tuple):
        return tuple(_as_tuples(part) for part in value)
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{value!r} is no number")
    return float(value)


def budgets_of(
    ratio: Budget | None, threshold: Budget | None, blocks: BlockLayout, heads: int
) -> Budgets:
    """What is asked of these heads of the layer that the layout names.

    Args:
      ratio, threshold: `sparse_ratio` and `cdf_threshold` of `SparseAttention`.
      heads: how many of the layer's heads are worked on, from the layout's `first_head`.

    Raises:
      InputError: a budget's layers or heads are not the model's.
    """
    layout = blocks.layout
    every = heads if layout.heads is None else layout.heads
    own = jnp.minimum(layout.first_head + jnp.arange(heads), every - 1)

    def chosen(table: np.ndarray, *place: Any) -> Array:
        """Of this layer and these heads, from rows that may stand for all layers or heads."""
        layer = layout.layer if table.shape[-2] > 1 else 0
        row = jnp.asarray(table)[(*place, layer)]
        return jnp.broadcast_to(row, (every,))[own]

    top_k, top_p = jnp.ones((heads,), jnp.int32), None
    if ratio is not None:
        ratios = _table("sparse_ratio", ratio, layout.layers, every)
        views = [layout.views] if layout.num_valid_views is None else range(layout.views + 1)
        competing = np.array([blocks.of(count).competing for count in views])[:, None, None]
        # The product is rounded as upstream rounds it: 10 blocks at 0.8 keep 1.
        kept = np.trunc(competing * (1 - ratios)).astype(np.int32)
        top_k = chosen(kept, 0 if layout.num_valid_views is None else layout.num_valid_views)
    if threshold is not None:
        shares = _table("cdf_threshold", threshold, layout.layers, every)
        top_p = chosen(shares.astype(np.float32))
    return Budgets(top_k, top_p)


def _table(name: str, budget: Budget, layers: int, heads: int) -> Float[np.ndarray, "rows columns"]:
    """The budget of each layer and head; one row stands for all layers, one column for all heads.

    Raises:
      InputError: it is not given for so many layers or heads.
    """
    if isinstance(budget, PresetBudgets):
        budget = budget.ratios(layers)
    values = np.asarray(budget, np.float64)
    if values.ndim and values.shape[0] != layers:
        raise InputError(
            f"{name} is given for {values.shape[0]} layers, the model has {layers} global layers"
        )
    if values.ndim == 2 and values.shape[1] != heads:
        raise InputError(f"{name} is given for {values.shape[1]} heads, found {heads} heads")
    return values.reshape(-1, 1) if values.ndim < 2 else values
