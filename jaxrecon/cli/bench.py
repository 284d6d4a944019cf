"""`jaxrecon bench pi3-mini --views 2 8 16 --ways dense 0.75 0.75@0`."""

import argparse
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jaxrecon.cli import common, process
from jaxrecon.cli.parser import Parser
from jaxrecon.cli.process import say
from jaxrecon.errors import InputError, one_line
from jaxrecon.extras import Extra, check_installed
from jaxrecon.files import check_output_file, replacing_file
from jaxrecon.progress import Stages
from jaxrecon.version import __version__

if TYPE_CHECKING:
    from jaxrecon.benchmark import Timing
    from jaxrecon.nn.attention import AttentionFn
    from jaxrecon.peers.checkout import OriginalTiming
    from jaxrecon.pipeline import Pipeline

_PICTURES = (".png", ".pdf", ".svg", ".jpg")
_SECONDS = ("trace", "compile", "cached", "run", "encode")
_RATIO = "to dense"
_COLUMNS = {**dict.fromkeys((*_SECONDS, "images/s", _RATIO), 8), "plan": 10, "peak": 10}
"""How wide each is."""

_EPILOG = """\
Seconds: trace, until the compiler has the program; compile, with nothing on
disk; cached, to take it from the cache on disk; run, from pixels to points, the
median after a warm-up; encode, the part of run in which views exchange. Peak is
told for runs that raise the most ever in use. To dense: how many times as long
as our dense run the original's took (--against, row torch).

A policy is a name of --attention of other commands (dense); a share of key
blocks to skip (0.75); a preset by layer that --sparse-budgets takes
(middle_spared, middle_spared=0.9); budgets=FILE of `jaxrecon calibrate`;
within_views, key_views=N or every=N; with fields of SparseAttention behind a
colon (0.75:order=raster), and with global layers that attend within views behind
an @ (0.75@0-1)."""


_RANDOM = (
    "random weights: its own are not on this machine (speed depends on them only where a threshold "
    "decides what is skipped)"
)


