"""The model families: pure functions of arrays with one typed output."""

from jaxrecon.models.model import Model
from jaxrecon.models.pi3 import PI3, Pi3, Pi3Config
from jaxrecon.models.prediction import Prediction

__all__ = ["PI3", "Model", "Pi3", "Pi3Config", "Prediction"]
