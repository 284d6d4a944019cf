"""How a program does its work is told by what it is called with, and by nothing else."""

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from drawn_weights import drawn
from jaxrecon.models import Pi3
from jaxrecon.nn.execution import INFERENCE, TRAINING, Chunk, ExecutionConfig, chunk_size
from jaxrecon.nn.offload import to_host
from jaxrecon.nn.views import map_views
from places import ROOT
from tiny_families import FAMILIES
from tiny_models import PI3_TINY

SIDE = 28
SOURCES = sorted((ROOT / "jaxrecon").rglob("*.py"))


@cache
def nodes(path: Path) -> list[ast.AST]:
    """All of a file's syntax tree."""
    return list(ast.walk(ast.parse(path.read_text())))


def loops(text: str) -> int:
    return text.count("scan[")


@pytest.fixture(scope="module")
def model() -> Pi3:
    return drawn(lambda: Pi3(PI3_TINY, rngs=nnx.Rngs(0)))


@pytest.fixture(scope="module")
def run(model: Pi3) -> Any:
    """One jitted function, whose traces JAX keeps by its static argument."""

    def program(images: jax.Array, execution: ExecutionConfig) -> jax.Array:
        encoded = model.encode(images, execution=execution)
        return model.predict(encoded, model.layout(images.shape), execution=execution).confidence

    return jax.jit(program, static_argnums=1)


WAYS = {
    "training": TRAINING,
    "offload": ExecutionConfig(offload=True),
    "tokens": ExecutionConfig(chunk_tokens=11),
    "patches": ExecutionConfig(encoder_patches=4),
}


@pytest.mark.parametrize("name", WAYS)
def test_one_function_is_traced_for_each_way(name: str, run: Any) -> None:
    """Before, with and after: each call gets the program that it asks for."""
    images, way = jnp.ones((1, 3, SIDE, SIDE, 3)), WAYS[name]
    before, asked, after = (
        str(run.trace(images, execution).jaxpr) for execution in (INFERENCE, way, INFERENCE)
    )
    assert before == after
    assert before != asked
    if name == "training":
        assert f"unroll={PI3_TINY.pairs}" in asked and "unroll=2" not in before
    elif name == "offload":
        assert "<host>" in asked and "<host>" not in before
    else:
        assert loops(asked) > loops(before)


def test_equal_ways_share_a_program() -> None:
    asked: list[int] = []

    def program(x: jax.Array, execution: ExecutionConfig) -> jax.Array:
        asked.append(execution.chunk_tokens)
        return x

    run: Any = jax.jit(program, static_argnums=1)
    for tokens in (64, 64, 32, 64):
        run(np.ones(3), ExecutionConfig(chunk_tokens=tokens))
    assert asked == [64, 32] and run._cache_size() == 2


def test_nothing_is_told_by_the_context() -> None:
    """JAX keeps a trace by arguments and by its own context, not by variables of ours."""
    for path in SOURCES:
        for node in nodes(path):
            names = [alias.name for alias in getattr(node, "names", ()) if hasattr(alias, "name")]
            found = [getattr(node, "module", None), *names]
            if isinstance(node, ast.Import | ast.ImportFrom):
                assert "contextvars" not in found, path


@pytest.mark.parametrize("room", ["nn", "sparse", "models"])
def test_models_know_of_no_devices(room: str) -> None:
    """What devices exchange is handed in: see `Collectives`."""
    for path in (ROOT / "jaxrecon" / room).rglob("*.py"):
        for word in (
            "get_abstract_mesh",
            "shard_map",
            "axis_index",
            "all_to_all",
            "lax.all_gather",
        ):
            assert word not in path.read_text(), (path, word)


def takers() -> set[str]:
    """Names that only functions and methods have which take an execution config."""
    found: dict[bool, set[str]] = {True: set(), False: set()}
    for path in SOURCES:
        for node in nodes(path):
            if isinstance(node, ast.FunctionDef):
                found[_takes_execution(node)].add(node.name)
    return found[True] - found[False]


