"""What tells reconstructions apart, the same in every process."""

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxrecon import SparseAttention
from jaxrecon.nn.attention import attend_densely
from jaxrecon.nn.layers import Mlp
from jaxrecon.runtime.fingerprint import stable_name, weights_digest
from jaxrecon.sparse import attention_named


def made(factor: float) -> Callable[[float], float]:
    return lambda x: x * factor


@dataclass(frozen=True)
class Chosen:
    attend: Any
    factor: float = 1.0

    def __call__(self, x: float) -> float:
        return x * self.factor


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (attend_densely, made),
        (attention_named("xla"), attention_named("cudnn")),
        (attention_named("fast"), attention_named("sparse")),
        (SparseAttention(sparse_ratio=0.5), SparseAttention(sparse_ratio=0.25)),
        (SparseAttention(budgets="early_most"), SparseAttention(budgets="late_spared")),
        (made(1.0), made(2.0)),
        (lambda x: x + 1, lambda x: x + 2),
        (lambda x: x.sin(), lambda x: x.cos()),
        (Chosen(made(1.0)), Chosen(made(2.0))),
        (Chosen(made).__call__, Chosen(made, 2.0).__call__),
        (partial(made, 1.0), partial(made, 2.0)),
        (partial(made, factor=1.0), partial(made, factor=2.0)),
        (partial(Chosen, np.zeros(5000)), partial(Chosen, np.eye(1, 5000, 2500)[0])),
        ({"a": 1}, {"b": 1}),
    ],
)
def test_names_tell_apart(one: Any, other: Any) -> None:
    assert stable_name(one) != stable_name(other)
    assert stable_name(one) == stable_name(one)
    assert " at 0x" not in stable_name(one)


def test_a_new_python_does_not_change_names() -> None:
    """What is compiled from a file is called by its definition, not by its instructions."""

    def turned(x: float) -> float:
        return x + 3.5

    name = stable_name(turned)
    assert "return x + 3.5" in name
    assert turned.__code__.co_code.hex() not in name
    assert "x + 3.5" in stable_name([lambda x: x + 3.5, lambda x: x - 3.5])
    assert stable_name(lambda x: x + 3.5) != stable_name(lambda x: x - 3.5)


def test_a_function_that_encloses_itself() -> None:
    def again(count: int) -> int:
        return again(count - 1) if count else 0

    assert "again" in stable_name(again)


_NAMES = """
from functools import partial
from jaxrecon import SparseAttention
from jaxrecon.runtime.fingerprint import stable_name
from jaxrecon.sparse import attention_named
def made(factor):
    return lambda x: [y * factor for y in x if y not in {"a", "b", "c"}]
values = [attention_named(x) for x in ("dense", "xla", "fast")]
print(stable_name([*values, SparseAttention(), made(3), partial(made, [1], x={"a": made(2)})]))
"""


@pytest.mark.thorough
def test_another_process_gives_the_same_names() -> None:
    told = [
        subprocess.run(
            [sys.executable, "-c", _NAMES],
            capture_output=True,
            text=True,
            check=True,
            env=os.environ | {"PYTHONHASHSEED": seed},
        ).stdout
        for seed in ("1", "2")
    ]
    assert told[0] == told[1] != ""


def test_weights_tell_apart() -> None:
    mlp = Mlp(4, 8, dtype=jnp.bfloat16, rngs=nnx.Rngs(0))
    same = jax.tree.map(lambda x: x + 0, mlp)
    assert weights_digest(mlp) == weights_digest(same)
    last = jax.tree.leaves(mlp)[-1]
    changed = jax.tree.map(lambda x: x.at[-1].add(1) if x is last else x, mlp)
    wider = jax.tree.map(lambda x: x.astype(jnp.float32), mlp)
    assert len({weights_digest(each) for each in (mlp, changed, wider)}) == 3
