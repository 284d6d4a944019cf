"""What several commands share."""

import argparse
import glob
import json
import math
import os
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from jaxrecon.choices import ATTENTIONS, ORDERS, PRESETS, layer_numbers
from jaxrecon.cli.parser import Parser
from jaxrecon.cli.process import complain, say
from jaxrecon.environment import HOME
from jaxrecon.errors import InputError, WeightsError, one_line
from jaxrecon.files import check_output_folder
from jaxrecon.formats import FORMATS
from jaxrecon.progress import Stages

if TYPE_CHECKING:
    from jax.sharding import Mesh

    from jaxrecon.images import SamplingKeywords
    from jaxrecon.pipeline import Pipeline


_MOST_DIGITS = 18
_LONGEST_SHOWN = 60

TRUST = ("files of others", "See docs/security.md.")
ARITHMETIC = ("weights and arithmetic", None)

_OTHER_FILES = (".json", ".safetensors")

INCOMPLETE = 1
"""The exit code of a command that has written a part of what was asked for."""


MODEL_HELP = "a model's name (jaxrecon models), checkpoint folder or weight file"
DEFAULT_MODEL = "pi3"
_NAMED = "named_model"
_ATTENDING = (
    "attention",
    "sparse_ratio",
    "cdf_threshold",
    "sparse_budgets",
    "patch_order",
    "key_views",
    "within_views",
)
"""What `add_attention` offers."""


def add_model(section: argparse._ArgumentGroup) -> None:
    """The option of every command that takes a model by the way."""
    told = f"{MODEL_HELP}; default: {DEFAULT_MODEL}; bundled: pi3-mini"
    section.add_argument("-m", "--model", metavar="NAME", default=DEFAULT_MODEL, help=told)


def add_first_model(parser: Parser, told: str = MODEL_HELP) -> None:
    """The argument of every command that takes a model first, which `-m` may name as well.

    `settle_model` makes one of the two.
    """
    parser.add_argument("model", nargs="?", help=told)
    parser.add_argument("-m", "--model", dest=_NAMED, metavar="NAME", help="the same by an option")


def settle_model(options: argparse.Namespace, default: str | None = None) -> None:
    """Lets `options.model` be the model that the argument or `-m` names.

    Raises:
      InputError: they name two, or there is neither and no default.
    """
    found = {name for name in (options.model, getattr(options, _NAMED)) if name is not None}
    if len(found) > 1:
        raise InputError(
            f"found the model {options.model} and -m {getattr(options, _NAMED)}; leave one of "
            "them out"
        )
    options.model = found.pop() if found else default
    if options.model is None:
        raise InputError(f"no model is named; give {MODEL_HELP}, first or behind -m")


def settle_model_and_weights(options: argparse.Namespace) -> None:
    """`settle_model` for a command that takes a file behind the model: `-m` leaves the file alone.

    Raises:
      InputError: they name two models, or the model or the file is missing.
    """
    if options.weights is None and getattr(options, _NAMED) is not None:
        options.model, options.weights = None, options.model
    settle_model(options)
    if options.weights is None:
        raise InputError(
            f"convert {options.model}: no weights are named; give the model, then the file"
        )


def settle_model_and_images(options: argparse.Namespace) -> None:
    """`settle_model` for a command that takes images behind the model: with `-m` all are images.

    Raises:
      InputError: no model is named.
    """
    if options.model is not None and getattr(options, _NAMED) is not None:
        options.model, options.images = None, [options.model, *options.images]
    settle_model(options)


def add_common(parser: Parser) -> None:
    """Options of every command that writes a folder."""
    add = parser.section("result").add_argument
    add("--overwrite", action="store_true", help="replace an existing folder")
    add("--json", action="store_true", help="print a summary as JSON")
    add("-q", "--quiet", action="store_true", help="show no progress")


def add_photos(parser: Parser) -> None:
    """Options of every command that reads photos."""
    parser.section(*TRUST, rare=True).add_argument(
        "--max-pixels",
        type=at_least_one,
        metavar="N",
        help="photos of up to N pixels are trusted, where else very large ones are refused",
    )


