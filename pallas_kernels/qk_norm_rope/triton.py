"""Kernels for NVIDIA GPUs: each number is read once and written once.

A program has some tokens, and goes over their heads one after another: all turn by the same angles.
Of a head it has the four quarters, which turn in two pairs.
"""

from dataclasses import dataclass
from functools import partial
from math import prod
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jaxtyping import Array

from pallas_kernels.errors import UnfitError
from pallas_kernels.norm import Norm
from pallas_kernels.pallas_triton import check_triton, plgpu
from pallas_kernels.qk_norm_rope.reference import Inputs, Outputs

FORWARDS = {"span": 16, "warps": 2}
BACKWARDS = {"span": 8, "warps": 1}
"""Tokens of a program, and warps."""

ENOUGH = 2**13
"""Warps that hide the latency of memory: about as many as an H100 has room for."""

NARROWEST = 64
"""Width of a head of which a quarter's rows are whole sectors of memory."""

type Quarters = list[Array]
"""Numbers (tokens, K / 4) of a head's quarters: the pair that turns by rows, that by columns."""

type Sums = list[Quarters]
"""What adds up to the gradients of a norm's scale and of its bias; empty where there is no norm."""


def qk_norm_rope_triton(
    inputs: Inputs,
    *,
    eps: float,
    factor: float = 1.0,
    sequences: tuple[int, int] | None = None,
    interpret: bool = False,
) -> Outputs:
    """Queries, keys and values, ready to attend.

    Raises:
      NotImplementedError: not on a GPU, or a JAX without Triton.
      UnfitError: the head width is no power of two, or below 64.
    """
    *rows, parts, heads, width = inputs.qkv.shape
    groups, tokens = sequences or rows
    sizes = _Sizes.of(inputs, interpret, groups * tokens, **FORWARDS)
    outputs = pl.pallas_call(
        partial(_forwards, sizes=sizes, eps=eps, factor=factor),
        grid=(sizes.programs, sizes.shares),
        in_specs=[sizes.rows(parts), *sizes.parameter_specs],
        out_specs=[sizes.rows(1)] * parts,
        out_shape=[jax.ShapeDtypeStruct(sizes.shape(1), inputs.qkv.dtype)] * parts,
        compiler_params=plgpu.CompilerParams(num_warps=sizes.warps),
        interpret=interpret,
        name="qk_norm_rope",
    )(inputs.qkv.reshape(-1, sizes.shape(parts)[1]), *_parameters(inputs))
    return tuple(x.reshape(groups, tokens, heads, width) for x in outputs)


def gradients_triton(
    inputs: Inputs, gradients: Outputs, *, eps: float, interpret: bool = False
) -> Inputs:
    """Gradients of the inputs, given those of the outputs; zero for the angles.

    Raises:
      NotImplementedError: not on a GPU, or a JAX without Triton.
      UnfitError: the head width is no power of two, or below 64.
    """
    sizes = _Sizes.of(inputs, interpret, prod(inputs.qkv.shape[:2]), **BACKWARDS)
    parts = sizes.parts
    shapes = [jax.ShapeDtypeStruct((sizes.programs, x), jnp.float32) for x in sizes.sums]
    of_qkv, *found = pl.pallas_call(
        partial(_backwards, sizes=sizes, eps=eps),
        grid=(sizes.programs,),
        in_specs=[sizes.rows(parts), *[sizes.rows(1)] * parts, *sizes.parameter_specs],
        out_specs=[sizes.rows(parts), *sizes.sums_specs],
        out_shape=[jax.ShapeDtypeStruct(sizes.shape(parts), inputs.qkv.dtype), *shapes],
        compiler_params=plgpu.CompilerParams(num_warps=sizes.warps),
        interpret=interpret,
        name="qk_norm_rope_gradient",
    )(
        inputs.qkv.reshape(sizes.shape(parts)),
        *[x.reshape(sizes.shape(1)) for x in gradients],
        *_parameters(inputs),
    )
    totals = [x.sum(axis=0) for x in found]
    of_bias, norms = None, (None, None)
    if inputs.bias is not None:
        of_bias = totals.pop(0).reshape(inputs.bias.shape).astype(inputs.bias.dtype)
    if sizes.normed:
        q_scale, q_bias, k_scale, k_bias = totals[0].reshape(4, sizes.width)
        norms = Norm(q_scale, q_bias), Norm(k_scale, k_bias)
    angles = jax.tree.map(jnp.zeros_like, inputs.rotary)
    return Inputs(of_qkv.reshape(inputs.qkv.shape), of_bias, *norms, angles)


