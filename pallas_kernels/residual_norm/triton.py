"""Kernels for NVIDIA GPUs: each number is read once and written once.

A program has some rows in registers at a time. Backwards it sums what belongs to the parameters
over all its rows; the sums of all programs are added up outside.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jaxtyping import Array, Float

from pallas_kernels.errors import UnfitError
from pallas_kernels.float8 import saturated, whole_rows
from pallas_kernels.norm import Norm
from pallas_kernels.pallas_triton import check_triton, plgpu
from pallas_kernels.residual_norm.reference import Inputs, Outputs

TILE = 1024
"""Numbers of a tile."""

WIDEST = 4096

STEPS = 16
"""Tiles that a program goes over on the way back."""


def residual_norm_triton(
    inputs: Inputs, *, eps: float, dtype: Any, fill_up: bool = False, interpret: bool = False
) -> Outputs:
    """The sum in float32, and its norm in `dtype`.

    Raises:
      NotImplementedError: not on a GPU, or a JAX without Triton.
      UnfitError: too wide.
    """
    _check(inputs.x, interpret)
    if inputs.update is None and inputs.norm is None:
        return inputs.x, None
    flat, parameters = _flat(inputs), _parameters(inputs)
    rows, width = flat[0].shape
    size = _rows_of_a_tile(width)
    names = ["total"] * (inputs.update is not None) + ["normed"] * (inputs.norm is not None)
    normed_rows = whole_rows(rows) if fill_up else rows
    made_of = {
        "total": jax.ShapeDtypeStruct((rows, width), jnp.float32),
        "normed": jax.ShapeDtypeStruct((normed_rows, width), dtype),
    }
    wide = pl.next_power_of_2(width)
    block = pl.BlockSpec((size, wide), lambda program: (program, 0))
    made = pl.pallas_call(
        partial(
            _forwards,
            inputs=_names(inputs),
            outputs=names,
            eps=eps,
            shape=(rows, width),
            normed_rows=normed_rows,
        ),
        grid=(pl.cdiv(normed_rows, size),),
        in_specs=[block] * len(flat) + [_whole(wide)] * len(parameters),
        out_specs=[block] * len(names),
        out_shape=[made_of[name] for name in names],
        compiler_params=plgpu.CompilerParams(num_warps=_warps(wide)),
        interpret=interpret,
        name="residual_norm",
    )(*flat, *parameters)
    found = dict(zip(names, made, strict=True))
    total, normed = found.get("total"), found.get("normed")
    if normed is not None and not fill_up:
        normed = normed.reshape(inputs.x.shape)
    return inputs.x if total is None else total.reshape(inputs.x.shape), normed


def gradients_triton(
    kept: Inputs, gradients: Outputs, *, eps: float, interpret: bool = False
) -> Inputs:
    """Gradients of the inputs; see `gradients_xla`.

    Raises:
      NotImplementedError: not on a GPU, or a JAX without Triton.
      UnfitError: too wide.
    """
    _check(kept.x, interpret)
    names = _names(kept)
    summed = [name for name in ("update_bias", "gamma", "scale", "bias") if name in names]
    if not summed:
        of_update = None if kept.update is None else gradients[0].astype(kept.update.dtype)
        return Inputs(gradients[0], of_update, None, None, None)
    given = [x.reshape(-1, x.shape[-1]) for x in gradients if x is not None]
    flat, parameters = _flat(kept), _parameters(kept)
    order = [*names[: len(flat)], "of_total", *["of_normed"] * (kept.norm is not None)]
    rows, width = flat[0].shape
    size = _rows_of_a_tile(width)
    programs, wide = pl.cdiv(rows, size * STEPS), pl.next_power_of_2(width)
    block = pl.BlockSpec((size * STEPS, wide), lambda program: (program, 0))
    made = {"of_x": kept.x.dtype} if kept.norm is not None else {}
    made |= {} if kept.update is None else {"of_update": kept.update.dtype}
    kernel = partial(
        _backwards,
        inputs=[*order, *names[len(flat) :]],
        outputs=list(made),
        summed=summed,
        eps=eps,
        shape=(rows, width),
        size=size,
    )
    parts = jax.ShapeDtypeStruct((programs, len(summed), width), jnp.float32)
    *results, sums = pl.pallas_call(
        kernel,
        grid=(programs,),
        in_specs=[block] * len(flat + given) + [_whole(wide)] * len(parameters),
        out_specs=[
            *[block] * len(made),
            pl.BlockSpec((None, len(summed), wide), lambda program: (program, 0, 0)),
        ],
        out_shape=[*[jax.ShapeDtypeStruct((rows, width), x) for x in made.values()], parts],
        compiler_params=plgpu.CompilerParams(num_warps=_warps(wide)),
        interpret=interpret,
        name="residual_norm_gradient",
    )(*flat, *given, *parameters)
    found = {name: x.reshape(kept.x.shape) for name, x in zip(made, results, strict=True)}
    found |= dict(zip(summed, sums.sum(axis=0), strict=True))
    if kept.update_bias is not None:
        found["update_bias"] = found["update_bias"].astype(kept.update_bias.dtype)
    return Inputs(
        x=found.get("of_x", gradients[0]),
        update=found.get("of_update"),
        update_bias=found.get("update_bias"),
        gamma=found.get("gamma"),
        norm=None if kept.norm is None else Norm(found["scale"], found["bias"]),
    )


def _check(x: Array, interpret: bool) -> None:
    if not interpret:
        check_triton()
    if x.shape[-1] > WIDEST:
        raise UnfitError(f"triton: width {x.shape[-1]} is beyond {WIDEST}")


def _flat(inputs: Inputs) -> list[Float[Array, "R D"]]:
    return [x.reshape(-1, x.shape[-1]) for x in inputs[:2] if x is not None]


def _parameters(inputs: Inputs) -> list[Float[Array, " D"]]:
    found = (inputs.update_bias, inputs.gamma, *(inputs.norm or ()))
    return [x for x in found if x is not None]


def _names(inputs: Inputs) -> list[str]:
    """Names of `_flat` and `_parameters`."""
    given = inputs._asdict()
    norm = given.pop("norm")
    given |= norm._asdict() if norm is not None else {}
    return [name for name, value in given.items() if value is not None]


def _rows_of_a_tile(width: int) -> int:
    return max(1, TILE // pl.next_power_of_2(width))


def _warps(wide: int) -> int:
    """One, if it can hold a tile: sums over a row then need no shared memory."""
    return max(1, wide // TILE)


def _whole(wide: int) -> pl.BlockSpec:
    return pl.BlockSpec((wide,), lambda program: (0,))


class _Tile:
    """Some rows of all arrays, by name; what is read is float32, and zero beyond the width."""

    def __init__(
        self, refs: dict[str, Any], start: Any, first: Any, size: int, shape: tuple[int, int]
    ) -> None:
        """Args: `start`, `first`: the tile's first row, within the block and of all."""
        self.refs, self.width = refs, shape[1]
        self.span = pl.ds(start, size)
        self.real = (jnp.arange(refs["x"].shape[1]) < shape[1])[None, :]
        self.numbers = (first + jnp.arange(size))[:, None]
        self.mask = self.up_to(shape[0])

    def up_to(self, rows: int) -> Array:
        """Where the tile is within the width and within so many rows."""
        return self.real & (self.numbers < rows)

    def rows(self, name: str) -> Array:
        place = self.refs[name].at[self.span, :]
        return plgpu.load(place, mask=self.mask, other=0.0).astype(jnp.float32)

    def parameter(self, name: str) -> Array:
        numbers = plgpu.load(self.refs[name], mask=self.real[0], other=0.0)
        return numbers.astype(jnp.float32)[None, :]

    def update(self) -> Array:
        """With its bias."""
        update = self.rows("update")
        return update + self.parameter("update_bias") if "update_bias" in self.refs else update

    def store(self, name: str, values: Array, mask: Array | None = None) -> None:
        ref, mask = self.refs[name], self.mask if mask is None else mask
        plgpu.store(ref.at[self.span, :], saturated(values, ref.dtype), mask=mask)

    def mean(self, values: Array) -> Array:
        return values.sum(axis=1, keepdims=True) / self.width

    def standardised(self, x: Array, eps: float) -> tuple[Array, Array]:
        """Of mean zero and deviation one, and the factor that made the deviation so."""
        # Places beyond the width are zero before, and would be minus the mean after.
        centred = jnp.where(self.real, x - self.mean(x), 0.0)
        factor = jax.lax.rsqrt(self.mean(centred * centred) + eps)
        return centred * factor, factor


