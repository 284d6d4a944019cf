"""Another policy in some of the global layers."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxrecon.checks import is_whole, shown
from jaxrecon.choices import AttentionName
from jaxrecon.errors import InputError
from jaxrecon.nn.attention import (
    AttentionFn,
    AttentionStats,
    TokenLayout,
    attend,
    attention_chunks,
    takes_scale,
)
from jaxrecon.nn.execution import Chunks
from jaxrecon.sparse.attention import SparseAttention
from jaxrecon.sparse.named import chosen_attention
from jaxrecon.sparse.view_selectors import WithinViews

type Layers = int | range | tuple[int, ...]
"""Numbers of global layers, from 0."""

type Part = AttentionFn | AttentionName | None
"""An attention, or its name; None is dense."""

PUBLISHED_EARLY = {24: 9, 18: 10}
"""Of so many global layers, as VGGT and π³ have, so many are early (arXiv 2512.02541)."""


@dataclass(frozen=True)
class AttentionByLayer:
    """An `AttentionFn` that is another one in some of the global layers.

    Inside the trunk's scan only the attention of the layer runs. Attention within a view is that of
    `attention`. Dense layers tell that they skip nothing.

    Attributes:
      attention: of all layers that are not named; dense if None.
      layers: the attention of others, as `{range(9): within, (20, 21): None}` or as pairs of the
        same. Kept as pairs of tuples and functions, which can be hashed.

    Raises:
      InputError: `layers` is neither, a layer is no whole number of at least 0 or is named twice,
        or an attention is unknown; when called, the model has no such layer.
    """

    attention: Part = None
    layers: Mapping[Layers, Part] | Iterable[tuple[Layers, Part]] = ()

    def __post_init__(self) -> None:
        given: Any = self.layers.items() if isinstance(self.layers, Mapping) else self.layers
        try:
            named = [(_numbers(layers), part) for layers, part in given]
        except (TypeError, ValueError) as error:
            raise InputError(
                "layers: give layers and their attention, such as {range(9): SparseAttention()}, "
                f"found {shown(self.layers)}"
            ) from error
        pairs = tuple((layers, chosen_attention(part)) for layers, part in named)
        every = Counter(layer for layers, _ in pairs for layer in layers)
        twice = sorted(layer for layer, times in every.items() if times > 1)
        if twice:
            raise InputError(f"layers: {twice} are named twice; name each layer once")
        object.__setattr__(self, "attention", chosen_attention(self.attention))
        object.__setattr__(self, "layers", pairs)

    def __call__(
        self,
        q: Float[Array, "G T N K"],
        k: Float[Array, "G S N K"],
        v: Float[Array, "G S N K"],
        layout: TokenLayout,
    ) -> tuple[Float[Array, "G T N K"], AttentionStats | None]:
        """What the attention of the layout's layer makes of its inputs."""
        parts = self.parts
        if layout.views == 1:
            return attend(parts[0], q, k, v, layout)
        table = self._table(layout.layers)

        def told(part: AttentionFn, q: Array, k: Array, v: Array) -> tuple[Array, AttentionStats]:
            out, stats = attend(part, q, k, v, layout)
            nothing = AttentionStats(jnp.zeros((out.shape[0], out.shape[2]), jnp.float32))
            return out, nothing if stats is None else stats

        if isinstance(layout.layer, int | np.integer):
            return told(parts[table[layout.layer]], q, k, v)
        branches = [partial(told, part) for part in parts]
        return jax.lax.switch(jnp.asarray(table)[layout.layer], branches, q, k, v)

    @property
    def takes_scale(self) -> bool:
        """Whether the attention of every layer heeds the layout's `scale`."""
        return all(map(takes_scale, self.parts))

    def chunks(self, layout: TokenLayout, heads: int) -> Chunks:
        """What is worked on at a time by the attention that works on the most."""
        found: Chunks = {}
        for part in self.parts:
            for name, chunk in attention_chunks(part, layout, heads).items():
                found[name] = max(chunk, found.get(name, chunk))
        return found

    @property
    def _pairs(self) -> Any:
        return self.layers

    @property
    def parts(self) -> list[AttentionFn]:
        """The attention of layers that are not named, then that of those that are."""
        return [chosen_attention(self.attention), *(part for _, part in self._pairs)]

    def _table(self, layers: int) -> np.ndarray:
        """Which part each of so many layers has.

        Raises:
          InputError: a layer is named that there is not.
        """
        table = np.zeros(layers, np.int32)
        for number, (named, _) in enumerate(self._pairs, start=1):
            if max(named, default=0) >= layers:
                raise InputError(
                    f"layers: {max(named)} is named, the model has {layers} global layers; name "
                    f"layers from 0 to {layers - 1}"
                )
            table[list(named)] = number
        return table


def early_within_views(num_layers: int, attention: Part = None) -> AttentionByLayer:
    """Early global layers within views (`WithinViews`), the rest as given.

    AVGGT (arXiv 2512.02541) attends within views in the early layers of released models: in layers
    0 to 8 of VGGT's 24, and 0 to 9 of the 18 of π³. Of another number of layers a third are taken
    as early, rounded down but at least one; what that costs is to be measured.

    Args:
      num_layers: global layers of the model.
      attention: that of the other layers; dense if None.

    Raises:
      InputError: `num_layers` is no whole number of at least 1, or the attention is unknown.
    """
    if not is_whole(num_layers) or num_layers < 1:
        raise InputError(f"num_layers={num_layers!r} must be a whole number of at least 1")
    early = PUBLISHED_EARLY.get(num_layers, max(1, num_layers // 3))
    return within_views_in(range(early), attention)


def within_views_in(layers: Layers, attention: Part = None) -> AttentionByLayer:
    """These global layers within views (`WithinViews`), the rest as given."""
    return AttentionByLayer(attention, {layers: SparseAttention(selector=WithinViews())})


def _numbers(layers: Any) -> tuple[int, ...]:
    """Layers as a tuple of whole numbers."""
    numbers = (layers,) if is_whole(layers) else tuple(layers)
    if isinstance(layers, str) or not all(is_whole(x) and x >= 0 for x in numbers):
        raise ValueError(f"{layers!r} are no layers")
    return tuple(int(x) for x in numbers)
