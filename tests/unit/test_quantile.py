"""Quantiles without sorting."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxrecon.runtime.quantile import quantile

FEW = settings(max_examples=60, deadline=None)
NUMBERS = st.one_of(st.floats(-1e6, 1e6, width=32), st.sampled_from([0.0, 1.0, 1.0, 2.0]))


@FEW
@given(st.lists(NUMBERS, min_size=1, max_size=40), st.floats(0, 1, width=32))
def test_it_is_numpys(values: list[float], share: float) -> None:
    array = np.array(values, np.float32)
    expected = np.quantile(array.astype(np.float64), share)
    # One shape, and so one program, for every number of values.
    padded, chosen = np.full(40, 7.0, np.float32), np.arange(40) < len(values)
    padded[: len(values)] = array
    found = float(jax.jit(quantile)(padded, share, chosen))
    # Positions between two values are rounded to float32, as the values are.
    allowed = 4e-7 * (len(values) * np.ptp(array) + abs(expected)) + np.finfo(np.float32).tiny
    assert abs(found - expected) <= allowed


@pytest.mark.parametrize("share", [0.0, 0.25, 0.5, 1.0])
def test_only_chosen_values_count(share: float) -> None:
    random = np.random.default_rng(0)
    values = random.normal(size=(7, 30, 40)).astype(np.float32)
    chosen = random.random(values.shape) < 0.3
    found = jax.jit(quantile)(values, share, chosen)
    np.testing.assert_allclose(found, np.quantile(values[chosen], share), rtol=1e-6)
    np.testing.assert_allclose(quantile(jnp.asarray(values), share), np.quantile(values, share))


def test_equal_and_infinite_values() -> None:
    assert float(quantile(jnp.full(9, 3.0), 0.3)) == 3.0
    values = jnp.asarray([1.0, 2.0, jnp.inf, jnp.inf])
    assert float(quantile(values, 0.9)) == np.inf
    assert float(quantile(values, 1 / 3)) == pytest.approx(2.0)


def test_of_nothing() -> None:
    assert np.isnan(float(quantile(jnp.ones(3), 0.5, jnp.zeros(3, bool))))


def test_nothing_is_sorted() -> None:
    text = jax.jit(quantile).lower(jnp.ones((100, 100)), 0.5).compile().as_text()
    assert text is not None and "sort(" not in text
