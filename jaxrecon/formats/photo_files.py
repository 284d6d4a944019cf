"""The photos of a scene: what they are called beside cameras, and how they are put there."""

import os
import shutil
from collections.abc import Sequence
from pathlib import Path, PurePath
from typing import Any

from PIL import ExifTags

from jaxrecon.errors import InputError
from jaxrecon.formats.options import ExportOptions, Size
from jaxrecon.formats.scene import Scene, file_stems
from jaxrecon.images.decode import shown_plainly
from jaxrecon.images.findings import some
from jaxrecon.images.masks import mask_pixels, write_mask
from jaxrecon.images.pictures import PhotoSize, file_size, open_picture
from jaxrecon.progress import Stages

_BEST: dict[str, dict[str, Any]] = {
    "JPEG": {"quality": 100, "subsampling": 0},
    "MPO": {"format": "JPEG", "quality": 100, "subsampling": 0},
    "WEBP": {"lossless": True, "quality": 100, "exact": True},
    "AVIF": {"quality": 100, "subsampling": "4:4:4"},
    "HEIF": {"quality": -1},
}
"""How Pillow writes a format with the least loss."""


def size_of_pictures(scene: Scene, options: ExportOptions) -> Size:
    """Which pictures the cameras are for.

    Raises:
      InputError: photos were asked for that lie in no file, or do not go with the size.
    """
    if options.size is None and options.images is None:
        return "original" if all(scene.files) else "processed"
    if options.images is not None and options.size == "processed":
        raise InputError(
            f"images={options.images!r} is for the photos, which go with cameras of the original "
            "size; leave out images or size"
        )
    return "processed" if options.size == "processed" else "original"


def photo_names(scene: Scene) -> list[str]:
    """The name of each view's photo below the folder that all photos lie in, sub-folders included.

    As on the disk: with white space, suffix and letters composed or not. A view that lies in no
    file has its own name; where two have one, all have plain names.
    """
    folders = [_folder_of(f, n) for f, n in zip(scene.files, scene.names, strict=True) if f]
    root = os.path.commonpath(folders) if folders else ""
    names = [
        PurePath(os.path.relpath(file, root)).as_posix() if file else name
        for file, name in zip(scene.files, scene.names, strict=True)
    ]
    if len(set(names)) == len(names):
        return names
    suffixes = [
        PurePath(file or name).suffix for file, name in zip(scene.files, names, strict=True)
    ]
    return [stem + suffix for stem, suffix in zip(file_stems(scene.names), suffixes, strict=True)]


def _folder_of(file: str, name: str) -> str:
    """The folder that a photo's name is relative to."""
    own, parts = PurePath(file), PurePath(name).parts
    while parts and own.name == parts[-1]:
        own, parts = own.parent, parts[:-1]
    return str(own) if not parts else os.path.dirname(file)


def note_turned(scene: Scene, names: Sequence[str], stages: Stages) -> None:
    """Says which photos EXIF turns, as the cameras are those of the upright ones."""
    turned = [name for name, file in zip(names, scene.files, strict=True) if _is_turned(file)]
    if turned:
        stages.note(
            f"NOTE: {len(turned)} of {len(names)} photos are turned by EXIF ({some(turned)}), and "
            "the cameras are those of the upright photos: readers that leave EXIF out of account "
            'need upright copies, which images="copy" (--copy-images) writes'
        )


def _is_turned(file: str | None) -> bool:
    """Whether a photo is there, and EXIF turns it."""
    try:
        return file is not None and file_size(file).orientation != 1
    except InputError:
        return False


def put_photos(scene: Scene, names: Sequence[str], folder: Path, how: str, stages: Stages) -> None:
    """Puts the photos into a folder, under their names, as links (`how="link"`) or copies.

    A photo that EXIF turns is written anew, upright and without the tag, in its own format and the
    best quality, since readers of cameras differ in whether they look at the tag.

    Raises:
      InputError: a view has no file, or a file is not there or has another size than it had.
      OSError: something cannot be written.
    """
    photos = [_photo(scene, view) for view in range(len(names))]
    turned: list[str] = []
    with stages.stage("images", total=len(names)) as advance:
        for name, photo in zip(names, photos, strict=True):
            place = folder / name
            place.parent.mkdir(parents=True, exist_ok=True)
            assert photo.file is not None
            if photo.orientation != 1:
                turned.append(name)
                write_upright(photo.file, place)
            elif how == "link":
                place.symlink_to(photo.file)
            else:
                shutil.copyfile(photo.file, place)
            advance()
    if turned:
        stages.note(
            f"NOTE: {len(turned)} of {len(names)} photos are turned by EXIF ({some(turned)}): they "
            "are written upright, without the tag"
        )


def put_masks(scene: Scene, names: Sequence[str], folder: Path, size: str) -> None:
    """Writes the users' masks as COLMAP names them, `<name>.png`; nothing if there are none.

    Args:
      scene: whose masks.
      names: of the pictures.
      folder: where to.
      size: whether the pictures are the upright photos ("original") or processed.

    Raises:
      InputError: a mask is not there any more.
      OSError: something cannot be written.
    """
    views = zip(scene.photo_masks, scene.transforms, strict=False)  # of users' masks, if any
    for view, (mask, transform) in enumerate(views):
        keep = mask_pixels(mask, scene.names[view], transform.original_size)
        place = folder / f"{names[view]}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        write_mask(transform.nearest(keep) if size == "processed" else keep, place)


def _photo(scene: Scene, view: int) -> PhotoSize:
    """A view's photo.

    Raises:
      InputError: it lies in no file, or not in one of the size that it had.
    """
    file, name = scene.files[view], scene.names[view]
    if file is None:
        raise InputError(
            f"images: the photo of {name} is in no file that is known (an array, a frame of a "
            'video, or a result from elsewhere); leave images out, or write size="processed"'
        )
    found, expected = file_size(Path(file)), tuple(scene.original_sizes[view].tolist())
    if found != expected:
        sizes = ["x".join(map(str, size)) for size in (found, expected)]
        raise InputError(
            f"images: {file} is {sizes[0]}, and was {sizes[1]} when it was reconstructed; put the "
            "photo back, or reconstruct again"
        )
    return found


def write_upright(photo: Path, place: Path) -> None:
    """Writes a copy of a photo that EXIF turns, upright and without the tag."""
    with open_picture(photo, pixels=True) as picture:
        kind = picture.format or "PNG"
        picture.load()
        image, exif = shown_plainly(picture).copy(), picture.getexif()
        exif.pop(ExifTags.Base.Orientation, None)
        told = {"icc_profile": picture.info.get("icc_profile")}
        if kind != "TIFF":  # whose tags also say how its pixels are stored
            told["exif"] = exif.tobytes()
    options = {"format": kind} | told | _BEST.get(kind, {})
    with open(place, "wb") as file:
        image.save(file, **{name: value for name, value in options.items() if value is not None})
