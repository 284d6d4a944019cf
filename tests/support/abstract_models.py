"""Shapes of models, found once: to trace how a small model is made takes longer than to load it."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import jax.numpy as jnp
import pytest
from jax.typing import DTypeLike

from jaxrecon.registry.entries import Family


@contextmanager
def shapes_found_once() -> Iterator[None]:
    """Within it a family makes the abstract model of a config once for each dtype."""
    made: dict[Any, Any] = {}
    make = Family.abstract

    def abstract(self: Family, config: Any, dtype: DTypeLike = jnp.float32) -> Any:
        key = self.name, config, jnp.dtype(dtype)
        if key not in made:
            made[key] = make(self, config, dtype)
        return made[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Family, "abstract", abstract)
        yield
