"""The model families: pure functions of arrays with one typed output."""

from jaxrecon.models.mapanything import (
    MAPANYTHING,
    MAPANYTHING_V1,
    MapAnything,
    MapAnythingConfig,
)
from jaxrecon.models.mapanything_conditions import Conditions
from jaxrecon.models.mapanything_inputs import PerView, conditions_from
from jaxrecon.models.mapanything_masks import multiview_confidence, points_to_keep
from jaxrecon.models.mapanything_output import MapAnythingOutput
from jaxrecon.models.model import Model
from jaxrecon.models.pi3 import PI3, PI3_MINI, Pi3, Pi3Config
from jaxrecon.models.prediction import Prediction
from jaxrecon.models.vggt import VGGT, VGGT_1B, VGGTConfig, VGGTOutput
from jaxrecon.models.vggt_tracks import TrackerConfig, Tracks, check_query_points

__all__ = [
    "MAPANYTHING",
    "MAPANYTHING_V1",
    "PI3",
    "PI3_MINI",
    "VGGT",
    "VGGT_1B",
    "Conditions",
    "MapAnything",
    "MapAnythingConfig",
    "MapAnythingOutput",
    "Model",
    "PerView",
    "Pi3",
    "Pi3Config",
    "Prediction",
    "TrackerConfig",
    "Tracks",
    "VGGTConfig",
    "VGGTOutput",
    "check_query_points",
    "conditions_from",
    "multiview_confidence",
    "points_to_keep",
]
