"""GELU of a matrix product and its bias, in one pass, forwards and backwards."""

from pallas_kernels.bias_gelu.api import IMPLEMENTATIONS, bias_gelu

__all__ = ["IMPLEMENTATIONS", "bias_gelu"]
