"""What is known of views and can be, but is more often a mistake."""

from collections.abc import Sequence

import numpy as np

from jaxrecon.priors.view_priors import ViewPriors

_OFF_CENTRE, _IN_THE_CORNER = 0.4, 0.02
"""Where along both sides the principal point lies that may be the centre of a smaller copy."""

_ALIKE = 1.1
_FAR = 1000.0
"""Metres from which a depth map is taken for one in millimetres."""

_SAMPLE = 100_000
"""About so many pixels of a map are looked at."""


def doubts(priors: ViewPriors, sizes: Sequence[tuple[int, int]], *, start: int = 0) -> list[str]:
    """Notes on intrinsics that look like those of a smaller copy, and on depth in millimetres.

    Args:
      priors: what is known, as `ViewPriors.checked` lets it pass.
      sizes: width and height of each view's original image.
      start: the number of the first of these views in their sequence.
    """
    copies = {
        view: share
        for view, matrix in priors.by_view("intrinsics", len(sizes)).items()
        if (share := _share_of_a_copy(matrix, sizes[view])) is not None
    }
    notes = []
    if copies:
        view, share = next(iter(copies.items()))
        width, height = sizes[view]
        small = f"{round(2 * share * width)}x{round(2 * share * height)}"
        notes.append(
            f"intrinsics: the principal point of view {start + view} ({len(copies)} of "
            f"{len(sizes)}) lies at {share:.0%} of both sides of its image of {width}x{height}, in "
            f"the middle of a copy of {small}: if they are of such a copy, multiply their first "
            f"two rows by {0.5 / share:.3g}"
        )
    far = priors.by_view("depths", len(sizes)) if priors.metric_depths else {}
    for view, depth in far.items():
        some = depth.reshape(-1)[:: max(depth.size // _SAMPLE, 1)]
        known = some[np.isfinite(some) & (some > 0)]
        if len(known) and (median := float(np.median(known))) >= _FAR:
            notes.append(
                f"depths: half of view {start + view} is farther than {median:,.0f} metres: if "
                "these are millimetres, divide them by 1000"
            )
            break
    return notes


def _share_of_a_copy(matrix: np.ndarray, size: tuple[int, int]) -> float | None:
    """Which share of the image's sides a principal point is at, if it is one and lies off centre.

    At the very corner it is that of a tile that was cut out.
    """
    across, down = (matrix[:2, 2].astype(np.float64) + 0.5) / size
    share = (across + down) / 2
    alike = max(across, down) <= _ALIKE * min(across, down)
    return float(share) if alike and _IN_THE_CORNER < share < _OFF_CENTRE else None
