"""The model families: pure functions of arrays with one typed output."""

from jaxrecon.models.mapanything.conditions import Conditions, given_world
from jaxrecon.models.mapanything.inputs import (
    abstract_conditions,
    conditions_from,
    padded_conditions,
    resized_conditions,
)
from jaxrecon.models.mapanything.known import (
    Given,
    KnownOfViews,
    PerView,
    check_known,
    given_of,
)
from jaxrecon.models.mapanything.masks import multiview_confidence, points_to_keep
from jaxrecon.models.mapanything.model import (
    MAPANYTHING,
    MAPANYTHING_V1,
    MapAnything,
    MapAnythingConfig,
)
from jaxrecon.models.mapanything.output import MapAnythingOutput
from jaxrecon.models.mapanything.resize import MAPANYTHING_RESIZE, AspectRule
from jaxrecon.models.model import VIEW_AXES, Encoded, Model, TrackingModel
from jaxrecon.models.pi3.model import PI3, PI3_MINI, Pi3, Pi3Config
from jaxrecon.models.pi3.resize import PI3_RESIZE, ResizeRule
from jaxrecon.models.prediction import Prediction, Tracks
from jaxrecon.models.vggt.model import VGGT, VGGT_1B, VGGTConfig, VGGTOutput
from jaxrecon.models.vggt.resize import VGGT_RESIZE, SideRule
from jaxrecon.models.vggt.tracks import TrackerConfig, check_query_points

__all__ = [
    "MAPANYTHING",
    "MAPANYTHING_RESIZE",
    "MAPANYTHING_V1",
    "PI3",
    "PI3_MINI",
    "PI3_RESIZE",
    "VGGT",
    "VGGT_1B",
    "VGGT_RESIZE",
    "VIEW_AXES",
    "AspectRule",
    "Conditions",
    "Encoded",
    "Given",
    "KnownOfViews",
    "MapAnything",
    "MapAnythingConfig",
    "MapAnythingOutput",
    "Model",
    "PerView",
    "Pi3",
    "Pi3Config",
    "Prediction",
    "ResizeRule",
    "SideRule",
    "TrackerConfig",
    "TrackingModel",
    "Tracks",
    "VGGTConfig",
    "VGGTOutput",
    "abstract_conditions",
    "check_known",
    "check_query_points",
    "conditions_from",
    "given_of",
    "given_world",
    "multiview_confidence",
    "padded_conditions",
    "points_to_keep",
    "resized_conditions",
]
