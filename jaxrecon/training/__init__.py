"""Training of a π³ model on rendered scenes and on one's own."""

from jaxrecon.training.config import (
    CONFIGS,
    FINE_TUNING,
    MINI,
    MINI_ALL_ROUND,
    MINI_EDGES,
    MINI_PICTURES,
    MINI_REAL,
    MINI_SECOND,
    Bucket,
    LossWeights,
    TrainConfig,
)
from jaxrecon.training.loop import save_weights, train
from jaxrecon.training.plot import draw_log
from jaxrecon.training.state import initial_weights
from jaxrecon.training.textures import read_pictures

__all__ = [
    "CONFIGS",
    "FINE_TUNING",
    "MINI",
    "MINI_ALL_ROUND",
    "MINI_EDGES",
    "MINI_PICTURES",
    "MINI_REAL",
    "MINI_SECOND",
    "Bucket",
    "LossWeights",
    "TrainConfig",
    "draw_log",
    "initial_weights",
    "read_pictures",
    "save_weights",
    "train",
]
