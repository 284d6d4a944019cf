"""Reconstructions as COLMAP folders: a sparse model for the photos, or for processed pictures.

COLMAP counts pixels from the image's corner, so the centre of the top-left pixel is (0.5, 0.5),
half a pixel from OpenCV's.
"""

from itertools import pairwise
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int

from jaxrecon.files import replacing_folder
from jaxrecon.formats.cameras import Cameras, cameras_of
from jaxrecon.formats.colmap_model import Model, Points, write_binary, write_text
from jaxrecon.formats.colmap_photos import write_photos
from jaxrecon.formats.options import ExportOptions, Size
from jaxrecon.formats.photo_files import (
    note_turned,
    photo_names,
    put_masks,
    put_photos,
    size_of_pictures,
)
from jaxrecon.formats.pictures import write_colors
from jaxrecon.formats.scene import Scene, ScenePoints, check_cameras, file_stems
from jaxrecon.formats.thinning import thinned_points
from jaxrecon.formats.tracks import TrackedPoints, pixel_distance, tracked_points

DEFAULT_POINTS = 100_000

_ONE_CAMERA = 1e-3
"""How far, in pixels, parameters of cameras may differ that count as one."""


def write_colmap(scene: Scene, folder: Path, options: ExportOptions) -> int:
    """Writes `sparse/0/{cameras,images,points3D}` and `photos.json` into `folder`.

    PINHOLE cameras in pixels of the photos, once upright, and the photos' names below their common
    folder; views of one camera share a row. The photos are put into `images` as links or copies if
    `images` asks for them. For `size="processed"`, and where it is not given and a view has no
    file, cameras are those of the processed pictures, which are written to `images/<view>.png`.
    Masks that the user gave are written to `masks/<name>.png`.

    If the scene has tracks, the good ones (see `formats.tracks`) come first: one point each, seen
    in several pictures. Then comes the cloud, the most confident first: at most `max_points`
    points, by default 100,000, thinned by voxel. Each of its points is seen in one picture, at the
    pixel that it comes from. A point's error is the mean distance in pixels between where it is
    seen and its projection (-1 behind the camera).

    Returns:
      The number of points that were written.

    Raises:
      InputError: there is no point to write, a camera is not finite, or the photos that were asked
        for are not there.
      OutputError: the folder is in use or cannot be written.
    """
    check_cameras(scene)
    size = size_of_pictures(scene, options)
    original = size == "original"
    names = photo_names(scene) if original else [f"{s}.png" for s in file_stems(scene.names)]
    cameras = cameras_of(scene, size)
    cloud = thinned_points(scene, options.most_points(DEFAULT_POINTS), options.voxel)
    model = _model(cameras, names, _points(scene, cloud, cameras))
    with replacing_folder(folder, overwrite=options.overwrite) as temporary:
        sparse = temporary / "sparse" / "0"
        sparse.mkdir(parents=True)
        (write_text if options.text else write_binary)(model, sparse)
        write_photos(scene, names, temporary, size)
        _write_images(scene, names, temporary / "images", size, options)
        put_masks(scene, names, temporary / "masks", size)
    return len(model.points.xyz)


def _write_images(
    scene: Scene, names: list[str], folder: Path, size: Size, options: ExportOptions
) -> None:
    if size == "processed":
        folder.mkdir()
        with options.stages.stage("images", total=len(names)) as advance:
            write_colors(scene.colors, [folder / name for name in names], advance)
    elif options.images is None:
        note_turned(scene, names, options.stages)
    else:
        put_photos(scene, names, folder, options.images, options.stages)


def _points(scene: Scene, cloud: ScenePoints, cameras: Cameras) -> Points:
    point = np.argsort(cloud.pixel)
    view, row, column = np.unravel_index(cloud.pixel[point], scene.mask.shape)
    alone = Points(
        xyz=cloud.xyz.astype(np.float64),
        rgb=cloud.rgb,
        view=view,
        point=point,
        xy=cameras.from_processed(np.stack([column, row], axis=-1), view) + 0.5,
    )
    if scene.tracks is None:
        return alone
    tracked = _tracked(scene, tracked_points(scene, scene.tracks), cameras)
    return _joined_points(tracked, alone)


def _tracked(scene: Scene, found: TrackedPoints, cameras: Cameras) -> Points:
    found = found.chosen(np.argsort(-found.seen.sum(axis=0), kind="stable"))
    view, point = np.nonzero(found.seen)
    return Points(
        xyz=found.xyz,
        rgb=scene.colors.reshape(-1, 3)[found.pixel],
        view=view,
        point=point,
        xy=cameras.from_processed(found.xy[view, point], view) + 0.5,
    )


def _joined_points(first: Points, second: Points) -> Points:
    """All points; in each view the observations of the first come first."""
    view = np.concatenate([first.view, second.view])
    order = np.argsort(view, kind="stable")
    return Points(
        xyz=np.concatenate([first.xyz, second.xyz]),
        rgb=np.concatenate([first.rgb, second.rgb]),
        view=view[order],
        point=np.concatenate([first.point, len(first.xyz) + second.point])[order],
        xy=np.concatenate([first.xy, second.xy])[order],
    )


def _model(cameras: Cameras, names: list[str], points: Points) -> Model:
    intrinsics = cameras.intrinsics
    pinhole = np.stack([intrinsics[:, i, j] for i, j in ((0, 0), (1, 1), (0, 2), (1, 2))], axis=-1)
    pinhole[:, 2:] += 0.5
    pose = cameras.world_from_camera
    from scipy.spatial.transform import Rotation

    turns = Rotation.from_matrix(pose[:, :3, :3].swapaxes(1, 2))
    rotation = turns.as_matrix()
    translation = -np.einsum("vij,vj->vi", rotation, pose[:, :3, 3])
    bounds = np.searchsorted(points.view, np.arange(len(names) + 1))
    distance = np.empty(len(points.xy))
    for v, (first, last) in enumerate(pairwise(bounds)):
        in_camera = points.xyz[points.point[first:last]] @ rotation[v].T + translation[v]
        distance[first:last] = pixel_distance(in_camera, pinhole[v], points.xy[first:last])
    camera, rows = _shared(np.concatenate([cameras.sizes, pinhole], axis=1))
    return Model(
        names=names,
        camera=camera,
        sizes=cameras.sizes[rows],
        pinhole=pinhole[rows],
        quaternion=turns.as_quat(canonical=True, scalar_first=True),
        translation=translation,
        points=points,
        error=np.bincount(points.point, distance) / np.bincount(points.point),
        bounds=bounds,
    )


def _shared(
    parameters: Float[np.ndarray, "V 6"],
) -> tuple[Int[np.ndarray, " V"], Int[np.ndarray, " C"]]:
    """The camera of each view, and the first view of each camera."""
    camera = np.full(len(parameters), -1)
    rows: list[int] = []
    for view, own in enumerate(parameters):
        if camera[view] < 0:
            alike = (np.abs(parameters - own) <= _ONE_CAMERA).all(axis=1)
            camera[alike & (camera < 0)] = len(rows)
            rows.append(view)
    return camera, np.array(rows)
