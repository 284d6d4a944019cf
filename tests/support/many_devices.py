"""Runs small models on 8 devices of the CPU and on one: `python many_devices.py FAMILY`.

With `brief` behind it, the ways of `BRIEF` alone. With `parts` as the family, a block of a trunk
and sparse attention with fewer heads than devices.

Writes one line of JSON: for each way to run, the largest relative differences, what the devices
exchange, and which share of the results and of the weights each has. A program of its own, since
the number of devices is fixed when JAX starts.
"""

import json
import math
import os
import re
import sys
from dataclasses import replace
from typing import Any

from compiled_programs import programs_of

os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=8"
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import AxisType, Mesh, PartitionSpec

import jaxrecon
from drawn_weights import drawn
from jaxrecon import registry
from jaxrecon.models import Model
from jaxrecon.nn import block
from jaxrecon.nn.attention import AttentionFn, TokenLayout, attend_densely
from jaxrecon.nn.execution import ExecutionConfig
from jaxrecon.nn.rope import grid_positions, rotary_table
from jaxrecon.pipeline import Pipeline
from jaxrecon.runtime.collectives import ViewCollectives, scene_in_each_shard, scene_once
from jaxrecon.runtime.sharding import by_view, replicated, weight_shardings
from jaxrecon.sparse import AttentionByLayer, KeyViews
from tiny_families import FAMILIES, FIELDS

SIDE = 28
THRESHOLDS = {"min_confidence": 0.0, "confidence_quantile": 0.0, "edge_rtol": None}
"""Of the mask: none that rounding could tip."""
EXCHANGES = ["all-to-all", "all-gather", "all-reduce", "reduce-scatter", "collective-permute"]


def meshes() -> dict[str, Mesh]:
    """All devices; a number that divides neither views nor heads; and some as copies.

    With the last, the weights lie sharded as well.
    """
    two_axes = jax.make_mesh((2, 4), ("copies", "views"), (AxisType.Auto,) * 2)
    return {"eight": jaxrecon.make_mesh(), "three": jaxrecon.make_mesh(3), "two axes": two_axes}


def attentions(heads: int, layers: int) -> dict[str, AttentionFn | None]:
    """Dense; and sparse with a ratio for each head, in two orders of the patches."""
    ratios = tuple(np.linspace(0.2, 0.8, heads).tolist())
    similar = jaxrecon.SparseAttention((ratios,) * layers, None, block_q=8, block_kv=4)
    return {"dense": None, "sparse": replace(similar, order="raster"), "similar": similar}


TRIED = {
    *(("dense", "eight"), ("dense", "two axes"), ("sparse", "three"), ("similar", "eight")),
    ("known", "three"),
}
BRIEF = {("dense", "two axes"), ("similar", "eight")}
DEFAULTS = {name: registered.defaults for name, registered in registry.FAMILIES.items()}


def known() -> dict[str, Any]:
    """What is said of some views, the first of the second device among them."""
    poses = {view: np.eye(4) for view in (0, 4, 10)}
    for view, pose in poses.items():
        pose[:3, 3] = view, 1, 2
    matrix = np.array([[30.0, 0, 13.5], [0, 30, 13.5], [0, 0, 1]])
    depth = np.full((SIDE, SIDE), 3.0, np.float32)
    return {"poses": poses, "intrinsics": {0: matrix, 5: matrix}, "depths": {5: depth}}


