"""The small π³ of the golden cases: its released model, upstream file and native checkpoint."""

from dataclasses import replace
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from golden_data import GOLDEN, state_dict
from jaxrecon import registry
from jaxrecon.models import Pi3Config
from jaxrecon.nn.dinov2 import DinoV2Config
from jaxrecon.registry import ModelEntry

PI3_TINY = Pi3Config(
    encoder=DinoV2Config(width=64, depth=3, heads=4, registers=4, patch=14, grid=5),
    heads=4,
    pairs=2,
    head_width=96,
    head_heads=6,
    point_width=80,
    camera_width=48,
)
TINY_STATE = GOLDEN / "statedict" / "pi3_tiny.json"
TINY_PARAMETERS = 2_209_004
"""Elements of the upstream state dict, without the image mean and deviation (3 each)."""


def tiny_entry() -> ModelEntry:
    """The released π³ in all but its sizes."""
    return replace(registry.MODELS["pi3"], config=PI3_TINY, parameters=TINY_PARAMETERS)


def upstream_state() -> dict[str, np.ndarray]:
    """The small model's weights under upstream's names."""
    return state_dict(TINY_STATE)


def write_upstream(path: Path, state: dict[str, np.ndarray] | None = None) -> Path:
    """Writes `state`, or the small model's weights, as upstream publishes them."""
    save_file(upstream_state() if state is None else state, path)
    return path


def write_native(folder: Path) -> Path:
    """Writes the small model's native checkpoint."""
    upstream = write_upstream(folder.with_name(f"{folder.name}-upstream.safetensors"))
    registry.convert_weights(tiny_entry(), upstream, folder)
    upstream.unlink()
    return folder
