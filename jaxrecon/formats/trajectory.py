"""Camera poses as text, for tools that compare trajectories (evo, the TUM and KITTI benchmarks)."""

import re
from itertools import pairwise
from pathlib import Path

import numpy as np
from jaxtyping import Float

from jaxrecon.errors import one_line
from jaxrecon.files import replacing_folder
from jaxrecon.formats.options import ExportOptions
from jaxrecon.formats.scene import Scene, check_cameras

_VIDEO_FRAME = re.compile(r"frame_(\d+)")


def write_trajectory(scene: Scene, folder: Path, options: ExportOptions) -> None:
    """Writes `tum.txt`, `kitti.txt` and `views.txt`, with one line a view each.

    Poses map camera to world coordinates, with OpenCV's axes. TUM has `timestamp tx ty tz qx qy qz
    qw`, where the timestamp is the frame's number in its video, or the view's number, counted from
    0, of photos. KITTI has the first three rows of the pose matrix. `views.txt` has the names.

    Raises:
      InputError: a pose is not finite.
      OutputError: the folder is in use or cannot be written.
    """
    check_cameras(scene)
    poses = scene.world_from_camera.astype(np.float64)
    write_poses(scene.names, poses, folder, overwrite=options.overwrite)


def write_poses(
    names: tuple[str, ...],
    poses: Float[np.ndarray, "V 4 4"],
    folder: Path,
    *,
    overwrite: bool,
) -> None:
    """Writes the files of `write_trajectory`.

    Raises:
      OutputError: the folder is in use or cannot be written.
    """
    with replacing_folder(folder, overwrite=overwrite) as temporary:
        _write_lines(temporary / "tum.txt", _tum_lines(timestamps(names), poses))
        _write_lines(temporary / "kitti.txt", [_numbers(pose[:3].reshape(-1)) for pose in poses])
        _write_lines(temporary / "views.txt", [one_line(name) for name in names])


def timestamps(names: tuple[str, ...]) -> list[int]:
    """The frames' numbers if all views are frames of a video in order; else those of the views."""
    matches = [_VIDEO_FRAME.fullmatch(name) for name in names]
    frames = [int(match[1]) for match in matches if match]
    rising = all(b > a for a, b in pairwise(frames))
    return frames if len(frames) == len(names) and rising else list(range(len(names)))


def _tum_lines(times: list[int], poses: Float[np.ndarray, "V 4 4"]) -> list[str]:
    from scipy.spatial.transform import Rotation

    quaternions = Rotation.from_matrix(poses[:, :3, :3]).as_quat(canonical=True)
    rows = np.concatenate([poses[:, :3, 3], quaternions], axis=1)
    return [f"{time} {_numbers(row)}" for time, row in zip(times, rows, strict=True)]


def _numbers(values: Float[np.ndarray, " N"]) -> str:
    return " ".join(repr(value) for value in values.tolist())


def _write_lines(path: Path, lines: list[str]) -> None:
    path.write_bytes(("\n".join(lines) + "\n").encode())
