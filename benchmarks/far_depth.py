"""Errors of what lies far behind: `python benchmarks/far_depth.py pi3-mini --vistas 0 1`.

Rooms of `mini-horizons`, a share of them with vistas (`SceneConfig.vistas`), are rendered and
reconstructed in float32. After one scale a scene the depth error of the farthest tenth of each
view's pixels is told beside that of all others, and how far these come out of where they are.
"""

import argparse
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

import jaxrecon
from jaxrecon.evaluation import align_depth
from jaxrecon.scenes import SceneConfig, render_scenes, scene_key
from jaxrecon.training.config import MINI_HORIZONS

Errors = tuple[float, float, float, bool]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    add("weights", nargs="+", help="models' names, or checkpoint folders")
    add("--vistas", type=float, nargs="+", default=[0.0, 1.0], help="shares of the rooms")
    add("--scenes", type=int, default=12)
    add("--views", type=int, default=8)
    add("--seed", type=int, default=9)
    options = parser.parse_args()

    print(
        "| weights | vistas | deep views | abs-rel | farthest tenth | their depth | lowest tenth |"
    )
    print("|---|---|---|---|---|---|---|")
    for weights in options.weights:
        model = jaxrecon.load(weights, dtype="float32")
        for share in options.vistas:
            config = replace(MINI_HORIZONS.scenes, outdoor_every=0, picture_share=0.0, vistas=share)
            rows = np.array(_measured(model, config, options))
            near, far, deeper, deep = rows.mean(axis=0)
            low = np.quantile(rows[:, 2], 0.1)
            told = f"{near:.3f} | {far:.3f} | {deeper:.2f} | {low:.2f}"
            print(f"| {weights} | {share:g} | {deep:.0%} | {told} |", flush=True)


def _measured(
    model: jaxrecon.Pipeline, config: SceneConfig, options: argparse.Namespace
) -> list[Errors]:
    scenes = render_scenes(
        scene_key("test", options.seed),
        views=options.views,
        height=168,
        width=224,
        scenes=options.scenes,
        first=0,
        config=config,
    )
    found = []
    for images, depths, masks in zip(scenes.images, scenes.depth_z, scenes.mask, strict=True):
        recon = model.reconstruct(np.asarray(images), resolution=224)
        truth, there = np.asarray(depths), np.asarray(masks)
        aligned = align_depth(np.asarray(recon.depth_z), truth, there, alignment="scale")
        views = zip(aligned, truth, there, strict=True)
        found += [_of_view(aligned[own], truth[own]) for aligned, truth, own in views if own.any()]
    return found


def _of_view(aligned: NDArray[np.floating], truth: NDArray[np.floating]) -> Errors:
    """Errors of the nearer pixels and of the farthest tenth, these' depth, and if that is deep."""
    far, ratio = truth >= np.quantile(truth, 0.9), aligned / truth
    error = np.abs(ratio - 1)
    deep = np.quantile(truth, 0.95) > 3 * np.median(truth)
    nearer = error[~far].mean() if (~far).any() else 0.0
    return float(nearer), float(error[far].mean()), float(np.median(ratio[far])), bool(deep)


if __name__ == "__main__":
    main()
