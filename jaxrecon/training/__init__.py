"""Training of a π³ model on rendered scenes."""

from jaxrecon.training.config import MINI, Bucket, LossWeights, TrainConfig
from jaxrecon.training.loop import save_weights, train
from jaxrecon.training.state import initial_weights

__all__ = [
    "MINI",
    "Bucket",
    "LossWeights",
    "TrainConfig",
    "initial_weights",
    "save_weights",
    "train",
]
