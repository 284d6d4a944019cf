"""Functions of many operations as one program: JAX compiles each operation that is called alone."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np


def one_program(function: Callable[..., Any], *static: str) -> Callable[..., Any]:
    """The function, compiled as a whole, with NumPy's arrays for its results.

    Args:
      static: names of the arguments that are no arrays.
    """
    compiled = jax.jit(function, static_argnames=static)

    def run(*args: Any, **kwargs: Any) -> Any:
        return jax.tree.map(np.asarray, compiled(*args, **kwargs))

    return run
