"""The one error that lists everything in which a checkpoint and a model differ."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import chain

from jaxrecon.errors import WeightsError, one_line

LINES = 20
"""The most differences that are listed one by one."""

_SHORT = 100
"""The most characters of a difference in the error's own line, which names one of each kind."""


@dataclass
class Mismatch:
    """Differences met so far, one line of text each."""

    missing: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    different: list[str] = field(default_factory=list)

    def raise_if_any(self, label: str, *, hint: str = "") -> None:
        """Does nothing if no difference was met.

        Raises:
          WeightsError: one line says how many differences `label` has and names the first. A note
            of the error (`__notes__`) has one line each, `- missing`, `+ unexpected` or `~` for
            another shape, and a count of those left out.
        """
        kinds = [
            [f"- missing {one_line(text)}" for text in self.missing],
            [f"+ unexpected {one_line(text)}" for text in self.unexpected],
            [f"~ {one_line(text)}" for text in self.different],
        ]
        count = sum(map(len, kinds))
        if not count:
            return
        counts = (
            f"{label} does not fit the model: {len(self.missing)} missing, "
            f"{len(self.unexpected)} unexpected, {len(self.different)} different{hint}"
        )
        first = [one_line(kind[0], _SHORT) for kind in kinds if kind]
        error = WeightsError(f"{counts}: {'; '.join(first)}")
        while sum(map(len, kinds)) > LINES:
            max(kinds, key=len).pop()
        rest = [f"... and {count - LINES} more"] if count > LINES else []
        error.add_note("\n".join([*chain.from_iterable(kinds), *rest]))
        raise error


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
