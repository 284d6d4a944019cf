"""Reconstructions as COLMAP folders: a sparse model and the pictures that it refers to.

The format is described at https://colmap.github.io/format.html. It counts pixels from the
image's corner, so the centre of the top-left pixel is (0.5, 0.5), half a pixel from OpenCV's.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int, UInt8

from jaxrecon.files import replacing_folder
from jaxrecon.formats.colmap_photos import write_photos
from jaxrecon.formats.options import ExportOptions
from jaxrecon.formats.pictures import write_color
from jaxrecon.formats.scene import Scene, ScenePoints, check_cameras, file_stems
from jaxrecon.formats.thinning import chosen_points
from jaxrecon.formats.tracks import TrackedPoints, pixel_distance, tracked_points

DEFAULT_POINTS = 100_000

_PINHOLE = 1
_POINT_2D = np.dtype([("xy", "<f8", 2), ("point_id", "<u8")])
_SEEN = np.dtype([("image_id", "<u4"), ("point_2d_index", "<u4")])
_POINT_3D = [
    ("point_id", "<u8"),
    ("xyz", "<f8", 3),
    ("rgb", "u1", 3),
    ("error", "<f8"),
    ("track_length", "<u8"),
]


@dataclass(frozen=True, eq=False)
class _Points:
    """P points, the most often seen first, and their O observations, sorted by view."""

    xyz: Float[np.ndarray, "P 3"]
    rgb: UInt8[np.ndarray, "P 3"]
    view: Int[np.ndarray, " O"]
    point: Int[np.ndarray, " O"]
    xy: Float[np.ndarray, "O 2"]


@dataclass(frozen=True, eq=False)
class _Model:
    """The tables of a sparse model; ids are row numbers plus 1."""

    names: list[str]
    width: int
    height: int
    pinhole: Float[np.ndarray, "V 4"]  # fx fy cx cy
    quaternion: Float[np.ndarray, "V 4"]  # w x y z, camera from world
    translation: Float[np.ndarray, "V 3"]
    points: _Points
    error: Float[np.ndarray, " P"]
    bounds: Int[np.ndarray, " V+1"]  # observations bounds[v] to bounds[v + 1] belong to view v


def write_colmap(scene: Scene, folder: Path, options: ExportOptions) -> None:
    """Writes `sparse/0/{cameras,images,points3D}` and `images/<view>.png` into `folder`.

    One PINHOLE camera a view, in pixels of the processed pictures, which are written beside it, and
    `photos.json`, which tells of each picture its photo.
    If the scene has tracks, the good ones (see `export.tracks`) come first: one point each, seen
    in several pictures. Then comes the cloud, of which at most `max_points` points are written, by
    default 100,000. Each of its points is seen in one picture, at the pixel that it comes from. A
    point's error is the mean distance in pixels between where it is seen and its projection (-1
    behind the camera). Files are binary, or text if `text` is true.

    Raises:
      InputError: there is no point to write, or a camera is not finite.
      OutputError: the folder is in use or cannot be written.
    """
    check_cameras(scene)
    cloud = chosen_points(scene, options, DEFAULT_POINTS)
    model = _model(scene, _points(scene, cloud))
    with replacing_folder(folder, overwrite=options.overwrite) as temporary:
        sparse, pictures = temporary / "sparse" / "0", temporary / "images"
        sparse.mkdir(parents=True)
        pictures.mkdir()
        (_write_text if options.text else _write_binary)(model, sparse)
        for name, color in zip(model.names, scene.colors, strict=True):
            write_color(color, pictures / name)
        write_photos(scene, model.names, temporary)


def _points(scene: Scene, cloud: ScenePoints) -> _Points:
    view, row, column = np.unravel_index(cloud.pixel, scene.mask.shape)
    alone = _Points(
        xyz=cloud.xyz.astype(np.float64),
        rgb=cloud.rgb,
        view=view,
        point=np.arange(len(view)),
        xy=np.stack([column, row], axis=-1) + 0.5,
    )
    if scene.tracks is None:
        return alone
    return _joined_points(_tracked(scene, tracked_points(scene, scene.tracks)), alone)


def _tracked(scene: Scene, found: TrackedPoints) -> _Points:
    found = found.chosen(np.argsort(-found.seen.sum(axis=0), kind="stable"))
    view, point = np.nonzero(found.seen)
    return _Points(
        xyz=found.xyz,
        rgb=scene.colors.reshape(-1, 3)[found.pixel],
        view=view,
        point=point,
        xy=found.xy[view, point] + 0.5,
    )


def _joined_points(first: _Points, second: _Points) -> _Points:
    """All points; in each view the observations of the first come first."""
    view = np.concatenate([first.view, second.view])
    order = np.argsort(view, kind="stable")
    return _Points(
        xyz=np.concatenate([first.xyz, second.xyz]),
        rgb=np.concatenate([first.rgb, second.rgb]),
        view=view[order],
        point=np.concatenate([first.point, len(first.xyz) + second.point])[order],
        xy=np.concatenate([first.xy, second.xy])[order],
    )


def _model(scene: Scene, points: _Points) -> _Model:
    views, height, width = scene.mask.shape
    intrinsics = scene.intrinsics.astype(np.float64)
    pinhole = np.stack([intrinsics[:, i, j] for i, j in ((0, 0), (1, 1), (0, 2), (1, 2))], axis=-1)
    pinhole[:, 2:] += 0.5
    pose = scene.world_from_camera.astype(np.float64)
    quaternion = quaternions(pose[:, :3, :3].swapaxes(1, 2))
    rotation = _rotation(quaternion)
    translation = -np.einsum("vij,vj->vi", rotation, pose[:, :3, 3])
    bounds = np.searchsorted(points.view, np.arange(views + 1))
    distance = np.empty(len(points.xy))
    for v, (first, last) in enumerate(pairwise(bounds)):
        in_camera = points.xyz[points.point[first:last]] @ rotation[v].T + translation[v]
        distance[first:last] = pixel_distance(in_camera, pinhole[v], points.xy[first:last])
    return _Model(
        names=[f"{stem}.png" for stem in file_stems(scene.names)],
        width=width,
        height=height,
        pinhole=pinhole,
        quaternion=quaternion,
        translation=translation,
        points=points,
        error=np.bincount(points.point, distance) / np.bincount(points.point),
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


def _write_binary(model: _Model, folder: Path) -> None:
    with open(folder / "cameras.bin", "wb") as file:
        file.write(struct.pack("<Q", len(model.names)))
        for number, pinhole in enumerate(model.pinhole, 1):
            file.write(struct.pack("<IiQQ", number, _PINHOLE, model.width, model.height))
            file.write(pinhole.astype("<f8").tobytes())
    observations = np.empty(len(model.points.xy), _POINT_2D)
    observations["xy"] = model.points.xy
    observations["point_id"] = model.points.point + 1
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
        file.write(struct.pack("<Q", len(model.points.xyz)))
        for records in _point_records(model):
            file.write(records.data)


def _point_records(model: _Model) -> Iterator[np.ndarray]:
    """The points as they stand in the file, those with equally many observations at a time."""
    points = model.points
    seen = np.empty(len(points.xy), _SEEN)
    seen["image_id"] = points.view + 1
    seen["point_2d_index"] = np.arange(len(points.xy)) - model.bounds[points.view]
    seen = seen[np.argsort(points.point, kind="stable")]
    length = np.bincount(points.point)
    start = np.append(0, np.cumsum(length))
    changes = np.flatnonzero(np.diff(length)) + 1
    for first, last in pairwise((0, *changes.tolist(), len(length))):
        records = np.empty(last - first, [*_POINT_3D, ("track", _SEEN, (length[first],))])
        records["point_id"] = np.arange(first + 1, last + 1)
        records["xyz"] = points.xyz[first:last]
        records["rgb"] = points.rgb[first:last]
        records["error"] = model.error[first:last]
        records["track_length"] = length[first]
        records["track"] = seen[start[first] : start[last]].reshape(last - first, -1)
        yield records


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
        ids = (model.points.point[first:last] + 1).tolist()
        seen = zip(ids, model.points.xy[first:last].tolist(), strict=True)
        images.append(" ".join(f"{x!r} {y!r} {point}" for point, (x, y) in seen))
    points = ["# POINT3D_ID X Y Z R G B ERROR, then IMAGE_ID POINT2D_IDX of each observation"]
    for record in (record for records in _point_records(model) for record in records.tolist()):
        number, xyz, rgb, error, _, track = record
        seen = " ".join(f"{image} {index}" for image, index in track)
        points.append(f"{number} {_joined(xyz)} {_joined(rgb)} {error!r} {seen}")
    for stem, lines in (("cameras", cameras), ("images", images), ("points3D", points)):
        content = ("\n".join(lines) + "\n").encode()
        (folder / f"{stem}.txt").write_bytes(content)


def _joined(values: np.ndarray) -> str:
    return " ".join(repr(value) for value in np.asarray(values).tolist())
