"""One's own scenes as users have them: folders with images/ and condition.npz."""

from pathlib import Path

import jax
import numpy as np
from PIL import Image

from jaxrecon.scenes import save_scene
from jaxrecon.scenes.rendered import RenderedScene
from plane_scenes import render_planes


def write_planes(root: Path, scenes: int, *, views: int = 8, seed: int = 99) -> list[Path]:
    """Folders of coloured planes, 42x28 pixels a picture."""
    render = jax.jit(
        lambda key: render_planes(key, scenes=scenes, views=views, height=28, width=42, config=None)
    )
    drawn = jax.tree.map(np.asarray, render(jax.random.split(jax.random.key(seed), 1)))
    names = RenderedScene.__dataclass_fields__
    return [
        save_scene(
            RenderedScene(**{name: getattr(drawn, name)[scene] for name in names}),
            root / f"scene{scene}",
        )
        for scene in range(scenes)
    ]


def write_pictures(folder: Path, views: int = 3, size: tuple[int, int] = (42, 28)) -> Path:
    """A scene of noise about which nothing is told yet."""
    (folder / "images").mkdir(parents=True)
    random = np.random.default_rng(0)
    for view in range(views):
        pixels = random.integers(0, 256, (size[1], size[0], 3), np.uint8)
        Image.fromarray(pixels).save(folder / "images" / f"{view}.png")
    return folder


def cameras(views: int = 3, size: tuple[int, int] = (42, 28)) -> dict[str, np.ndarray]:
    """Intrinsics, poses side by side, and depth for such pictures."""
    width, height = size
    matrix = np.array([[width, 0, (width - 1) / 2], [0, width, (height - 1) / 2], [0, 0, 1.0]])
    poses = np.tile(np.eye(4), (views, 1, 1))
    poses[:, 0, 3] = np.arange(views)
    depth = np.full((views, height, width), 4, np.float32)
    return {"intrinsics": np.tile(matrix, (views, 1, 1)), "poses": poses, "depths": depth}
