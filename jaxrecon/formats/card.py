"""A reconstruction in a few words, and as a card in notebooks."""

import html
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from jaxrecon.errors import encodable
from jaxrecon.formats.data_urls import jpeg_url
from jaxrecon.formats.ramps import DEPTH, colored, middle_range
from jaxrecon.formats.scene import Scene
from jaxrecon.formats.summary import evenly_chosen

_MOST_VIEWS = 4
_MOST_POINTS = 200_000
_THUMBNAIL = 160


@dataclass(frozen=True)
class Counts:
    """How many views there are, of which size, and how many of their pixels the mask keeps.

    Attributes:
      views, height, width: of the pictures.
      pixels: of all of them, without margins around photos.
      kept: of these.
    """

    views: int
    height: int
    width: int
    pixels: int
    kept: int


def facts(scene: Scene, counts: Counts) -> dict[str, str]:
    """What a scene holds, by name; the scene may be a thinned one, of which the counts are not."""
    views = "1 view" if counts.views == 1 else f"{counts.views} views"
    found = {
        "model": scene.model or "unknown",
        "views": f"{views} of {counts.width}x{counts.height} pixels",
        "points": f"{counts.kept:,} kept, {100 * counts.kept / counts.pixels:.1f} % of the pixels",
        "bounds": _bounds(scene),
        "scale": "metric: lengths are in metres"
        if scene.metric_scale is not None
        else "not metric: lengths are in units of the model",
    }
    if scene.tracks is not None:
        found["tracks"] = f"{len(scene.tracks)} points followed"
    return found


def words(scene: Scene, counts: Counts) -> str:
    """The facts in a few lines."""
    known = facts(scene, counts)
    made = "" if not scene.model else f" by {known['model']}"
    tracks = f"; {known['tracks']}" if "tracks" in known else ""
    return "\n".join(
        (
            f"Reconstruction{made}: {known['views']}{tracks}",
            f"  points: {known['points']}",
            f"  bounds: {known['bounds']}",
            f"  scale: {known['scale']}",
        )
    )


def card(scene: Scene, counts: Counts) -> str:
    """The facts as HTML, with some photos and their depth."""
    rows = "".join(
        f"<tr><th style='text-align:left'>{name}</th>"
        f"<td style='text-align:left'>{html.escape(value)}</td></tr>"
        for name, value in facts(scene, counts).items()
    )
    return f"<div><b>Reconstruction</b><table>{rows}</table>{_thumbnails(scene)}</div>"


def _thumbnails(scene: Scene) -> str:
    chosen = evenly_chosen(len(scene.names), _MOST_VIEWS)
    depth = scene.points_camera[chosen, ..., 2]
    known = np.isfinite(depth) & (depth > 0)
    low, high = middle_range(depth, known)
    columns = []
    for place, view in enumerate(chosen):
        pictures = scene.colors[view], colored(depth[place], low, high, DEPTH, known[place])
        images = "".join(
            f'<img src="{jpeg_url(pixels, _THUMBNAIL)}" style="display:block;margin:2px">'
            for pixels in pictures
        )
        name = html.escape(encodable(scene.names[view]))
        columns.append(f'<div style="display:inline-block" title="{name}">{images}</div>')
    return "".join(columns)


def _bounds(scene: Scene) -> str:
    """The box of the middle 96 percent of the kept points on each axis."""
    points = _some_points(scene)
    if not len(points):
        return "no point was kept"
    low, high = np.percentile(points, [2, 98], axis=0)
    axes = zip("xyz", low, high, strict=True)
    return ", ".join(f"{axis} {least:.3g} to {most:.3g}" for axis, least, most in axes)


def _some_points(scene: Scene) -> Float[np.ndarray, "P 3"]:
    step = slice(None, None, max(scene.mask.size // _MOST_POINTS, 1))
    points = scene.points_world.reshape(-1, 3)[step][scene.mask.reshape(-1)[step]]
    return points[np.isfinite(points).all(axis=1)]
