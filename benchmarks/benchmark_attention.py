"""python benchmarks/benchmark_attention.py --views 50 100 200 --kept 1 0.5 0.25 --plot speed.png

Times attention across views, dense and block-sparse, on random bfloat16 inputs: this project's
kernels, cuDNN, and in the same run PyTorch's and SpargeAttn (see `attention_peers.py`). Effective
TFLOP/s count the kept blocks only; a time is the median of `--repeats` times `--queued` calls that
follow each other without waiting. On a CPU: `--views 1 --patches 60 --heads 2`.
"""

import argparse
import statistics
import timeit
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from importlib.util import find_spec
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from attention_peers import Case, torch_cases

from jaxrecon import SparseAttention
from jaxrecon.nn.attention import TokenLayout
from pallas_kernels.block_selection import select_blocks
from pallas_kernels.block_sparse_attention import IMPLEMENTATIONS, BlockMask, block_sparse_attention
from pallas_kernels.block_sparse_attention.mosaic_gpu import TuningConfig, attention_mosaic_gpu
from pallas_kernels.dense_attention import dense_attention


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("--views", type=int, nargs="+", default=[50, 100])
    parser.add_argument("--kept", type=float, nargs="+", default=[1.0, 0.5, 0.25, 0.1])
    parser.add_argument("--backends", nargs="+", default=list(IMPLEMENTATIONS))
    sizes = {"patches": 1041, "heads": 16, "width": 64, "repeats": 5, "queued": 4}
    for name, size in sizes.items():
        parser.add_argument(f"--{name}", type=int, default=size)
    parser.add_argument("--configs", nargs="+", default=[], help="of mosaic_gpu: gather=2,stages=3")
    parser.add_argument("--plot", help="write a picture of effective TFLOP/s here")
    return parser.parse_args()


def random_mask(tokens: int, heads: int, kept: float) -> BlockMask:
    """As many random key blocks for every query block of every head."""
    rows, blocks = -(-tokens // 128), -(-tokens // 64)
    count = max(1, round(kept * blocks))
    order = jnp.argsort(jax.random.uniform(jax.random.key(1), (1, heads, rows, blocks)))
    lists = jnp.sort(order[..., :count]).astype(np.int16 if blocks < 2**15 else np.int32)
    counts = jnp.full((1, heads, rows), count, jnp.int32)
    return BlockMask(counts, lists, 128, 64, tokens, tokens)


def tuned(text: str, mask: BlockMask | None) -> TuningConfig:
    """A configuration in words; without a mask its tiles are one block each."""
    given: Any = {name: int(value) for name, value in (x.split("=") for x in text.split(","))}
    config = TuningConfig(**given)
    return config if mask is not None else replace(config, block_kv=config.tile, gather=1)


def jax_cases(
    asked: argparse.Namespace, q: jax.Array, mask: BlockMask | None, top_k: int, views: int
) -> Iterator[Case]:
    """Our backends of these names; those that cannot run here refuse."""
    patches = q.shape[1] // views

    def timed(function: Callable[..., object], *args: object) -> Callable[[int], object]:
        compiled = jax.jit(function)
        return lambda calls: jax.block_until_ready([compiled(*args) for _ in range(calls)])

    for name in asked.backends:
        run = partial(block_sparse_attention, implementation=name)
        yield name, timed(run, q, q, q, mask)
    for text in asked.configs:
        options = {"scale": q.shape[-1] ** -0.5, "config": tuned(text, mask)}
        yield text, timed(partial(attention_mosaic_gpu, **options), q, q, q, mask)
    for name, part in (("selection, pool_q=128", None), ("selection, pool_q=32", 32)):
        yield name, timed(partial(select_blocks, top_k=top_k, top_p=0.9, pool_q=part), q, q)
    if mask is None:  # once for each number of views
        layout = SparseAttention(order="pca_tree").block_layout(TokenLayout(views, (1, patches)))
        yield "order of like patches", timed(layout.orders, q, q)
        yield "cudnn", timed(partial(dense_attention, implementation="cudnn"), q, q, q)


def main() -> None:
    options = arguments()
    has_torch = find_spec("torch") is not None and jax.default_backend() == "gpu"
    rows = []
    for views, kept in ((views, kept) for views in options.views for kept in options.kept):
        tokens = views * options.patches
        shape = 1, tokens, options.heads, options.width
        q = jax.random.normal(jax.random.key(0), shape, jnp.bfloat16)
        mask = None if kept >= 1 else random_mask(tokens, options.heads, kept)
        top_k = max(1, int(kept * -(-tokens // 64)))
        cases = list(jax_cases(options, q, mask, top_k, views))
        if has_torch:
            cases += torch_cases(tokens, options.heads, options.width, kept)
        for name, run in cases:
            try:
                run(1)
            except NotImplementedError:
                continue
            queue = partial(run, options.queued)
            times = timeit.repeat(queue, number=1, repeat=options.repeats)
            seconds = statistics.median(times) / options.queued
            rate = 4 * kept * tokens**2 * options.heads * options.width / seconds / 1e12
            rows.append((views, kept, name, seconds, rate))
            told = f"{views:5} views {kept:5.0%} kept  {name:24} {1e3 * seconds:9.3f} ms"
            print(told + f" {rate:8.1f} TFLOP/s" * attends(name), flush=True)
    if options.plot:
        draw(rows, options.plot)


def attends(name: str) -> bool:
    """Whether a case is attention itself, not what prepares it."""
    return not name.startswith(("selection", "order"))


def draw(rows: list[tuple[int, float, str, float, float]], path: str) -> None:
    from matplotlib.figure import Figure

    axes = (figure := Figure(figsize=(8, 5), layout="constrained")).subplots()
    views = max(row[0] for row in rows)
    for name in dict.fromkeys(row[2] for row in rows if attends(row[2])):
        points = [(row[1], row[4]) for row in rows if row[0] == views and row[2] == name]
        axes.plot(*zip(*points, strict=True), "o-", label=name)
    axes.set(xlabel=f"share of key blocks kept, {views} views", ylabel="effective TFLOP/s")
    axes.legend()
    figure.savefig(path, dpi=150)


if __name__ == "__main__":
    main()
