"""Multi-head self-attention with the attention function passed in."""

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from jaxrecon.choices import meant
from jaxrecon.deprecation import warn_renamed
from jaxrecon.errors import InputError
from jaxrecon.nn.execution import ALONE, Chunks, Collectives
from jaxrecon.nn.layers import AnyLinear, bias_of, layer_norm, linear, norm_parameters, product
from jaxrecon.nn.rope import RotaryTable, apply_rotary
from jaxrecon.pytree import pytree_dataclass
from pallas_kernels.dense_attention import IMPLEMENTATIONS, dense_attention, is_long
from pallas_kernels.float8 import E4M3, saturated
from pallas_kernels.qk_norm_rope import qk_norm_rope

QK_NORM_EPS = 1e-5

LN_2 = math.log(2)

MANY = 2**15
"""Tokens from which on queries, keys and values are products of their own where nothing is done to
them but to add a bias, which the product then does. (XLA would join the products of fewer tokens.)
"""

type Count = int | Int[Array | np.ndarray, ""]


@dataclass(frozen=True)
class TokenLayout:
    """What the tokens of one attention sequence are.

    A sequence holds `views` times [`leading` specials | patches of the `grid` row by row |
    `trailing` specials], then `scene` tokens that belong to no view. Frame attention has one view
    a sequence, global attention all views of a scene. `layer` counts the trunk's `layers` pairs
    of blocks; it may be a traced number.

    Attributes:
      shards: the sequence is in so many parts, each the tokens of as many views and a copy of the
        scene's; where devices share a scene, each has one of them. An `AttentionFn` always gets
        the whole of a sequence's keys, in one part.
      num_valid_views: so many first views count and the others are padding, whose tokens are not
        seen; None for all. It matters where one sequence holds several views.
      heads, first_head: of how many heads the inputs are a part, and from which one on; None for
        inputs that hold all heads.
      replicas, replica_rank: so many neighbouring devices of the mesh have the same inputs, and
        which of them this is. They may part the work (`collectives.gather_replicas` brings together
        what each found), or each do it all.
      collectives: what the devices that share the scene exchange.
      scale: factor on the scores; None for `K ** -0.5`, which it is for an `AttentionFn` that does
        not say that it heeds this (`takes_scale`).
      float8: scores may be products of e4m3.
    """

    views: int
    grid: tuple[int, int]
    leading: int = 0
    trailing: int = 0
    scene: int = 0
    shards: int = 1
    layers: int = 1
    layer: Array | int = field(default=0, compare=False)
    num_valid_views: Count | None = field(default=None, compare=False)
    heads: int | None = field(default=None, compare=False)
    first_head: Count = field(default=0, compare=False)
    replicas: int = field(default=1, compare=False)
    replica_rank: Count = field(default=0, compare=False)
    collectives: Collectives = field(default=ALONE, compare=False)
    scale: float | None = None
    float8: bool = False

    @property
    def real_views(self) -> Count | None:
        """The old name of `num_valid_views`."""
        warn_renamed("TokenLayout.real_views", "num_valid_views", stacklevel=3)
        return self.num_valid_views

    @property
    def team(self) -> int:
        """The old name of `replicas`."""
        warn_renamed("TokenLayout.team", "replicas", stacklevel=3)
        return self.replicas

    @property
    def member(self) -> Count:
        """The old name of `replica_rank`."""
        warn_renamed("TokenLayout.member", "replica_rank", stacklevel=3)
        return self.replica_rank

    @property
    def tokens_per_view(self) -> int:
        return self.leading + self.grid[0] * self.grid[1] + self.trailing

    @property
    def tokens(self) -> int:
        return self.views * self.tokens_per_view + self.shards * self.scene

    def joined(self, views: int, shards: int = 1) -> "TokenLayout":
        """The layout of `views` such views in one sequence, in so many parts."""
        return replace(self, views=views, shards=shards)


@pytree_dataclass
class AttentionStats:
    """What an attention function found out about its inputs; a trunk stacks those of its layers.

    Attributes:
      skipped: share of the key blocks that each head skipped.
    """

    skipped: Float[Array, "*layers G N"]


type AttentionFn = Callable[[Array, Array, Array, TokenLayout], tuple[Array, AttentionStats | None]]
"""`(q, k, v, layout) -> (out, stats)`, arrays `(G, T, N, K)`: how models attend.

`stats` is None where there is nothing to tell, as of dense attention. One with an attribute
`takes_scale` that is true takes scores times `layout.scale`.
"""


def attend(
    attention: AttentionFn, q: Array, k: Array, v: Array, layout: TokenLayout
) -> tuple[Array, AttentionStats | None]:
    """Calls an attention function; one written for version 0.1 returns the output alone.

    Raises:
      InputError: it returns something else than an `AttentionFn` does.
    """
    found: Any = attention(q, k, v, layout)
    if isinstance(found, jax.Array | np.ndarray):
        warnings.warn(
            "an AttentionFn returns (out, AttentionStats or None); one that returns the output "
            "alone will not be accepted by the next release",
            DeprecationWarning,
            stacklevel=2,
        )
        found = found, None
    wrong = _wrong_with(found, q)
    if wrong:
        name = getattr(attention, "__qualname__", type(attention).__name__)
        raise InputError(
            f"attention: {name} returned {wrong}; an AttentionFn returns (out, AttentionStats or "
            f"None), and out is like its queries, {_kind(q)} here"
        )
    return found


