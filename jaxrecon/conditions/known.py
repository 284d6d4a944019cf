"""What was read, whatever the kind of file."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, get_args

import numpy as np
from jaxtyping import Float

type Kind = Literal["intrinsics", "poses", "depths"]
"""One of the fields of `KnownViews`."""

KINDS: tuple[Kind, ...] = get_args(Kind.__value__)


@dataclass(frozen=True, eq=False)
class KnownViews:
    """What a file tells of the views, by their numbers.

    Attributes:
      intrinsics: camera matrices in pixels of the whole upright images, where the centre of the
        top-left pixel is (0, 0).
      poses: world-from-camera, OpenCV axes, in a world frame of the file's own.
      depths: along the optical axis at each pixel, in the unit of the poses; 0 or NaN: unknown.
      metric: whether that unit is the metre; if not, nothing is known of it.
    """

    intrinsics: Mapping[int, Float[np.ndarray, "3 3"]] = field(default_factory=dict)
    poses: Mapping[int, Float[np.ndarray, "4 4"]] = field(default_factory=dict)
    depths: Mapping[int, Float[np.ndarray, "_ _"]] = field(default_factory=dict)
    metric: bool = False
