"""What is known of the views beforehand, from files that options name."""

import argparse
import glob
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jaxrecon.cli import common, process
from jaxrecon.cli.parser import Parser
from jaxrecon.errors import InputError
from jaxrecon.progress import Stages
from jaxrecon.reading import is_folder

if TYPE_CHECKING:
    from jaxrecon.images import ImageSource
    from jaxrecon.images.pictures import PhotoSize

HELP = {
    "intrinsics": "cameras: .npz, COLMAP, transforms.json or a result",
    "poses": "camera-to-world poses, from such a file",
    "depths": "depth along the optical axis: .npz or transforms.json",
}
"""Options that name files, by the kind of what these tell."""

_FILES = """\
--intrinsics: camera matrices in pixels of the upright photos: .npz archive with
intrinsics (V, 3, 3) or (3, 3), COLMAP folder, NeRF transforms.json, or a
reconstruction of these photos.
--poses: rigid camera-to-world poses: .npz archive with
poses (V, 4, 4), x right, y down, z forward, in metres; COLMAP folder or NeRF
transforms.json, of unknown unit; or a reconstruction of these photos.
--depths: along the optical axis, 0 where unknown: .npz archive with
depths (V, H, W) of the upright photos' size, in metres; NeRF transforms.json
that names depth maps, of unknown unit; or the .npz of a reconstruction."""

UNITS = ("poses", "depths")
"""What has a unit of length."""


def add_priors(parser: Parser) -> None:
    """Options of what is known of the views."""
    section = parser.section("what is known (pi3x and mapanything; docs/priors.md)")
    for kind, told in HELP.items():
        section.add_argument(f"--{kind}", metavar="FILE", help=told)
    for kind in UNITS:
        parser.section("files of what is known", _FILES, rare=True).add_argument(
            f"--metric-{kind}",
            action=argparse.BooleanOptionalAction,
            help=f"whether {kind} are in metres, whatever their file is taken to say",
        )
    section.add_argument(
        "--colmap",
        metavar="FOLDER",
        help="photos, intrinsics and poses of a COLMAP folder",
    )


def sources(options: argparse.Namespace, stages: Stages) -> tuple["ImageSource", dict[str, Path]]:
    """The images, and which file tells what; notes which images are left out.

    Raises:
      InputError: there are no images, or two sources of them.
    """
    files = {kind: Path(getattr(options, kind)) for kind in HELP if getattr(options, kind)}
    if options.colmap is None:
        if not options.images:
            raise InputError(
                "images: none given; name a folder, photos or a video, or use --colmap"
            )
        if len(options.images) > 1:
            return options.images, files
        return _chosen(options.images[0], files, stages), files
    if options.images:
        raise InputError(
            f"--colmap {options.colmap} brings its own images; leave out {options.images[0]}"
        )
    from jaxrecon.priors import colmap_images
    from jaxrecon.priors.chosen import left_out, unregistered_images

    folder = Path(options.colmap)
    images = colmap_images(folder, allow_outside=options.allow_outside)
    if others := unregistered_images(images):
        stages.note(f"NOTE: {left_out(others, f'the model of {folder}')}")
    return images, {"intrinsics": folder, "poses": folder} | files


def _chosen(images: str, files: dict[str, Path], stages: Stages) -> "ImageSource":
    """The images, or of a folder those that the files name if they name some."""
    from jaxrecon.priors.chosen import chosen_images, left_out

    folder = Path(os.path.expanduser(images))
    if not files or not is_folder(folder):
        return images
    chosen, others = chosen_images(folder, list(dict.fromkeys(files.values())))
    if not others:
        return images
    where = " or ".join(dict.fromkeys(str(file) for file in files.values()))
    every = f"{glob.escape(str(folder))}/*"
    stages.note(f'NOTE: {left_out(others, where)}: to take them as well give "{every}"')
    return chosen


def read_priors(
    options: argparse.Namespace, images: "ImageSource", files: dict[str, Path]
) -> dict[str, Any]:
    """The arguments of `Pipeline.reconstruct` that tell what is known.

    They are checked as far as can be before the model is loaded and the images are read.

    Raises:
      InputError: a file is damaged, or tells nothing of these images, or what the model cannot use.
    """
    metric = _metric(options, files)
    if not files:
        return {}
    from jaxrecon import registry
    from jaxrecon.images import view_names, view_sizes
    from jaxrecon.priors import ViewPriors

    _check_model(options.model, files)
    names = view_names(images, **common.sampling(options))
    sizes = view_sizes(images, **common.sampling(options))
    told = _read(files, names, sizes, allow_outside=options.allow_outside)
    _note_turned(options, names, sizes, files)
    arguments: dict[str, Any] = told | metric
    entry = registry.find_entry(options.model)  # else the model says so, once it is loaded
    independent = entry is None or entry.family.defaults.independent_priors
    ViewPriors(**arguments).checked(sizes, independent=independent)
    return arguments


def _read(
    files: dict[str, Path],
    names: Sequence[str],
    sizes: Sequence[tuple[int, int]],
    *,
    allow_outside: bool,
) -> dict[str, Any]:
    from jaxrecon.priors import read_view_priors

    arguments: dict[str, Any] = {}
    for path in dict.fromkeys(files.values()):
        kinds: Any = [kind for kind in files if files[kind] == path]
        priors = read_view_priors(
            path, names, sizes=sizes, wanted=kinds, allow_outside=allow_outside
        )
        for kind in kinds:
            arguments[kind] = getattr(priors, kind)
            if not arguments[kind]:
                raise InputError(
                    f"--{kind}: {path} tells no {kind} of these images; leave it out, or give "
                    "another file"
                )
            if kind in UNITS:
                arguments[f"metric_{kind}"] = getattr(priors, f"metric_{kind}")
    return arguments


def _note_turned(
    options: argparse.Namespace,
    names: Sequence[str],
    sizes: Sequence["PhotoSize"],
    files: dict[str, Path],
) -> None:
    """Says of archives, which are told to be of upright photos, that some photos are turned."""
    archive = next((path for path in files.values() if path.suffix.lower() == ".npz"), None)
    turned = [name for name, size in zip(names, sizes, strict=True) if size.orientation != 1]
    if archive is not None and turned and not options.quiet:
        process.complain(
            f"{turned[0]} ({len(turned)} of {len(names)} photos) is turned by its EXIF "
            f"orientation: {archive} is taken to be of the upright photos"
        )


def _metric(options: argparse.Namespace, files: dict[str, Path]) -> dict[str, bool]:
    """What the options say of units, in place of the files."""
    told = {kind: getattr(options, f"metric_{kind}") for kind in UNITS}
    for kind, value in told.items():
        if value is not None and kind not in files:
            raise InputError(
                f"--{'' if value else 'no-'}metric-{kind}: no {kind} are given; leave it out, or "
                f"give --{kind}"
            )
    return {f"metric_{kind}": value for kind, value in told.items() if value is not None}


def _check_model(model: str, files: dict[str, Path]) -> None:
    """Refuses what is known where a released model works from images alone."""
    from jaxrecon import registry

    entry = registry.find_entry(model)
    if entry is not None and not entry.family.defaults.priors:
        raise InputError(
            f"--{next(iter(files))}: {model} works from images alone; leave it out, or use "
            "-m mapanything or -m pi3x"
        )