def add_sampling(parser: Parser, section: argparse._ArgumentGroup) -> None:
    """Options of which photos or frames are taken."""
    chosen = section.add_mutually_exclusive_group().add_argument
    chosen("--fps", type=positive, metavar="X", help="of a video: X frames a second; default: 2")
    chosen("--stride", type=whole, metavar="N", help="take every n-th image or video frame")
    section.add_argument(
        "--max-views", type=at_least_one, metavar="N", help="take at most N, evenly"
    )
    parser.section("which views", rare=True).add_argument(
        "--motion",
        type=positive,
        metavar="X",
        help="of the images or frames, take those that have moved by this share of their width "
        "since the last one taken, such as 0.05",
    )


def sampling(options: argparse.Namespace) -> "SamplingKeywords":
    """Which photos or frames the options take."""
    return {
        "stride": options.stride,
        "fps": options.fps,
        "max_views": options.max_views,
        "motion": options.motion,
    }


@contextmanager
def trusted_photos(options: argparse.Namespace) -> Iterator[None]:
    """Inside, photos of as many pixels as `--max-pixels` says are read."""
    wanted = getattr(options, "max_pixels", None)
    if wanted is None:
        yield
        return
    from PIL import Image

    before = Image.MAX_IMAGE_PIXELS
    Image.MAX_IMAGE_PIXELS = max(wanted, before or wanted)
    try:
        yield
    finally:
        Image.MAX_IMAGE_PIXELS = before


def add_backend(parser: Parser) -> None:
    """Options of every command that runs a model."""
    add = parser.section(*ARITHMETIC, rare=True).add_argument
    add("--weights", help="checkpoint folder or upstream weight file for a named model")
    add("--revision", help="revision of the upstream repository")
    add_computing(parser)


def add_program(parser: Parser) -> None:
    """Options of every command that needs to know a program's shapes."""
    add = parser.add_argument
    add("--views", type=whole, required=True, help="how many images")
    add("--size", required=True, metavar="WxH", help="of the processed images, such as 518x392")


def size_of(text: str) -> tuple[int, int]:
    """The width and height that `--size` names.

    Raises:
      InputError: it is not two numbers.
    """
    width, _, height = text.partition("x")
    if not (_is_short(width) and _is_short(height)):
        raise InputError(f"--size {text}: give width and height in pixels, such as 518x392")
    return int(width), int(height)


def _is_short(digits: str) -> bool:
    """Whether it writes a whole number that is not absurd."""
    return digits.isdecimal() and len(digits) <= _MOST_DIGITS


def check_output(options: argparse.Namespace) -> None:
    """Refuses an output folder that cannot be written, or that holds what the command reads.

    Raises:
      InputError: see `check_folder_name`.
      OutputError: see `check_output_folder`.
    """
    check_folder_name(options)
    given = [value for name, value in vars(options).items() if name != "output"]
    flat = [each for value in given for each in (value if isinstance(value, list) else [value])]
    texts = [each for each in flat if isinstance(each, str)]
    found = [path for text in texts for path in glob.glob(text)]
    found += [text for text in texts if os.path.exists(text)]  # a name may look like a pattern
    check_output_folder(options.output, overwrite=options.overwrite, inputs=found)


def check_folder_name(options: argparse.Namespace) -> None:
    """Refuses a folder that is called like a file, which whoever asks for it so expects.

    Raises:
      InputError: it ends in the suffix of a file that we write, without a slash behind it, and is
        no folder yet.
    """
    stem, suffix = os.path.splitext(options.output)
    formats = {each.suffix: each.name for each in reversed(list(FORMATS.values())) if each.suffix}
    format = formats.get(suffix.lower())
    if (format is None and suffix.lower() not in _OTHER_FILES) or os.path.isdir(options.output):
        return
    alone = f"; --formats {format} writes such a file alone" if hasattr(options, "formats") else ""
    raise InputError(
        f"--output {one_line(options.output)}: it is called like a file, and a folder is written; "
        f"give --output {one_line(stem)}, or end the name with a slash{alone if format else ''}"
    )


def at_least_one(text: str) -> int:
    """A whole number above 0, for `argparse`."""
    if not _is_short(text) or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{_cut(text)} is not a whole number of at least 1")
    return int(text)


