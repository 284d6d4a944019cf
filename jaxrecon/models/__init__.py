"""The model families: pure functions of arrays with one typed output."""

from jaxrecon.deprecation import moved_names
from jaxrecon.models.mapanything.model import (
    MAPANYTHING,
    MAPANYTHING_MINI,
    MAPANYTHING_V1,
    MapAnything,
    MapAnythingConfig,
)
from jaxrecon.models.mapanything.output import MapAnythingOutput
from jaxrecon.models.mapanything.resize import MAPANYTHING_RESIZE, AspectRule
from jaxrecon.models.model import VIEW_AXES, Encoded, Model, TrackingModel
from jaxrecon.models.pi3.model import PI3, PI3_MINI, Pi3, Pi3Config
from jaxrecon.models.pi3.resize import PI3_RESIZE, ResizeRule
from jaxrecon.models.pi3x.model import PI3X, Pi3X, Pi3XConfig
from jaxrecon.models.prediction import Prediction, Tracks
from jaxrecon.models.vggt.model import VGGT, VGGT_1B, VGGTConfig, VGGTOutput
from jaxrecon.models.vggt.resize import VGGT_RESIZE, SideRule
from jaxrecon.models.vggt.tracks import TrackerConfig, check_query_points

__all__ = [
    "MAPANYTHING",
    "MAPANYTHING_MINI",
    "MAPANYTHING_RESIZE",
    "MAPANYTHING_V1",
    "PI3",
    "PI3X",
    "PI3_MINI",
    "PI3_RESIZE",
    "VGGT",
    "VGGT_1B",
    "VGGT_RESIZE",
    "VIEW_AXES",
    "AspectRule",
    "Encoded",
    "MapAnything",
    "MapAnythingConfig",
    "MapAnythingOutput",
    "Model",
    "Pi3",
    "Pi3Config",
    "Pi3X",
    "Pi3XConfig",
    "Prediction",
    "ResizeRule",
    "SideRule",
    "TrackerConfig",
    "TrackingModel",
    "Tracks",
    "VGGTConfig",
    "VGGTOutput",
    "check_query_points",
]

__getattr__ = moved_names(
    __name__,
    {
        "Conditions": "jaxrecon.priors:PriorArrays",
        "KnownOfViews": "jaxrecon.priors:ViewPriors",
        "PerView": "jaxrecon.priors",
        "abstract_conditions": "jaxrecon.priors:abstract_priors",
        "conditions_from": "jaxrecon.models.mapanything.priors",
        "given_world": "jaxrecon.priors:prior_world",
        "padded_conditions": "jaxrecon.priors:padded_priors",
    },
)