def main(family: str, *, brief: bool = False) -> None:
    if family == "parts":
        sys.stdout.write(json.dumps({"block": block_in_turns(), "teams": in_teams()}) + "\n")
        return
    make, resize = FAMILIES[family]
    model: Model = drawn(make)
    pixels = np.random.default_rng(0).integers(0, 256, (11, SIDE, SIDE, 3), np.uint8)
    config = model.config  # pyright: ignore[reportAttributeAccessIssue]
    found, defaults = {}, DEFAULTS[family]
    ways: dict[str, Any] = attentions(config.trunk_block.heads, config.pairs)
    tried = BRIEF if brief else TRIED
    for name, way in (ways | ({"known": None} if defaults.priors else {})).items():
        if name not in {attention for attention, _ in tried}:
            continue
        given: dict[str, Any] = {"resolution": SIDE, "attention": way} | THRESHOLDS
        given |= known() if name == "known" else {}
        alone = Pipeline(model, family, resize, defaults=defaults)
        alone = alone.reconstruct(pixels, **given).numpy()
        for label, mesh in meshes().items():
            if (name, label) not in tried:
                continue
            sharded = jax.device_put(model, replicated(mesh))
            if label == "two axes":
                sharded = jax.tree.map(
                    lambda x, like: jax.device_put(x, like.sharding),
                    model,
                    weight_shardings(model, mesh),
                )
            pipeline = Pipeline(sharded, family, resize, mesh=mesh, defaults=defaults)
            recon = pipeline.reconstruct(pixels, **given)
            (program,) = programs_of(pipeline).values()
            exchanges = exchanged(program.as_text())
            weights = {"weights": bytes_here(sharded) / bytes_here(model)}
            share = {"share": share_of(program, padded_views=16 if label != "three" else 12)}
            found[f"{name}, {label}"] = compared(alone, recon) | exchanges | weights | share
    sys.stdout.write(json.dumps(found) + "\n")


def block_in_turns() -> dict[str, float]:
    """A block of a trunk that works through the tokens of each device in turns."""
    config = block.BlockConfig(32, 2, qk_norm=True)
    made = drawn(lambda: block.Block(config, dtype=jnp.float32, rngs=nnx.Rngs(0)))
    x = jnp.asarray(np.random.default_rng(0).normal(size=(1, 16 * 50, 32)), jnp.float32)
    layout = TokenLayout(16, (5, 10))
    table = rotary_table(grid_positions(layout.grid, 0), 16)
    whole = jax.jit(lambda made, x: made(x, layout, attend_densely, table))(made, x)
    mesh, shared = jaxrecon.make_mesh(), replace(layout, shards=8)
    attend = ViewCollectives(8).across_views(attend_densely)
    few = ExecutionConfig(chunk_tokens=50)
    run = on_each(lambda made, x: made(x, shared, attend, table, execution=few), mesh, whole=1)
    program = run.lower(made, jax.device_put(x, by_view(mesh))).compile()
    out = program(jax.device_put(made, replicated(mesh)), jax.device_put(x, by_view(mesh)))
    text = program.as_text() or ""
    exchanges = exchanged(text)
    return {
        "loops": text.count(" while("),
        "summed": exchanges["all-reduce"] + exchanges["reduce-scatter"],
        "difference": float(np.abs(np.asarray(out) - whole).max() / np.abs(whole).max()),
    }


def in_teams() -> dict[str, dict[str, float]]:
    """Sparse attention of few heads: the largest differences to one device."""
    mesh, found = jaxrecon.make_mesh(), {}
    layout = TokenLayout(16, (4, 5), leading=2, trailing=1, scene=1, shards=8, layers=2)
    layout = replace(layout, layer=jnp.int32(1))
    alone = replace(layout, shards=1)
    sizes: dict[str, Any] = {"block_q": 8, "block_kv": 4}
    ways: dict[str, Any] = {
        "similar": jaxrecon.SparseAttention(0.6, None, **sizes),
        "rest": jaxrecon.SparseAttention(0.6, None, order="raster", compensation_q=2, **sizes),
        "packed": jaxrecon.SparseAttention(0.4, 0.7, special_tokens="packed", **sizes),
        "key views": jaxrecon.SparseAttention(selector=KeyViews(count=3), **sizes),
    }
    ways["by layer"] = AttentionByLayer(None, {0: ways["key views"], 1: ways["similar"]})
    tried = (1, "similar", 13), (2, "rest", 13), (3, "similar", None), (3, "packed", 13)
    for heads, name, real in (*tried, (2, "key views", 13), (3, "by layer", 13)):
        way = ways[name]
        shape = 3, 1, alone.tokens, heads, 8
        whole = jnp.asarray(np.random.default_rng(heads).normal(size=shape), jnp.float32)
        end = layout.views * layout.tokens_per_view
        sharded = [scene_in_each_shard(x[:, :end], x[:, end:], 8) for x in whole]
        count = None if real is None else jnp.int32(real)
        padded, expected = (
            replace(layout, num_valid_views=count),
            replace(alone, num_valid_views=count),
        )
        attend = ViewCollectives(8).across_views(way)
        run = on_each(lambda q, k, v, do=attend, at=padded: do(q, k, v, at), mesh)
        out, stats = run(*(jax.device_put(x, by_view(mesh)) for x in sharded))
        tokens = jnp.concatenate(scene_once(out, 1, 8), axis=1)
        alike = jax.jit(lambda q, k, v, do=way, at=expected: do(q, k, v, at))
        right, same_stats = alike(*whole)
        seen = slice(None) if real is None else slice(real * layout.tokens_per_view)
        found[f"{name}, {heads} heads, {real} views"] = {
            "out": float(jnp.abs(tokens - right)[:, seen].max() / jnp.abs(right[:, seen]).max()),
            "skipped": float(jnp.abs(stats.skipped - same_stats.skipped).max()),
        }
    return found


