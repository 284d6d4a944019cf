"""Kernels for NVIDIA GPUs: each number is read from memory once, and no array between is written.

A program goes down some rows of an image, a pixel a thread, with the triangles between a row and
the one below it: what it has read of the lower row is the next step's own. Backwards it has a row's
pixels and their left neighbours, so that every triangle that a pixel is a corner of is at hand: one
from the row above, two of its own.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jaxtyping import Array

from pallas_kernels.pallas_triton import check_triton, plgpu
from pallas_kernels.point_map_loss.reference import (
    CONFIDENT_BELOW,
    SMALLEST,
    Guess,
    Planes,
    Sums,
    Tallies,
    Truth,
    cross,
    cross_entropy,
    distance,
    dot,
    is_close,
    of_one_depth,
)

ROWS = 16
"""Rows of a program."""

PARTS = len(Sums._fields) + len(Tallies._fields)


def point_map_loss_triton(
    guess: Guess, truth: Truth, *, interpret: bool = False
) -> tuple[Sums, Tallies]:
    """Sums over the pixels of each image.

    Raises:
      NotImplementedError: not on a GPU, or a JAX without Triton.
    """
    grid, block, threads = _grid(guess, interpret)
    parts = pl.pallas_call(
        partial(_forwards, threads=threads),
        grid=grid,
        in_specs=[block] * 8,
        out_specs=[pl.BlockSpec((None, None), lambda image, part: (image, part))] * PARTS,
        out_shape=[jax.ShapeDtypeStruct(grid, jnp.float32)] * PARTS,
        compiler_params=_parameters(threads),
        interpret=interpret,
        name="point_map_loss",
    )(*guess.points, guess.logits, *truth.points, truth.mask)
    totals = [part.sum(axis=1) for part in parts]
    return Sums(*totals[: len(Sums._fields)]), Tallies(*totals[len(Sums._fields) :])


def gradients_triton(
    guess: Guess, truth: Truth, gradients: Sums, *, interpret: bool = False
) -> Guess:
    """Gradient of the guess, given that of the sums.

    Raises:
      NotImplementedError: not on a GPU, or a JAX without Triton.
    """
    grid, block, threads = _grid(guess, interpret)
    one = pl.BlockSpec((None,), lambda image, part: (image,))
    made = pl.pallas_call(
        partial(_backwards, threads=threads),
        grid=grid,
        in_specs=[block] * 8 + [one] * 3,
        out_specs=[block] * 4,
        out_shape=[jax.ShapeDtypeStruct(guess.logits.shape, jnp.float32)] * 4,
        compiler_params=_parameters(threads),
        interpret=interpret,
        name="point_map_loss_gradient",
    )(*guess.points, guess.logits, *truth.points, truth.mask, *gradients)
    return Guess(Planes(*made[:3]), made[3])


def _grid(guess: Guess, interpret: bool) -> tuple[tuple[int, int], pl.BlockSpec, int]:
    """Programs, the block of a whole image, and how many columns a program works on at a time."""
    if not interpret:
        check_triton()
    images, height, width = guess.logits.shape
    block = pl.BlockSpec((None, height, width), lambda image, part: (image, 0, 0))
    return (images, pl.cdiv(height, ROWS)), block, pl.next_power_of_2(width)


def _parameters(threads: int) -> Any:
    return plgpu.CompilerParams(num_warps=min(32, max(1, threads // 32)))


class _Pixels(NamedTuple):
    """A row's pixels: points, true points and where there are any."""

    point: Planes
    true: Planes
    mask: Array

    def error(self) -> Array:
        return distance(self.point, self.true) / self.true.z


class _Image:
    """Reads rows of an image, and writes them."""

    def __init__(self, refs: tuple[Any, ...], threads: int) -> None:
        self.points, self.logits, self.true, self.mask = refs[:3], refs[3], refs[4:7], refs[7]
        self.height, self.width = self.mask.shape
        self.columns = jnp.arange(threads)
        self.first = pl.program_id(1) * ROWS
        self.rows = jnp.minimum(ROWS, self.height - self.first)

    def pixels(self, row: Array, offset: int = 0) -> _Pixels:
        """The pixels so many columns further on; there is no truth outside the image."""
        columns = self.columns + offset
        inside = (columns >= 0) & (columns < self.width) & (row >= 0) & (row < self.height)
        place = jnp.clip(row, 0, self.height - 1), jnp.clip(columns, 0, self.width - 1)

        def read(ref: Any) -> Array:
            return plgpu.load(ref.at[place], mask=inside, other=jnp.zeros((), ref.dtype))

        mask, true = inside & read(self.mask).astype(jnp.bool_), Planes(*map(read, self.true))
        true = true._replace(z=jnp.where(mask, true.z, 1.0))
        return _Pixels(Planes(*map(read, self.points)), true, mask)

    def read_logits(self, row: Array) -> Array:
        place = row, jnp.minimum(self.columns, self.width - 1)
        return plgpu.load(self.logits.at[place], mask=self.columns < self.width, other=0.0)

    def write(self, ref: Any, row: Array, values: Array) -> None:
        plgpu.store(ref.at[row, self.columns], values, mask=self.columns < self.width)


