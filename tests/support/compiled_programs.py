"""What a pipeline has compiled."""

from dataclasses import replace
from typing import Any

from jaxrecon.pipeline import Pipeline


def without_programs(pipeline: Pipeline) -> Pipeline:
    """The same pipeline, which has compiled nothing yet."""
    return replace(pipeline, _executor=None)


def programs_of(pipeline: Pipeline) -> dict[Any, Any]:
    """Its executables by their keys, the first compiled first."""
    return pipeline.executor._compiled