def _wrong_with(found: Any, q: Array) -> str | None:
    """What an attention function returned in place of what it should, in words."""
    if not isinstance(found, tuple):
        return f"a {type(found).__name__}"
    if len(found) != 2:
        return f"{len(found)} values"
    out, stats = found
    if not isinstance(out, jax.Array | np.ndarray):
        return f"a {type(out).__name__} for out"
    if out.shape != q.shape or not jnp.issubdtype(out.dtype, jnp.floating):
        return f"{_kind(out)} for out"
    if stats is None:
        return None
    if not isinstance(stats, AttentionStats):
        return f"a {type(stats).__name__} for its statistics"
    skipped: Any = stats.skipped
    if np.ndim(skipped) != 2 or len(skipped) != len(q):
        return f"{_kind(skipped)} for skipped (a share for each sequence and head)"
    return None


def _kind(array: Any) -> str:
    """Dtype and shape, as `float32[2, 10, 6, 64]`."""
    return f"{jnp.result_type(array)}{list(np.shape(array))}"


def attention_chunks(attention: AttentionFn, layout: TokenLayout, heads: int) -> Chunks:
    """What an attention function works on at a time, if it has a method `chunks` that tells."""
    told = getattr(attention, "chunks", None)
    return {} if told is None else told(layout, heads)


def attend_densely(
    q: Float[Array, "G T N K"],
    k: Float[Array, "G S N K"],
    v: Float[Array, "G S N K"],
    layout: TokenLayout,
) -> tuple[Float[Array, "G T N K"], None]:
    """Every token sees every token of its sequence: the default `AttentionFn`."""
    return _attend(q, k, v, layout, None)


def named_attention(name: str | None) -> AttentionFn:
    """Dense attention by a backend's name; "dense" or None for the best one there is.

    Raises:
      InputError: the name is unknown.
    """
    if name in (None, "dense"):
        return attend_densely
    if name not in IMPLEMENTATIONS:
        known = ", ".join(("dense", *IMPLEMENTATIONS))
        raise InputError(
            f"attention={name!r} is unknown; choose one of {known}, or a function"
            f"{meant(name, ('dense', *IMPLEMENTATIONS))}"
        )
    return _NAMED[name]


def _attend(
    q: Array, k: Array, v: Array, layout: TokenLayout, name: str | None
) -> tuple[Array, None]:
    if layout.float8 and is_long(q, k):
        q, k = saturated(q, E4M3), saturated(k, E4M3)
    if layout.num_valid_views is None or layout.views == 1:
        return dense_attention(q, k, v, scale=layout.scale, implementation=name), None
    # The tokens of padding views come last.
    k, v = (jnp.roll(x, layout.scene, axis=1) if layout.scene else x for x in (k, v))
    num_valid = layout.num_valid_views * layout.tokens_per_view + layout.scene
    options = {"scale": layout.scale, "num_valid_keys": jnp.asarray(num_valid, jnp.int32)}
    return dense_attention(q, k, v, **options, implementation=name), None


_NAMED: dict[str, AttentionFn] = {name: partial(_attend, name=name) for name in IMPLEMENTATIONS}


def attends_densely(attention: AttentionFn) -> bool:
    """Whether every query sees every key, so that queries may be dealt out as one likes."""
    return attention is attend_densely or attention in _NAMED.values()


def takes_scale(attention: AttentionFn) -> bool:
    """Whether an attention function heeds the layout's `scale`."""
    return attends_densely(attention) or bool(getattr(attention, "takes_scale", False))


