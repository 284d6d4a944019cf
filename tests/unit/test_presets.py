"""Budgets by layer, by name: what each layer skips, in models of any depth."""

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from drawn_weights import drawn
from jaxrecon.choices import PRESETS
from jaxrecon.errors import InputError
from jaxrecon.nn.alternating import AlternatingAttention
from jaxrecon.nn.attention import TokenLayout
from jaxrecon.nn.block import BlockConfig
from jaxrecon.sparse import (
    CalibratedBudgets,
    FastAttention,
    KeyViews,
    PresetBudgets,
    SparseAttention,
    TopKTopP,
    check_budgets,
    write_budgets,
)
from jaxrecon.sparse.asked import attention_asked, budgets_asked
from jaxrecon.sparse.presets import KEPT, thirds

SMALL: dict[str, Any] = {"block_q": 8, "block_kv": 4, "order": "raster", "compensation_q": 0}
LAYOUT = TokenLayout(views=4, grid=(8, 8))
"""64 key blocks."""


@pytest.mark.parametrize(
    ("layers", "expected"),
    [
        (1, [1]),
        (2, [0, 2]),
        (3, [0, 1, 2]),
        (4, [0, 1, 1, 2]),
        (8, [0] * 3 + [1] * 2 + [2] * 3),
        (12, [0] * 4 + [1] * 4 + [2] * 4),
        (18, [0] * 6 + [1] * 6 + [2] * 6),
        (24, [0] * 8 + [1] * 8 + [2] * 8),
    ],
)
def test_layers_have_their_third(layers: int, expected: list[int]) -> None:
    assert thirds(layers) == expected


@pytest.mark.parametrize("name", PRESETS)
def test_the_mean_is_the_same_at_any_depth(name: Any) -> None:
    for layers in (1, 2, 4, 5, 8, 12, 18, 24):
        for skipped in (0.0, 0.01, 0.1, 0.25, 0.5, 0.75, 0.9, 0.99):
            ratios = PresetBudgets(name, skipped).ratios(layers)
            assert len(ratios) == layers
            assert all(0 <= ratio < 1 for ratio in ratios)
            assert np.mean(ratios) == pytest.approx(skipped, abs=1e-6)


@pytest.mark.parametrize("name", PRESETS)
def test_thirds_keep_in_proportion(name: Any) -> None:
    kept = 1 - np.array(PresetBudgets(name).ratios(18))
    wanted = np.repeat(KEPT[name], 6)
    np.testing.assert_allclose(kept / kept[0], wanted / wanted[0], rtol=1e-4)
    assert len(set(KEPT[name])) > 1


def test_a_third_that_would_keep_more_than_all_keeps_all() -> None:
    # A tenth skipped: of 4 layers 3.6 are kept, the three that want more all of theirs.
    assert PresetBudgets("early_most", 0.1).ratios(4) == (0.4, 0.0, 0.0, 0.0)
    # 2.8 of 4: the last one all, the others 1.8 as 1 to 2 to 2.
    assert PresetBudgets("late_spared", 0.3).ratios(4) == (0.64, 0.28, 0.28, 0.0)


@partial(jax.jit, static_argnums=(0, 1))
def attended(
    policy: SparseAttention, layout: TokenLayout, layer: Any, q: Any, k: Any, v: Any
) -> tuple[jax.Array, jax.Array]:
    return policy.attend(q, k, v, replace(layout, layer=layer))


def test_one_policy_is_resolved_by_the_layers_of_the_model() -> None:
    random = np.random.default_rng(0)
    inputs = [random.normal(size=(1, LAYOUT.tokens, 2, 8)).astype(np.float32) for _ in range(3)]
    policy = SparseAttention(budgets="late_spared", **SMALL)
    for layers, layer, kept in ((4, 0, 8), (4, 1, 16), (4, 3, 24), (2, 0, 8), (2, 1, 24)):
        layout = replace(LAYOUT, layers=layers)
        out, skipped = attended(policy, layout, jnp.int32(layer), *inputs)
        np.testing.assert_allclose(skipped, np.full((1, 2), 1 - kept / 64), atol=1e-6)
        plain = SparseAttention(PresetBudgets("late_spared").ratios(layers), None, **SMALL)
        expected, _ = attended(plain, layout, jnp.int32(layer), *inputs)
        np.testing.assert_array_equal(out, expected)


