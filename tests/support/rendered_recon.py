"""The scene of the demo as a reconstruction without error."""

import numpy as np
from PIL import Image

from jaxrecon.images import PixelTransform
from jaxrecon.reconstruction import Reconstruction
from places import ROOT

FOLDER = ROOT / "examples" / "scene"


def rendered_recon() -> Reconstruction:
    """Its photos with the depth and the cameras that they were rendered with.

    Confidence falls to the right, and the mask leaves out the upper half of the second half of the
    views.
    """
    known = dict(np.load(FOLDER / "condition.npz"))
    files = sorted((FOLDER / "images").iterdir())
    depth, matrix = known["depths"].astype(np.float32), known["intrinsics"].astype(np.float64)
    pose = known["poses"].astype(np.float64)
    views, height, width = depth.shape
    row, column = np.mgrid[:height, :width]
    pixels = np.stack([column, row, np.ones_like(row)], axis=-1)
    rays = np.einsum("vij,hwj->vhwi", np.linalg.inv(matrix), pixels)
    camera = rays * depth[..., None]
    world = np.einsum("vij,vhwj->vhwi", pose[:, :3, :3], camera) + pose[:, None, None, :3, 3]
    mask = np.isfinite(depth) & (depth > 0)
    mask[views // 2 :, : height // 2] = False
    confidence = np.broadcast_to(np.linspace(0.9, 0.1, width, dtype=np.float32), depth.shape)
    return Reconstruction(
        points_world=world.astype(np.float32),
        points_camera=camera.astype(np.float32),
        confidence=confidence.copy(),
        mask=mask,
        colors=np.stack([np.asarray(Image.open(file).convert("RGB")) for file in files]),
        world_from_camera=pose,
        intrinsics=matrix,
        names=tuple(file.name for file in files),
        transforms=(PixelTransform.stretch((width, height), (width, height)),) * views,
        model="rendered",
        seconds={"render": 1.0},
        metric_scale=1.0,
    )
