"""A reconstruction as one page of HTML that needs no network."""

import html
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8

from jaxrecon.errors import encodable
from jaxrecon.files import replacing_file
from jaxrecon.formats.data_urls import jpeg_url
from jaxrecon.formats.judging import Judgement, judge, median_confidence
from jaxrecon.formats.options import ExportOptions
from jaxrecon.formats.ramps import CONFIDENCE, DEPTH, colored, middle_range
from jaxrecon.formats.scene import Scene, check_cameras
from jaxrecon.formats.summary import evenly_chosen
from jaxrecon.formats.top_view import draw_side_view, draw_top_view
from jaxrecon.geometry import normals_from_points
from jaxrecon.version import __version__

MOST_VIEWS = 24
"""More views than this are not shown; those that are, are spread evenly."""

_TILE = 256
_PLAN = (640, 480)

_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
_STYLE = """
:root { color-scheme: light dark; --line: #8884; --soft: #8882; --bad: #c62828; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 1120px; margin: 2rem auto; padding: 0 1rem }
h1 { font-size: 1.5rem; margin: 0 0 .2rem } h2 { font-size: 1.1rem; margin: 2rem 0 .6rem }
table { border-collapse: collapse } td, th { padding: .15rem .7rem .15rem 0; text-align: left }
th { font-weight: 600; vertical-align: top } .num { text-align: right }
figure { margin: 0 } figcaption { font-size: .85rem; opacity: .75 }
.plans { display: grid; gap: .8rem; grid-template-columns: 1fr 1fr }
.tiles { display: grid; gap: .3rem; grid-template-columns: repeat(4, 1fr) }
img { width: 100%; display: block; border-radius: 3px }
.view { border-top: 1px solid var(--line); padding: .6rem 0 }
.warnings li { color: var(--bad) } .bar { background: #1e88e5; height: .7rem; border-radius: 2px }
.heat td { padding: 0; width: 1.1rem; height: 1.1rem }
.heat th { font-size: .75rem; padding: 0 .4rem }
code { background: var(--soft); padding: .1rem .3rem; border-radius: 3px }
"""


@dataclass(frozen=True)
class Known:
    """What a report tells beside what the scene holds.

    Attributes:
      settings: how it was made, as name and value.
      sparsity: share of key blocks that each head of each global layer skipped.
      seconds: of each stage; those of the scene if not given.
      files: what lies beside it.
      output: the folder that they are in.
    """

    settings: Mapping[str, Any] | None = None
    sparsity: Float[np.ndarray, "layers N"] | None = None
    seconds: Mapping[str, float] | None = None
    files: Sequence[str] = ()
    output: str | None = None


def write_report(scene: Scene, path: Path, known: Known | None = None) -> None:
    """Writes photos, depth, confidence, normals, plans, timings, settings and warnings as HTML.

    Of more than `MOST_VIEWS` views so many are shown, evenly chosen. The page loads nothing and
    runs nothing.

    Raises:
      InputError: a camera is not usable, or there is no point to show.
      OutputError: the file cannot be written.
    """
    check_cameras(scene)
    page = _page(scene, known or Known(sparsity=scene.sparsity))
    with replacing_file(path) as temporary:
        temporary.write_text(encodable(page), encoding="utf-8")


def write_plain_report(scene: Scene, path: Path, options: ExportOptions) -> None:
    """`write_report`, as the other formats are written; it takes none of the options."""
    del options
    write_report(scene, path)


def _page(scene: Scene, known: Known) -> str:
    judgement = judge(scene)
    title = f"jaxrecon: {len(scene.names)} views"
    parts = [
        f"<h1>{html.escape(title)}</h1>",
        _facts(scene, judgement),
        _warnings(judgement),
        _plans(scene),
        _section("Views", _views(scene, judgement)),
        _section("Time", _timings(known.seconds or scene.seconds)),
        _section("Sparsity", _sparsity(known.sparsity)),
        _section("Settings", _table((known.settings or {}).items())),
        _section("Files", _files(known)),
        f"<p><small>jaxrecon {html.escape(__version__)}</small></p>",
    ]
    head = (
        f'<meta charset="utf-8"><meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{html.escape(title)}</title><style>{_STYLE}</style>"
    )
    body = "\n".join(part for part in parts if part)
    return f'<!doctype html>\n<html lang="en"><head>{head}</head>\n<body>\n{body}\n</body></html>\n'


def _section(title: str, content: str) -> str:
    return f"<h2>{title}</h2>\n{content}" if content else ""


def _table(rows: Iterable[tuple[str, Any]]) -> str:
    told = [
        f"<tr><th>{html.escape(str(name))}</th><td>{html.escape(_told(value))}</td></tr>"
        for name, value in rows
    ]
    return f"<table>{''.join(told)}</table>" if told else ""


