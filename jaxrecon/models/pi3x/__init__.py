"""π³-X: π³ with convolutional heads, metres, and a branch for what is known of the views."""

from jaxrecon.models.pi3.resize import PI3_RESIZE, ResizeRule
from jaxrecon.models.pi3x.model import PI3X, Pi3X, Pi3XConfig

__all__ = ["PI3X", "PI3_RESIZE", "Pi3X", "Pi3XConfig", "ResizeRule"]
