"""The sum of what listed and skipped blocks give, as one kernel that writes over the former.

A program has the values of some groups of one head in registers, and goes over the tokens of these
groups: the first of each group, then the second. Each number is read once and written once.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jaxtyping import Array, Float

from pallas_kernels.errors import UnfitError
from pallas_kernels.pallas_triton import check_triton, plgpu

GROUPS = 64
"""Groups of a program."""

WARPS = 4
WIDEST = 256
MOST_NUMBERS = 2**31
"""Beyond these, places in an array would need more than 32 bits."""


def merged_triton(
    out: Float[Array, "B T N K"],
    logsumexp: Float[Array, "B N T"],
    values: Float[Array, "B N groups K"],
    others: Float[Array, "B N groups"],
    *,
    group: int,
    interpret: bool = False,
) -> Float[Array, "B T N K"]:
    """As `merged_xla`; the outcome takes the place of `out`.

    Raises:
      NotImplementedError: not on a GPU, or a JAX without Triton.
      UnfitError: heads are too wide, or there are too many numbers.
    """
    if not interpret:
        check_triton()
    batch, tokens, heads, width = out.shape
    if width > WIDEST:
        raise UnfitError(f"triton: head width {width} is beyond {WIDEST}")
    if out.size >= MOST_NUMBERS:
        raise UnfitError(f"triton: {out.size} numbers are not below {MOST_NUMBERS}")
    groups = others.shape[2]
    # Heads first: those of one token lie side by side.
    of_tokens = pl.BlockSpec(
        (None, GROUPS * group, None, pl.next_power_of_2(width)),
        lambda head, tile, scene: (scene, tile, head, 0),
    )
    of_groups = pl.BlockSpec(
        (None, None, GROUPS, pl.next_power_of_2(width)),
        lambda head, tile, scene: (scene, head, tile, 0),
    )
    sums = (
        pl.BlockSpec((None, None, size), lambda head, tile, scene: (scene, head, tile))
        for size in (GROUPS * group, GROUPS)
    )
    return pl.pallas_call(
        partial(_kernel, group=group, shape=(tokens, groups, width)),
        grid=(heads, pl.cdiv(tokens, GROUPS * group), batch),
        in_specs=[of_tokens, next(sums), of_groups, next(sums)],
        out_specs=of_tokens,
        out_shape=jax.ShapeDtypeStruct(out.shape, out.dtype),
        input_output_aliases={0: 0},
        compiler_params=plgpu.CompilerParams(num_warps=WARPS),
        interpret=interpret,
        name="merge_with_skipped",
    )(out, logsumexp, values, others)


def _kernel(
    out_ref: Any,
    sums_ref: Any,
    values_ref: Any,
    others_ref: Any,
    merged_ref: Any,
    *,
    group: int,
    shape: tuple[int, int, int],
) -> None:
    tokens, groups, width = shape
    numbers = jnp.arange(GROUPS)
    first = pl.program_id(1) * GROUPS
    real = first + numbers < groups
    wide = jnp.arange(values_ref.shape[-1])
    columns = jnp.broadcast_to(wide[None, :], values_ref.shape)
    mask = real[:, None] & (columns < width)
    values = plgpu.load(values_ref, mask=mask, other=0.0).astype(jnp.float32)
    others = plgpu.load(others_ref, mask=real, other=-jnp.inf)

    def step(number: Any, _: None) -> None:
        place = numbers * group + number
        inside = first * group + place < tokens
        mask = inside[:, None] & (columns < width)
        span = jnp.broadcast_to(place[:, None], columns.shape), columns
        sums = plgpu.load(sums_ref.at[place], mask=inside, other=0.0)
        share = (1 / (1 + jnp.exp(sums - others)))[:, None]
        own = plgpu.load(out_ref.at[span], mask=mask, other=0.0).astype(jnp.float32)
        merged = own + share * (values - own)
        plgpu.store(merged_ref.at[span], merged.astype(merged_ref.dtype), mask=mask)

    jax.lax.fori_loop(0, group, step, None)
