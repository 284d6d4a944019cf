"""Small layers, and how layers are stacked so that a scan runs them."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from jaxrecon.nn.execution import INFERENCE, ExecutionConfig
from jaxrecon.nn.float8 import Float8Linear
from pallas_kernels.bias_gelu import bias_gelu
from pallas_kernels.float8 import E4M3, saturated
from pallas_kernels.norm import Norm

HIGHEST = jax.lax.Precision.HIGHEST

WHOLE = 8
"""Zeros fill up what a matrix takes to a multiple of this: cuBLAS's fast kernels ask for it.

(A patch of 14 x 14 pixels has 588 numbers.)
"""

UNROLLED = 8
"""Most layers that follow one another in a turn of the loop, where a network learns."""


def layer_norm(width: int, *, eps: float, dtype: DTypeLike, rngs: nnx.Rngs) -> nnx.LayerNorm:
    """A LayerNorm over the last axis: float32 parameters and statistics, output in `dtype`."""
    return nnx.LayerNorm(width, epsilon=eps, dtype=dtype, use_fast_variance=False, rngs=rngs)


def apply_norm(norm: nnx.LayerNorm, x: Float[Array, "*dims D"]) -> Float[Array, "*dims D"]:
    """What a LayerNorm of any dtype makes of `x`; flax promotes by itself below float32."""
    with jax.numpy_dtype_promotion("standard"):
        return norm(x)


def gelu(x: Float[Array, "*dims"]) -> Float[Array, "*dims"]:
    """The exact GELU, `x * (1 + erf(x / sqrt 2)) / 2`, in float32 (arXiv 1606.08415)."""
    x = x.astype(jnp.float32)
    return 0.5 * x * (1 + jax.lax.erf(x * np.sqrt(0.5, dtype=np.float32)))


def linear(width_in: int, width_out: int, *, dtype: DTypeLike, rngs: nnx.Rngs) -> nnx.Linear:
    """A linear layer whose parameters, input and output are all of `dtype`.

    In float32 the product is a full float32 product on every device (no TF32).
    """
    precision = HIGHEST if jnp.dtype(dtype) == jnp.float32 else None
    return nnx.Linear(
        width_in, width_out, dtype=dtype, param_dtype=dtype, precision=precision, rngs=rngs
    )


class LayerScale(nnx.Module):
    """A learnt factor `gamma` for each channel of an update (CaiT, arXiv 2103.17239), float32."""

    def __init__(self, width: int, initial: float) -> None:
        self.gamma = nnx.Param(jnp.full((width,), initial, jnp.float32))


type AnyLinear = nnx.Linear | Float8Linear


def product(
    layer: AnyLinear, x: Float[Array, "*dims D"], columns: slice = slice(None)
) -> Float[Array, "..."]:
    """What a linear layer makes of `x`, but for its bias; some of its columns, if told which.

    It has the axes of `x`, or is one matrix, filled up, if the layer is one of float8.
    """
    if isinstance(layer, Float8Linear):
        assert columns == slice(None), columns
        return layer.product(x)
    kernel = layer.kernel[...][:, columns]
    x = x.astype(kernel.dtype)
    if spare := -x.shape[-1] % WHOLE:
        x = jnp.pad(x, ((0, 0),) * (x.ndim - 1) + ((0, spare),))
        kernel = jnp.pad(kernel, ((0, spare), (0, 0)))
    return jnp.matmul(x, kernel, precision=layer.precision)


def bias_of(layer: AnyLinear) -> Float[Array, " E"]:
    """The bias of a linear layer that has one."""
    assert layer.bias is not None
    return layer.bias[...]


def norm_parameters(norm: nnx.LayerNorm) -> Norm:
    """Scale and bias of a LayerNorm, for kernels."""
    assert norm.scale is not None and norm.bias is not None
    return Norm(norm.scale[...], norm.bias[...])


class Mlp(nnx.Module):
    """`fc2(gelu(fc1(x)))` with the exact (erf) GELU, which is computed in float32.

    (With `cublas_gelu`, by the tanh form; see `ExecutionConfig`.)
    """

    def __init__(
        self,
        width: int,
        hidden: int,
        width_out: int | None = None,
        *,
        dtype: DTypeLike,
        rngs: nnx.Rngs,
    ) -> None:
        self.fc1: AnyLinear = linear(width, hidden, dtype=dtype, rngs=rngs)
        self.fc2: AnyLinear = linear(hidden, width_out or width, dtype=dtype, rngs=rngs)

    def __call__(
        self, x: Float[Array, "*dims D"], *, execution: ExecutionConfig = INFERENCE
    ) -> Float[Array, "*dims E"]:
        return self.fc2(self.hidden(x, execution=execution))

    def fills_up(self, execution: ExecutionConfig) -> bool:
        """Whether it is to be given one matrix with rows filled up, as then it is faster."""
        return _has_cublas_gelu(self.fc1, execution)

    def hidden(
        self, x: Float[Array, "*dims D"], *, execution: ExecutionConfig = INFERENCE
    ) -> Float[Array, "*dims H"]:
        """What `fc2` takes."""
        scale, dtype = None, None
        if isinstance(self.fc2, Float8Linear):
            scale, dtype = self.fc2.entering[...], E4M3
        if _has_cublas_gelu(self.fc1, execution):
            return _gelu_of_product(self.fc1, x, scale, dtype)
        projected, bias, backend = product(self.fc1, x), bias_of(self.fc1), execution.backend
        return bias_gelu(projected, bias, scale=scale, dtype=dtype, implementation=backend)


def _has_cublas_gelu(layer: AnyLinear, execution: ExecutionConfig) -> bool:
    narrow = bias_of(layer).dtype.itemsize == 2
    return narrow and execution.cublas_gelu and execution.kernels and not execution.training


def _gelu_of_product(
    layer: AnyLinear,
    x: Float[Array, "*dims D"],
    scale: Float[Array, ""] | None,
    dtype: DTypeLike | None,
) -> Float[Array, "..."]:
    """As `bias_gelu` of a layer's product and bias, where cuBLAS computes it with the product.

    XLA knows it by this form alone: the tanh formula in the 16 bits of the product, right behind
    the sum with the bias, of one matrix; then the factor and the bounds of float8. What runs is in
    float32 up to the outcome.
    """
    rows = x.reshape(-1, x.shape[-1])
    made = jax.nn.gelu(product(layer, rows) + bias_of(layer)[None], approximate=True)
    if scale is not None:
        made = scale.astype(made.dtype) * made
    made = saturated(made, made.dtype if dtype is None else dtype)
    return made if len(made) != len(rows) else made.reshape(*x.shape[:-1], -1)


class SwiGlu(nnx.Module):
    """`fc2(silu(a) * b)` with `[a | b] = fc1(x)`, the product in float32 (arXiv 2002.05202)."""

    def __init__(self, width: int, hidden: int, *, dtype: DTypeLike, rngs: nnx.Rngs) -> None:
        self.fc1: AnyLinear = linear(width, 2 * hidden, dtype=dtype, rngs=rngs)
        self.fc2: AnyLinear = linear(hidden, width, dtype=dtype, rngs=rngs)

    def __call__(self, x: Float[Array, "*dims D"]) -> Float[Array, "*dims D"]:
        return self.fc2(self.hidden(x))

    def fills_up(self, execution: ExecutionConfig) -> bool:
        """Whether it is to be given one matrix with rows filled up: it is none the faster."""
        return False

    def hidden(
        self, x: Float[Array, "*dims D"], *, execution: ExecutionConfig = INFERENCE
    ) -> Float[Array, "*dims H"]:
        """What `fc2` takes; the compiler fuses it, however the program does its work."""
        gate, value = jnp.split(self.fc1(x).astype(jnp.float32), 2, axis=-1)
        return jax.nn.silu(gate) * value


def stack[M: nnx.Module](make: Callable[[nnx.Rngs], M], count: int, rngs: nnx.Rngs) -> M:
    """Makes `count` alike layers as one module whose parameters have a leading axis of `count`.

    `jax.lax.scan` over the result hands the body one layer after another.
    """
    keys = jax.random.split(rngs.params(), count)
    return jax.vmap(lambda key: make(nnx.Rngs(params=key)))(keys)


def scan_layers[C, Y](
    step: Callable[[C, Any], tuple[C, Y]],
    carry: C,
    layers: Any,
    *,
    execution: ExecutionConfig = INFERENCE,
) -> tuple[C, Y]:
    """Runs `carry, out = step(carry, layer)` over stacked layers; the step is traced once.

    Returns the last carry and the outputs of all layers, stacked.

    Where a gradient is taken, matrix products, attention and kernels are kept for the backward
    pass and what lies between them is computed again: it costs less than to store and read it.
    Elsewhere a layer's vectors, a dozen a block, come from one array: a loop fetches what each turn
    needs by a copy for each array, and with few views these copies take longer than their bytes.
    """

    def whole(carry: C, layer: Any) -> tuple[C, Y]:
        return step(carry, execution.collectives.all_gather_weights(layer))

    kept = jax.checkpoint(whole, policy=_costly, prevent_cse=False)
    count = jax.tree.leaves(layers)[0].shape[0]
    if execution.training:
        return jax.lax.scan(kept, carry, layers, unroll=min(count, UNROLLED))
    packed, unpacked = _vectors_packed(layers)
    return jax.lax.scan(lambda carry, layer: kept(carry, unpacked(layer)), carry, packed)


def _vectors_packed(layers: Any) -> tuple[list[Any], Callable[[list[Any]], Any]]:
    """The arrays of stacked layers, vectors of a dtype side by side, and what parts one layer's."""
    leaves, structure = jax.tree.flatten(layers)
    groups: dict[Any, list[int]] = {}
    for number, leaf in enumerate(leaves):
        is_vector = leaf.ndim <= 2 and jnp.issubdtype(leaf.dtype, jnp.floating)
        groups.setdefault(leaf.dtype if is_vector else number, []).append(number)

    def packed(members: list[int]) -> Any:
        if len(members) == 1:
            return leaves[members[0]]
        rows = [leaves[number].reshape(len(leaves[number]), -1) for number in members]
        return jnp.concatenate(rows, axis=1)

    def unpacked(layer: list[Any]) -> Any:
        found = {}
        for members, array in zip(groups.values(), layer, strict=True):
            if len(members) == 1:
                found[members[0]] = array
                continue
            shapes = [leaves[number].shape[1:] for number in members]
            ends = np.cumsum([math.prod(shape) for shape in shapes])[:-1]
            parts = zip(members, shapes, jnp.split(array, ends), strict=True)
            found |= {number: part.reshape(shape) for number, shape, part in parts}
        return jax.tree.unflatten(structure, [found[number] for number in range(len(leaves))])

    return [packed(members) for members in groups.values()], unpacked


def _costly(primitive: Any, *_: Any, **__: Any) -> bool:
    return primitive.name in ("dot_general", "dot_product_attention_fwd_wrapper", "pallas_call")
