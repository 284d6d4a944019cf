"""Reconstructions as COLMAP folders: a sparse model and the pictures that it refers to.

The format is described at https://colmap.github.io/format.html. It counts pixels from the
image's corner, so the centre of the top-left pixel is (0.5, 0.5), half a pixel from OpenCV's.
"""

import struct
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int, UInt8

from jaxrecon.export.pictures import write_color
from jaxrecon.export.scene import Scene, ScenePoints, check_cameras, file_stems, select_points
from jaxrecon.files import replacing_folder

DEFAULT_POINTS = 100_000

_PINHOLE = 1
_POINT_2D = np.dtype([("xy", "<f8", 2), ("point_id", "<u8")])
_POINT_3D = np.dtype(
    [
        ("point_id", "<u8"),
        ("xyz", "<f8", 3),
        ("rgb", "u1", 3),
        ("error", "<f8"),
        ("track_length", "<u8"),
        ("image_id", "<u4"),
        ("point_2d_index", "<u4"),
    ]
)


@dataclass(frozen=True, eq=False)
class _Model:
    """The tables of a sparse model; ids are row numbers plus 1, points are sorted by view."""

    names: list[str]
    width: int
    height: int
    pinhole: Float[np.ndarray, "V 4"]  # fx fy cx cy
    quaternion: Float[np.ndarray, "V 4"]  # w x y z, camera from world
    translation: Float[np.ndarray, "V 3"]
    xyz: Float[np.ndarray, "P 3"]
    rgb: UInt8[np.ndarray, "P 3"]
    error: Float[np.ndarray, " P"]
    view: Int[np.ndarray, " P"]
    xy: Float[np.ndarray, "P 2"]
    bounds: Int[np.ndarray, " V+1"]  # points bounds[v] to bounds[v + 1] belong to view v


def write_colmap(
    scene: Scene,
    folder: Path,
    *,
    overwrite: bool = False,
    max_points: int | None = None,
    text: bool = False,
) -> None:
    """Writes `sparse/0/{cameras,images,points3D}` and `images/<view>.png` into `folder`.

    One PINHOLE camera a view, in pixels of the processed pictures, which are written beside it.
    Each point is seen in one picture, at the pixel that it comes from; its error is the distance
    in pixels between that pixel and its projection (-1 behind the camera). At most `max_points`
    points are written, by default 100,000. Files are binary, or text if `text` is true.

    Raises:
      InputError: there is no point to write, or a camera is not finite.
      OutputError: the folder is in use or cannot be written.
    """
    check_cameras(scene)
    model = _model(
        scene, select_points(scene, DEFAULT_POINTS if max_points is None else max_points)
    )
    with replacing_folder(folder, overwrite=overwrite) as temporary:
        sparse, pictures = temporary / "sparse" / "0", temporary / "images"
        sparse.mkdir(parents=True)
        pictures.mkdir()
        (_write_text if text else _write_binary)(model, sparse)
        for name, color in zip(model.names, scene.colors, strict=True):
            write_color(color, pictures / name)


def _model(scene: Scene, points: ScenePoints) -> _Model:
    views, height, width = scene.mask.shape
    view, row, column = np.unravel_index(points.pixel, scene.mask.shape)
    xy = np.stack([column, row], axis=-1) + 0.5
    intrinsics = scene.intrinsics.astype(np.float64)
    pinhole = np.stack([intrinsics[:, i, j] for i, j in ((0, 0), (1, 1), (0, 2), (1, 2))], axis=-1)
    pinhole[:, 2:] += 0.5
    pose = scene.world_from_camera.astype(np.float64)
    quaternion = quaternions(pose[:, :3, :3].swapaxes(1, 2))
    rotation = _rotation(quaternion)
    translation = -np.einsum("vij,vj->vi", rotation, pose[:, :3, 3])
    xyz = points.xyz.astype(np.float64)
    bounds = np.searchsorted(view, np.arange(views + 1))
    error = np.empty(len(xyz))
    for v, (first, last) in enumerate(pairwise(bounds)):
        in_camera = xyz[first:last] @ rotation[v].T + translation[v]
        error[first:last] = _distance(in_camera, pinhole[v], xy[first:last])
    return _Model(
        names=[f"{stem}.png" for stem in file_stems(scene.names)],
        width=width,
        height=height,
        pinhole=pinhole,
        quaternion=quaternion,
        translation=translation,
        xyz=xyz,
        rgb=points.rgb,
        error=error,
        view=view,
        xy=xy,
        bounds=bounds,
    )


