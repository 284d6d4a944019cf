"""The one error that lists everything in which a checkpoint and a model differ."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import chain

from jaxrecon.errors import WeightsError

LINES = 20
"""The most differences that are listed one by one."""


@dataclass
class Mismatch:
    """Differences met so far, one line of text each."""

    missing: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    different: list[str] = field(default_factory=list)

    def raise_if_any(self, label: str, *, hint: str = "") -> None:
        """Does nothing if no difference was met.

        Raises:
          WeightsError: the first line says how many differences `label` has; then one line each,
            `- missing`, `+ unexpected` or `~` for another shape, and a count of those left out.
        """
        kinds = [
            [f"- missing {text}" for text in self.missing],
            [f"+ unexpected {text}" for text in self.unexpected],
            [f"~ {text}" for text in self.different],
        ]
        count = sum(map(len, kinds))
        if not count:
            return
        first = (
            f"{label} does not fit the model: {len(self.missing)} missing, "
            f"{len(self.unexpected)} unexpected, {len(self.different)} different{hint}"
        )
        while sum(map(len, kinds)) > LINES:
            max(kinds, key=len).pop()
        rest = [f"... and {count - LINES} more"] if count > LINES else []
        raise WeightsError("\n".join([first, *chain.from_iterable(kinds), *rest]))


def compare_shapes(
    found: Mapping[str, tuple[int, ...]], expected: Mapping[str, tuple[int, ...]]
) -> Mismatch:
    """Differences between two sets of named shapes, both ways."""
    return Mismatch(
        missing=[f"{name} {shape}" for name, shape in expected.items() if name not in found],
        unexpected=[f"{name} {shape}" for name, shape in found.items() if name not in expected],
        different=[
            f"{name} has shape {shape}, expected {expected[name]}"
            for name, shape in found.items()
            if name in expected and shape != expected[name]
        ],
    )
