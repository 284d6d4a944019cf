"""What is known of the views beforehand, from files that options name."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jaxrecon.errors import InputError

if TYPE_CHECKING:
    from jaxrecon.images import ImageSource

KINDS = ("intrinsics", "poses", "depths")


def add_known(parser: argparse.ArgumentParser) -> None:
    """Options of what is known of the views."""
    for kind in KINDS:
        parser.add_argument(
            f"--{kind}",
            metavar="FILE",
            help=f"known {kind} (mapanything): .npz, COLMAP folder or NeRF transforms.json",
        )
    parser.add_argument(
        "--colmap",
        metavar="FOLDER",
        help="take images, intrinsics and poses from a COLMAP folder (mapanything)",
    )


def sources(options: argparse.Namespace) -> tuple["ImageSource", dict[str, Path]]:
    """The images, and which file tells what.

    Raises:
      InputError: there are no images, or two sources of them.
    """
    files = {kind: Path(getattr(options, kind)) for kind in KINDS if getattr(options, kind)}
    if options.colmap is None:
        if not options.images:
            raise InputError(
                "images: none given; name a folder, photos or a video, or use --colmap"
            )
        return options.images if len(options.images) > 1 else options.images[0], files
    if options.images:
        raise InputError(
            f"--colmap {options.colmap} brings its own images; leave out {options.images[0]}"
        )
    from jaxrecon.conditions import colmap_images

    folder = Path(options.colmap)
    return colmap_images(folder), {"intrinsics": folder, "poses": folder} | files


def read_known(images: "ImageSource", files: dict[str, Path], stride: int) -> dict[str, Any]:
    """The arguments of `Pipeline.reconstruct` that tell what is known.

    Raises:
      InputError: a file is damaged, or tells nothing of these images.
    """
    if not files:
        return {}
    from jaxrecon.conditions import read_known_views
    from jaxrecon.images import view_names, view_sizes

    names, sizes = view_names(images, stride=stride), view_sizes(images, stride=stride)
    arguments: dict[str, Any] = {}
    for path in dict.fromkeys(files.values()):
        kinds: Any = [kind for kind in files if files[kind] == path]
        known = read_known_views(path, names, sizes=sizes, wanted=kinds)
        for kind in kinds:
            arguments[kind] = getattr(known, kind)
            if kind != "intrinsics":
                arguments[f"metric_{kind}"] = known.metric
    return arguments
