"""Photos whose colours tell a pixel's place, and reconstructions of them."""

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from jaxrecon.images import ImageRule, load_images
from jaxrecon.models import PI3_RESIZE
from jaxrecon.reconstruction import Reconstruction
from random_recon import random_rotations

STORED = {
    1: None,
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}
"""How a photo is stored that an EXIF orientation turns upright."""


def ramp(width: int, height: int) -> Image.Image:
    """A photo whose red and green tell a pixel's place."""
    column, row = np.meshgrid(np.arange(width), np.arange(height))
    pixels = np.stack([column * 255 / width, row * 255 / height, 0 * row + 128], axis=-1)
    return Image.fromarray(np.rint(pixels).astype(np.uint8))


def save_photo(path: Path, size: tuple[int, int], orientation: int = 1) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image, how = ramp(*size), STORED[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    exif[0x010F] = "maker"
    stored = image if how is None else image.transpose(how)
    options: dict[str, Any] = {}
    if path.suffix == ".jpg":
        options = {"quality": 100, "subsampling": 0}
    stored.save(path, exif=exif, **options)
    return path


def recon_of(photos: Any, rule: ImageRule = PI3_RESIZE, resolution: int = 84) -> Reconstruction:
    """Views of photos with cameras and points that agree, as a pipeline would make them."""
    batch = load_images(photos, rule=rule, resolution=resolution)
    views, height, width, _ = batch.pixels.shape
    rng = np.random.default_rng(3)
    intrinsics = []
    for transform in batch.transforms:
        wide, high = transform.original_size
        focal = 0.9 * max(wide, high)
        matrix = np.array([[focal, 0, wide / 2 - 1.3], [0, 1.01 * focal, high / 2], [0, 0, 1]])
        intrinsics.append(transform.intrinsics_from_original(matrix))
    matrices = np.stack(intrinsics)
    depth = rng.uniform(1, 3, (views, height, width))
    row, column = np.mgrid[:height, :width]
    pixels = np.stack([column, row, np.ones_like(row)], axis=-1)
    points = np.einsum("vij,hwj->vhwi", np.linalg.inv(matrices), pixels) * depth[..., None]
    poses = np.tile(np.eye(4), (views, 1, 1))
    poses[:, :3, :3], poses[:, :3, 3] = random_rotations(rng, views), rng.normal(size=(views, 3))
    world = np.einsum("vij,vhwj->vhwi", poses[:, :3, :3], points) + poses[:, None, None, :3, 3]
    mask = np.zeros((views, height, width), bool)
    for view, transform in enumerate(batch.transforms):
        left, top, right, bottom = transform.shown
        mask[view, top + 2 : bottom - 2 : 3, left + 2 : right - 2 : 3] = True
    return Reconstruction(
        points_world=world,
        points_camera=points,
        confidence=rng.uniform(1, 2, depth.shape).astype(np.float32),
        mask=mask,
        colors=batch.pixels,
        world_from_camera=poses,
        intrinsics=matrices,
        names=batch.names,
        transforms=batch.transforms,
        files=batch.files,
    )
