"""python benchmarks/peers.py vggt path/to/map-anything --views 50 100

Times upstream's models in PyTorch, with random weights of the released sizes; writes a line of JSON
for each number of views, with NaN seconds where memory ran out. `benchmark_models.py --peer` runs
it beside ours. A peer is a checkout of github.com/yyfz/Pi3, facebookresearch/vggt or
facebookresearch/map-anything (which holds VGGT too, and needs `uniception` and `hydra-core`).
sparse-vggt and sparse-pi3 are the paper's code with a quarter of the key blocks kept: a checkout of
brianwang00001/sparse-vggt with its submodules, which needs its fork of SpargeAttn.
"""

import argparse
import importlib
import json
import math
import os
import sys
import timeit
from collections.abc import Callable, Iterator
from statistics import median
from typing import Any


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", choices=tuple(PEERS))
    parser.add_argument("peer", help="checkout of upstream's code")
    parser.add_argument("--views", type=int, nargs="+", default=[50, 100, 200])
    parser.add_argument("--size", type=int, nargs=2, default=[392, 518], help="height and width")
    parser.add_argument("--repeats", type=int, default=5, help="after a warm-up; 0: the first run")
    for row in time_torch(parser.parse_args()):
        print(json.dumps(row), flush=True)


def pi3() -> dict[str, Any]:
    """Ways to run it, by name: functions of float images (1, V, 3, H, W)."""
    return {"torch": importlib.import_module("pi3.models.pi3").Pi3().eval().cuda()}


def pi3x() -> dict[str, Any]:
    """Images alone."""
    return {"torch": importlib.import_module("pi3.models.pi3x").Pi3X().eval().cuda()}


def vggt() -> dict[str, Any]:
    """With camera and depth heads, as its aggregator, heads and nothing else."""
    try:
        module = importlib.import_module("vggt.models.vggt")
    except ModuleNotFoundError:
        module = importlib.import_module("mapanything.models.external.vggt.models.vggt")
    model = module.VGGT().eval().cuda()  # it makes some buffers on the CPU
    model.point_head = model.track_head = None
    return {"torch": model}


def mapanything() -> dict[str, Callable[[Any], Any]]:
    """Images alone, without and with its memory-efficient mode."""
    models = importlib.import_module("mapanything.models")
    model = models.init_model_from_config("mapanything").eval().cuda()

    def run(images: Any, lean: bool) -> Any:
        views = [{"img": image, "data_norm_type": ["dinov2"]} for image in images.unbind(1)]
        return model(views, memory_efficient_inference=lean)

    return {"torch": lambda x: run(x, False), "lean": lambda x: run(x, True)}


def sparse_vggt() -> dict[str, Callable[[Any], Any]]:
    """The paper's code, with camera and depth heads; a ratio alone chooses the blocks."""
    swap = importlib.import_module("sparse_vggt.models.vggt").sparse_aggregator_from_vggt
    (model,) = vggt().values()
    model.aggregator, _ = swap(model.aggregator, sparse_ratio=SKIPPED, verbose=False)
    return {"sparse": model}


def sparse_pi3() -> dict[str, Callable[[Any], Any]]:
    """The paper's code; a ratio alone chooses the blocks."""
    swap = importlib.import_module("sparse_vggt.models.pi3").sparse_model_from_pi3
    (model,) = pi3().values()
    return {"sparse": swap(model, sparse_ratio=SKIPPED, verbose=False)[0]}


SKIPPED = 0.75
"""Of the key blocks of patches, by the paper's code."""

PEERS = {
    "pi3": pi3,
    "pi3x": pi3x,
    "vggt": vggt,
    "mapanything": mapanything,
    "sparse-vggt": sparse_vggt,
    "sparse-pi3": sparse_pi3,
}


def time_torch(options: argparse.Namespace) -> Iterator[dict]:
    """Upstream's model under bfloat16 autocast, as its example runs it."""
    import torch  # pyright: ignore[reportMissingImports]

    parts = ("", "src", "external/vggt", "external/Pi3")
    sys.path[:0] = [os.path.join(options.peer, part) for part in parts]
    load = torch.hub.load
    torch.hub.load = lambda *args, **given: load(*args, **given | {"pretrained": False})
    with torch.device("cuda"):
        ways = PEERS[options.model]()
    for views in options.views:
        images = torch.rand(1, views, 3, *options.size, device="cuda")
        for side, run in ways.items():
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()

            def once(images: Any = images, run: Any = run) -> None:
                with torch.no_grad(), torch.amp.autocast("cuda", dtype=torch.bfloat16):
                    run(images)
                torch.cuda.synchronize()

            try:
                times = timeit.repeat(once, number=1, repeat=1 + options.repeats)
            except torch.cuda.OutOfMemoryError:
                times = [math.nan]
            seconds = median(times[1:] or times)
            peak = torch.cuda.max_memory_allocated() / 2**30
            ratio = SKIPPED if side == "sparse" else 0.0
            told = {"views": views, "ratio": ratio, "seconds": seconds}
            yield told | {"side": side, "peak": peak}


if __name__ == "__main__":
    main()
