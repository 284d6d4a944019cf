"""π³."""

from jaxrecon.models.pi3.model import PI3, PI3_MINI, Pi3, Pi3Config
from jaxrecon.models.pi3.resize import PI3_RESIZE, ResizeRule

__all__ = ["PI3", "PI3_MINI", "PI3_RESIZE", "Pi3", "Pi3Config", "ResizeRule"]
