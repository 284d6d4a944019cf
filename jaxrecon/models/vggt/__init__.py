"""VGGT."""

from jaxrecon.models.vggt.model import VGGT, VGGT_1B, VGGTConfig, VGGTOutput
from jaxrecon.models.vggt.resize import VGGT_RESIZE, SideRule
from jaxrecon.models.vggt.tracks import TrackerConfig, check_query_points

__all__ = [
    "VGGT",
    "VGGT_1B",
    "VGGT_RESIZE",
    "SideRule",
    "TrackerConfig",
    "VGGTConfig",
    "VGGTOutput",
    "check_query_points",
]
