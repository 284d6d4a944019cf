"""MapAnything."""

from jaxrecon.models.mapanything.model import (
    MAPANYTHING,
    MAPANYTHING_MINI,
    MAPANYTHING_V1,
    MapAnything,
    MapAnythingConfig,
)
from jaxrecon.models.mapanything.output import MapAnythingOutput
from jaxrecon.models.mapanything.resize import MAPANYTHING_RESIZE, AspectRule

__all__ = [
    "MAPANYTHING",
    "MAPANYTHING_MINI",
    "MAPANYTHING_RESIZE",
    "MAPANYTHING_V1",
    "AspectRule",
    "MapAnything",
    "MapAnythingConfig",
    "MapAnythingOutput",
]
