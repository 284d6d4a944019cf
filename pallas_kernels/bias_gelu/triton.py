"""Kernels for NVIDIA GPUs: each number is read once and written once.

A program has some columns of some rows. Backwards it sums the bias's gradient over its rows; the
sums of all programs are added up outside. Numbers of 16 bits take a shorter formula for the normal
distribution, with which the kernel is as fast as memory.
"""

from collections.abc import Callable
from functools import partial
from math import pi
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from pallas_kernels.float8 import saturated
from pallas_kernels.pallas_triton import check_triton, plgpu

TILE = (8, 256)
"""Rows and columns in registers at a time."""

WARPS = 4

STEPS = 16
"""Tiles that a program goes over."""

LOG2_TAIL = (
    -1.0,
    -1.15109186,
    -0.45889023,
    -0.0535469353,
    0.00831808569,
    -0.000885858836,
    5.639563e-05,
    -1.59717177e-06,
)
"""A polynomial, of rising powers, for the base-2 logarithm of the normal distribution's share above
a number from 0 to 7: the one with the least largest error, 1e-5 of the share, of those that are
exact at 0."""


def bias_gelu_triton(
    x: Float[Array, "*dims D"],
    bias: Float[Array, " D"],
    scale: Float[Array, ""] | None = None,
    *,
    dtype: DTypeLike | None = None,
    in_place: bool = False,
    interpret: bool = False,
) -> Float[Array, "*dims D"]:
    """`scale * gelu(x + bias)`, computed in float32.

    Args:
      dtype: of the outcome; that of `x` if not given.
      in_place: the outcome takes the place of `x` (a copy of it, where `x` is needed yet).
      interpret: run on the CPU.

    Raises:
      NotImplementedError: not on a GPU, or a JAX without Triton.
    """
    aliases = {0: 0} if in_place else {}
    call = _call(
        _forwards,
        [x],
        bias,
        "bias_gelu",
        scale=scale,
        dtype=dtype,
        aliases=aliases,
        interpret=interpret,
    )
    return call[0]


def gradients_triton(
    x: Float[Array, "*dims D"],
    bias: Float[Array, " D"],
    gradient: Float[Array, "*dims D"],
    *,
    interpret: bool = False,
) -> tuple[Float[Array, "*dims D"], Float[Array, " D"]]:
    """Gradients of `x` and of the bias, given that of the outcome.

    Raises:
      NotImplementedError: not on a GPU, or a JAX without Triton.
    """
    name = "bias_gelu_gradient"
    of_x, sums = _call(_backwards, [x, gradient], bias, name, sums=True, interpret=interpret)
    return of_x, sums.sum(axis=0).astype(bias.dtype)


def _call(
    kernel: Any,
    arrays: list[Array],
    bias: Array,
    name: str,
    *,
    scale: Array | None = None,
    dtype: DTypeLike | None = None,
    sums: bool = False,
    aliases: dict[int, int] | None = None,
    interpret: bool,
) -> list[Array]:
    """An array of the first one's shape, and if wanted the programs' sums.

    Its dtype is the first one's too, if none is given.
    """
    if not interpret:
        check_triton()
    width = bias.shape[0]
    flat = [x.reshape(-1, width) for x in arrays]
    factors = [] if scale is None else [scale.reshape(1)]
    rows, columns = flat[0].shape[0], TILE[1]
    grid = pl.cdiv(rows, TILE[0] * STEPS), pl.cdiv(width, columns)
    block = pl.BlockSpec((TILE[0] * STEPS, columns), lambda row, column: (row, column))
    shapes = [jax.ShapeDtypeStruct((rows, width), dtype or arrays[0].dtype)]
    shapes += [jax.ShapeDtypeStruct((grid[0], width), jnp.float32)] * sums
    made, *rest = pl.pallas_call(
        partial(kernel, shape=(rows, width)),
        grid=grid,
        in_specs=[
            *[block] * len(flat),
            pl.BlockSpec((columns,), lambda row, column: (column,)),
            *[pl.BlockSpec((1,), lambda row, column: (0,))] * len(factors),
        ],
        out_specs=[
            block,
            *[pl.BlockSpec((None, columns), lambda row, column: (row, column))] * sums,
        ],
        out_shape=shapes,
        input_output_aliases=aliases or {},
        compiler_params=plgpu.CompilerParams(num_warps=WARPS),
        interpret=interpret,
        name=name,
    )(*flat, bias, *factors)
    return [made.reshape(arrays[0].shape), *rest]


