"""Attention, selectors and orders that users write, and what they return by mistake."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

from jaxrecon.errors import InputError
from jaxrecon.nn.attention import AttentionStats, TokenLayout, attend, attend_densely
from jaxrecon.pipeline import Pipeline
from jaxrecon.registry import load_abstract
from jaxrecon.sparse import (
    AttentionByLayer,
    FastAttention,
    Permutation,
    SparseAttention,
    WithinViews,
    chosen_attention,
)

pytestmark = pytest.mark.usefixtures("without_shape_checks")

LAYOUT = TokenLayout(views=3, grid=(2, 3))
Q: Any = np.random.default_rng(0).normal(size=(2, 18, 4, 8)).astype(np.float32)
SMALL: dict[str, Any] = {"block_q": 4, "block_kv": 2}


def dense(q: Any = Q) -> Any:
    return attend_densely(q, Q, Q, LAYOUT)[0]


def returning(make: Callable[[], Any]) -> Any:
    def given(q: Any, k: Any, v: Any, layout: TokenLayout) -> Any:
        return make()

    return given


WRONG: dict[str, tuple[Callable[[], Any], str]] = {
    "nothing": (lambda: None, "a NoneType"),
    "a list": (lambda: [dense(), None], "a list"),
    "one value": (lambda: (dense(),), "1 values"),
    "three values": (lambda: (dense(), None, None), "3 values"),
    "no output": (lambda: (None, None), "a NoneType for out"),
    "a number": (lambda: (0.0, None), "a float for out"),
    "heads before tokens": (
        lambda: (dense().swapaxes(1, 2), None),
        r"float32\[2, 4, 18, 8\] for out",
    ),
    "heads in one": (lambda: (dense().reshape(2, 18, 32), None), r"float32\[2, 18, 32\] for out"),
    "a token too few": (lambda: (dense()[:, 1:], None), r"float32\[2, 17, 4, 8\] for out"),
    "one token for all": (lambda: (dense()[:, :1], None), r"float32\[2, 1, 4, 8\] for out"),
    "whole numbers": (lambda: (jnp.ones(Q.shape, jnp.int32), None), r"int32\[2, 18, 4, 8\]"),
    "truth values": (lambda: (jnp.ones(Q.shape, bool), None), r"bool\[2, 18, 4, 8\]"),
    "other statistics": (lambda: (dense(), {"skipped": 0.5}), "a dict for its statistics"),
    "no share a head": (lambda: (dense(), AttentionStats(jnp.zeros(4))), r"float32\[4\] for skip"),
    "one share": (lambda: (dense(), AttentionStats(jnp.zeros(()))), r"float32\[\] for skipped"),
    "shares of others": (
        lambda: (dense(), AttentionStats(jnp.zeros((1, 4)))),
        r"float32\[1, 4\] for skip",
    ),
}


@pytest.mark.parametrize("name", WRONG)
@pytest.mark.parametrize("wrap", [lambda f: f, lambda f: AttentionByLayer(f, {5: None})])
def test_what_an_attention_may_not_return(name: str, wrap: Callable[[Any], Any]) -> None:
    make, told = WRONG[name]
    expected = rf"attention: .*returned {told}.*; .* like its queries, float32\[2, 18, 4, 8\] here"
    with pytest.raises(InputError, match=expected):
        attend(wrap(returning(make)), Q, Q, Q, replace(LAYOUT, layers=6))


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_what_it_may_return(dtype: str) -> None:
    stats = AttentionStats(jnp.zeros((2, 4)))
    for out in (dense().astype(dtype), np.asarray(dense())):
        assert attend(returning(lambda out=out: (out, stats)), Q, Q, Q, LAYOUT) == (out, stats)
        with pytest.warns(DeprecationWarning, match="the output alone"):
            assert attend(returning(lambda out=out: out), Q, Q, Q, LAYOUT)[0] is out


@dataclass
class Unhashable:
    layers: Any = None

    def __call__(self, *inputs: Any) -> Any:
        return attend_densely(*inputs)

    def select(self, *inputs: Any) -> Any:
        raise AssertionError


UNHASHABLE: Any = Unhashable()


@pytest.mark.parametrize("attention", [UNHASHABLE, SparseAttention(selector=UNHASHABLE)])
def test_programs_are_kept_by_it(attention: Any) -> None:
    for use in (
        chosen_attention,
        AttentionByLayer,
        lambda given: load_abstract("pi3", attention=given),
    ):
        with pytest.raises(InputError, match="cannot be hashed, but programs are kept by it"):
            use(attention)


@pytest.mark.parametrize("value", ["3", None, float("nan"), True, [3]])
def test_a_limit_that_is_no_number(value: Any) -> None:
    with pytest.raises(InputError, match=r"dense_up_to=.* must be a number"):
        FastAttention(dense_up_to=value)


@pytest.mark.parametrize("value", [None, "sparse", 5, SparseAttention])
def test_sparse_attention_that_is_none(value: Any) -> None:
    with pytest.raises(InputError, match="found"):
        FastAttention(value)


@pytest.mark.parametrize("value", [42, object(), returning(lambda: None), WithinViews, "near"])
@pytest.mark.parametrize("name", ["order", "selector"])
def test_orders_and_selectors_that_are_none(name: str, value: Any) -> None:
    given: dict[str, Any] = {name: value}
    with pytest.raises(InputError, match=f"^{name}.*(give an object with a method|is unknown)"):
        SparseAttention(**given)


@dataclass(frozen=True)
class Given:
    found: Callable[[], Any]

    def order(self, *inputs: Any) -> Any:
        return self.found()

    def select(self, *inputs: Any) -> Any:
        return self.found()


@pytest.mark.parametrize(
    ("found", "told"),
    [
        (lambda: None, "a NoneType; return a Permutation"),
        (lambda: np.arange(6), "a ndarray; return a Permutation"),
        (lambda: Permutation(np.arange(18)), r"within_view of int64\[18\]; .* shape \[6\]"),
        (lambda: Permutation(np.arange(6.0)), r"within_view of float64\[6\]; it needs whole"),
        (
            lambda: Permutation(queries=jnp.arange(18)[None], keys=jnp.arange(18)[None]),
            r"queries of int32\[1, 18\]; .* shape \[2, 18\]",
        ),
    ],
)
def test_what_an_order_may_not_return(found: Callable[[], Any], told: str) -> None:
    given: Any = Given(found)
    with pytest.raises(InputError, match=f"^order: Given.order returned {told}"):
        SparseAttention(order=given, **SMALL)(Q, Q, Q, LAYOUT)


@pytest.mark.parametrize("found", [lambda: None, lambda: np.ones((2, 4, 5, 9))])
def test_what_a_selector_may_not_return(found: Callable[[], Any]) -> None:
    given: Any = Given(found)
    attention = SparseAttention(selector=given, order="raster", **SMALL)
    for call in (attention, lambda q, k, v, layout: attention.select(q, k, layout)):
        with pytest.raises(InputError, match=r"^selector: Given.select returned a .* BlockMask"):
            call(Q, Q, Q, LAYOUT)


def test_a_pipeline_takes_names_too() -> None:
    shapes: Pipeline = load_abstract("pi3-mini")
    assert replace(shapes, attention="sparse").attention == SparseAttention()
    assert replace(shapes, attention=None).attention is attend_densely
    with pytest.raises(InputError, match="did you mean sparse"):
        replace(shapes, attention="sprase")
