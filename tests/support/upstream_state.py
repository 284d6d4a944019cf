"""Upstream checkpoints held in memory."""

from collections.abc import Mapping

import numpy as np

from convert.safetensors_file import TensorSpec


class InMemory:
    """A source that is a dictionary."""

    def __init__(self, state: Mapping[str, np.ndarray]) -> None:
        self.state = state
        self.specs = {name: TensorSpec(x.shape, x.dtype) for name, x in state.items()}

    def read(self, name: str) -> np.ndarray:
        return self.state[name]
