"""What the readers of evaluation sets share: choosing frames, reading numbers and depth."""

import os
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float

from jaxrecon import reading
from jaxrecon.checks import is_whole, shown, whole_number
from jaxrecon.errors import InputError
from jaxrecon.images.pictures import file_size, picture_values
from jaxrecon.priors.camera import check_copy, scaled


@dataclass(frozen=True)
class Subset:
    """Which frames of a sequence are taken, and from where.

    Attributes:
      stride: every `stride`-th frame, from the first.
      views: of those, at most so many; None for all.
      seed: draws the `views` frames at random, in the order of the sequence; None takes the first.
      allow_outside: whether files of the set may lie outside of its folder, as links or by names in
        its lists.

    Raises:
      InputError: a number is out of range.
    """

    stride: int = 1
    views: int | None = None
    seed: int | None = None
    allow_outside: bool = False

    def __post_init__(self) -> None:
        for name, least in (("stride", 1), ("views", 1), ("seed", 0)):
            value = getattr(self, name)
            if value is not None:
                object.__setattr__(self, name, at_least(name, value, least))

    def of[T](self, frames: Sequence[T]) -> list[T]:
        """The chosen frames."""
        strided = list(frames)[:: self.stride]
        if self.views is None or len(strided) <= self.views:
            return strided
        if self.seed is None:
            return strided[: self.views]
        drawn = np.random.default_rng(self.seed).permutation(len(strided))[: self.views]
        return [strided[index] for index in sorted(drawn)]

    def path(self, folder: Path, name: str, where: str) -> Path:
        """A file of the set, by its name as it stands in a list or a folder.

        Raises:
          InputError: it lies outside of the folder, and `allow_outside` is false.
        """
        return reading.inside(folder, name, where=where, allow_outside=self.allow_outside)


def at_least(name: str, value: object, least: int) -> int:
    """A whole number that an argument gives.

    Raises:
      InputError: it is none, or too low.
    """
    if is_whole(value) and value < least:
        raise InputError(f"{name} is {shown(value)}; give at least {least}")
    return whole_number(name, value, least=least)


def check_folder(path: Path) -> Path:
    """Refuses what is not a folder.

    Raises:
      InputError: naming it.
    """
    if not reading.is_folder(path):
        what = "is a file, not a folder" if os.path.exists(path) else "does not exist"
        raise InputError(f"{path} {what}; check the path")
    return path


def folders_in(path: Path) -> list[Path]:
    """What lies in a folder, sorted.

    Raises:
      InputError: it is no folder, or cannot be read.
    """
    try:
        return sorted(check_folder(path).iterdir())
    except OSError as error:
        raise InputError(f"cannot read the folder {path}: {error.strerror}") from error


def folders_with(path: Path, marker: str, *, depth: int = 2) -> list[Path]:
    """The folder itself and those up to `depth` levels below that hold a file like `marker`.

    Raises:
      InputError: there is none.
    """
    check_folder(path)
    patterns = ["/".join(["*"] * level + [marker]) for level in range(depth + 1)]
    found = sorted({file.parent for pattern in patterns for file in path.glob(pattern)})
    if not found:
        raise InputError(f"no {marker} in {path} or up to {depth} folders below it; check the path")
    return found


def not_empty[T](found: Iterator[T], message: str) -> Iterator[T]:
    """What is found, one after another.

    Raises:
      InputError: with that message, where there is nothing.
    """
    first = next(found, None)
    if first is None:
        raise InputError(message)
    yield first
    yield from found


def scene_name(folder: Path, root: Path) -> str:
    """The folder's name below the root, or its own name if it is the root."""
    return folder.name if folder == root else folder.relative_to(root).as_posix()


def read_lines(path: Path) -> Iterator[str]:
    """The lines of a text file that are not empty and no comments, read as they are asked for.

    Raises:
      InputError: the file cannot be read as text, or a line is far too long.
    """
    lines = map(str.strip, reading.read_lines(path))
    return (line for line in lines if line and not line.startswith("#"))


