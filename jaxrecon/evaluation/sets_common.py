"""What the readers of evaluation sets share: choosing frames, reading numbers and depth."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float
from PIL import Image

from jaxrecon.errors import InputError


@dataclass(frozen=True)
class Pick:
    """Which frames of a sequence are taken.

    Attributes:
      stride: every so manieth frame, from the first.
      views: of those, at most so many; None for all.
      seed: draws the `views` frames at random, in the order of the sequence; None takes the first.

    Raises:
      InputError: a number is out of range.
    """

    stride: int = 1
    views: int | None = None
    seed: int | None = None

    def __post_init__(self) -> None:
        for name in ("stride", "views"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InputError(f"{name} is {value}; give at least 1")
        if self.seed is not None and self.seed < 0:
            raise InputError(f"seed is {self.seed}; give at least 0")

    def of[T](self, frames: Sequence[T]) -> list[T]:
        """The chosen frames."""
        strided = list(frames)[:: self.stride]
        if self.views is None or len(strided) <= self.views:
            return strided
        if self.seed is None:
            return strided[: self.views]
        drawn = np.random.default_rng(self.seed).permutation(len(strided))[: self.views]
        return [strided[index] for index in sorted(drawn)]


def check_folder(path: Path) -> Path:
    """Refuses what is not a folder.

    Raises:
      InputError: naming it.
    """
    if not path.is_dir():
        what = "is a file, not a folder" if path.exists() else "does not exist"
        raise InputError(f"{path} {what}; check the path")
    return path


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


def read_lines(path: Path) -> list[str]:
    """The lines of a text file that are not empty and no comments.

    Raises:
      InputError: the file cannot be read as text.
    """
    try:
        lines = path.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not a text file"
        raise InputError(f"cannot read {path}: {reason}; check the file") from error
    return [line for line in map(str.strip, lines) if line and not line.startswith("#")]


def read_numbers(path: Path, lines: Sequence[str], count: int) -> Float[np.ndarray, "lines count"]:
    """`count` numbers from each line of a file.

    Raises:
      InputError: naming the file and the line that has others.
    """
    rows = []
    for line in lines:
        try:
            row = [float(word) for word in line.replace(",", " ").split()]
        except ValueError:
            row = []
        if len(row) != count:
            raise InputError(f"{path}: expected {count} numbers in a line, found {line[:60]!r}")
        rows.append(row)
    return np.array(rows, np.float64).reshape(len(rows), count)


def read_depth_png(
    path: Path, *, per_metre: float, unknown: tuple[int, ...] = (0,)
) -> Float[np.ndarray, "H W"]:
    """Depth in metres from a 16-bit PNG; 0 where its value is one of `unknown`.

    Raises:
      InputError: the file cannot be read, or is no greyscale image.
    """
    try:
        with Image.open(path) as image:
            values = np.asarray(image)
    except (OSError, ValueError, SyntaxError) as error:
        raise InputError(f"cannot read {path}: it is not a sound image ({error})") from error
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
                f"{name} has shape {map_.shape}; expected {shape}, that of {known[0][1]}"
            )
    empty = np.zeros(shape, np.float32)
    return np.stack([empty if map_ is None else map_ for map_ in maps])


def pinhole(fx: float, fy: float, cx: float, cy: float) -> Float[np.ndarray, "3 3"]:
    """The camera matrix."""
    return np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1]], np.float64)


def poses_from_world_to_camera(
    rotation: Float[np.ndarray, "V 3 3"], translation: Float[np.ndarray, "V 3"]
) -> Float[np.ndarray, "V 4 4"]:
    """Camera-to-world poses of cameras given as `x_camera = R x_world + t`."""
    poses = np.tile(np.eye(4), (len(rotation), 1, 1))
    poses[:, :3, :3] = np.swapaxes(rotation, 1, 2)
    poses[:, :3, 3] = -np.einsum("vji,vj->vi", rotation, translation)
    return poses