def _takes_execution(node: ast.FunctionDef) -> bool:
    return "execution" in [argument.arg for argument in (*node.args.args, *node.args.kwonlyargs)]


def calls_inside(node: ast.FunctionDef) -> Iterator[tuple[str, ast.Call]]:
    for call in ast.walk(node):
        if isinstance(call, ast.Call):
            function = call.func
            yield getattr(function, "attr", getattr(function, "id", "")), call


def test_what_is_told_is_handed_on() -> None:
    """A function that takes an execution config gives it to each of ours that takes one."""
    names, checked = takers(), 0
    for path in SOURCES:
        for node in nodes(path):
            if not isinstance(node, ast.FunctionDef) or not _takes_execution(node):
                continue
            for name, call in calls_inside(node):
                if name in names:
                    given = [getattr(argument, "id", None) for argument in call.args]
                    given += [keyword.arg for keyword in call.keywords]
                    assert "execution" in given or None in [k.arg for k in call.keywords], (
                        f"{path.relative_to(ROOT)}:{call.lineno}: {name} is not told"
                    )
                    checked += 1
    assert checked > 30


@pytest.mark.parametrize("name", FAMILIES)
def test_a_network_that_learns_works_on_all_views_together(name: str) -> None:
    """No config is forgotten on the way: no loop over views or tokens is left."""
    made: Any = nnx.eval_shape(FAMILIES[name][0])
    few: dict[str, Any] = {"chunk_tokens": 11, "encoder_patches": 4, "head_views": 1}

    def loops_of(execution: ExecutionConfig) -> int:
        images = jax.ShapeDtypeStruct((1, 3, SIDE, SIDE, 3), jnp.float32)
        return loops(str(jax.make_jaxpr(lambda m, x: m(x, execution=execution))(made, images)))

    least = loops_of(INFERENCE)
    assert loops_of(ExecutionConfig(training=True, **few)) == least
    assert loops_of(ExecutionConfig(**few)) >= least + 4


@pytest.mark.parametrize(
    ("count", "most", "size"), [(7, 8, 7), (9, 8, 3), (16, 8, 8), (21, 8, 7), (23, 8, 8)]
)
def test_sizes_of_chunks_are_those_that_run(count: int, most: int, size: int) -> None:
    seen: list[int] = []

    def work(x: jax.Array) -> jax.Array:
        seen.append(len(x))
        return x

    jax.eval_shape(lambda x: map_views(work, x, at_once=most), jnp.zeros((count, 2)))
    assert seen == [size] == [chunk_size(count, most)]


def test_what_a_model_tells_of_its_chunks(model: Pi3) -> None:
    layout, few = model.layout((1, 4, SIDE, SIDE, 3)), ExecutionConfig(chunk_tokens=20)
    tokens = 4 * layout.tokens
    found = model.chunks(4, layout, lambda *_: (jnp.zeros(()), None), few)
    assert found["attention tokens"] == Chunk(2 * layout.tokens, tokens)
    assert found["head views"] == Chunk(2, 4) and found["encoder views"] == Chunk(4, 4)
    learns = ExecutionConfig(training=True, chunk_tokens=20, encoder_patches=4)
    for chunk in model.chunks(4, layout, lambda *_: (jnp.zeros(()), None), learns).values():
        assert chunk.size == chunk.of


def test_features_stay_where_they_are_unless_asked() -> None:
    x = jnp.ones(3)
    assert to_host(x, INFERENCE) is x
    assert to_host(x, ExecutionConfig(offload=True)).sharding.memory_kind != "device"


def test_the_old_keyword_of_padding_still_works(model: Pi3) -> None:
    images = jax.random.uniform(jax.random.key(0), (1, 2, SIDE, SIDE, 3))
    expected = jax.eval_shape(lambda x: model.encode(x, num_valid_views=1), images)
    with pytest.warns(
        DeprecationWarning, match=r"encode\(real_views=\) is called num_valid_views="
    ):
        found = jax.eval_shape(lambda x: cast(Any, model).encode(x, real_views=1), images)
    assert jax.tree.map(jnp.shape, found) == jax.tree.map(jnp.shape, expected)
