"""Matches a checkpoint's tensors with a model's parameters, then streams them over."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from convert.families import guess_family
from convert.mismatch import Mismatch
from convert.rules import Ignore, Rule
from convert.safetensors_file import Specs, TensorSpec, aligned_empty
from convert.sources import Source
from convert.transforms import TRANSFORMS
from jaxrecon.errors import WeightsError

type Shape = tuple[int, ...]


@dataclass(frozen=True)
class Piece:
    """One tensor of the source, and the entry of a stack that it fills (None: all of it)."""

    source: str
    transform: str
    index: int | None = None


@dataclass(frozen=True)
class Leaf:
    """One parameter of ours and the tensors that fill it, in the order of the stack."""

    path: str
    spec: TensorSpec
    pieces: tuple[Piece, ...]


@dataclass(frozen=True)
class Plan:
    """Every parameter with what fills it, and the tensors left out, each with the reason."""

    leaves: tuple[Leaf, ...]
    ignored: Mapping[str, str]

    @property
    def specs(self) -> dict[str, TensorSpec]:
        return {leaf.path: leaf.spec for leaf in self.leaves}


def plan(
    source_specs: Specs,
    rules: Sequence[Rule],
    ignored: Sequence[Ignore],
    targets: Mapping[str, Shape],
    *,
    label: str = "the checkpoint",
) -> Plan:
    """Finds a place for every tensor and a tensor for every place, from names and shapes alone.

    A parameter keeps the dtype of its tensors; where they differ it is float32.

    Args:
      source_specs: shape and dtype of the checkpoint's tensors.
      rules: where they go.
      ignored: which of them are left out.
      targets: path and shape of every parameter of the model.
      label: what the checkpoint is called in an error.

    Raises:
      WeightsError: a tensor is neither used exactly once nor ignored, a parameter or a layer of it
        is not filled exactly once, or a shape differs. One error lists all of that.
      ValueError: a tensor matches more than one rule, which is a fault of the rules.
    """
    specs = {
        name: TensorSpec(shape, np.dtype(dtype)) for name, (shape, dtype) in source_specs.items()
    }
    reasons = _reasons(specs, ignored)
    matching = _Matching(specs, targets)
    compiled = [(re.compile(rule.pattern), rule) for rule in rules]
    for name in specs:
        if name in reasons:
            continue
        found = [(rule, match) for regex, rule in compiled if (match := regex.fullmatch(name))]
        if len(found) > 1:
            patterns = " and ".join(rule.pattern for rule, _ in found)
            raise ValueError(f"tensor {name} matches more than one rule: {patterns}")
        if found:
            matching.place(name, *found[0])
        else:
            matching.refuse(name)
    matching.note_missing()
    matching.mismatch.raise_if_any(label, hint=_hint(specs))
    return Plan(tuple(matching.leaf(path) for path in targets), reasons)


def stream(plan: Plan, source: Source) -> Iterator[tuple[str, np.ndarray]]:
    """Yields the parameters one after another; no more than one is in memory.

    Raises:
      WeightsError: a tensor can't be read any more, or has numbers that are not finite.
    """
    for leaf in plan.leaves:
        yield leaf.path, _fill(leaf, source)


def _reasons(names: Iterable[str], ignored: Sequence[Ignore]) -> dict[str, str]:
    return {
        name: rule.reason for name in names for rule in ignored if re.fullmatch(rule.pattern, name)
    }


def _hint(names: Iterable[str]) -> str:
    family = guess_family(names)
    return f"; its names are those of the family {family!r}" if family else ""


def _fill(leaf: Leaf, source: Source) -> np.ndarray:
    out = aligned_empty(leaf.spec)
    for piece in leaf.pieces:
        transform = TRANSFORMS[piece.transform]
        where = ... if piece.index is None else piece.index
        out[where] = transform(source.read(piece.source), out[where].ndim)
        odd = out[where].size - np.count_nonzero(np.isfinite(out[where]))
        if odd:
            raise WeightsError(
                f"tensor {piece.source} holds {odd} numbers that are not finite, of "
                f"{out[where].size}; download the file again, or store it in float32 or bfloat16 "
                "if it was made in float16"
            )
    return out


@dataclass
class _Matching:
    """What has been placed so far, by parameter and entry, and what would not fit."""

    source_specs: Mapping[str, TensorSpec]
    targets: Mapping[str, Shape]
    filled: dict[str, dict[int | None, Piece]] = field(default_factory=dict)
    mismatch: Mismatch = field(default_factory=Mismatch)

    def place(self, name: str, rule: Rule, match: re.Match[str]) -> None:
        """Gives the tensor `name` its place, or notes why it has none."""
        path = match.expand(rule.target)
        index = int(match["layer"]) // rule.every if "layer" in match.re.groupindex else None
        if path not in self.targets:
            return self.refuse(name, f"the model has no {path}")
        stack = self.targets[path]
        if index is not None and (not stack or index >= stack[0]):
            return self.refuse(name, f"{path} has {stack[0] if stack else 0} layers")
        places = self.filled.setdefault(path, {})
        whole = index is None or None in places
        other = next(iter(places.values()), None) if whole else places.get(index)
        if other is not None:
            return self.refuse(name, f"{other.source} fills the same place")
        places[index] = Piece(name, rule.transform, index)
        return self._check_shape(name, rule.transform, stack if index is None else stack[1:])

    def refuse(self, name: str, reason: str = "") -> None:
        """Notes that nothing takes the tensor `name`."""
        shape = self.source_specs[name].shape
        self.mismatch.unexpected.append(f"{name} {shape}{': ' if reason else ''}{reason}")

    def _check_shape(self, name: str, transform: str, expected: Shape) -> None:
        shape = self.source_specs[name].shape
        found = _transformed(shape, transform, len(expected))
        if found != expected:
            became = f" (laid out as {found})" if found not in (None, shape) else ""
            self.mismatch.different.append(f"{name} has shape {shape}{became}, expected {expected}")
        elif self.source_specs[name].dtype.kind in "biu":
            dtype = self.source_specs[name].dtype
            self.mismatch.different.append(f"{name} holds {dtype}, expected floating point")

    def note_missing(self) -> None:
        """Notes every parameter, or layer of one, that nothing fills."""
        for path, shape in self.targets.items():
            places = self.filled.get(path, {})
            if not places:
                self.mismatch.missing.append(f"{path} {shape}")
            elif None not in places:
                gaps = [str(index) for index in range(shape[0]) if index not in places]
                if gaps:
                    self.mismatch.missing.append(f"layer {', '.join(gaps)} of {path} {shape}")

    def leaf(self, path: str) -> Leaf:
        places = self.filled[path]
        pieces = tuple(places[index] for index in sorted(places, key=lambda key: key or 0))
        dtypes = {self.source_specs[piece.source].dtype for piece in pieces}
        dtype = dtypes.pop() if len(dtypes) == 1 else np.dtype(np.float32)
        return Leaf(path, TensorSpec(self.targets[path], dtype), pieces)


def _transformed(shape: Shape, transform: str, rank: int) -> Shape | None:
    """Shape that the transform makes of `shape`; None if it can't."""
    stand_in = np.broadcast_to(np.uint8(0), shape)
    try:
        return TRANSFORMS[transform](stand_in, rank).shape
    except (ValueError, TypeError):
        return None
