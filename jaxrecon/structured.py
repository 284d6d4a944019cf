"""Config dataclasses from plain JSON values."""

import math
from dataclasses import fields, is_dataclass
from types import UnionType
from typing import Any, Literal, get_args, get_origin

from jaxrecon.choices import meant
from jaxrecon.errors import one_line
from jaxrecon.reading import shown

_MOST_WHOLE = 2**63
"""No size, seed or count needs more than 64 bits."""

_TOLD = 160


def structured[T](kind: type[T], values: Any) -> T:
    """A (nested) config dataclass from dicts, lists and numbers, strict about names and types.

    Fields that are not given have their defaults, so that a config written before a field was
    added still reads. Whole numbers will do for floats, lists for tuples; floats are finite.

    Raises:
      ValueError: names every field that is unknown, missing, of another type, or out of the range
        that its config gives.
    """
    import cattrs

    if not isinstance(values, dict):
        raise ValueError(f"must be an object of fields, found {shown(values)}")
    converter = cattrs.Converter(forbid_extra_keys=True)
    converter.register_structure_hook_func(
        _is_choice,
        lambda given, kinds: converter.structure(given, _fitting(given, get_args(kinds))),
    )
    converter.register_structure_hook_func(lambda kind: get_origin(kind) is Literal, _one_of)
    for plain in (int, float, str, bool):
        converter.register_structure_hook(plain, _strict)
    try:
        return converter.structure(values, kind)
    except cattrs.BaseValidationError as error:
        told = cattrs.transform_error(error, "config", _told)
        raise ValueError("; ".join(told)) from error
    except Exception as error:  # of values that nobody foresaw
        raise ValueError(f"its values cannot be read ({type(error).__name__})") from error


def _is_choice(kind: Any) -> bool:
    """Whether a field takes one config or another."""
    return isinstance(kind, UnionType) and all(is_dataclass(each) for each in get_args(kind))


def _fitting(values: Any, kinds: tuple[Any, ...]) -> Any:
    """The config most of whose fields are there; the first of those that are alike in this."""
    given = set(values) if isinstance(values, dict) else set()
    unknown = [len(given.difference(field.name for field in fields(kind))) for kind in kinds]
    return kinds[unknown.index(min(unknown))]


def _one_of(value: Any, kind: Any) -> Any:
    choices = get_args(kind)
    if not isinstance(value, str) or value not in choices:
        raise ValueError(
            f"must be one of {', '.join(choices)}, found {shown(value)}{meant(value, choices)}"
        )
    return value


def _strict(value: Any, kind: type) -> Any:
    allowed = (int, float) if kind is float else (kind,)
    if type(value) not in allowed:
        raise ValueError(f"must be {kind.__name__}, found {shown(value)}")
    if type(value) is int and abs(value) >= _MOST_WHOLE:
        raise ValueError("must fit into 64 bits")
    if type(value) is float and not math.isfinite(value):
        raise ValueError(f"must be finite, found {value}")
    return kind(value)


def _told(error: BaseException, kind: Any) -> str:
    from cattrs.v import format_exception

    if isinstance(error, ValueError):
        return str(error)
    return one_line(format_exception(error, kind), _TOLD)
