"""Transformer blocks whose matrix products are float8's.

What enters a product is rounded to e4m3 with one scale, for which it must be known how large it can
become. That follows from the weights:

- A LayerNorm's output of width D has a length of at most sqrt(D) before its factors `gamma` and its
  bias `beta`, so a channel of it is at most `sqrt(D) |gamma| + |beta|`; and a column `w` of the
  matrix behind it makes of it at most `sqrt(D) |w gamma| + |w beta + bias|`.
- What attention returns is a mean of values, and so no larger than they are.
- GELU makes nothing larger. What SwiGLU makes is at most the product of two such numbers.

These are bounds by far for most inputs, which costs little: e4m3 has its full precision from 2^-6
up to 448, and steps of 2^-9 below. It would cost too much for the products of SwiGLU if all
channels had the bound of the largest. So each has a scale of its own.
"""

from collections.abc import Callable, Collection, Mapping
from functools import partial, reduce

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from jaxrecon.compiling import without_x64
from jaxrecon.nn.block import Block
from jaxrecon.nn.float8 import Float8Linear
from jaxrecon.nn.layers import HIGHEST, AnyLinear, Mlp, bias_of, norm_parameters
from jaxrecon.pytree import leaf_path
from pallas_kernels.float8 import E4M3
from pallas_kernels.norm import Norm


def float8_candidates(model: nnx.Module) -> tuple[str, ...]:
    """Paths of the stacked blocks whose products may be float8's: those of narrow matrices.

    Args:
      model: in bfloat16, or its shapes. What is float32 there is so for a reason.
    """
    return tuple(
        path
        for path, block in _blocks(model)
        if block.attention.qkv.kernel.dtype == jnp.bfloat16
        and block.norm_context is None
        and not block.normed_residual
    )


@without_x64
def float8_shapes[M: nnx.Module](model: M, paths: Collection[str]) -> M:
    """The shapes of a model, with float8 products in the stacked blocks at these paths."""
    convert = partial(jax.eval_shape, _stack_in_float8)
    return _with_blocks(model, {path: convert for path in paths})


@without_x64
def float8_weights[M: nnx.Module](model: M, like: M) -> M:
    """The model with float8 products where `like` has them.

    Stacks of blocks are converted one after the other.

    Args:
      model: as it was loaded.
      like: its `float8_shapes`, with shardings if weights are to be sharded.
    """
    changes = {path: _converter(block) for path, block in _blocks(like) if block.in_float8}
    return _with_blocks(model, changes)


def _converter(like: Block) -> Callable[[Block], Block]:
    """What makes a stack of float8 blocks that lie where those of `like` are to lie."""
    if all(leaf.sharding is None for leaf in jax.tree.leaves(like)):
        return jax.jit(_stack_in_float8)
    shardings = jax.tree.map(lambda leaf: leaf.sharding, like)
    return jax.jit(_stack_in_float8, out_shardings=shardings)


def _stack_in_float8(blocks: Block) -> Block:
    """One function for all stacks: those of one shape share a program."""
    return jax.vmap(in_float8)(blocks)


def _with_blocks[M: nnx.Module](model: M, changes: Mapping[str, Callable[[Block], Block]]) -> M:
    """A copy of the model, with what is made of the blocks at these paths in their place."""
    copy = jax.tree.map(lambda leaf: leaf, model)
    for path, block in _blocks(copy):
        if path in changes:
            *parents, name = path.split(".")
            setattr(reduce(getattr, parents, copy), name, changes[path](block))
    return copy


def in_float8(block: Block) -> Block:
    """A block with float8 products in place of its own, which are taken from it."""
    block = jax.tree.map(lambda leaf: leaf, block)
    attention, mlp = block.attention, block.mlp
    qkv, out, fc1, fc2 = map(_plain, (attention.qkv, attention.out, mlp.fc1, mlp.fc2))
    norm1, norm2 = norm_parameters(block.norm1), norm_parameters(block.norm2)
    width = norm1.scale.shape[0]
    values = jnp.max(_largest_after(norm1, qkv)[2 * width :])
    hidden = _largest_after(norm2, fc1)
    attention.qkv = Float8Linear(qkv, jnp.max(_largest_of(norm1)))
    attention.out = Float8Linear(out, values)
    mlp.fc1 = Float8Linear(fc1, jnp.max(_largest_of(norm2)))
    if isinstance(mlp, Mlp):
        mlp.fc2 = Float8Linear(fc2, jnp.max(hidden))
    else:
        gate, value = jnp.split(hidden, 2)
        mlp.fc2 = Float8Linear(fc2, gate * value)
    _write_float8(block.norm1, attention.qkv)
    _write_float8(block.norm2, mlp.fc1)
    return block


def _plain(layer: AnyLinear) -> nnx.Linear:
    assert isinstance(layer, nnx.Linear), "these are float8's already"
    return layer


def _write_float8(norm: nnx.LayerNorm, layer: Float8Linear) -> None:
    """Has a norm write what the layer behind it takes."""
    scale, bias = norm_parameters(norm)
    norm.scale, norm.bias = (nnx.Param(layer.entering[...] * x) for x in (scale, bias))
    norm.dtype = E4M3


def _largest_of(norm: Norm) -> Float[Array, " D"]:
    """How large the channels behind a norm can become."""
    return jnp.sqrt(norm.scale.shape[0]) * jnp.abs(norm.scale) + jnp.abs(norm.bias)


def _largest_after(norm: Norm, layer: nnx.Linear) -> Float[Array, " E"]:
    """How large the numbers of a linear layer behind a norm can become."""
    kernel = layer.kernel[...].astype(jnp.float32)
    length = jnp.sqrt(jnp.einsum("de,d->e", kernel**2, norm.scale**2, precision=HIGHEST))
    constant = jnp.einsum("de,d->e", kernel, norm.bias, precision=HIGHEST)
    constant = constant + bias_of(layer).astype(jnp.float32)
    return jnp.sqrt(norm.scale.shape[0]) * length + jnp.abs(constant)


def is_in_float8(model: nnx.Module) -> bool:
    """Whether the model has blocks with float8 products."""
    return any(block.in_float8 for _, block in _blocks(model))


def _blocks(model: nnx.Module) -> list[tuple[str, Block]]:
    found = jax.tree_util.tree_leaves_with_path(model, is_leaf=lambda x: isinstance(x, Block))
    return [(leaf_path(keys), x) for keys, x in found if isinstance(x, Block)]
