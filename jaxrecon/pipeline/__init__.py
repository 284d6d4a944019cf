"""Photos in, reconstruction out: the only place where inference is compiled."""

from jaxrecon.pipeline.pipeline import Pipeline
from jaxrecon.runtime.options import DEFAULT_HABITS, Habits, Options, Thresholds, thresholds
from jaxrecon.runtime.program import Geometry
from jaxrecon.runtime.tracking import QueryPoints

__all__ = [
    "DEFAULT_HABITS",
    "Geometry",
    "Habits",
    "Options",
    "Pipeline",
    "QueryPoints",
    "Thresholds",
    "thresholds",
]
