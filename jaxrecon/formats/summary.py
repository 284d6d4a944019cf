"""One picture of a reconstruction: views, depth, confidence, the scene from above and aside."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8
from PIL import Image, ImageDraw, ImageFont

from jaxrecon.errors import InputError
from jaxrecon.extras import Extra
from jaxrecon.files import replacing_file
from jaxrecon.formats.options import ExportOptions
from jaxrecon.formats.scene import Scene
from jaxrecon.formats.top_view import PREDICTED, TRUE, draw_side_view, draw_top_view

MOST_VIEWS = 8
"""More views than this are not shown; those that are, are spread evenly."""

_TILE = 176
_GAP, _BAND = 4, 22
_PLAN = (716, 480)
_TEXT, _PAPER, _UNKNOWN = (30, 30, 30), (255, 255, 255), (90, 90, 90)

type _Color = tuple[int, int, int]


@dataclass(frozen=True)
class _Row:
    label: str
    tiles: UInt8[np.ndarray, "V H W 3"]
    smooth: bool = False


def write_summary(
    scene: Scene,
    path: Path,
    *,
    true_depth_z: Float[np.ndarray, "V H2 W2"] | None = None,
    true_world_from_camera: Float[np.ndarray, "V 4 4"] | None = None,
) -> None:
    """Writes rows of views, predicted depth, true depth if known, and confidence, and two plans.

    All depth maps share one colour scale. Where the truth is known, predicted depth is multiplied
    by the one factor that makes its median ratio to the truth one.

    Args:
      scene: what to show; at most `MOST_VIEWS` of its views, evenly chosen, have tiles.
      path: the PNG file.
      true_depth_z: depth along the optical axis for the same images, of any resolution; 0 or NaN
        where it is unknown.
      true_world_from_camera: true poses, in any world frame and unit of length.

    Raises:
      InputError: matplotlib is not installed, the truth is not of as many views as the scene, a
        camera or a true pose is not usable, or the mask keeps no point.
      OutputError: the file cannot be written.
    """
    _check_views("true_depth_z", true_depth_z, scene)
    _check_views("true_world_from_camera", true_world_from_camera, scene)
    _check_finite(true_world_from_camera)
    above = draw_top_view(scene, _PLAN, true_world_from_camera=true_world_from_camera)
    legend = [("seen from above", _TEXT), ("predicted cameras", PREDICTED)]
    if true_world_from_camera is not None:
        legend.append(("true cameras", TRUE))
    side = draw_side_view(scene, _PLAN)
    picture = _composed(_rows(scene, true_depth_z), (above, side), legend)
    with replacing_file(path) as temporary:
        picture.save(temporary, format="PNG", optimize=True)


def write_plain_summary(scene: Scene, path: Path, options: ExportOptions) -> None:
    """`write_summary` without a truth, as the other formats are written."""
    del options
    write_summary(scene, path)


def _check_views(name: str, truth: np.ndarray | None, scene: Scene) -> None:
    if truth is not None and len(truth) != len(scene.names):
        raise InputError(f"{name} is of {len(truth)} views, the scene of {len(scene.names)}")


def _check_finite(true_world_from_camera: Float[np.ndarray, "V 4 4"] | None) -> None:
    if true_world_from_camera is not None and not np.isfinite(true_world_from_camera).all():
        raise InputError("true_world_from_camera has values that are not finite; leave it out")


def _rows(scene: Scene, true_depth_z: Float[np.ndarray, "V H2 W2"] | None) -> list[_Row]:
    chosen = evenly_chosen(len(scene.names), MOST_VIEWS)
    depth = scene.points_camera[chosen, ..., 2].astype(np.float64)
    shown = [_Row(_views_label(len(chosen), len(scene.names)), scene.colors[chosen], smooth=True)]
    if true_depth_z is None:
        low, high = _range(depth, _known(depth))
        shown.append(_Row(f"depth, {low:.3g} to {high:.3g}", _colored(depth, low, high, "turbo")))
    else:
        truth = true_depth_z[chosen].astype(np.float64)
        depth = depth * median_scale(depth, scene.mask[chosen], truth)
        low, high = _range(truth, _known(truth))
        label = f"predicted depth, scaled to the truth, {low:.3g} to {high:.3g}"
        shown.append(_Row(label, _colored(depth, low, high, "turbo")))
        shown.append(_Row("true depth", _colored(truth, low, high, "turbo")))
    confidence = scene.confidence[chosen].astype(np.float64)
    low, high = min(0.0, float(confidence.min())), max(1.0, float(confidence.max()))
    label = f"confidence, {low:.3g} to {high:.3g}"
    return [*shown, _Row(label, _colored(confidence, low, high, "viridis", all_known=True))]


def evenly_chosen(count: int, most: int) -> Int[np.ndarray, " V"]:
    """At most `most` of the numbers below `count`, spread evenly, first and last included."""
    return np.rint(np.linspace(0, count - 1, min(count, most))).astype(np.int64)


def median_scale(
    depth: Float[np.ndarray, "V H W"],
    mask: Bool[np.ndarray, "V H W"],
    truth: Float[np.ndarray, "V H2 W2"],
) -> float:
    """The factor on `depth` that makes the median of its ratio to the truth one, under the mask.

    One if nothing can be compared.
    """
    _, height, width = depth.shape
    row = (np.arange(height) * 2 + 1) * truth.shape[1] // (2 * height)
    column = (np.arange(width) * 2 + 1) * truth.shape[2] // (2 * width)
    nearest = truth[:, row[:, None], column]
    both = mask & _known(depth) & _known(nearest)
    return float(np.median(nearest[both] / depth[both])) if both.any() else 1.0


def _known(depth: Float[np.ndarray, "V H W"]) -> Bool[np.ndarray, "V H W"]:
    return np.isfinite(depth) & (depth > 0)


def _range(
    values: Float[np.ndarray, "V H W"], known: Bool[np.ndarray, "V H W"]
) -> tuple[float, float]:
    """The middle 96 percent of the known values."""
    if not known.any():
        return 0.0, 1.0
    low, high = np.percentile(values[known], [2, 98])
    return float(low), float(high)


def _colored(
    values: Float[np.ndarray, "V H W"],
    low: float,
    high: float,
    colormap: str,
    *,
    all_known: bool = False,
) -> UInt8[np.ndarray, "V H W 3"]:
    """Values as colours, `low` first; grey where depth is unknown."""
    with Extra("eval", "a summary needs matplotlib"):
        from matplotlib import colormaps
    level = np.clip((values - low) / max(high - low, 1e-12), 0, 1)
    colors = colormaps[colormap](np.nan_to_num(level), bytes=True)[..., :3]
    return (
        colors
        if all_known
        else np.where(_known(values)[..., None], colors, np.array(_UNKNOWN, np.uint8))
    )


def _views_label(shown: int, count: int) -> str:
    views = "1 view" if count == 1 else f"{count} views"
    return views if shown == count else f"{shown} of {views}"


def _composed(
    rows: Sequence[_Row],
    plans: tuple[Image.Image, Image.Image],
    legend: Sequence[tuple[str, _Color]],
) -> Image.Image:
    tile = _tile_size(rows[0].tiles[0])
    step = _BAND + tile[1] + _GAP
    above, side = plans
    aside = above.width + 2 * _GAP
    width = max(len(rows[0].tiles) * (tile[0] + _GAP) + _GAP, aside + side.width + _GAP)
    picture = Image.new("RGB", (width, len(rows) * step + _BAND + above.height + _GAP), _PAPER)
    draw = ImageDraw.Draw(picture)
    font = ImageFont.load_default(size=14)
    for number, row in enumerate(rows):
        draw.text((_GAP, number * step + 2), row.label, fill=_TEXT, font=font)
        for place, pixels in enumerate(row.tiles):
            left_top = _GAP + place * (tile[0] + _GAP), number * step + _BAND
            picture.paste(_resized(pixels, tile, row.smooth), left_top)
    for place, (text, color) in enumerate(legend):
        draw.text((_GAP + 150 * place, len(rows) * step + 2), text, fill=color, font=font)
    draw.text((aside, len(rows) * step + 2), "seen from the side", fill=_TEXT, font=font)
    picture.paste(above, (_GAP, len(rows) * step + _BAND))
    picture.paste(side, (aside, len(rows) * step + _BAND))
    return picture


def _tile_size(pixels: UInt8[np.ndarray, "H W 3"]) -> tuple[int, int]:
    height, width = pixels.shape[:2]
    scale = _TILE / max(width, height)
    return max(round(width * scale), 1), max(round(height * scale), 1)


def _resized(
    pixels: UInt8[np.ndarray, "H W 3"], size: tuple[int, int], smooth: bool
) -> Image.Image:
    """Photos smoothly; colours that stand for numbers without mixing them."""
    resampling = Image.Resampling.LANCZOS if smooth else Image.Resampling.NEAREST
    return Image.fromarray(pixels).resize(size, resampling)
