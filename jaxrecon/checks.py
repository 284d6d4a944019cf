"""Checks of arguments that several rooms share."""

from typing import TypeGuard

import numpy as np


def is_whole(value: object) -> TypeGuard[int]:
    """Whether it is a whole number, Python's or NumPy's; truth values are none."""
    return isinstance(value, int | np.integer) and not isinstance(value, bool)