@dataclass(frozen=True)
class _Sizes:
    """What a call is cut into: programs of `span` tokens.

    `period` is the number of a view's tokens, None for no turning.
    """

    span: int
    warps: int
    tokens: int
    parts: int
    heads: int
    width: int
    biased: bool
    normed: bool
    period: int | None

    @classmethod
    def of(cls, inputs: Inputs, interpret: bool, tokens: int, *, span: int, warps: int) -> "_Sizes":
        if not interpret:
            check_triton()
        parts, heads, width = inputs.qkv.shape[-3:]
        if width < NARROWEST or width & (width - 1):
            raise UnfitError(f"triton: head width {width} is no power of two from {NARROWEST}")
        return cls(
            span=span,
            warps=warps,
            tokens=tokens,
            parts=parts,
            heads=heads,
            width=width,
            biased=inputs.bias is not None,
            normed=inputs.q_norm is not None,
            period=None if inputs.rotary is None else inputs.rotary.cos.shape[0],
        )

    @property
    def programs(self) -> int:
        return pl.cdiv(self.tokens, self.span)

    @property
    def pieces(self) -> int:
        """In how many a head is read: whole if nothing is done to its quarters."""
        return 4 if self.normed or self.period is not None else 1

    @property
    def quarter(self) -> int:
        return self.width // 4

    @property
    def shares(self) -> int:
        """Programs that share the heads of some tokens, where there are few tokens."""
        shares = 1
        while self.programs * self.warps * shares < ENOUGH and self.heads % (2 * shares) == 0:
            shares *= 2
        return shares

    def shape(self, parts: int) -> tuple[int, int]:
        return self.tokens, parts * self.heads * self.width

    def rows(self, parts: int) -> pl.BlockSpec:
        return pl.BlockSpec((self.span, self.shape(parts)[1]), lambda program, *_: (program, 0))

    @property
    def parameter_specs(self) -> list[pl.BlockSpec]:
        """Those of `_parameters`."""
        shapes: list[tuple[int, ...]] = [(self.shape(self.parts)[1],)] * self.biased
        shapes += [(4, self.width)] * self.normed
        shapes += [] if self.period is None else [(self.period, self.width // 2)] * 2
        return [pl.BlockSpec(x, partial(_first_block, len(x))) for x in shapes]

    @property
    def sums(self) -> list[int]:
        """How many numbers a program sums for the gradients of the bias and of the norms."""
        return [self.shape(self.parts)[1]] * self.biased + [4 * self.width] * self.normed

    @property
    def sums_specs(self) -> list[pl.BlockSpec]:
        return [pl.BlockSpec((None, x), lambda program: (program, 0)) for x in self.sums]


def _first_block(axes: int, *program: Any) -> tuple[int, ...]:
    return (0,) * axes


def _parameters(inputs: Inputs) -> list[Array]:
    """The bias; scale and bias of both norms; cosines and sines. Those that there are."""
    found = [] if inputs.bias is None else [inputs.bias.reshape(-1)]
    if inputs.q_norm is not None and inputs.k_norm is not None:
        found.append(jnp.stack([*inputs.q_norm, *inputs.k_norm]))
    if inputs.rotary is not None:
        found += [x.reshape(x.shape[0], -1) for x in inputs.rotary]
    return found


class _Program:
    """Reads and writes what a program works on."""

    def __init__(self, sizes: _Sizes, parameters: Any, eps: float) -> None:
        self.sizes, self.eps, parameters = sizes, eps, list(parameters)
        self.bias = parameters.pop(0) if sizes.biased else None
        self.norms = parameters.pop(0) if sizes.normed else None
        row = pl.program_id(0) * sizes.span + jnp.arange(sizes.span)
        self.mask = (row < sizes.tokens)[:, None]
        if sizes.period is not None:
            # Sequences are whole views, so a token's angles are those of its place in its view.
            place = jax.lax.rem(row, jnp.full_like(row, sizes.period))[:, None]
            column = jnp.arange(sizes.quarter)[None, :]
            halves = column, column + sizes.quarter
            self.cos, self.sin = ([ref[place, half] for half in halves] for ref in parameters)

    def load(self, ref: Any, head: Array) -> Quarters:
        return [
            plgpu.load(ref.at[:, place], mask=self.mask, other=0.0).astype(jnp.float32)
            for place in self.places(head)
        ]

    def projected(self, ref: Any, head: Array) -> Quarters:
        """Of a head, counted through queries, keys and values; with its bias."""
        x, bias = self.load(ref, head), self.bias
        if bias is None:
            return x
        places = self.places(head)
        return [
            u + bias[place].astype(jnp.float32)[None, :] for u, place in zip(x, places, strict=True)
        ]

    def store(self, ref: Any, head: Array, quarters: Quarters) -> None:
        for place, quarter in zip(self.places(head), quarters, strict=True):
            plgpu.store(ref.at[:, place], quarter.astype(ref.dtype), mask=self.mask)

    def places(self, head: Array) -> list[Any]:
        sizes = self.sizes
        length = sizes.width // sizes.pieces
        starts = (head * sizes.width + at * length for at in range(sizes.pieces))
        return [pl.ds(start, length) for start in starts]

    def norm(self, which: int) -> Quarters:
        """A parameter of `_parameters`' four, each quarter (1, K / 4)."""
        size, ref = self.sizes.quarter, self.norms
        assert ref is not None
        return [ref[which, pl.ds(at * size, size)][None, :] for at in range(4)]

    def mean(self, quarters: Quarters) -> Array:
        sums = [x.sum(axis=1, keepdims=True) for x in quarters]
        return (sums[0] + sums[1] + sums[2] + sums[3]) / self.sizes.width

    def standardised(self, x: Quarters) -> tuple[Quarters, Array]:
        """Of mean zero and deviation one, and the factor that made the deviation so."""
        mean = self.mean(x)
        centred = [u - mean for u in x]
        factor = jax.lax.rsqrt(self.mean([u * u for u in centred]) + self.eps)
        return [u * factor for u in centred], factor

    def turned(self, x: Quarters, *, back: bool = False) -> Quarters:
        if self.sizes.period is None:
            return x
        turned = []
        for half, (cos, sin) in enumerate(zip(self.cos, self.sin, strict=True)):
            # The first two quarters turn by the token's row, the others by its column. The way back
            # is the transpose of a rotation: the same with the other sign of the angle.
            a, b = x[2 * half : 2 * half + 2]
            sin = -sin if back else sin
            turned += [a * cos - b * sin, b * cos + a * sin]
        return turned


def _forwards(qkv_ref: Any, *refs: Any, sizes: _Sizes, eps: float, factor: float) -> None:
    parameters, outputs = refs[: -sizes.parts], refs[-sizes.parts :]
    program = _Program(sizes, parameters, eps)

    def each_head(head: Array, nothing: None) -> None:
        for part, ref in enumerate(outputs[:2]):
            x = program.projected(qkv_ref, part * sizes.heads + head)
            if sizes.normed:
                standard, _ = program.standardised(x)
                scale, bias = program.norm(2 * part), program.norm(2 * part + 1)
                x = [u * s + b for u, s, b in zip(standard, scale, bias, strict=True)]
            x = program.turned(x)
            if part == 0 and factor != 1:
                x = [factor * u for u in x]
            program.store(ref, head, x)
        for v_ref in outputs[2:]:
            program.store(v_ref, head, program.projected(qkv_ref, 2 * sizes.heads + head))

    own = sizes.heads // sizes.shares
    first = own * pl.program_id(1)
    jax.lax.fori_loop(first, first + own, each_head, None)


def _backwards(qkv_ref: Any, *refs: Any, sizes: _Sizes, eps: float) -> None:
    (q_ref, k_ref, *v_refs), refs = refs[: sizes.parts], refs[sizes.parts :]
    count = len(sizes.parameter_specs)
    parameters, (of_qkv_ref, *sums_refs) = refs[:count], refs[count:]
    program = _Program(sizes, parameters, eps)

    def write(head: Array, gradient: Quarters) -> None:
        program.store(of_qkv_ref, head, gradient)
        if sizes.biased:
            for place, quarter in zip(program.places(head), gradient, strict=True):
                sums_refs[0][place] = quarter.sum(axis=0)

    def of_part(part: int, ref: Any) -> None:
        def each_head(head: Array, sums: Sums) -> Sums:
            # Heads are counted through queries, keys and values, as the projection writes them.
            joint = part * sizes.heads + head
            gradient = program.turned(program.load(ref, head), back=True)
            if sizes.normed:
                standard, factor = program.standardised(program.projected(qkv_ref, joint))
                along = [g * u for g, u in zip(gradient, standard, strict=True)]
                sums = [
                    [old + new for old, new in zip(*pair, strict=True)]
                    for pair in zip(sums, (along, gradient), strict=True)
                ]
                scale = program.norm(2 * part)
                through = [g * s for g, s in zip(gradient, scale, strict=True)]
                mean = program.mean(through)
                share = program.mean([a * s for a, s in zip(along, scale, strict=True)])
                gradient = [
                    factor * (t - mean - share * u) for t, u in zip(through, standard, strict=True)
                ]
            write(joint, gradient)
            return sums

        # All heads share one norm, so its sums are carried from head to head; the sum over tokens
        # comes last, once, instead of for every head.
        zeros = [[jnp.zeros((sizes.span, sizes.quarter), jnp.float32)] * 4] * (2 * sizes.normed)
        sums = jax.lax.fori_loop(0, sizes.heads, each_head, zeros)
        for which, quarters in enumerate(sums):
            for at, quarter in enumerate(quarters):
                start = (2 * part + which) * sizes.width + at * sizes.quarter
                place = pl.ds(start, sizes.quarter)
                sums_refs[-1][place] = quarter.sum(axis=0)

    of_part(0, q_ref)
    of_part(1, k_ref)

    for v_ref in v_refs:

        def values(head: Array, _: None, v_ref: Any = v_ref) -> None:
            write(2 * sizes.heads + head, program.load(v_ref, head))

        jax.lax.fori_loop(0, sizes.heads, values, None)
