"""Queries, keys and values of a joint projection: split, normed and turned in one pass."""

from pallas_kernels.qk_norm_rope.api import IMPLEMENTATIONS, qk_norm_rope

__all__ = ["IMPLEMENTATIONS", "qk_norm_rope"]
