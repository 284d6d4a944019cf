"""A small model of each family, with random weights."""

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import numpy as np
from flax import nnx

from drawn_weights import drawn
from jaxrecon import checkpoint
from jaxrecon.images import ImageRule
from jaxrecon.models import (
    MAPANYTHING_RESIZE,
    PI3_RESIZE,
    VGGT,
    VGGT_RESIZE,
    MapAnything,
    Model,
    Pi3,
    Pi3X,
)
from jaxrecon.pipeline import Pipeline
from jaxrecon.reconstruction import Reconstruction
from mapanything_stages import MAPANYTHING_TINY
from pi3x_stages import PI3X_TINY
from tiny_models import PI3_TINY
from vggt_stages import VGGT_TINY

FIELDS = ("points_world", "points_camera", "confidence", "world_from_camera")
"""Of a reconstruction, what no threshold decides."""
CONFIGS = {
    "pi3": PI3_TINY,
    "pi3x": PI3X_TINY,
    "vggt": VGGT_TINY,
    "mapanything": MAPANYTHING_TINY,
}
FAMILIES: dict[str, tuple[Callable[[], Model], ImageRule]] = {
    "pi3": (lambda: Pi3(PI3_TINY, rngs=nnx.Rngs(0)), PI3_RESIZE),
    "pi3x": (lambda: Pi3X(PI3X_TINY, rngs=nnx.Rngs(0)), PI3_RESIZE),
    "vggt": (lambda: VGGT(VGGT_TINY, rngs=nnx.Rngs(0)), VGGT_RESIZE),
    "mapanything": (lambda: MapAnything(MAPANYTHING_TINY, rngs=nnx.Rngs(0)), MAPANYTHING_RESIZE),
}


def saved_tiny(family: str, folder: Path) -> Path:
    """A native checkpoint of the small model."""
    make, resize = FAMILIES[family]
    header = {
        "family": family,
        "model": f"{family}-tiny",
        "config": asdict(CONFIGS[family]),
        "license": "none",
        "source": {"file": "drawn"},
        "resize": asdict(resize),
    }
    checkpoint.save(drawn(make), folder, header)
    return folder


def whole_and_streamed(pipeline: Pipeline, folder: Path) -> tuple[Reconstruction, Reconstruction]:
    """Eleven views of noise at once, and a few at a time through the folder."""
    pixels = np.random.default_rng(0).integers(0, 256, (11, 28, 28, 3), np.uint8)
    whole = pipeline.reconstruct(pixels, resolution=28, min_confidence=0.0).numpy()
    pipeline.stream(pixels, folder, views_at_once=3, resolution=28, min_confidence=0.0)
    return whole, Reconstruction.load(folder)
