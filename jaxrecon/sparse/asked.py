"""Attention as options of a command line ask for it."""

import os
from collections.abc import Mapping
from typing import Any

from jaxrecon.checks import shown
from jaxrecon.choices import PRESETS, AttentionName, meant
from jaxrecon.errors import InputError
from jaxrecon.nn.attention import AttentionFn
from jaxrecon.sparse.attention import SparseAttention
from jaxrecon.sparse.by_layer import within_views_in
from jaxrecon.sparse.calibrated import CalibratedBudgets, read_budgets
from jaxrecon.sparse.named import FastAttention
from jaxrecon.sparse.presets import PresetBudgets, preset_named
from jaxrecon.sparse.view_selectors import KeyViews

_FIELDS = {
    "sparse_ratio": "sparse_ratio",
    "cdf_threshold": "cdf_threshold",
    "patch_order": "order",
}
"""Options that are fields of `SparseAttention`."""

_RULES = ("sparse_budgets", "key_views", "sparse_ratio", "cdf_threshold")
"""Options that choose blocks; the first two each alone."""


def attention_asked(given: Mapping[str, Any]) -> AttentionFn | AttentionName:
    """The name of an attention, or block-sparse attention and layers as options want it.

    Args:
      given: values by the options' names (`sparse_ratio` for `--sparse-ratio`), without those that
        are not given; `attention` is always there. A budget that is not given is
        `SparseAttention`'s own; None takes it away.

    Raises:
      InputError: a budget is out of range, options of block-sparse attention are given with exact
        attention, or two do not go together.
    """
    attention = _of_all_layers(given)
    if "within_views" not in given:
        return attention
    return within_views_in(tuple(given["within_views"]), attention)


def budgets_asked(text: str) -> CalibratedBudgets | PresetBudgets:
    """The preset that this names (NAME or NAME=SHARE), or what the file of that name holds.

    Raises:
      InputError: there is neither, or its share or the file cannot be used.
    """
    preset = preset_named(text)
    if preset is not None:
        return preset
    if not os.path.lexists(text):
        raise InputError(
            f"budgets: {shown(text)} is no preset, and there is no such file; choose one of "
            f"{', '.join(PRESETS)}, or a file of `jaxrecon calibrate`"
            f"{meant(text.partition('=')[0], PRESETS)}"
        )
    return read_budgets(text)


def _of_all_layers(given: Mapping[str, Any]) -> AttentionFn | AttentionName:
    told = [name for name in (*_FIELDS, "key_views", "sparse_budgets") if name in given]
    if not told:
        return given["attention"]
    if given["attention"] not in ("auto", "fast", "sparse"):
        raise InputError(
            f"{_option(told[0])} is for block-sparse attention, found --attention "
            f"{given['attention']}; leave one of them out"
        )
    chosen = {field: given[name] for name, field in _FIELDS.items() if name in given}
    rules = [name for name in _RULES if name in given]
    if len(rules) > 1 and rules[0] in ("sparse_budgets", "key_views"):
        raise InputError(
            f"{_option(rules[0])} does not go with {_option(rules[1])}; leave one of them out"
        )
    if "sparse_budgets" in given:
        chosen["budgets"] = budgets_asked(given["sparse_budgets"])
    if "key_views" in given:
        chosen["selector"] = KeyViews(count=given["key_views"])
    sparse = SparseAttention(**chosen)
    return FastAttention(sparse) if given["attention"] == "fast" else sparse


def _option(name: str) -> str:
    """What an option is called on the command line."""
    return f"--{name.replace('_', '-')}"
