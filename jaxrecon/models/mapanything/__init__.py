"""MapAnything."""

from jaxrecon.models.mapanything.model import (
    MAPANYTHING,
    MAPANYTHING_V1,
    MapAnything,
    MapAnythingConfig,
)
from jaxrecon.models.mapanything.output import MapAnythingOutput

__all__ = [
    "MAPANYTHING",
    "MAPANYTHING_V1",
    "MapAnything",
    "MapAnythingConfig",
    "MapAnythingOutput",
]