def whole(text: str) -> int:
    """A whole number that is not absurd, for `argparse`."""
    if not _is_short(text.removeprefix("-")):
        raise argparse.ArgumentTypeError(f"{_cut(text)} is not a whole number")
    return int(text)


def _cut(text: str) -> str:
    return one_line(text, _LONGEST_SHOWN)


def allow_outside(parser: Parser) -> None:
    """The option of every command that reads files which name others."""
    parser.section(*TRUST, rare=True).add_argument(
        "--allow-outside",
        action="store_true",
        help="files may name pictures outside of their own folder: for files that you trust",
    )


def positive(text: str) -> float:
    """A finite number above 0, for `argparse`."""
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not 0 < number < math.inf:
        raise argparse.ArgumentTypeError(f"{_cut(text)} is not a positive number")
    return number


FLOAT8: dict[str, Any] = {
    "action": "store_true",
    "help": "blocks multiply 8-bit numbers: faster on Ada, Hopper and later, less precise",
}
"""The option `--float8`."""


def add_computing(parser: Parser) -> None:
    """Options of how a model computes."""
    add, seldom = (
        parser.section("speed and memory").add_argument,
        parser.section(*ARITHMETIC, rare=True).add_argument,
    )
    seldom("--dtype", choices=("float32", "bfloat16"), help="default: bfloat16 on GPU and TPU")
    add_attention(parser)
    add("--devices", default="1", metavar="N", help="shard views over so many devices, or all")
    seldom("--shard-weights", action="store_true", help="each device holds a part of the weights")
    add("--offload", action="store_true", help="features wait for the heads in the host's memory")
    seldom("--float8", **FLOAT8)


def add_attention(parser: Parser, auto: str = "exact") -> None:
    """Options of how a model attends; `attention_of` makes one of them.

    Args:
      auto: what the help says of `--attention auto`, the default.
    """
    add, seldom = (
        parser.section("speed and memory").add_argument,
        parser.section(*ARITHMETIC, rare=True).add_argument,
    )
    add(
        "--attention",
        metavar="HOW",
        choices=ATTENTIONS,
        default="auto",
        help=f"auto: {auto}; fast: block-sparse where that is faster; {', '.join(ATTENTIONS[2:])}",
    )
    shares: dict[str, Any] = {"type": _share, "default": argparse.SUPPRESS, "metavar": "X"}
    seldom(
        "--sparse-ratio",
        help="share of key blocks that may be skipped, in [0, 1), or none",
        **shares,
    )
    seldom("--cdf-threshold", help="share of attention that is kept, in (0, 1], or none", **shares)
    seldom(
        "--sparse-budgets",
        default=argparse.SUPPRESS,
        metavar="BUDGETS",
        help="block-sparse: a file of `jaxrecon calibrate`, or a preset by layer: "
        f"{', '.join(PRESETS)}; with =0.9 for another mean share to skip than 0.75",
    )
    seldom(
        "--patch-order",
        type=_order,
        choices=ORDERS,
        default=argparse.SUPPRESS,
        help="what shares a block: patches that look alike, or neighbours; default: pca_tree",
    )
    seldom(
        "--key-views",
        type=at_least_one,
        default=argparse.SUPPRESS,
        metavar="N",
        help="block-sparse: each view attends to itself and to N views, evenly spaced",
    )
    seldom(
        "--within-views",
        type=layers,
        metavar="LAYERS",
        help="global layers in which views attend to themselves alone, such as 0-8 or 0-3,6",
    )


def _order(text: str) -> str:
    """The name of a patch order, for `argparse`; version 0.1 called one of them otherwise."""
    if text != "similar":
        return text
    complain(
        "--patch-order similar is called pca_tree now; the old name goes with the next release"
    )
    return "pca_tree"


def layers(text: str) -> tuple[int, ...]:
    """Numbers of layers such as 0-8 or 0-3,6, for `argparse`."""
    found = layer_numbers(text)
    if found is None:
        raise argparse.ArgumentTypeError(
            f"{_cut(text)} names no layers; give them from 0, such as 0-8 or 0-3,6"
        )
    return found


