"""Reconstructs rendered sample views: `python examples/demo.py [-o demo_output]`.

The model is a small π³ with untrained weights, so the geometry means nothing yet; the demo shows
that the whole way from photos to files works on this machine, offline.
"""

import argparse
from pathlib import Path

import jax
import numpy as np
from flax import nnx
from PIL import Image

from jaxrecon.images import PI3_RESIZE
from jaxrecon.models import Pi3, Pi3Config
from jaxrecon.nn.dinov2 import DinoV2Config
from jaxrecon.pipeline import Pipeline
from jaxrecon.progress import Stages
from jaxrecon.scenes import render_room

SMALL = Pi3Config(
    encoder=DinoV2Config(width=192, depth=4, heads=3, grid=16),
    heads=3,
    pairs=3,
    head_width=192,
    head_heads=3,
    head_depth=2,
    point_width=192,
    camera_width=96,
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-o", "--output", default="demo_output", help="folder to write")
    output = Path(parser.parse_args().output)
    stages = Stages()

    with stages.stage("render"):
        scene = render_room(seed=4, views=6)
        photos = output / "photos"
        photos.mkdir(parents=True, exist_ok=True)
        for number, image in enumerate(np.asarray(scene.images)):
            Image.fromarray(image).save(photos / f"view_{number}.png")

    build = jax.jit(lambda: Pi3(SMALL, rngs=nnx.Rngs(0)))
    pipeline = Pipeline(build(), "pi3-untrained", PI3_RESIZE)
    recon = pipeline.reconstruct(
        photos, resolution=168, min_confidence=0.0, edge_rtol=None, stages=stages
    ).numpy()
    with stages.stage("export"):
        for name in ("scene.ply", "scene.glb", "scene.npz", "colmap/"):
            recon.save(f"{output}/{name}", overwrite=True)
        recon.save_pictures(output / "pictures", overwrite=True)
        sheet(recon, np.asarray(scene.depth_z)).save(output / "sheet.png")

    print(f"views: {len(recon)}, points: {recon.mask.sum():,}, files: {output}/")
    print("NOTE: the weights are untrained, so depth and cameras are meaningless for now.")


def sheet(recon, true_depth: np.ndarray) -> Image.Image:
    """Rows of pictures: the views, predicted depth, true depth, confidence."""
    rows = [
        list(recon.colors),
        [grey(depth) for depth in recon.depth_z],
        [grey(depth) for depth in true_depth],
        [grey(confidence) for confidence in recon.confidence],
    ]
    return Image.fromarray(np.concatenate([np.concatenate(row, axis=1) for row in rows]))


def grey(values: np.ndarray) -> np.ndarray:
    low, high = np.percentile(values, (2, 98))
    level = np.clip((values - low) / max(high - low, 1e-12), 0, 1)
    return np.repeat(np.round(255 * level).astype(np.uint8)[..., None], 3, axis=2)


if __name__ == "__main__":
    main()
