"""Golden cases: outputs of the original PyTorch code on weights that follow from each name.

A case is `<name>.safetensors` (keys `in.*` and `out.*`) beside `<name>.json` (the manifest); the
weights are listed in `statedict/<arch>.json`. See `tests/golden/README.md`.
"""

import json
import re
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import safe_open

from places import ROOT, TESTS

GOLDEN = TESTS / "golden"
SHARED = ROOT.parent / "shared"
FOLDERS = (GOLDEN, SHARED / "golden")


@dataclass(frozen=True)
class Golden:
    """One case; arrays are read when asked for."""

    manifest: Path

    @property
    def name(self) -> str:
        return self.manifest.stem

    @property
    def info(self) -> dict[str, Any]:
        return json.loads(self.manifest.read_text())

    def inputs(self) -> dict[str, np.ndarray]:
        return self._arrays("in.")

    def outputs(self) -> dict[str, np.ndarray]:
        return self._arrays("out.")

    def weights(self, prefix: str = "") -> dict[str, np.ndarray]:
        """The state dict of this case (names that start with `prefix`), overrides applied."""
        info = self.info
        listing = self.manifest.parent / info["statedict"]
        state = state_dict(listing, salt=info["salt"], prefix=prefix)
        override = info.get("weight_override")
        if override:
            names = override["names_matching"]
            # Some manifests give one pattern, followed by a remark.
            listed = [names.split()[0]] if isinstance(names, str) else names
            patterns = [re.compile(pattern) for pattern in listed]
            for name in state:
                if any(pattern.search(name) for pattern in patterns):
                    state[name] = state[name] * np.float32(override["multiply"])
        return state

    def check(self, key: str, actual: np.ndarray, expected: np.ndarray) -> None:
        """Asserts the golden rule: |a - b| <= 3e-5 max|b| + 10 times the float32-float64 gap."""
        info = self.info["outputs"][key]
        hint = info.get("f32_vs_f64", {}).get("max_abs", 0.0)
        strides = tuple(slice(None, None, step) for step in info.get("stride_per_axis", ()))
        assert list(actual.shape) == info["full_shape"], f"{key}: shape {actual.shape}"
        gap = np.abs(
            np.asarray(actual, np.float64)[strides] - np.asarray(expected, np.float64)
        ).max()
        limit = 3e-5 * np.abs(np.asarray(expected, np.float64)).max() + 10 * hint
        assert gap <= limit, f"{self.name} {key}: off by {gap:.3e}, allowed {limit:.3e}"

    def _arrays(self, prefix: str) -> dict[str, np.ndarray]:
        with safe_open(self.manifest.with_suffix(".safetensors"), framework="np") as file:
            keys = [key for key in file.keys() if key.startswith(prefix)]  # noqa: SIM118
            return {key.removeprefix(prefix): file.get_tensor(key) for key in keys}


def stored_stride(full: Sequence[int], stored: Sequence[int]) -> int:
    """The least stride that leaves `stored` of `full` rows, columns or whatever."""
    pairs = list(zip(full, stored, strict=True))
    return next(
        stride
        for stride in range(1, max(full) + 1)
        if all(-(-whole // stride) == left for whole, left in pairs)
    )


def find_cases(folder: Path | None = None) -> list[Golden]:
    """Every case in `folder`; by default in the repository's folder, then those elsewhere."""
    found: dict[str, Golden] = {}
    for place in FOLDERS if folder is None else (folder,):
        for manifest in sorted(place.glob("*.json")):
            if manifest.with_suffix(".safetensors").exists():
                found.setdefault(manifest.stem, Golden(manifest))
    return list(found.values())


def cases_of(cases: Sequence[Golden], family: str, arch: str) -> list[Golden]:
    """Those of a family whose architecture's name begins so."""
    return [c for c in cases if c.info["family"] == family and c.info["arch"].startswith(arch)]


def case(name: str) -> Golden:
    """A case that is kept in the repository."""
    return Golden(GOLDEN / f"{name}.json")


def state_dict(listing: Path, *, salt: str = "", prefix: str = "") -> dict[str, np.ndarray]:
    """The float32 tensors of one architecture, by the rule of the golden data."""
    entries: Mapping[str, Any] = json.loads(listing.read_text())["state_dict"]
    state = {}
    for name, entry in entries.items():
        if not name.startswith(prefix):
            continue
        shape = tuple(entry["shape"])
        if entry["kind"] == "buffer":
            # The one buffer that is told by a rule: 0, 1, 0, 1, ...
            value = entry.get("value", np.arange(np.prod(shape)) % 2)
            state[name] = np.asarray(value, np.float32).reshape(shape)
        else:
            first = entry.get("alias_of", name)
            mean, std = entries[first]["mean"], entries[first]["std"]
            state[name] = golden_weight(first, shape, mean, std, salt)
    return state


def golden_weight(
    name: str, shape: tuple[int, ...], mean: float, std: float, salt: str = ""
) -> np.ndarray:
    """A tensor that is a function of its name: uniform, with the given mean and deviation."""
    uniform = uniform01(salt + name, int(np.prod(shape)))
    return (((uniform * 2 - 1) * np.sqrt(3.0)) * std + mean).astype(np.float32).reshape(shape)


def uniform01(text: str, count: int) -> np.ndarray:
    """`count` numbers in [0, 1) that follow from `text`."""
    bits = np.random.Philox(key=zlib.crc32(text.encode())).random_raw(count)
    return (bits >> np.uint64(11)).astype(np.float64) * 2.0**-53