def on_each(work: Any, mesh: Mesh, whole: int = 0) -> Any:
    """Runs it on each device, with its share of the tokens (axis 1) of all but the first arguments.

    Of a pair, the second part is what all devices have found alike.
    """
    views = PartitionSpec(None, "views")

    def local(*given: Any) -> Any:
        found = work(*given)
        return found if isinstance(found, tuple) else (found, None)

    def run(*given: Any) -> Any:
        specs = (PartitionSpec(),) * whole + (views,) * (len(given) - whole)
        out, stats = jax.shard_map(
            local, mesh=mesh, in_specs=specs, out_specs=(views, PartitionSpec()), check_vma=False
        )(*given)
        return out if stats is None else (out, stats)

    return jax.jit(run)


def exchanged(program: str) -> dict[str, int]:
    """Of each kind of exchange between devices, the numbers in its largest result; 0 for none."""
    largest = dict.fromkeys(EXCHANGES, 0)
    for results, kind in re.findall(rf"= (\S+|\(.*?\)) ({'|'.join(EXCHANGES)})\(", program):
        for shape in re.findall(r"\[([\d,]*)\]", results):
            size = math.prod(int(side) for side in shape.split(",") if side)
            largest[kind] = max(largest[kind], size)
    return largest


def share_of(program: Any, padded_views: int) -> float:
    """The largest share of any result by view that a device has."""
    geometry = program.output_shardings
    places = (getattr(geometry, name) for name in (*FIELDS, "mask", "intrinsics"))
    shapes = (place.shard_shape((padded_views, SIDE, SIDE, 3)) for place in places)
    return max(shape[0] / padded_views for shape in shapes)


def bytes_here(model: Model) -> int:
    """Bytes of weights on the first device."""
    leaves: list[Any] = jax.tree.leaves(model)
    return sum(leaf.addressable_shards[0].data.nbytes for leaf in leaves)


def compared(alone: jaxrecon.Reconstruction, sharded: jaxrecon.Reconstruction) -> dict[str, Any]:
    """The largest difference of each field, by the field's largest value."""
    values: dict[str, Any] = {}
    for name in FIELDS:
        expected = np.asarray(getattr(alone, name))
        gap = np.abs(np.asarray(getattr(sharded, name)) - expected).max()
        values[name] = float(gap / np.abs(expected).max())
    values["masks differ"] = int((np.asarray(sharded.mask) != np.asarray(alone.mask)).sum())
    shares = alone.stats.sparsity, sharded.stats.sparsity
    if shares[0] is not None and shares[1] is not None:
        values["sparsity"] = float(np.abs(shares[0] - shares[1]).max())
    return values


if __name__ == "__main__":
    main(sys.argv[1], brief="brief" in sys.argv[2:])
