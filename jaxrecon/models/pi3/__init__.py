"""π³."""

from jaxrecon.models.pi3.model import PI3, PI3_MINI, Pi3, Pi3Config

__all__ = ["PI3", "PI3_MINI", "Pi3", "Pi3Config"]