def _told(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _facts(scene: Scene, judgement: Judgement) -> str:
    height, width = scene.mask.shape[1:]
    unit = "metres" if scene.metric_scale is not None else "units of the model, not metric"
    rows = {
        "Model": scene.model or "unknown",
        "Views": f"{len(scene.names)}, processed at {width} x {height} pixels",
        "Points": f"{int(scene.mask.sum()):,} ({100 * judgement.kept_of_all:.1f} % of the pixels)",
        "Field of view": f"{np.nanmedian(judgement.fov):.1f} degrees wide",
        "Confidence": f"{median_confidence(scene):.3g}, the median of all pixels",
        "Lengths": unit,
    }
    if np.isfinite(judgement.parallax):
        rows["Parallax"] = f"{judgement.parallax:.1f} degrees between the cameras farthest apart"
    if np.isfinite(judgement.agreement).any():
        rows["Agreement"] = (
            f"{100 * np.nanmean(judgement.agreement):.0f} % of points are where others see them"
        )
    return _table(rows.items())


def _warnings(judgement: Judgement) -> str:
    if not judgement.warnings:
        return "<p>Nothing conspicuous.</p>"
    told = "".join(f"<li>{html.escape(text)}</li>" for text in judgement.warnings)
    return f'<h2>Warnings</h2>\n<ul class="warnings">{told}</ul>'


def _plans(scene: Scene) -> str:
    pictures = (
        ("From above, with the cameras and their path", draw_top_view(scene, _PLAN)),
        ("From the side", draw_side_view(scene, _PLAN)),
    )
    figures = [_figure(np.asarray(picture), text) for text, picture in pictures]
    return _section("Plans", f'<div class="plans">{"".join(figures)}</div>')


def _views(scene: Scene, judgement: Judgement) -> str:
    chosen = evenly_chosen(len(scene.names), MOST_VIEWS)
    depth = scene.points_camera[chosen, ..., 2]
    known = np.isfinite(depth) & (depth > 0)
    near, far = middle_range(depth, known)
    confidence = scene.confidence[chosen]
    low, high = middle_range(confidence, np.isfinite(confidence))
    legend = (
        f"Depth from {near:.3g} (warm) to {far:.3g} (cold), confidence from {low:.3g} (dark) to "
        f"{high:.3g} (light), normals as colours; what the mask leaves out is pale in the photo."
    )
    if len(chosen) < len(scene.names):
        legend = f"{len(chosen)} of {len(scene.names)} views. {legend}"
    told = [f"<p>{html.escape(legend)}</p>"]
    for place, view in enumerate(chosen.tolist()):
        tiles = (
            (_dimmed(scene.colors[view], scene.mask[view]), "photo"),
            (colored(depth[place], near, far, DEPTH, known[place]), "depth"),
            (colored(confidence[place], low, high, CONFIDENCE), "confidence"),
            (_normals(scene, view), "normals"),
        )
        figures = "".join(_figure(pixels, text) for pixels, text in tiles)
        told.append(
            f'<div class="view"><b>{html.escape(scene.names[view])}</b> '
            f"{_view_facts(scene, judgement, view)}"
            f'<div class="tiles">{figures}</div></div>'
        )
    return "\n".join(told)


def _view_facts(scene: Scene, judgement: Judgement, view: int) -> str:
    width, height = scene.original_sizes[view]
    facts = [
        f"{width} x {height} pixels",
        f"{100 * judgement.kept[view]:.0f} % kept",
        f"{judgement.fov[view]:.0f} degrees wide",
    ]
    if np.isfinite(judgement.agreement[view]):
        facts.append(f"{100 * judgement.agreement[view]:.0f} % confirmed by other views")
    return html.escape(", ".join(facts))


def _dimmed(photo: UInt8[np.ndarray, "H W 3"], mask: np.ndarray) -> UInt8[np.ndarray, "H W 3"]:
    pale = (photo.astype(np.uint16) + 2 * 255) // 3
    return np.where(mask[..., None], photo, pale).astype(np.uint8)


def _normals(scene: Scene, view: int) -> UInt8[np.ndarray, "H W 3"]:
    """Of all pixels with a depth: 255 (n + 1) / 2, black where there is none."""
    import jax.numpy as jnp

    points = scene.points_camera[view]
    normals, has_one = normals_from_points(jnp.asarray(points), jnp.asarray(points[..., 2] > 0))
    color = np.rint(255 * (np.asarray(normals) + 1) / 2)
    return np.where(np.asarray(has_one)[..., None], color, 0).astype(np.uint8)


def _figure(pixels: UInt8[np.ndarray, "H W 3"], text: str) -> str:
    source = jpeg_url(pixels, _PLAN[0] if pixels.shape[1] == _PLAN[0] else _TILE)
    alt = html.escape(text, quote=True)
    return f'<figure><img src="{source}" alt="{alt}"><figcaption>{alt}</figcaption></figure>'


def _timings(seconds: Mapping[str, float]) -> str:
    total = max(sum(seconds.values()), 1e-9)
    rows = [
        f'<tr><th>{html.escape(name)}</th><td class="num">{took:.2f} s</td>'
        f'<td style="width:20rem"><div class="bar" style="width:{100 * took / total:.1f}%"></div>'
        "</td></tr>"
        for name, took in seconds.items()
    ]
    return f"<table>{''.join(rows)}</table>" if rows else ""


def _sparsity(sparsity: Float[np.ndarray, "layers N"] | None) -> str:
    if sparsity is None or not sparsity.size:
        return ""
    colors = colored(sparsity, 0.0, 1.0, CONFIDENCE)
    heads = "".join(f"<th>{head}</th>" for head in range(sparsity.shape[1]))
    rows = []
    for layer, values in enumerate(sparsity):
        cells = "".join(
            f'<td style="background:rgb{tuple(colors[layer, head].tolist())}" '
            f'title="{100 * value:.0f} %"></td>'
            for head, value in enumerate(values)
        )
        rows.append(f"<tr><th>{layer}</th>{cells}<th>{100 * values.mean():.0f} %</th></tr>")
    text = (
        f"Share of key blocks that were skipped, by layer (rows) and head (columns): "
        f"{100 * sparsity.mean():.0f} % in all."
    )
    return f'<p>{text}</p><table class="heat"><tr><th></th>{heads}</tr>{"".join(rows)}</table>'


def _files(known: Known) -> str:
    listed = "".join(f"<li><code>{html.escape(name)}</code></li>" for name in known.files)
    told = f"<ul>{listed}</ul>" if listed else ""
    if known.output is not None:
        command = f"jaxrecon view {shlex.quote(known.output)}"
        told += f"<p>To look at it: <code>{html.escape(command)}</code></p>"
    return told
