"""Attention policies in one word, as `jaxrecon bench` and the benchmarks' command lines name them.

A policy is written NAME[:FIELD=VALUE[,FIELD=VALUE...]][@LAYERS]. The name is

- one that `load` takes: `dense`, `xla`, `fast`, `sparse`, ...;
- the share of key blocks that is skipped, or one a layer, with no other rule unless a field says
  so: `0.75`, `(0.9,0.75,0.55,0.8)`, `None:cdf_threshold=0.9`;
- a preset by layer, with another mean share to skip if one is given: `middle_spared`,
  `middle_spared=0.9`;
- the file of measured budgets that `jaxrecon calibrate` wrote: `budgets=FILE`, whose name holds no
  colon and no @;
- or one that goes by views: `within_views`, `key_views=8`, `every=4`.

Fields are those of `SparseAttention`: `0.75:order=hilbert`, `key_views=8:compensation_q=4`. Global
layers behind an @ attend within views, the others as the policy says: `dense@0-1`, `0.75@0`.
"""

import ast
import re
from dataclasses import fields
from typing import Any

from jaxrecon.choices import ATTENTIONS, PRESETS, layer_numbers, meant
from jaxrecon.errors import InputError
from jaxrecon.nn.attention import AttentionFn
from jaxrecon.sparse.asked import budgets_asked
from jaxrecon.sparse.attention import SparseAttention
from jaxrecon.sparse.by_layer import within_views_in
from jaxrecon.sparse.named import attention_named
from jaxrecon.sparse.presets import preset_named
from jaxrecon.sparse.selectors import BlockSelector
from jaxrecon.sparse.view_selectors import KeyViews, WithinViews

_BY_VIEWS = {"within_views": None, "key_views": "count", "every": "every"}
"""Names that go by views, and the field of `KeyViews` that their number is."""

_WORDS = ("order", "special_tokens", "pooling", "implementation")
"""Fields whose values are words; those of the others are numbers."""

_NUMBERS = r"None|[0-9eE.,()\[\]+ -]+"
"""What numbers and rows of them are written with."""

_FIELDS = tuple(
    x.name for x in fields(SparseAttention) if x.name not in ("sparse_ratio", "selector", "budgets")
)
_LONGEST, _SHOWN = 1000, 100


def policy_of(text: str) -> AttentionFn:
    """The policy that is written so; see above.

    Raises:
      InputError: it names none, or a value is out of range.
    """
    name, at, layers = text.partition("@")
    try:
        if len(text) > _LONGEST:
            raise InputError(f"it has {len(text)} characters; give at most {_LONGEST}")
        policy = _policy(*name.partition(":")[::2])
        if not at:
            return policy
        numbers = layer_numbers(layers)
        if numbers is None:
            raise InputError(
                f"{layers!r} names no layers; give them from 0, such as 0.75@0-8 or dense@0-3,6"
            )
        return within_views_in(numbers, policy)
    except InputError as error:
        raise InputError(f"policy {text[:_SHOWN]!r}: {error}") from error


def _policy(name: str, rest: str) -> AttentionFn:
    """A policy of all layers, from its name and what is behind the colon."""
    given = _given(rest)
    if name == "sparse":
        return SparseAttention(**given)
    if name in ATTENTIONS:
        if given:
            raise InputError(
                f"{next(iter(given))} is of block-sparse attention, found {name}; leave it out"
            )
        return attention_named(name)
    kind, equals, number = name.partition("=")
    if kind in _BY_VIEWS:
        return SparseAttention(**given, selector=_selector(kind, number if equals else None))
    budgets = budgets_asked(number) if kind == "budgets" else preset_named(name)
    if budgets is not None:
        if "cdf_threshold" in given:
            raise InputError(f"cdf_threshold does not go with {kind}; leave one of them out")
        return SparseAttention(**given, budgets=budgets)
    try:
        ratio = _number(name)
    except ValueError as error:
        known = (*ATTENTIONS, *_BY_VIEWS, *PRESETS)
        raise InputError(
            f"{name[:_SHOWN]!r} is unknown; give a share of key blocks to skip, such as 0.75, or "
            f"one of {', '.join(ATTENTIONS)}, within_views, key_views=N, every=N, "
            f"{', '.join(PRESETS)}, budgets=FILE"
            f"{meant(kind, known)}"
        ) from error
    return SparseAttention(**{"sparse_ratio": ratio, "cdf_threshold": None} | given)


def _selector(kind: str, number: str | None) -> BlockSelector:
    """What chooses blocks by the views that they are of."""
    field = _BY_VIEWS[kind]
    if field is None:
        if number is not None:
            raise InputError(f"within_views takes no number, found {number!r}; leave it out")
        return WithinViews()
    try:
        return KeyViews(**{field: _number(number or "")})
    except ValueError as error:
        raise InputError(
            f"{kind} needs a whole number of at least 1, found {number or 'none'}; write {kind}=8"
        ) from error


def _given(text: str) -> dict[str, Any]:
    """The fields in `FIELD=VALUE,FIELD=VALUE`; a value may have commas of its own."""
    found: dict[str, Any] = {}
    for part in filter(None, re.split(r",(?=\w+=)", text)):
        field, _, value = part.partition("=")
        if field not in _FIELDS:
            raise InputError(
                f"{field!r} is no field; choose one of {', '.join(_FIELDS)}{meant(field, _FIELDS)}"
            )
        try:
            found[field] = value if field in _WORDS else _number(value)
        except ValueError as error:
            raise InputError(f"{field}={value!r} is no number; give one, or None") from error
    return found


def _number(text: str) -> Any:
    """A number, a tuple of numbers or of such tuples, or None; checked where it is used.

    Raises:
      ValueError: it is none of these.
    """
    if not re.fullmatch(_NUMBERS, text):
        raise ValueError(f"{text!r} is no number")
    try:
        return ast.literal_eval(text)
    except (SyntaxError, TypeError, MemoryError, RecursionError) as error:
        raise ValueError(f"{text!r} is no number") from error