def _forwards(
    *refs: Any,
    inputs: list[str],
    outputs: list[str],
    eps: float,
    shape: tuple[int, int],
    normed_rows: int,
) -> None:
    named = dict(zip([*inputs, *outputs], refs, strict=True))
    size = named["x"].shape[0]
    tile = _Tile(named, 0, pl.program_id(0) * size, size, shape)
    x = tile.rows("x")
    if "update" in named:
        update = tile.update()
        x = x + (tile.parameter("gamma") * update if "gamma" in named else update)
        tile.store("total", x)
    if "scale" in named:
        standard, _ = tile.standardised(x, eps)
        normed = standard * tile.parameter("scale") + tile.parameter("bias")
        tile.store("normed", normed, tile.up_to(normed_rows))


def _backwards(
    *refs: Any,
    inputs: list[str],
    outputs: list[str],
    summed: list[str],
    eps: float,
    shape: tuple[int, int],
    size: int,
) -> None:
    *rest, sums_ref = refs
    named = dict(zip([*inputs, *outputs], rest, strict=True))
    block, wide = named["x"].shape
    start = pl.program_id(0) * block

    def fold(step: Array, sums: list[Array]) -> list[Array]:
        tile = _Tile(named, step * size, start + step * size, size, shape)
        gradient, found = tile.rows("of_total"), {}
        if "scale" in named:
            standard, factor = tile.standardised(tile.rows("x"), eps)
            of_normed = tile.rows("of_normed")
            found |= {"scale": of_normed * standard, "bias": of_normed}
            through = of_normed * tile.parameter("scale")
            along = tile.mean(through * standard)
            # The norm takes away the mean and the length: so does its gradient, which is that of
            # the output less its parts along a constant and along the standardised input.
            gradient += factor * (through - tile.mean(through) - along * standard)
            tile.store("of_x", gradient)
        if "update" in named:
            of_update = tile.parameter("gamma") * gradient if "gamma" in named else gradient
            tile.store("of_update", of_update)
            found["update_bias"] = of_update
        if "gamma" in named:
            found["gamma"] = gradient * tile.update()
        return [
            old + jnp.where(tile.mask, found[name], 0.0).sum(axis=0)
            for old, name in zip(sums, summed, strict=True)
        ]

    zeros = [jnp.zeros(wide, jnp.float32)] * len(summed)
    # One row of partial sums a program: atomic additions would make results depend on their order.
    real = jnp.arange(wide) < shape[1]
    for at, total in enumerate(jax.lax.fori_loop(0, block // size, fold, zeros)):
        plgpu.store(sums_ref.at[pl.ds(at, 1), :], total[None, :], mask=real[None, :])