def read_numbers(path: Path, lines: Iterable[str], count: int) -> Float[np.ndarray, "lines count"]:
    """`count` numbers from each line of a file.

    Raises:
      InputError: naming the file and the line that has others.
    """
    numbers = array("d")
    for line in lines:
        try:
            row = [reading.parse_number(word) for word in line.replace(",", " ").split()]
        except ValueError:
            row = []
        if len(row) != count:
            raise InputError(f"{path}: expected {count} numbers in a line, found {line[:60]!r}")
        numbers.extend(row)
    return np.array(numbers, np.float64).reshape(-1, count)


def check_distinct(path: Path, what: str, names: Iterable[str]) -> None:
    """Refuses a list in which a name stands twice.

    Raises:
      InputError: naming the file and the name.
    """
    twice = next((name for name, times in Counter(names).items() if times > 1), None)
    if twice is not None:
        raise InputError(f"{path} has the {what} {twice!r} twice; remove one of them")


def read_depth_png(
    path: Path, *, per_metre: float, unknown: tuple[int, ...] = (0,)
) -> Float[np.ndarray, "H W"]:
    """Depth in metres from a 16-bit PNG; 0 where its value is one of `unknown`.

    Raises:
      InputError: the file cannot be read, or is no greyscale image.
    """
    values = picture_values(path)
    if values.ndim != 2:
        raise InputError(f"{path} has shape {values.shape}; expected one channel of depth")
    return np.where(np.isin(values, unknown), 0, values / per_metre).astype(np.float32)


def stack_depths(
    maps: Sequence[Float[np.ndarray, "_ _"] | None], names: Sequence[Path | None]
) -> Float[np.ndarray, "V H W"] | None:
    """Stacks depth maps; a view without one gets 0. None if no view has one.

    Raises:
      InputError: two maps differ in size.
    """
    known = [(map_, name) for map_, name in zip(maps, names, strict=True) if map_ is not None]
    if not known:
        return None
    shape = known[0][0].shape
    for map_, name in known:
        if map_.shape != shape:
            raise InputError(
                f"{name}: its depth is {map_.shape[1]}x{map_.shape[0]} pixels, that of "
                f"{known[0][1]} {shape[1]}x{shape[0]}; give depth of one size, or evaluate images "
                "of each size apart"
            )
    empty = np.zeros(shape, np.float32)
    return np.stack([empty if map_ is None else map_ for map_ in maps])


def pinhole(fx: float, fy: float, cx: float, cy: float) -> Float[np.ndarray, "3 3"]:
    """The camera matrix."""
    return np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1]], np.float64)


def resized_pinhole(
    matrix: Float[np.ndarray, "3 3"], made_for: tuple[int, int], image: Path
) -> Float[np.ndarray, "3 3"]:
    """The camera matrix of an image that may be a smaller or larger copy.

    Args:
      matrix: of images as the data set has them.
      made_for: their width and height.
      image: the one at hand.

    Raises:
      InputError: it cannot be read, or is no resized copy of such an image.
    """
    size, where = file_size(image), f"{image}: the camera of the data set"
    check_copy(made_for, size, where)
    return matrix if size == made_for else scaled(matrix, made_for, size, where)


def poses_from_world_to_camera(
    rotation: Float[np.ndarray, "V 3 3"], translation: Float[np.ndarray, "V 3"]
) -> Float[np.ndarray, "V 4 4"]:
    """Camera-to-world poses of cameras given as `x_camera = R x_world + t`."""
    poses = np.tile(np.eye(4), (len(rotation), 1, 1))
    poses[:, :3, :3] = np.swapaxes(rotation, 1, 2)
    poses[:, :3, 3] = -np.einsum("vji,vj->vi", rotation, translation)
    return poses
