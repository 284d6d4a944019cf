"""How far point maps are from the truth, as the losses of π³ count it, in one pass."""

from pallas_kernels.point_map_loss.api import IMPLEMENTATIONS, point_map_loss
from pallas_kernels.point_map_loss.reference import Planes, Sums, Tallies, cosine

__all__ = ["IMPLEMENTATIONS", "Planes", "Sums", "Tallies", "cosine", "point_map_loss"]