def test_a_trunk_tells_what_each_layer_skipped() -> None:
    config = BlockConfig(width=16, heads=2)
    make = partial(AlternatingAttention, config, dtype=jnp.float32, pairs=3, taps=(2,))
    trunk = drawn(lambda: make(rngs=nnx.Rngs(0)))
    tokens = jnp.asarray(np.random.default_rng(0).normal(size=(1, 4, 64, 16)), jnp.float32)
    policy = SparseAttention(budgets=PresetBudgets("middle_spared", 0.5), **SMALL)
    forward = jax.jit(lambda x: trunk(x, replace(LAYOUT, views=1), policy))
    _, stats = forward(tokens)
    # Half of three times 64 blocks is kept, as 1 to 2 to 1.
    expected = 1 - np.array([24, 48, 24]) / 64
    np.testing.assert_allclose(stats.skipped[:, 0, 0], expected, atol=1e-6)


def test_a_preset_is_kept_in_one_form(without_shape_checks: None) -> None:
    """So that it can be the static argument of a program."""
    one = SparseAttention(budgets="middle_spared")
    same = SparseAttention(budgets=PresetBudgets("middle_spared", 0.75))
    assert (one, hash(one)) == (same, hash(same))
    assert one != SparseAttention(budgets=PresetBudgets("middle_spared", 0.5))
    assert one != SparseAttention(budgets="late_spared")
    assert (one.sparse_ratio, one.cdf_threshold) == (PresetBudgets("middle_spared"), None)
    assert replace(one, order="raster").budgets == same.budgets
    selector = one.block_selector
    assert selector == TopKTopP(PresetBudgets("middle_spared"), None)
    assert PresetBudgets("late_spared", 0).skipped == 0.0


def test_it_goes_with_any_model() -> None:
    policy = SparseAttention(budgets="early_most")
    check_budgets(policy, "pi3", "abc")
    check_budgets(FastAttention(policy), "vggt")


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (
            {"budgets": "midle_spared"},
            "preset 'midle_spared' is unknown; choose one of early_most, middle_spared, "
            "late_spared; did you mean middle_spared",
        ),
        ({"budgets": 0.75}, "budgets: found float; give read_budgets"),
        ({"budgets": "early_most", "sparse_ratio": 0.5}, "budgets: they take the place of"),
        ({"budgets": "early_most", "cdf_threshold": 0.5}, "budgets: they take the place of"),
        ({"budgets": "early_most", "selector": KeyViews(count=2)}, "they take the place of"),
        (
            {"sparse_ratio": None, "cdf_threshold": PresetBudgets("early_most")},
            "cdf_threshold: give a number",
        ),
    ],
)
def test_what_makes_no_sense_is_refused(
    without_shape_checks: None, options: dict[str, Any], told: str
) -> None:
    with pytest.raises(InputError, match=told):
        SparseAttention(**options)


@pytest.mark.parametrize("share", [1, 1.0, -0.1, float("nan"), True, "0.5", None])
def test_a_share_out_of_range_is_refused(without_shape_checks: None, share: Any) -> None:
    with pytest.raises(InputError, match=r"early_most: skipped=.* must be a number in \[0, 1\)"):
        PresetBudgets("early_most", share)


@pytest.mark.parametrize("name", [3, None, ["early_most"], ""])
def test_a_name_that_is_none_is_refused(without_shape_checks: None, name: Any) -> None:
    with pytest.raises(InputError, match="is unknown; choose one of early_most"):
        PresetBudgets(name)


# As a command line names them


def test_a_word_is_a_preset_or_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert budgets_asked("late_spared") == PresetBudgets("late_spared")
    assert budgets_asked("late_spared=0.9") == PresetBudgets("late_spared", 0.9)
    monkeypatch.chdir(tmp_path)
    measured = CalibratedBudgets("toy", "abc", 2, (56, 42), ((0.5,),))
    write_budgets(measured, "late_spared")
    assert budgets_asked("./late_spared") == measured
    assert budgets_asked("late_spared") == PresetBudgets("late_spared")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("late-spared", "'late-spared' is no preset, and there is no such file; choose one of"),
        ("late-spared=0.5", "did you mean late_spared"),
        ("late_spared=", "late_spared takes a share of key blocks to skip, found none; write"),
        ("late_spared=half", "found half; write late_spared=0.75"),
        ("late_spared=1.5", r"late_spared: skipped=1\.5 must be a number in \[0, 1\)"),
        ("", "'' is no preset"),
    ],
)
def test_a_word_that_names_nothing(text: str, told: str) -> None:
    with pytest.raises(InputError, match=told):
        budgets_asked(text)


def test_options_of_a_command_line() -> None:
    given = {"attention": "fast", "sparse_budgets": "middle_spared=0.9", "patch_order": "hilbert"}
    sparse = SparseAttention(budgets=PresetBudgets("middle_spared", 0.9), order="hilbert")
    assert attention_asked(given) == FastAttention(sparse)
    with pytest.raises(InputError, match="--sparse-budgets does not go with --sparse-ratio"):
        attention_asked(given | {"sparse_ratio": 0.5})