class _Triangles:
    """Those of a row's pixels: (pixel, right neighbour, lower neighbour)."""

    def __init__(self, own: _Pixels, right: _Pixels, lower: _Pixels) -> None:
        self.right, self.lower = (_minus(to.point, own.point) for to in (right, lower))
        self.normal = cross(self.right, self.lower)
        self.true = cross(_minus(right.true, own.true), _minus(lower.true, own.true))
        depths = own.true.z, right.true.z, lower.true.z
        self.flat = of_one_depth(depths, (own.mask, right.mask, lower.mask))
        self.along, self.true_square = dot(self.normal, self.true), dot(self.true, self.true)
        squares = dot(self.normal, self.normal) * self.true_square
        self.factor = jax.lax.rsqrt(squares + SMALLEST)

    def bend(self) -> Array:
        """One minus the cosine between both normals."""
        return jnp.where(self.flat, 1 - self.along * self.factor, 0.0)

    def gradients(self, of_bend: Array) -> tuple[Planes, Planes]:
        """Of the right and of the lower neighbour, given that of the bend."""
        weight = jnp.where(self.flat, -of_bend * self.factor, 0.0)
        share = self.along * self.true_square * self.factor * self.factor
        of_normal = Planes(
            *(weight * (m - share * n) for n, m in zip(self.normal, self.true, strict=True))
        )
        return cross(self.lower, of_normal), cross(of_normal, self.right)


def _minus(a: Planes, b: Planes) -> Planes:
    return Planes(*(u - v for u, v in zip(a, b, strict=True)))


def _forwards(*refs: Any, threads: int) -> None:
    image = _Image(refs[:8], threads)

    def step(number: Array, running: tuple[_Pixels, list[Array]]) -> tuple[_Pixels, list[Array]]:
        own, totals = running
        row = image.first + number
        lower = image.pixels(row + 1)
        triangles = _Triangles(own, image.pixels(row, 1), lower)
        error, ratio = own.error(), own.point.z / own.true.z
        doubt = cross_entropy(image.read_logits(row), own.mask & (error < CONFIDENT_BELOW))
        counted = (
            jnp.where(own.mask, error, 0.0),
            triangles.bend(),
            jnp.where(image.columns < image.width, doubt, 0.0),
            own.mask.astype(jnp.float32),
            triangles.flat.astype(jnp.float32),
            jnp.where(own.mask, jnp.abs(ratio - 1), 0.0),
            (own.mask & is_close(ratio)).astype(jnp.float32),
        )
        return lower, [old + new for old, new in zip(totals, counted, strict=True)]

    zeros = [jnp.zeros(threads, jnp.float32)] * PARTS
    start = image.pixels(image.first), zeros
    _, totals = jax.lax.fori_loop(0, image.rows, step, start)
    for ref, total in zip(refs[8:], totals, strict=True):
        ref[...] = total.sum()


def _backwards(*refs: Any, threads: int) -> None:
    image = _Image(refs[:8], threads)
    of_points, of_bend, of_doubt = (ref[...] for ref in refs[8:11])
    *out_refs, logits_ref = refs[11:]

    def triangles(row: Array, own: _Pixels, lower: _Pixels) -> tuple[Planes, Planes]:
        return _Triangles(own, image.pixels(row, 1), lower).gradients(of_bend)

    def step(
        number: Array, running: tuple[_Pixels, _Pixels, Planes]
    ) -> tuple[_Pixels, _Pixels, Planes]:
        own, left, from_above = running
        row = image.first + number
        lower, lower_left = image.pixels(row + 1), image.pixels(row + 1, -1)
        of_right, of_lower = triangles(row, own, lower)
        from_left, _ = _Triangles(left, own, lower_left).gradients(of_bend)
        slope = jnp.where(own.mask, of_points / own.true.z, 0.0)
        for axis, ref in enumerate(out_refs):
            side = own.point[axis] >= own.true[axis]  # as `jax.grad` of the distance has it
            normals = from_left[axis] + from_above[axis] - of_right[axis] - of_lower[axis]
            image.write(ref, row, jnp.where(side, slope, -slope) + normals)
        right = own.mask & (own.error() < CONFIDENT_BELOW)
        doubt = jax.nn.sigmoid(image.read_logits(row)) - right.astype(jnp.float32)
        image.write(logits_ref, row, of_doubt * doubt)
        return lower, lower_left, of_lower

    above, own = image.pixels(image.first - 1), image.pixels(image.first)
    _, from_above = triangles(image.first - 1, above, own)
    start = own, image.pixels(image.first, -1), from_above
    jax.lax.fori_loop(0, image.rows, step, start)
