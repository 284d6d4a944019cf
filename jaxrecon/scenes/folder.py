"""Scenes as ordinary folders of pictures with ground truth beside them."""

from pathlib import Path

import jax
import numpy as np

from jaxrecon.files import replacing_folder
from jaxrecon.scenes.rendered import RenderedScene


def save_scene(scene: RenderedScene, folder: str | Path, *, overwrite: bool = False) -> Path:
    """Writes `images/000.png` and so on, and `condition.npz` with the truth.

    The archive holds `poses` (V, 4, 4), camera to world; `intrinsics` (V, 3, 3) in pixels; and
    `depths` (V, H, W) in metres along the optical axis, 0 where there is none.

    Returns:
      The folder.

    Raises:
      OutputError: the folder is in use or cannot be written.
    """
    from PIL import Image

    scene = jax.tree.map(np.asarray, scene)
    pictures = np.round(255 * np.clip(scene.images, 0, 1)).astype(np.uint8)
    with replacing_folder(folder, overwrite=overwrite) as temporary:
        (temporary / "images").mkdir()
        for view, picture in enumerate(pictures):
            Image.fromarray(picture).save(temporary / "images" / f"{view:03d}.png")
        np.savez_compressed(
            temporary / "condition.npz",
            poses=scene.world_from_camera,
            intrinsics=scene.intrinsics,
            depths=scene.depth_z,
        )
    return Path(folder)