def add_to(commands: Any) -> None:
    """Adds the command to the parser."""
    parser: Parser = commands.add_parser(
        "bench", help="seconds and memory on this machine, by views and policies", epilog=_EPILOG
    )
    add = parser.add_argument
    common.add_first_model(parser, f"{common.MODEL_HELP}; nothing is downloaded")
    whole: dict[str, Any] = {"type": common.at_least_one, "metavar": "N"}
    add("--views", nargs="+", default=[2, 8, 16], help="how many images; default: 2 8 16", **whole)
    add(
        "--ways",
        nargs="+",
        default=["dense", "0.75"],
        metavar="POLICY",
        help="how global attention is done, see below; default: dense 0.75",
    )
    add("--encoder", action="store_true", help="time the encoder alone too: see encode, below")
    size = parser.add_mutually_exclusive_group().add_argument
    size("--size", metavar="WxH", help="of the processed images; default: of 4:3 photos")
    size("--resolution", help="longest side of the processed images, in pixels", **whole)
    add("--repeats", default=3, help="runs after the warm-up; default: 3", **whole)
    add("--devices", default="1", metavar="N", help="shard views over so many devices, or all")
    add("--dtype", choices=("float32", "bfloat16"), help="default: bfloat16 on GPU and TPU")
    add("--float8", **common.FLOAT8)
    add(
        "--against",
        metavar="PATH",
        help="run the PyTorch original too, from this checkout of its code; needs PyTorch and an "
        "NVIDIA GPU",
    )
    written = parser.section("result").add_argument
    written("--json", metavar="FILE", help="write what was measured")
    written("--plot", metavar="FILE", help=f"draw seconds against views: {', '.join(_PICTURES)}")
    written("-q", "--quiet", action="store_true", help="show no progress")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Measures and prints one row after the other; the files hold what was measured till its end.

    Returns:
      0; or `INCOMPLETE` if the model or the machine refused some policy, with a line for each.

    Raises:
      InputError: an argument cannot be used, or every policy was refused.
    """
    common.settle_model(options)
    size = None if options.size is None else common.size_of(options.size)
    _check_files(options)
    from jaxrecon import benchmark
    from jaxrecon.runtime.bucketing import check_program_size
    from jaxrecon.sparse.notation import policy_of

    ways = {way: policy_of(way) for way in options.ways}
    stages = Stages(quiet=options.quiet)
    theirs = [] if options.against is None else _original(options, size, stages)
    mesh = common.mesh_of(options.devices)
    pipeline, own = benchmark.load_for_timing(
        options.model, dtype=options.dtype, mesh=mesh, float8=options.float8, stages=stages
    )
    size = size or benchmark.size_of_photos(pipeline.resize, options.resolution)
    for views in options.views:
        check_program_size(views, size, pipeline.resize.patch)
    settings = _Settings(size, options.repeats, options.encoder)
    bench = _Bench(pipeline, own_weights=own, settings=settings, theirs=theirs)
    try:
        bench.measure(options.views, ways)
    finally:
        if bench.rows:
            _write(bench, options)
    if not any(way in ways for way, _ in bench.rows):
        raise InputError(f"--ways: {pipeline.name} ran in none of them; choose others")
    return common.INCOMPLETE if bench.refused else 0


def _original(
    options: argparse.Namespace, size: tuple[int, int] | None, stages: Stages
) -> "list[OriginalTiming]":
    """What the PyTorch original takes; it has ended before JAX takes the GPU's memory.

    Raises:
      InputError: it cannot be run.
    """
    from jaxrecon import benchmark
    from jaxrecon.peers.checkout import find_original
    from jaxrecon.runtime.bucketing import check_program_size

    original = find_original(options.model, options.against)
    size = size or benchmark.size_of_photos(original.resize, options.resolution)
    views = list(dict.fromkeys(options.views))
    for count in views:
        check_program_size(count, size, original.resize.patch)
    with stages.stage("original"):
        return original.times(views, size, options.repeats)


def _check_files(options: argparse.Namespace) -> None:
    """Refuses what could not be written, before anything is measured."""
    if options.plot:
        if Path(options.plot).suffix.lower() not in _PICTURES:
            raise InputError(
                f"--plot {options.plot}: choose a name that ends in {', '.join(_PICTURES)}"
            )
        check_installed("matplotlib", "eval", "--plot needs matplotlib, or leave it out")
    for path in filter(None, (options.json, options.plot)):
        check_output_file(path)


def _write(bench: "_Bench", options: argparse.Namespace) -> None:
    if options.json:
        with replacing_file(options.json) as temporary:
            temporary.write_text(json.dumps(bench.as_dict(), indent=1, allow_nan=False) + "\n")
    if options.plot:
        bench.plot(Path(options.plot))


@dataclass(frozen=True)
class _Settings:
    """What is the same for all rows.

    Attributes:
      size: width and height of the processed images, in pixels.
      repeats: runs that are timed.
      encoder: whether the encoder is timed alone too.
    """

    size: tuple[int, int]
    repeats: int
    encoder: bool


@dataclass(eq=False)
class _Bench:
    """What is measured of one model.

    Attributes:
      pipeline: the model.
      own_weights: whether its weights are its own, not random.
      settings: see there.
      theirs: what the PyTorch original took.
      rows: what has been measured, each with its policy as it was written.
      complete: whether that is all.
      refused: how many programs were not even compiled.
    """

    pipeline: "Pipeline"
    own_weights: bool
    settings: _Settings
    theirs: "list[OriginalTiming]" = field(default_factory=list)
    rows: list[tuple[str, "Timing"]] = field(default_factory=list)
    complete: bool = False
    refused: int = 0

    def measure(self, views: list[int], ways: "dict[str, AttentionFn]") -> None:
        """Measures each number of views in each way, and prints each row once it is measured.

        Rows of the original follow ours of as many views.
        """
        from jaxrecon.benchmark import measure

        say(self._title())
        wide = max(map(len, ("policy", *ways, *(each.way for each in self.theirs))))
        say(self._line("views", "policy", {name: name for name in _COLUMNS}, wide))
        for count in dict.fromkeys(views):
            for way, policy in ways.items():
                try:
                    timing = measure(self.pipeline, policy, views=count, **vars(self.settings))
                except InputError as error:  # such as a backend that needs another machine
                    process.complain(f"{way} with {count} views: {error}")
                    self.refused += 1
                    continue
                self._add(way, timing, wide)
            for each in self.theirs:
                if each.timing.views == count:
                    self._add(each.way, each.timing, wide)
        self.complete = not self.refused

    def _add(self, way: str, timing: "Timing", wide: int) -> None:
        self.rows.append((way, timing))
        ratio = self._ratio(way, timing)
        told = _cells(timing) | {_RATIO: "-" if ratio is None else f"{ratio:.2f}"}
        say(self._line(str(timing.views), way, told, wide))
        if timing.note:
            say(f"       {one_line(timing.note)}")

    def _ratio(self, way: str, timing: "Timing") -> float | None:
        """How many times as long as our dense run one of the original's took; None for ours."""
        if timing.run is None or way not in {each.way for each in self.theirs}:
            return None
        dense = [x.run for name, x in self.rows if (name, x.views) == ("dense", timing.views)]
        return next((timing.run / run for run in dense if run is not None), None)

    def as_dict(self) -> dict[str, Any]:
        """What is known of the machine and the model, and the rows; None for what is not."""
        import jax

        return {
            "jaxrecon": __version__,
            "jax": jax.__version__,
            "complete": self.complete,
            "model": self.pipeline.name,
            "weights": "its own" if self.own_weights else "random",
            **self._machine(),
            "size": list(self.settings.size),
            "repeats": self.settings.repeats,
            "original": next((each.ran_by for each in self.theirs), None),
            "rows": [
                _row(way, timing) | {"ratio_to_dense": self._ratio(way, timing)}
                for way, timing in self.rows
            ],
        }

    def _machine(self) -> dict[str, Any]:
        from jaxrecon.benchmark import dtype_of

        mesh = self.pipeline.mesh
        return {
            "dtype": dtype_of(self.pipeline),
            "device": self.pipeline.executor.device.device_kind,
            "devices": 1 if mesh is None else mesh.size,
        }

    def _title(self) -> str:
        told, (width, height) = self._machine(), self.settings.size
        first = (
            f"{one_line(self.pipeline.name)}, {width}x{height} pixels, {told['dtype']}, "
            f"{told['devices']} x {told['device']}; seconds, median of {self.settings.repeats}"
        )
        lines = [first] if self.own_weights else [first, _RANDOM]
        for each in self.theirs[:1]:
            lines.append(f"torch: {each.ran_by}, bfloat16 autocast, random weights")
        return "\n".join(lines)

    def _line(self, views: str, way: str, cells: dict[str, str], wide: int) -> str:
        left_out = {"encode": not self.settings.encoder, _RATIO: not self.theirs}
        shown = [name for name in _COLUMNS if not left_out.get(name)]
        told = " ".join(f"{cells[name]:>{_COLUMNS[name]}}" for name in shown)
        return f"{views:>5}  {way:{wide}} {told}"

    def plot(self, path: Path) -> None:
        """Draws the seconds of a run against the number of views, a line for each policy.

        Raises:
          InputError: matplotlib is not installed.
          OutputError: the file cannot be written.
        """
        with Extra("eval", "--plot needs matplotlib"):
            from matplotlib.figure import Figure
        figure = Figure(figsize=(7, 5), layout="constrained")
        axes: Any = figure.subplots()
        for way in dict.fromkeys(way for way, _ in self.rows):
            runs = [(timing.views, timing.run) for name, timing in self.rows if name == way]
            known = sorted((views, seconds) for views, seconds in runs if seconds is not None)
            axes.plot([views for views, _ in known], [s for _, s in known], "o-", label=way)
        axes.set_title(self._title(), fontsize="small", wrap=True, parse_math=False)
        axes.set(xlabel="views", ylabel="seconds of a run")
        axes.set_ylim(bottom=0)
        axes.grid(alpha=0.3)
        axes.legend()
        with replacing_file(path) as temporary:
            figure.savefig(temporary, format=path.suffix.lower()[1:], dpi=120)


def _cells(timing: "Timing") -> dict[str, str]:
    """The columns of the table; "-" for what is not known."""
    from jaxrecon.runtime.memory import readable

    numbers = {name: getattr(timing, name) for name in _SECONDS}
    numbers["images/s"] = timing.images_per_second
    sizes = {"plan": timing.plan, "peak": timing.peak}
    return {
        **{name: "-" if x is None else f"{x:.3f}" for name, x in numbers.items()},
        **{name: "-" if x is None else readable(x) for name, x in sizes.items()},
    }


def _row(way: str, timing: "Timing") -> dict[str, Any]:
    return {
        "views": timing.views,
        "compiled_views": timing.compiled_views,
        "policy": way,
        "seconds": {name: getattr(timing, name) for name in _SECONDS},
        "images_per_second": timing.images_per_second,
        "plan_bytes": timing.plan,
        "peak_bytes": timing.peak,
        "note": timing.note,
    }
