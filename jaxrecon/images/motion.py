"""Which views are kept by motion: those that differ enough from the last one that was kept."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache

import numpy as np
from jaxtyping import Complex64, Float32
from PIL import Image, ImageFilter

from jaxrecon.images.views import Source, View

_WIDTH, _HEIGHT = 256, 192
_BLOCK_WIDTH, _BLOCK_HEIGHT = _WIDTH // 2, _HEIGHT // 2
_BLUR = 1.0
_FLAT = 1.0
_FOUND = 0.12


def kept_by_motion(source: Source, motion: float, skip: int) -> Source:
    """The views of a source that differ from the last one kept by at least `motion`.

    Views are read one after the other as they are asked for. The first one is kept always.

    Args:
      source: whose views these are.
      motion: a share of the image's width; see `motion_between`.
      skip: leaves out so many of the views that are kept first.
    """
    notes = source.notes
    return Source(None, _kept(source, motion, skip, notes), notes)


def _kept(source: Source, motion: float, skip: int, notes: list[str]) -> Iterator[View]:
    last: Spectra | None = None
    seen = kept = 0
    for view in source.views:
        seen += 1
        image = view.read()
        now = Spectra(image)
        if last is not None and motion_between(last, now) < motion:
            continue
        last = now
        kept += 1
        if kept > skip:
            yield replace(view, read=_giving(image))
    if seen == 1:
        return
    told = f"motion={motion:g} (--motion): {kept} of {seen} views are kept"
    if kept == 1:
        told += ": the camera stands still, or moves by less; give a smaller motion, or none"
    notes.append(told)


def _giving(image: Image.Image) -> Callable[[], Image.Image]:
    return lambda: image


class Spectra:
    """What motion is measured by: a picture in grey, 256x192, in overlapping blocks.

    Args:
      image: of mode RGB or RGBA.
    """

    def __init__(self, image: Image.Image) -> None:
        self.aspect = image.height / image.width
        grey = image.convert("L").resize((_WIDTH, _HEIGHT), Image.Resampling.BOX)
        pixels = np.asarray(grey.filter(ImageFilter.GaussianBlur(_BLUR)), np.float32)
        blocks = np.stack(
            [
                pixels[top : top + _BLOCK_HEIGHT, left : left + _BLOCK_WIDTH]
                for top in range(0, _BLOCK_HEIGHT + 1, _BLOCK_HEIGHT // 2)
                for left in range(0, _BLOCK_WIDTH + 1, _BLOCK_WIDTH // 2)
            ]
        )
        self.flat = blocks.std(axis=(1, 2)) < _FLAT
        blocks = (blocks - blocks.mean(axis=(1, 2), keepdims=True)) * _window()
        self.blocks: Complex64[np.ndarray, "9 96 65"] = np.fft.rfft2(blocks).astype(np.complex64)


def motion_between(before: Spectra, now: Spectra) -> float:
    """How far a picture has moved, as a share of its width.

    The median, over nine overlapping blocks of half the picture's width and height, of the length
    of the shift that phase correlation finds (Kuglin and Hines, 1975). So a camera that turns or
    goes ahead moves too, and a person who walks through a still picture does not. Blocks without
    contrast in both pictures do not count; a block that is not found again, as where it has moved
    by more than a quarter of the width, counts as infinitely far.
    """
    counted = ~(before.flat & now.flat)
    if not counted.any():
        return 0.0
    cross = now.blocks[counted] * before.blocks[counted].conj()
    cross = cross / np.maximum(np.abs(cross), 1e-6) * _low_pass()
    likeness = np.fft.irfft2(cross, s=(_BLOCK_HEIGHT, _BLOCK_WIDTH)).astype(np.float32)
    lengths = [_length(each, now.aspect) for each in likeness / _low_pass_peak()]
    return float(np.median(lengths))


def _length(likeness: Float32[np.ndarray, "96 128"], aspect: float) -> float:
    """The length of the likeliest shift; infinite if none is likely."""
    row, column = np.unravel_index(int(likeness.argmax()), likeness.shape)
    if likeness[row, column] < _FOUND:
        return np.inf
    down = _between(likeness[:, column], int(row)) / _HEIGHT * aspect
    right = _between(likeness[row], int(column)) / _WIDTH
    return float(np.hypot(down, right))


def _between(values: Float32[np.ndarray, " N"], peak: int) -> float:
    """Where a parabola through the highest of periodic values and its neighbours is highest."""
    count = len(values)
    before, at, behind = (float(values[(peak + step) % count]) for step in (-1, 0, 1))
    curve = before - 2 * at + behind
    place = peak + (0.5 * (before - behind) / curve if curve < 0 else 0.0)
    return place - count if place > count / 2 else place


@cache
def _window() -> Float32[np.ndarray, "96 128"]:
    return np.outer(np.hanning(_BLOCK_HEIGHT), np.hanning(_BLOCK_WIDTH)).astype(np.float32)


@cache
def _low_pass() -> Float32[np.ndarray, "96 65"]:
    """Weights of frequencies: those of a blur by a pixel."""
    down, right = np.fft.fftfreq(_BLOCK_HEIGHT)[:, None], np.fft.rfftfreq(_BLOCK_WIDTH)
    return np.exp(-2 * (np.pi * _BLUR) ** 2 * (down**2 + right**2)).astype(np.float32)


@cache
def _low_pass_peak() -> float:
    return float(np.fft.irfft2(_low_pass(), s=(_BLOCK_HEIGHT, _BLOCK_WIDTH))[0, 0])
