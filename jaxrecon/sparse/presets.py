"""Budgets by layer, by name: which of the early, middle and late global layers keep more.

How many layers a model has is known where it attends: a preset is asked for its ratios then, so
that one preset goes with models of any depth.
"""

from dataclasses import dataclass
from numbers import Real

import numpy as np
from jaxtyping import Float

from jaxrecon.checks import shown
from jaxrecon.choices import PRESETS, PresetName, meant
from jaxrecon.errors import InputError

type Thirds = tuple[float, float, float]
"""Numbers of the early, the middle and the late third of the global layers."""

KEPT: dict[PresetName, Thirds] = {
    "early_most": (1.0, 2.0, 2.0),
    "middle_spared": (1.0, 2.0, 1.0),
    "late_spared": (1.0, 2.0, 3.0),
}
"""How many key blocks a layer of each third keeps, next to those of the others."""


@dataclass(frozen=True)
class PresetBudgets:
    """A share of the competing key blocks to skip in the mean, shared out by thirds of the layers.

    - "early_most": early layers keep half as many blocks as the others. AVGGT (arXiv 2512.02541)
      finds no correspondences in the early global layers of VGGT and π³.
    - "middle_spared": middle layers keep twice as many as the others. AVGGT finds that they align
      views, and that the last ones refine.
    - "late_spared": middle layers keep twice, late ones three times as many as early ones.
      `pi3-mini` loses a third of its AUC@30 if its last layer attends within views, and next to
      nothing if its first one does.

    The mean is that of all layers, whatever the preset and the number of layers, so that presets
    compare with each other and with one ratio. There is no threshold: the ratios rule.

    Attributes:
      name: one of the above.
      skipped: the mean share, in [0, 1).

    Raises:
      InputError: the name is unknown, or the share is out of range.
    """

    name: PresetName
    skipped: float = 0.75

    def __post_init__(self) -> None:
        if self.name not in PRESETS:
            raise InputError(
                f"preset {shown(self.name)} is unknown; choose one of {', '.join(PRESETS)}"
                f"{meant(self.name, PRESETS)}"
            )
        share = self.skipped
        if isinstance(share, bool) or not isinstance(share, Real) or not 0 <= share < 1:
            raise InputError(f"{self.name}: skipped={shown(share)} must be a number in [0, 1)")
        object.__setattr__(self, "skipped", float(share))

    @property
    def sparse_ratio(self) -> "PresetBudgets":
        """What `SparseAttention` takes for a ratio: this, until the number of layers is known."""
        return self

    def ratios(self, num_layers: int) -> tuple[float, ...]:
        """The share that each of so many global layers may skip.

        Where a third would keep more than all of its blocks, it keeps all, and the others share
        what is left.
        """
        wanted = np.array([KEPT[self.name][third] for third in thirds(num_layers)])
        return tuple(round(1 - float(share), 6) for share in _of_mean(wanted, 1 - self.skipped))


def thirds(num_layers: int) -> list[int]:
    """0, 1 or 2 for early, middle and late layers: the third that a layer's middle lies in.

    Of 4 layers 1, 2 and 1; of 8 layers 3, 2 and 3; of 18 and 24 as many each.
    """
    return [3 * (2 * layer + 1) // (2 * num_layers) for layer in range(num_layers)]


def preset_named(text: str) -> PresetBudgets | None:
    """The preset that NAME or NAME=SHARE writes; None if the name is none of them.

    Raises:
      InputError: the share is no number, or out of range.
    """
    name, equals, share = text.partition("=")
    for preset in PRESETS:
        if name == preset:
            return PresetBudgets(preset, _share(preset, share)) if equals else PresetBudgets(preset)
    return None


def _share(name: str, text: str) -> float:
    try:
        return float(text)
    except ValueError as error:
        raise InputError(
            f"{name} takes a share of key blocks to skip, found {text or 'none'}; write {name}=0.75"
        ) from error


def _of_mean(wanted: Float[np.ndarray, " layers"], mean: float) -> Float[np.ndarray, " layers"]:
    """Shares in proportion to what is wanted, of this mean, and none above 1."""
    shares, full = np.ones(wanted.shape), np.zeros(wanted.shape, bool)
    while not full.all():
        left = mean * wanted.size - full.sum()
        shares[~full] = wanted[~full] * (left / wanted[~full].sum())
        if (shares <= 1).all():
            break
        full |= shares > 1
        shares[full] = 1.0
    return shares
