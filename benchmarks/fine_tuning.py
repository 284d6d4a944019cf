"""What fine-tuning on one's own scenes gains: `python benchmarks/fine_tuning.py -o out/`.

Scenes of another look than those of the training are rendered and written to folders, as users have
them; `pi3-mini` is trained on them, and its errors on views that it is not trained on are printed
before and after. One GPU takes a few minutes, compilation included.
"""

import argparse
import time
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np

from jaxrecon.progress import Stages
from jaxrecon.registry import model_entry, native_folder
from jaxrecon.scenes import SceneConfig, render_scenes, save_scene, scene_key
from jaxrecon.scenes.rendered import RenderedScene
from jaxrecon.training import FINE_TUNING, train
from jaxrecon.training.log import read_log
from jaxrecon.training.loop import HELD_OUT
from jaxrecon.training.window import SHOWN

LOOK = SceneConfig(
    outdoor_every=0,
    boxes=6,
    pictures=4,
    lights=1,
    fov=(32.0, 48.0),
    room=(3.0, 4.5),
    exposure=0.5,
    clutter=15,
    close_ups=0.6,
    relief=0.8,
    handheld=True,
    contrast=1.0,
    phone=1.0,
)
"""Small rooms full of things, seen from near through a long lens under hard light."""

SEED = 20_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    add("-o", "--output", type=Path, required=True, help="an empty folder")
    add("--scenes", type=int, default=8, help="own scenes")
    add("--views", type=int, default=16, help="pictures of each")
    add("--size", type=int, nargs=2, default=(336, 448), help="their height and width")
    add("--set", nargs="+", default=[], help="changes to the config `fine-tune`, name=value")
    options = parser.parse_args()
    begin = time.perf_counter()
    data = write_scenes(options.output / "data", options.scenes, options.views, options.size)
    print(f"{jax.devices()[0].device_kind}: {len(data)} scenes in {seconds(begin)}", flush=True)
    config = replace(FINE_TUNING, data_held_out=4).with_overrides(options.set)
    run = options.output / "run"
    init = native_folder(model_entry("pi3-mini"))
    train(config, run, data=data, init=init, stages=Stages(quiet=False))
    print(f"all in {seconds(begin)}")
    print(table(run / "log.jsonl"))


def write_scenes(root: Path, scenes: int, views: int, size: tuple[int, int]) -> list[Path]:
    """Folders with images/ and condition.npz, a scene each."""
    height, width = size
    rendered = render_scenes(
        scene_key("train", SEED),
        scenes=scenes,
        views=views,
        height=height,
        width=width,
        config=LOOK,
    )
    arrays = {name: np.asarray(x) for name, x in vars(rendered).items()}
    return [
        save_scene(
            RenderedScene(**{name: x[scene] for name, x in arrays.items()}),
            root / f"scene{scene}",
        )
        for scene in range(scenes)
    ]


def table(log: Path) -> str:
    """The errors on held-out views at each evaluation, as a table."""
    lines = [line for line in read_log(log) if HELD_OUT + SHOWN[0] in line]
    rows = [["step", *SHOWN]]
    rows += [
        [str(line["step"]), *(f"{line[HELD_OUT + name]:.4f}" for name in SHOWN)] for line in lines
    ]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def seconds(begin: float) -> str:
    return f"{time.perf_counter() - begin:.0f} s"


if __name__ == "__main__":
    main()
