"""Which images of a folder are views, where a file names those that it is about."""

import os
from collections.abc import Collection, Sequence
from pathlib import Path

from jaxrecon.errors import InputError
from jaxrecon.formats.colmap_photos import read_photos
from jaxrecon.formats.streamed import is_streamed
from jaxrecon.images.findings import some
from jaxrecon.images.listing import folder_images
from jaxrecon.priors.colmap_files import model_folder, read_images
from jaxrecon.priors.names import views_by_name
from jaxrecon.priors.nerf import frame_names
from jaxrecon.reading import is_folder

_MODELS = ("sparse", "cameras.bin", "cameras.txt", "0")


def chosen_images(folder: Path, files: Collection[Path]) -> tuple[list[Path], list[Path]]:
    """The images of a folder that one of these files names, and those that none of them names.

    All are chosen where no file names images, or where one knows none of them, which is told when
    it is read. What else lies in such folders is often no photo: depth maps, masks, normals.

    Raises:
      InputError: a file is damaged, or the folder cannot be read.
    """
    images = folder_images(folder)
    names = [image.name for image in images]
    told = [(file, stored) for file in files if (stored := _stored_names(file)) is not None]
    known: set[int] = set()
    for file, stored in told:
        try:
            known.update(views_by_name(file, stored, names, images))
        except InputError:  # reading it says so, with the folders of the images at hand
            return images, []
    if not told:
        return images, []
    chosen = [image for view, image in enumerate(images) if view in known]
    return chosen, [image for view, image in enumerate(images) if view not in known]


def file_beside_images(folder: Path) -> Path | None:
    """What tells of the images of a scene's folder: `transforms.json`, else a COLMAP model.

    The model lies in `sparse`, in a folder in that, in the folder itself or in `0` in it, and is
    named by the scene's folder. None where there is nothing of the kind.
    """
    transforms = folder / "transforms.json"
    if os.path.lexists(transforms):
        return transforms
    return folder if any((folder / name).exists() for name in _MODELS) else None


def unregistered_images(images: Sequence[Path]) -> list[Path]:
    """The images that lie beside those of a COLMAP model and are not in it.

    Raises:
      InputError: their folder cannot be read.
    """
    registered = {os.path.abspath(image) for image in images}
    beside = [image for folder in {i.parent for i in images} for image in folder_images(folder)]
    return [image for image in beside if os.path.abspath(image) not in registered]


def left_out(images: Sequence[Path], where: str) -> str:
    """What to tell of such images; `where` is what does not name them."""
    what = "1 image is" if len(images) == 1 else f"{len(images)} images are"
    return f"{what} not in {where} and left out ({some([image.name for image in images])})"


def _stored_names(file: Path) -> list[str] | None:
    """The names of the images that a file is about; None if it does not name any."""
    file = Path(os.path.expanduser(file))
    if not file.exists():  # which is told when it is read
        return None
    if is_streamed(file):  # a result of our own
        return None
    if is_folder(file):
        model = model_folder(file)
        record = read_photos(model)
        return list(record.names.values()) if record else [i.name for i in read_images(model)]
    return frame_names(file) if file.suffix.lower() == ".json" else None
