"""Photos in, reconstruction out: the only place where inference is compiled."""

from jaxrecon.deprecation import moved_names
from jaxrecon.pipeline.pipeline import Pipeline
from jaxrecon.pipeline.request import Request, resolve
from jaxrecon.pipeline.sequence_result import SequenceReconstruction
from jaxrecon.priors import PerView, ViewPriors
from jaxrecon.runtime.cameras import CameraConfig
from jaxrecon.runtime.defaults import MODEL_DEFAULTS, ModelDefaults
from jaxrecon.runtime.masks import MaskConfig
from jaxrecon.runtime.options import ProgramKey, RuntimeInputs, runtime_inputs
from jaxrecon.runtime.program import Geometry
from jaxrecon.runtime.query_points import QueryPoints

__all__ = [
    "MODEL_DEFAULTS",
    "CameraConfig",
    "Geometry",
    "MaskConfig",
    "ModelDefaults",
    "PerView",
    "Pipeline",
    "ProgramKey",
    "QueryPoints",
    "Request",
    "RuntimeInputs",
    "SequenceReconstruction",
    "ViewPriors",
    "resolve",
    "runtime_inputs",
]

__getattr__ = moved_names(
    __name__,
    {
        "DEFAULT_HABITS": "jaxrecon.pipeline:MODEL_DEFAULTS",
        "Habits": "jaxrecon.pipeline:ModelDefaults",
        "Options": "jaxrecon.pipeline:ProgramKey",
        "Thresholds": "jaxrecon.pipeline:RuntimeInputs",
        "thresholds": "jaxrecon.pipeline:runtime_inputs",
    },
)
