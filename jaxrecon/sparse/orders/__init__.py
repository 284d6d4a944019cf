"""Which patches share a block: the orders in which those of a scene are cut into blocks."""

from collections.abc import Mapping
from dataclasses import dataclass

from jaxtyping import Array, Float

from jaxrecon.choices import ORDERS
from jaxrecon.sparse.layout import BlockLayout, PatchOrder, Permutation
from jaxrecon.sparse.orders.hilbert import hilbert_order
from jaxrecon.sparse.orders.pca_tree import PcaTreeOrder

__all__ = ["NAMED_ORDERS", "HilbertOrder", "PcaTreeOrder", "RasterOrder", "hilbert_order"]


@dataclass(frozen=True)
class RasterOrder:
    """Row by row, as in the paper (arXiv 2509.07120)."""

    def order(
        self, q: Float[Array, "G T N K"], k: Float[Array, "G T N K"], layout: BlockLayout
    ) -> Permutation:
        return Permutation()


@dataclass(frozen=True)
class HilbertOrder:
    """Along a Hilbert curve through each view, so that a block covers a compact area."""

    def order(
        self, q: Float[Array, "G T N K"], k: Float[Array, "G T N K"], layout: BlockLayout
    ) -> Permutation:
        return Permutation(within_view=hilbert_order(layout.layout.grid))


_ORDERS: tuple[PatchOrder, ...] = (PcaTreeOrder(), RasterOrder(), HilbertOrder())
NAMED_ORDERS: Mapping[str, PatchOrder] = dict(zip(ORDERS, _ORDERS, strict=True))
"""The orders that have a name."""