def quaternions(rotation: Float[np.ndarray, "V 3 3"]) -> Float[np.ndarray, "V 4"]:
    """Unit quaternions (w x y z, w >= 0) of the rotations nearest to the given matrices.

    The eigenvector of the largest eigenvalue of a symmetric 4x4 matrix, which is well
    conditioned for every rotation (Bar-Itzhack 2000, doi 10.2514/2.4654).
    """
    r = rotation.transpose(1, 2, 0)
    symmetric = np.array(
        [
            [r[0, 0] + r[1, 1] + r[2, 2], r[2, 1] - r[1, 2], r[0, 2] - r[2, 0], r[1, 0] - r[0, 1]],
            [r[2, 1] - r[1, 2], r[0, 0] - r[1, 1] - r[2, 2], r[0, 1] + r[1, 0], r[0, 2] + r[2, 0]],
            [r[0, 2] - r[2, 0], r[0, 1] + r[1, 0], r[1, 1] - r[0, 0] - r[2, 2], r[1, 2] + r[2, 1]],
            [r[1, 0] - r[0, 1], r[0, 2] + r[2, 0], r[1, 2] + r[2, 1], r[2, 2] - r[0, 0] - r[1, 1]],
        ]
    )
    quaternion = np.linalg.eigh(symmetric.transpose(2, 0, 1)).eigenvectors[..., -1]
    return np.where(quaternion[:, :1] < 0, -quaternion, quaternion)


def _rotation(quaternion: Float[np.ndarray, "V 4"]) -> Float[np.ndarray, "V 3 3"]:
    w, x, y, z = quaternion.T
    rows = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
        [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
        [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
    ]
    return np.array(rows).transpose(2, 0, 1)


def _distance(
    in_camera: Float[np.ndarray, "P 3"],
    pinhole: Float[np.ndarray, "4"],
    xy: Float[np.ndarray, "P 2"],
) -> Float[np.ndarray, " P"]:
    front = in_camera[:, 2] > 0
    depth = np.where(front, in_camera[:, 2], 1)[:, None]
    projected = pinhole[:2] * in_camera[:, :2] / depth + pinhole[2:]
    return np.where(front, np.linalg.norm(projected - xy, axis=-1), -1)


def _write_binary(model: _Model, folder: Path) -> None:
    with open(folder / "cameras.bin", "wb") as file:
        file.write(struct.pack("<Q", len(model.names)))
        for number, pinhole in enumerate(model.pinhole, 1):
            file.write(struct.pack("<IiQQ", number, _PINHOLE, model.width, model.height))
            file.write(pinhole.astype("<f8").tobytes())
    observations = np.empty(len(model.xy), _POINT_2D)
    observations["xy"] = model.xy
    observations["point_id"] = np.arange(1, len(model.xy) + 1)
    with open(folder / "images.bin", "wb") as file:
        file.write(struct.pack("<Q", len(model.names)))
        for view, name in enumerate(model.names):
            first, last = model.bounds[view : view + 2]
            pose = np.append(model.quaternion[view], model.translation[view])
            file.write(struct.pack("<I7dI", view + 1, *pose, view + 1))
            file.write(name.encode() + b"\0")
            file.write(struct.pack("<Q", last - first))
            file.write(observations[first:last].tobytes())
    with open(folder / "points3D.bin", "wb") as file:
        file.write(struct.pack("<Q", len(model.xyz)))
        file.write(_point_records(model).data)


def _point_records(model: _Model) -> np.ndarray:
    records = np.empty(len(model.xyz), _POINT_3D)
    records["point_id"] = np.arange(1, len(model.xyz) + 1)
    records["xyz"] = model.xyz
    records["rgb"] = model.rgb
    records["error"] = model.error
    records["track_length"] = 1
    records["image_id"] = model.view + 1
    records["point_2d_index"] = np.arange(len(model.xyz)) - model.bounds[model.view]
    return records


def _write_text(model: _Model, folder: Path) -> None:
    cameras = ["# CAMERA_ID MODEL WIDTH HEIGHT fx fy cx cy"]
    images = ["# IMAGE_ID qw qx qy qz tx ty tz CAMERA_ID NAME, then X Y POINT3D_ID of its points"]
    for view, name in enumerate(model.names):
        number = view + 1
        pinhole = _joined(model.pinhole[view])
        cameras.append(f"{number} PINHOLE {model.width} {model.height} {pinhole}")
        pose = _joined(np.append(model.quaternion[view], model.translation[view]))
        images.append(f"{number} {pose} {number} {name}")
        first, last = model.bounds[view : view + 2]
        seen = enumerate(model.xy[first:last].tolist(), first + 1)
        images.append(" ".join(f"{x!r} {y!r} {point}" for point, (x, y) in seen))
    points = ["# POINT3D_ID X Y Z R G B ERROR IMAGE_ID POINT2D_IDX"]
    for record in _point_records(model).tolist():
        number, xyz, rgb, error, _, image, index = record
        points.append(f"{number} {_joined(xyz)} {_joined(rgb)} {error!r} {image} {index}")
    for stem, lines in (("cameras", cameras), ("images", images), ("points3D", points)):
        content = ("\n".join(lines) + "\n").encode()
        (folder / f"{stem}.txt").write_bytes(content)


def _joined(values: np.ndarray) -> str:
    return " ".join(repr(value) for value in np.asarray(values).tolist())
