"""The model families: pure functions of arrays with one typed output."""

from jaxrecon.models.model import Model
from jaxrecon.models.pi3 import PI3, PI3_MINI, Pi3, Pi3Config
from jaxrecon.models.prediction import Prediction
from jaxrecon.models.vggt import VGGT, VGGT_1B, VGGTConfig, VGGTOutput
from jaxrecon.models.vggt_tracks import TrackerConfig, Tracks, check_query_points

__all__ = [
    "PI3",
    "PI3_MINI",
    "VGGT",
    "VGGT_1B",
    "Model",
    "Pi3",
    "Pi3Config",
    "Prediction",
    "TrackerConfig",
    "Tracks",
    "VGGTConfig",
    "VGGTOutput",
    "check_query_points",
]