class Attention(nnx.Module):
    """Attention: one matrix for q, k and v, then heads, then an output matrix.

    Keys and values come from the tokens themselves, or from a `context` if one is given.

    With `qk_norm`, q and k pass a LayerNorm over the head width, before the rotary embedding.
    q and k are normed and turned in float32 and then cast to the dtype of `v`.
    """

    def __init__(
        self, width: int, heads: int, *, qk_norm: bool, dtype: DTypeLike, rngs: nnx.Rngs
    ) -> None:
        self.heads = heads
        self.qkv: AnyLinear = linear(width, 3 * width, dtype=dtype, rngs=rngs)
        self.out: AnyLinear = linear(width, width, dtype=dtype, rngs=rngs)
        if qk_norm:
            head = width // heads
            self.q_norm = layer_norm(head, eps=QK_NORM_EPS, dtype=jnp.float32, rngs=rngs)
            self.k_norm = layer_norm(head, eps=QK_NORM_EPS, dtype=jnp.float32, rngs=rngs)
        else:
            self.q_norm = self.k_norm = None

    def __call__(
        self,
        x: Float[Array, "G T D"],
        layout: TokenLayout,
        attention: AttentionFn,
        rope: RotaryTable | None = None,
        context: Float[Array, "G S D"] | None = None,
    ) -> Float[Array, "G T D"]:
        q, k, v = self.inputs(x, rope, context)
        out, _ = attend(attention, q, k, v, layout)
        return self.out(out.reshape(x.shape))

    def inputs(
        self,
        x: Float[Array, "..."],
        rope: RotaryTable | None = None,
        context: Float[Array, "G S D"] | None = None,
        *,
        sequences: tuple[int, int] | None = None,
        backend: str | None = None,
        scale: float | None = None,
        joint: bool = False,
    ) -> tuple[Float[Array, "G _ N K"], ...]:
        """Queries, keys and values, ready to attend.

        Args:
          x: tokens (G, T, D); or one matrix (R, D), filled up, if `sequences` tells G
            and T.
          backend: of `qk_norm_rope`, by name; the best one if not given.
          scale: what scores are to be multiplied by, as a layout has it; another one than
            `K ** -0.5` only without a context.
          joint: all three come of one product, however many tokens there are.
        """
        if context is None:
            return self._own_inputs(x, rope, sequences, backend, scale, joint)
        (q,), (k, v) = self._projected(x, 0, 1), self._projected(context, 1, 3)
        return (*self._turned(q, k, v.dtype, rope), v)

    def _own_inputs(
        self,
        x: Float[Array, "..."],
        rope: RotaryTable | None,
        sequences: tuple[int, int] | None,
        backend: str | None,
        scale: float | None,
        joint: bool,
    ) -> tuple[Float[Array, "G T N K"], ...]:
        norms = None
        if self.q_norm is not None and self.k_norm is not None:
            norms = norm_parameters(self.q_norm), norm_parameters(self.k_norm)
        head = x.shape[-1] // self.heads
        factor = 1.0 if scale is None else head**-0.5 / scale

        def turned(parts: int) -> tuple[Float[Array, "G T N K"], ...]:
            made, bias = self._product(x, 0, parts)
            shape = parts, self.heads, head
            return qk_norm_rope(
                made.reshape(*x.shape[:-1], *shape),
                bias=bias.reshape(shape),
                norms=norms,
                rotary=None if rope is None else (rope.cos, rope.sin),
                eps=QK_NORM_EPS,
                query_factor=factor,
                sequences=sequences,
                implementation=backend,
            )

        if joint or math.prod(x.shape[:-1]) < MANY:
            return turned(3)
        (v,) = self._projected(x, 2, 3)
        if norms is not None or rope is not None:
            return *turned(2), v
        (q,), (k,) = self._projected(x, 0, 1), self._projected(x, 1, 2)
        return q if factor == 1 else (factor * q.astype(jnp.float32)).astype(q.dtype), k, v

    def with_scores(self, layout: TokenLayout, float8: bool) -> TokenLayout:
        """The layout of a sequence, with what its queries and keys are made for.

        Scores of several views times ln 2 are exponents of two as they are, so that the fastest
        kernel multiplies none: queries are scaled for that in the pass that makes them. Norms keep
        queries and keys within the numbers of e4m3.

        Args:
          float8: as the layout's; for those that are normed alone.
        """
        rounded = bias_of(self.qkv).dtype == jnp.bfloat16
        scale = LN_2 if rounded and layout.views > 1 else None
        told = {} if self.q_norm is None else {"float8": float8}
        return replace(layout, scale=scale, **told)

    def _turned(
        self, q: Array, k: Array, dtype: DTypeLike, rope: RotaryTable | None
    ) -> tuple[Array, Array]:
        """Queries and keys, normed and turned in float32, then cast."""
        if self.q_norm is not None and self.k_norm is not None:
            q, k = self.q_norm(q), self.k_norm(k)
        if rope is not None:
            q, k = (apply_rotary(u.astype(jnp.float32), rope) for u in (q, k))
        return q.astype(dtype), k.astype(dtype)

    def _projected(
        self, x: Float[Array, "G T D"], first: int, last: int
    ) -> tuple[Float[Array, "G T N K"], ...]:
        """Those of (queries, keys, values) from the `first` up to the `last`, split into heads."""
        groups, tokens, width = x.shape
        made, bias = self._product(x, first, last)
        parts = made + bias[None, None]
        split = parts.reshape(groups, tokens, last - first, self.heads, width // self.heads)
        return tuple(split[:, :, part] for part in range(last - first))

    def _product(
        self, x: Float[Array, "*rows D"], first: int, last: int
    ) -> tuple[Float[Array, "*rows E"], Float[Array, " E"]]:
        """The same side by side, without their bias, and that."""
        width = x.shape[-1]
        columns = slice(None) if last - first == 3 else slice(first * width, last * width)
        return product(self.qkv, x, columns), bias_of(self.qkv)[columns]
