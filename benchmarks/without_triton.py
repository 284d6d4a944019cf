"""What Pallas Triton is worth: `python benchmarks/without_triton.py --views 200 --models 50 200`.

Each operation that has a Triton kernel, at the sizes of π³'s decoder, by each of its backends, then
π³'s whole forward (`benchmark_models.py`) with Triton and with the environment variable that hides
it. Times are medians of `--repeats` calls after a warm-up; a backend that refuses this machine has
none. On a CPU: `--views 2 --patches 60 --heads 2 --models`.
"""

import argparse
import os
import statistics
import subprocess
import sys
import timeit
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from jaxrecon.environment import WITHOUT_TRITON as SWITCH
from pallas_kernels.bias_gelu import bias_gelu
from pallas_kernels.block_selection import attend_to_skipped, select_blocks
from pallas_kernels.block_sparse_attention import block_sparse_attention
from pallas_kernels.norm import Norm
from pallas_kernels.point_map_loss import Planes, point_map_loss
from pallas_kernels.qk_norm_rope import qk_norm_rope
from pallas_kernels.residual_norm import residual_norm

BACKENDS = ("mosaic_gpu", "triton", "xla")
ATTENTION = "block_sparse_attention"
SPECIALS = 5  # tokens of a view that are no patches

type Op = tuple[str, Callable[..., Any], tuple[Any, ...]]
"""A name, a function that also takes `implementation`, and its arrays."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    for name, value in (("views", 200), ("patches", 1036), ("heads", 16), ("width", 64)):
        add(f"--{name}", type=int, default=value, help="of the operations")
    add("--kept", type=float, default=0.25, help="share of the key blocks")
    add("--models", type=int, nargs="*", default=[50, 200], help="views of the whole forward")
    add("--ratios", nargs="+", default=["0.75", "0"], help="of the whole forward; 0 is dense")
    add("--repeats", type=int, default=5)
    options = parser.parse_args()
    # First, in processes of their own: this one would keep the GPU's memory.
    for hidden in ("", "1") if options.models else ():
        print("π³ without Triton" if hidden else "π³ with Triton", flush=True)
        time_model(options, hidden)
    print(f"{'operation, milliseconds':40}", *(f"{name:>11}" for name in BACKENDS))
    for name, function, arrays in operations(options):
        known = BACKENDS if name == ATTENTION else BACKENDS[1:]
        times = {each: time_op(function, arrays, each, options.repeats) for each in known}
        shown = (times.get(each) for each in BACKENDS)
        told = (f"{'-':>11}" if x is None else f"{1e3 * x:11.3f}" for x in shown)
        print(f"{name:40}", *told, flush=True)


def time_model(options: argparse.Namespace, hidden: str) -> None:
    """Prints the rows of `benchmark_models.py`."""
    script = Path(__file__).with_name("benchmark_models.py")
    command = [sys.executable, script, "--views", *options.models, "--ratios", *options.ratios]
    command += ["--repeats", options.repeats]
    subprocess.run([str(part) for part in command], env=os.environ | {SWITCH: hidden}, check=True)


def time_op(
    function: Callable[..., Any], arrays: tuple[Any, ...], backend: str, repeats: int
) -> float | None:
    """Seconds; None where the backend refuses this machine."""
    run = jax.jit(partial(function, implementation=backend))

    def once() -> None:
        jax.block_until_ready(run(*arrays))

    try:
        once()
    except NotImplementedError:
        return None
    return statistics.median(timeit.repeat(once, number=1, repeat=repeats))


def operations(options: argparse.Namespace) -> Iterator[Op]:
    """One after the other, so that only one's arrays are in memory."""
    for some in (between_products, of_sparse_attention, of_losses):
        yield from some(options)


def between_products(options: argparse.Namespace) -> Iterator[Op]:
    """What lies between a block's matrix products."""
    view = options.patches + SPECIALS
    tokens, heads, width = options.views * view, options.heads, options.width
    model = heads * width
    x = normal(tokens, model, dtype=jnp.float32)
    norm = Norm(jnp.ones(model), jnp.zeros(model))
    normed = partial(residual_norm, gamma=norm.scale, norm=norm, dtype=jnp.bfloat16)
    yield from both_ways("residual_norm", normed, (x, x.astype(jnp.bfloat16)))
    yield from both_ways("bias_gelu", bias_gelu, (normal(tokens, 4 * model), jnp.zeros(4 * model)))
    norm = Norm(jnp.ones(width), jnp.zeros(width))
    angles = normal(view, 2, width // 4, dtype=jnp.float32)
    turn = partial(qk_norm_rope, norms=(norm, norm), rotary=(jnp.cos(angles), jnp.sin(angles)))
    yield from both_ways("qk_norm_rope", turn, (normal(1, tokens, 3, heads, width),))


def of_sparse_attention(options: argparse.Namespace) -> Iterator[Op]:
    tokens = options.views * (options.patches + SPECIALS)
    q = normal(1, tokens, options.heads, options.width)
    top_k = max(1, int(options.kept * -(-tokens // 64)))
    select = partial(select_blocks, top_k=top_k)
    for part in (128, 32):
        yield f"select_blocks, pool_q={part}", partial(select, pool_q=part), (q, q)
    mask = select(q, q)
    yield "attend_to_skipped, group=4", partial(attend_to_skipped, group=4), (q, q, q, mask)
    yield ATTENTION, block_sparse_attention, (q, q, q, mask)


def of_losses(options: argparse.Namespace) -> Iterator[Op]:
    image = 1 + jnp.abs(normal(options.views, 224, 280, dtype=jnp.float32))
    planes = Planes(image, image, image)

    def sums(guess: Any, logits: Any, **backend: Any) -> Any:
        return point_map_loss(guess, logits, planes, image > 0, **backend)[0]

    yield from both_ways("point_map_loss, 224x280", sums, (planes, image))


def both_ways(name: str, function: Callable[..., Any], arrays: tuple[Any, ...]) -> Iterator[Op]:
    """The operation, and itself with the gradient of all that it takes."""

    def total(*arrays: Any, **backend: Any) -> Any:
        leaves = jax.tree.leaves(function(*arrays, **backend))
        return sum(leaf.astype(jnp.float32).sum() for leaf in leaves)

    def gradient(*arrays: Any, **backend: Any) -> Any:
        return jax.grad(partial(total, **backend), tuple(range(len(arrays))))(*arrays)

    yield name, function, arrays
    yield f"{name}, with its gradient", gradient, arrays


def normal(*shape: int, dtype: Any = jnp.bfloat16) -> Any:
    return jax.random.normal(jax.random.key(0, impl="rbg"), shape, dtype)


if __name__ == "__main__":
    main()
