"""Seconds to the first result of a fresh process: `python benchmarks/first_result.py pi3-mini`.

Runs two processes, one after the other, from `import jaxrecon` to a reconstruction of ten photos
that are drawn: the first finds no compiled programs on disk, the second those of the first. The
model is a name whose weights are on this machine, or a checkpoint folder; `--random FOLDER` first
writes one of the named model's sizes there, with random weights. Stages overlap: photos are read
while the program is traced and compiled, or taken from the disk, and with `--warm` the weights are.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

PHOTO = (4032, 3024)
COLD, WARM = "cold", "warm"
ROWS = {
    "import": "import jaxrecon, and all that loading needs",
    "device": "JAX starts the device",
    "load": "load(), of that:",
    "warm": "  programs for --warm",
    "reconstruct": "reconstruct(), of that:",
    "read": "  photos are read and resized",
    "compile": "  the program is traced and compiled, or found",
    "run": "  it runs",
    "all": "from import to the result",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    add("model", help="a model's name or checkpoint folder")
    add("--views", type=int, default=10)
    add("--resolution", type=int, help="longest side of the processed images")
    add("--warm", action="store_true", help="have load() make the program, while it reads weights")
    add("--random", type=Path, metavar="FOLDER", help="write random weights there and take them")
    add("--photos", type=Path, help=argparse.SUPPRESS)  # in the processes that are timed
    options = parser.parse_args()
    if options.warm and options.resolution:
        parser.error("--warm makes the program of the model's own resolution: leave one out")
    if options.photos:
        print(json.dumps(timed(options)))
        return
    if options.random:
        run_here("write_random", options.model, str(options.random))
        options.model = str(options.random)
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        draw_photos(place / "photos", options.views)
        found = {name: in_a_process(options, place) for name in (COLD, WARM)}
    show(options, found)


def timed(options: argparse.Namespace) -> dict[str, float | str]:
    """Seconds of each stage, in this process, which has imported nothing of ours yet."""
    marks = [time.perf_counter()]

    def mark() -> float:
        marks.append(time.perf_counter())
        return marks[-1] - marks[-2]

    import jaxrecon

    load = jaxrecon.load
    took: dict[str, float | str] = {"import": mark()}
    import jax

    took["on"] = jax.devices()[0].device_kind
    took["device"] = mark()
    stages = jaxrecon.Stages(quiet=True)
    model = load(options.model, warm=(options.views,) if options.warm else None, stages=stages)
    took["load"] = mark()
    recon = model.reconstruct(options.photos, resolution=options.resolution, stages=stages)
    recon.numpy()
    took |= {"reconstruct": mark(), "all": marks[-1] - marks[0]}
    return {name: stages.seconds[name] for name in ROWS if name in stages.seconds} | took


def in_a_process(options: argparse.Namespace, place: Path) -> dict[str, float | str]:
    """What a fresh process finds; compiled programs lie in `place`, between two of them."""
    environment = {k: v for k, v in os.environ.items() if k != "JAX_COMPILATION_CACHE_DIR"}
    environment |= {"JAX_COMPILATION_CACHE_DIR": str(place / "programs")}
    command = [sys.executable, __file__, options.model, "--photos", str(place / "photos")]
    command += ["--views", str(options.views)] + ["--warm"] * options.warm
    if options.resolution:
        command += ["--resolution", str(options.resolution)]
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True)
    return json.loads(done.stdout)


def run_here(function: str, *arguments: str) -> None:
    """Runs a function of this file in a process of its own, so that this one has no device."""
    code = f"import first_result, sys; first_result.{function}(*sys.argv[1:])"
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join([*sys.path, str(Path(__file__).parent)])
    }
    subprocess.run([sys.executable, "-c", code, *arguments], env=environment, check=True)


def write_random(name: str, folder: str) -> None:
    """Writes a released model's native checkpoint with small random weights, in float32."""
    from convert.safetensors_file import TensorSpec
    from jaxrecon import checkpoint
    from jaxrecon.registry import MODELS, load_abstract

    shapes = checkpoint.shapes(load_abstract(name).model)
    specs = {path: TensorSpec(shape, np.dtype(np.float32)) for path, shape in shapes.items()}
    numbers = 0.02 * np.random.default_rng(0).normal(size=1_000_003).astype(np.float32)
    tensors = ((path, np.resize(numbers, spec.shape)) for path, spec in specs.items())
    checkpoint.write(folder, tensors, specs, MODELS[name].header, overwrite=True)


def draw_photos(folder: Path, views: int) -> None:
    """JPEG files of twelve megapixels, as phones take them."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    for number in range(views):
        coarse = Image.fromarray(rng.integers(0, 256, (48, 64, 3), np.uint8))
        coarse.resize(PHOTO, Image.Resampling.BICUBIC).save(folder / f"{number:03}.jpg")


def show(options: argparse.Namespace, found: dict[str, dict[str, float | str]]) -> None:
    print(f"{options.model}, {options.views} photos, {found[WARM]['on']}; seconds")
    print(f"{'':46}" + "".join(f"{name:>8}" for name in found))
    for row, told in ROWS.items():
        if row in found[WARM]:
            print(f"{told:46}" + "".join(f"{took[row]:8.2f}" for took in found.values()))


if __name__ == "__main__":
    main()