def _forwards(x_ref: Any, bias_ref: Any, *refs: Any, shape: tuple[int, int]) -> None:
    *factors, out_ref = refs
    bias, tiles = _bias_and_tiles(bias_ref, shape)
    tail, furthest = _tail_of(out_ref.dtype)

    def step(number: Array, _: None) -> None:
        place, mask = tiles(number)
        x = plgpu.load(x_ref.at[place], mask=mask, other=0.0).astype(jnp.float32) + bias
        # x * Phi(x), since Phi(x) is 1 - tail(x) of what is positive, and tail(-x) of the rest.
        size = jnp.minimum(jnp.abs(x), furthest)
        gelu = jnp.maximum(x, 0.0) - size * tail(size)
        for factor in factors:
            gelu = factor[0] * gelu
        plgpu.store(out_ref.at[place], saturated(gelu, out_ref.dtype), mask=mask)

    jax.lax.fori_loop(0, STEPS, step, None)


def _backwards(
    x_ref: Any, gradient_ref: Any, bias_ref: Any, out_ref: Any, sums_ref: Any, *, shape: Any
) -> None:
    bias, tiles = _bias_and_tiles(bias_ref, shape)
    tail, furthest = _tail_of(out_ref.dtype)

    def step(number: Array, total: Array) -> Array:
        place, mask = tiles(number)
        x = plgpu.load(x_ref.at[place], mask=mask, other=0.0).astype(jnp.float32) + bias
        gradient = plgpu.load(gradient_ref.at[place], mask=mask, other=0.0).astype(jnp.float32)
        # gelu(x) = x * Phi(x), so its slope is Phi(x) + x * phi(x).
        above = tail(jnp.minimum(jnp.abs(x), furthest))
        density = jnp.exp(-0.5 * x * x) * (2 * pi) ** -0.5
        gradient *= jnp.where(x < 0, above, 1 - above) + x * density
        plgpu.store(out_ref.at[place], gradient.astype(out_ref.dtype), mask=mask)
        return total + gradient

    total = jax.lax.fori_loop(0, STEPS, step, jnp.zeros(TILE, jnp.float32))
    columns = pl.program_id(1) * TILE[1] + jnp.arange(TILE[1])
    plgpu.store(sums_ref, total.sum(axis=0), mask=columns < shape[1])


def _bias_and_tiles(bias_ref: Any, shape: tuple[int, int]) -> tuple[Array, Any]:
    """The bias of the program's columns, and a function to where a tile is and what is in it."""
    real = pl.program_id(1) * TILE[1] + jnp.arange(TILE[1]) < shape[1]
    first = pl.program_id(0) * (TILE[0] * STEPS)
    bias = plgpu.load(bias_ref, mask=real, other=0.0).astype(jnp.float32)[None, :]

    def tile(number: Array) -> tuple[Any, Array]:
        start = number * TILE[0]
        rows = first + start + jnp.arange(TILE[0]) < shape[0]
        return (pl.ds(start, TILE[0]), slice(None)), rows[:, None] & real[None, :]

    return bias, tile


def _tail_of(dtype: Any) -> tuple[Callable[[Array], Array], float]:
    """The normal distribution's share above a number, as precisely as the dtype needs, and up to
    which number from 0 on it is asked for: what lies further is 1e-12 of it, or 1e-44."""
    return (_tail_in_16_bits, 7.0) if jnp.dtype(dtype).itemsize <= 2 else (_tail, 14.0)


def _tail(size: Array) -> Array:
    """To 1e-7, half of 1 - erf(size / sqrt(2)).

    Source: Abramowitz and Stegun, Handbook of Mathematical Functions, 7.1.26.
    """
    size = size * (0.5**0.5)
    t = 1 / (1 + 0.3275911 * size)
    coefficients = (0.254829592, -0.284496736, 1.421413741, -1.453152027, 1.061405429)
    return 0.5 * _polynomial(coefficients, t) * t * jnp.exp(-size * size)


def _tail_in_16_bits(size: Array) -> Array:
    """To 2e-5 of itself, an eighth of what float16 tells apart."""
    return jnp.exp2(_polynomial(LOG2_TAIL, size))


def _polynomial(coefficients: tuple[float, ...], x: Array) -> Array:
    """By Horner's rule; coefficients of rising powers."""
    *others, value = coefficients
    for coefficient in reversed(others):
        value = value * x + coefficient
    return jnp.asarray(value)