def _share(text: str) -> float | None:
    if text == "none":
        return None
    try:
        return float(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{_cut(text)} is neither a number nor none") from error


def load_pipeline(
    options: argparse.Namespace, stages: Stages, *, tracks: bool = False, priors: bool = False
) -> "Pipeline":
    """The model that the options name; programs compiled for it are kept in the cache folder.

    Args:
      tracks, priors: what it is to do beside; see `load`.
    """
    from jaxrecon import registry

    check_sharded(options)
    use_cache(stages)
    return registry.load(
        options.model,
        weights=options.weights,
        dtype=options.dtype,
        attention=attention_of(options),
        mesh=mesh_of(options.devices),
        shard_weights=options.shard_weights,
        offload=options.offload,
        float8=options.float8,
        tracks=tracks,
        priors=priors,
        revision=options.revision,
        stages=stages,
    )


def use_cache(stages: Stages) -> None:
    """Keeps compiled programs between processes, if wanted and where there is a place for them."""
    from jaxrecon.hub import program_folder
    from jaxrecon.program_cache import programs_wanted, use_program_cache

    if not programs_wanted():
        return
    try:
        folder = program_folder()
    except WeightsError:
        stages.note(f"no home folder: compiled programs are not kept; set {HOME}")
        return
    if not use_program_cache(folder):
        stages.note(
            f"{folder} cannot be written: compiled programs are not kept; set {HOME} to a folder "
            "that can be"
        )


def check_sharded(options: argparse.Namespace) -> None:
    """Refuses to part weights among one device.

    Raises:
      InputError: see above.
    """
    if options.shard_weights and options.devices == "1":
        raise InputError(
            "--shard-weights parts the weights among devices, found --devices 1; add --devices "
            "all, or a number of them"
        )


def mesh_of(devices: str) -> "Mesh | None":
    """The devices that `--devices` names; None for one.

    Raises:
      InputError: it is no number, or there are not so many.
    """
    from jaxrecon.runtime.sharding import make_mesh

    if devices != "all" and not _is_short(devices):
        raise InputError(f"--devices {devices}: give a number, or all")
    if devices == "1":
        return None
    return make_mesh() if devices == "all" else make_mesh(int(devices))


def attention_of(options: argparse.Namespace) -> Any:
    """The attention that the options of `add_attention` ask for.

    Raises:
      InputError: see `attention_asked`.
    """
    given = attention_given(options)
    if list(given) == ["attention"]:
        return options.attention
    from jaxrecon.sparse.asked import attention_asked

    return attention_asked(given)


def attention_given(options: argparse.Namespace) -> dict[str, Any]:
    """The values of the options of `add_attention` that are given, by their names."""
    values = vars(options)
    given = {name: values[name] for name in _ATTENDING if name in values}
    if given.get("within_views", ()) is None:
        del given["within_views"]
    return given


def seconds(stages: Stages) -> dict[str, float]:
    """The time of each stage, rounded for a summary."""
    return {name: round(took, 3) for name, took in stages.seconds.items()}


def programs(pipeline: "Pipeline", stages: Stages) -> dict[str, int]:
    """How many programs a summary says were compiled; shown, too."""
    count = pipeline.compilations
    stages.note(f" programs: {count}, compiled or taken from the cache")
    return {"compilations": count}


def report(options: argparse.Namespace, summary: dict[str, Any], more: str = "") -> None:
    """Prints the summary as JSON if asked to, else where the output is, and what more there is."""
    if options.json:
        say(json.dumps(summary))
    elif not options.quiet:
        say(f"wrote {one_line(str(options.output))}{more}")


def to_look_at(folder: str) -> str:
    """The commands that show what is in a folder, behind a semicolon; nothing if none can."""
    from jaxrecon.formats import shown_file
    from jaxrecon.formats.viewer_files import POINTS_ALONE

    try:
        shown = shown_file(folder)
    except InputError:
        return ""
    commands = ["view"] if shown.suffix.lower() in POINTS_ALONE else ["view", "report"]
    quoted = one_line(shlex.quote(folder))
    return f"; to look at it: {', '.join(f'jaxrecon {command} {quoted}' for command in commands)}"
