"""An order of the patches of an image in which neighbours stay near each other."""

from collections.abc import Iterator

import numpy as np
from jaxtyping import Int


def hilbert_order(grid: tuple[int, int]) -> Int[np.ndarray, " patches"]:
    """Row-by-row numbers of the patches of an `(h, w)` grid, along a generalised Hilbert curve.

    `x[hilbert_order(grid)]` puts patches in the curve's order; `np.argsort` of it leads back.
    Source: J. Červený, "gilbert" (github.com/jakubcerveny/gilbert), which fills any rectangle.
    """
    height, width = grid
    along, across = (width, height * 1j) if width >= height else (height * 1j, width)
    points = _curve(0j, complex(along), complex(across))
    return np.array([int(at.imag) * width + int(at.real) for at in points], np.int32)


def _curve(at: complex, along: complex, across: complex) -> Iterator[complex]:
    """Fills the rectangle at a corner, spanned by two sides; leaves it at the end of `along`."""
    length, breadth = _size(along), _size(across)
    step, side_step = along / length, across / breadth
    if breadth == 1:
        yield from (at + i * step for i in range(length))
        return
    if length == 1:
        yield from (at + i * side_step for i in range(breadth))
        return
    half, side_half = _half(along), _half(across)
    if 2 * length > 3 * breadth:
        half += step if _size(half) % 2 and length > 2 else 0
        yield from _curve(at, half, across)
        yield from _curve(at + half, along - half, across)
        return
    side_half += side_step if _size(side_half) % 2 and breadth > 2 else 0
    yield from _curve(at, side_half, half)
    yield from _curve(at + side_half, along, across - side_half)
    end = at + (along - step) + (side_half - side_step)
    yield from _curve(end, -side_half, half - along)


def _size(side: complex) -> int:
    return int(abs(side))


def _half(side: complex) -> complex:
    return complex(side.real // 2, side.imag // 2)
