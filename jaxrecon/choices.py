"""What users choose by, once for the library, its messages and the command line: names, a number.

The command line lists them without importing JAX.
"""

import difflib
from collections.abc import Iterable
from typing import Literal, get_args

type AttentionName = Literal["auto", "fast", "sparse", "dense", "mosaic_gpu", "cudnn", "xla"]
"""How to attend: a policy, or one of the backends of dense attention."""

type OrderName = Literal["pca_tree", "raster", "hilbert"]
"""In which order the patches of a scene are cut into blocks; see `jaxrecon.sparse.orders`."""

type PresetName = Literal["early_most", "middle_spared", "late_spared"]
"""How global layers share what block-sparse attention keeps; see `jaxrecon.sparse.presets`."""

type JoinName = Literal["points", "poses"]
"""By what chunks of a sequence are joined; see `jaxrecon.pipeline.joins`."""

type GroupName = Literal["sim3", "se3"]
"""Whether a join fits a scale."""

EDGE_RTOL = 0.03
"""The jump in depth across 3 x 3 pixels, relative to it, that makes an edge if users name none."""

ATTENTIONS: tuple[AttentionName, ...] = get_args(AttentionName.__value__)
ORDERS: tuple[OrderName, ...] = get_args(OrderName.__value__)
PRESETS: tuple[PresetName, ...] = get_args(PresetName.__value__)
JOINS: tuple[JoinName, ...] = get_args(JoinName.__value__)
GROUPS: tuple[GroupName, ...] = get_args(GroupName.__value__)

_NEAR, _LONGEST = 0.6, 100
_LAYER_DIGITS = 3


def meant(value: object, names: Iterable[object]) -> str:
    """The name that a misspelt one is nearest to, as the end of a message; empty if none is near.

    Upper and lower case, hyphens and underscores count as the same.
    """
    if not isinstance(value, str) or len(value) > _LONGEST:
        return ""
    plain = {_plain(name): name for name in names if isinstance(name, str)}
    found = difflib.get_close_matches(_plain(value), plain, n=1, cutoff=_NEAR)
    return f"; did you mean {plain[found[0]]}?" if found else ""


def layer_numbers(text: str) -> tuple[int, ...] | None:
    """The numbers of layers that 0-8 or 0-3,6 names; None if it names none."""
    found: list[int] = []
    for part in text.split(","):
        first, dash, last = part.partition("-")
        last = last if dash else first
        if not (_is_layer(first) and _is_layer(last) and int(first) <= int(last)):
            return None
        found += range(int(first), int(last) + 1)
    return tuple(found)


def _is_layer(digits: str) -> bool:
    return digits.isdecimal() and len(digits) <= _LAYER_DIGITS


def _plain(name: str) -> str:
    return name.casefold().replace("_", "-")
