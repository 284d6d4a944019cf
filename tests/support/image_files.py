"""Small pictures and videos for the tests of `jaxrecon.images`."""

import struct
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from jaxrecon.images import load_images
from jaxrecon.models import ResizeRule

ONE_PATCH = ResizeRule(pixel_limit=14 * 14)  # leaves images of 14x14 pixels as they are
TWO_BY_TWO = ResizeRule(patch=1, pixel_limit=4)  # leaves images of 2x2 pixels as they are


def noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def save(pixels: np.ndarray, path: Path, **options: Any) -> Path:
    Image.fromarray(pixels).save(path, **options)
    return path


def load_one(source: Any, rule: ResizeRule = ONE_PATCH) -> np.ndarray:
    """The only view, loaded from pixels that have the rule's size already."""
    batch = load_images(source, rule=rule)
    assert batch.pixels.shape[0] == 1
    return batch.pixels[0]


def write_tiff(
    path: Path, data: bytes, size: tuple[int, int], **tags: int | tuple[int, ...]
) -> Path:
    """An uncompressed TIFF, by the standard alone: in one strip, or one for each plane.

    Args:
      path: where to.
      data: the pixels.
      size: width and height.
      tags: `bits` of each sample, and `photometric`, `orientation`, `samples`, `planar`,
        `sample_format`.
    """
    numbers = {"bits": 258, "photometric": 262, "orientation": 274, "samples": 277, "planar": 284}
    numbers["sample_format"] = 339
    fields = {numbers[name]: value for name, value in tags.items()}
    strips = int(np.max(tags.get("samples", 1))) if tags.get("planar") == 2 else 1
    length, place = len(data) // strips, 8 + 2 + 12 * (len(fields) + 6) + 4
    fields |= {256: size[0], 257: size[1], 259: 1, 278: size[1], 279: (length,) * strips}
    fields[273] = tuple(range(1024, 1024 + len(data), length))
    rows, behind = [], b""
    for tag, value in sorted(fields.items()):
        values = value if isinstance(value, tuple) else (value,)
        at = values[0] if len(values) == 1 else place + len(behind)
        rows.append(struct.pack("<HHLL", tag, 4, len(values), at))
        behind += struct.pack(f"<{len(values)}L", *values) if len(values) > 1 else b""
    head = b"II*\0" + struct.pack("<LH", 8, len(rows))
    whole = head + b"".join(rows) + struct.pack("<L", 0) + behind
    path.write_bytes(whole.ljust(1024, b"\0") + data)
    return path


def write_video(
    path: Path, frames: int = 7, size: tuple[int, int] = (64, 48), movflags: str = "0"
) -> Path:
    """Grey frames, 30 levels brighter each (and dark again at 256), with a red top-left quarter."""
    width, height = size

    def frame(number: int) -> np.ndarray:
        pixels = np.full((height, width, 3), 30 * number % 256, np.uint8)
        pixels[: height // 2, : width // 2] = (200, 0, 0)
        return pixels

    return write_frames(path, map(frame, range(frames)), size, movflags)


def write_frames(
    path: Path, frames: Iterable[np.ndarray], size: tuple[int, int], movflags: str = "0"
) -> Path:
    """Frames of RGB, ten a second."""
    av = pytest.importorskip("av")
    options = {"movflags": movflags} if path.suffix == ".mp4" else {}
    with av.open(str(path), "w", container_options=options) as container:
        stream = container.add_stream("mpeg4", rate=10)
        (stream.width, stream.height), stream.pix_fmt = size, "yuv420p"
        stream.bit_rate = 4_000_000
        container.start_encoding()
        for pixels in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())
    return path
