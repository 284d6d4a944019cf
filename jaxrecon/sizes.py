"""The sizes and other numbers in configs: each has a range."""

from typing import Any

from jaxrecon.checks import is_whole
from jaxrecon.errors import InputError
from jaxrecon.reading import shown

MOST_WIDTH = 2**16
"""The widest layer of a config; the widest of a released model has 8,192 features."""

MOST_BLOCKS = 1024
"""The most blocks, heads or rounds of a config."""


def check_whole(config: Any, *names: str, least: int = 1, most: int) -> None:
    """Refuses whole numbers of a config, or tuples of some, that are out of range.

    Args:
      config: a dataclass.
      names: of its fields.
      least, most: the range, both ends included.

    Raises:
      InputError: naming the first field that is out of range.
    """
    for name in names:
        value = getattr(config, name)
        for number in value if isinstance(value, tuple) else (value,):
            if not is_whole(number) or not least <= number <= most:
                _refuse(config, name, number, f"a whole number from {least} to {most}")


def check_real(config: Any, *names: str, least: int | float, most: int | float) -> None:
    """Refuses numbers of a config, or tuples of some, that are out of range or not finite.

    Args, Raises: see `check_whole`.
    """
    for name in names:
        value = getattr(config, name)
        for number in value if isinstance(value, tuple) else (value,):
            if not isinstance(number, int | float) or not least <= number <= most:
                _refuse(config, name, number, f"from {least:g} to {most:g}")


def check_heads(config: Any, name: str, width: int, *, multiple: int = 1) -> None:
    """Refuses a number of attention heads among which a width cannot be dealt out.

    Args:
      config: a dataclass.
      name: of the field that says how many heads there are.
      width: of all heads together.
      multiple: of what the width of one head must be; 4 for rotary embeddings.

    Raises:
      InputError: naming the field.
    """
    check_whole(config, name, most=MOST_BLOCKS)
    heads = getattr(config, name)
    if width % (heads * multiple):
        whole = "whole numbers" if multiple == 1 else f"multiples of {multiple}"
        _refuse(config, name, heads, f"such that the width {width} is dealt out in {whole}")


def _refuse(config: Any, name: str, value: Any, wanted: str) -> None:
    raise InputError(f"{type(config).__name__}: {name} is {shown(value)}; it must be {wanted}")
