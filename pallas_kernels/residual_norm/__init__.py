"""A residual sum and the LayerNorm that follows it, in one pass, forwards and backwards."""

from pallas_kernels.residual_norm.api import IMPLEMENTATIONS, residual_norm, residual_sum

__all__ = ["IMPLEMENTATIONS", "residual_norm", "residual_sum"]
