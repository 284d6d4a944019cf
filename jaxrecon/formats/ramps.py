"""Numbers as colours, without matplotlib."""

import colorsys

import numpy as np
from jaxtyping import Bool, Float, UInt8

type _Anchors = tuple[tuple[int, int, int], ...]

DEPTH: _Anchors = (
    (122, 4, 35),
    (224, 74, 36),
    (246, 178, 65),
    (170, 214, 120),
    (58, 142, 189),
    (36, 36, 110),
)
"""From near, warm, to far, cold."""
CONFIDENCE: _Anchors = (
    (48, 18, 59),
    (70, 72, 140),
    (40, 124, 142),
    (70, 180, 120),
    (180, 220, 60),
    (250, 240, 120),
)
"""From low, dark, to high, light."""
UNKNOWN = (120, 120, 120)


def colored(
    values: Float[np.ndarray, "*dims"],
    low: float,
    high: float,
    anchors: _Anchors,
    known: Bool[np.ndarray, "*dims"] | None = None,
) -> UInt8[np.ndarray, "*dims 3"]:
    """Values as colours between the anchors, from `low` to `high`; grey where not known."""
    finite = np.isfinite(values)
    level = np.clip((np.where(finite, values, low) - low) / max(high - low, 1e-12), 0, 1)
    places = np.linspace(0, 1, len(anchors))
    channels = [np.interp(level, places, channel) for channel in zip(*anchors, strict=True)]
    colors = np.rint(np.stack(channels, axis=-1)).astype(np.uint8)
    usable = finite if known is None else finite & known
    return np.where(usable[..., None], colors, np.array(UNKNOWN, np.uint8))


def camera_color(view: int, count: int) -> tuple[int, int, int]:
    """The colour of one of `count` cameras, the same in every form in which cameras are drawn."""
    red, green, blue = (round(255 * part) for part in colorsys.hsv_to_rgb(view / count, 0.8, 1.0))
    return red, green, blue


def middle_range(
    values: Float[np.ndarray, "*dims"], known: Bool[np.ndarray, "*dims"]
) -> tuple[float, float]:
    """What holds the middle 96 percent of the known values; 0 to 1 if there are none."""
    known = known & np.isfinite(values)
    if not known.any():
        return 0.0, 1.0
    low, high = np.percentile(values[known], [2, 98])
    return float(low), float(high)
