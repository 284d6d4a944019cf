"""Config dataclasses from plain JSON values."""

from typing import Any


def structured[T](kind: type[T], values: Any) -> T:
    """A (nested) config dataclass from dicts, lists and numbers, strict about names and types.

    Fields that are not given have their defaults, so that a config written before a field was
    added still reads. Whole numbers will do for floats, lists for tuples.

    Raises:
      ValueError: names every field that is unknown, missing, or of another type.
    """
    import cattrs

    if not isinstance(values, dict):
        raise ValueError(f"must be an object of fields, found {values!r}")
    converter = cattrs.Converter(forbid_extra_keys=True)
    for plain in (int, float, str, bool):
        converter.register_structure_hook(plain, _strict)
    try:
        return converter.structure(values, kind)
    except cattrs.BaseValidationError as error:
        told = cattrs.transform_error(error, "config", _told)
        raise ValueError("; ".join(told)) from error


def _strict(value: Any, kind: type) -> Any:
    allowed = (int, float) if kind is float else (kind,)
    if type(value) not in allowed:
        raise ValueError(f"must be {kind.__name__}, found {value!r}")
    return kind(value)


def _told(error: BaseException, kind: Any) -> str:
    from cattrs.v import format_exception

    return str(error) if isinstance(error, ValueError) else format_exception(error, kind)
