"""Times upstream's models in PyTorch: `python -m jaxrecon.peers.upstream vggt path/to/vggt`.

The weights are random, of the released sizes. Each number of views and way is a line of JSON on
standard output; what else is printed goes to standard error.
"""

import argparse
import importlib
import json
import math
import os
import sys
import timeit
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from jaxrecon.answers import answers_alone

type Ways = dict[str, Any]
"""Ways to run a model, by name: functions of float images (1, V, 3, H, W)."""

PARTS = ("", "src", "external/vggt", "external/Pi3")
"""Folders of a checkout in which packages are looked for."""

SKIPPED = 0.75
"""Of the key blocks of patches, in ways that are called "sparse"."""


@dataclass(frozen=True)
class Peer:
    """A model of upstream.

    Attributes:
      modules: of these the first that a checkout holds is imported.
      repository: where a checkout comes from.
      ways: makes the model on the GPU, from that module.
    """

    modules: tuple[str, ...]
    repository: str
    ways: Callable[[Any], Ways]

    def module_in(self, checkout: str | Path) -> str | None:
        """The name of the module that a checkout holds; None if it holds none."""
        return next((name for name in self.modules if _holds(Path(checkout), name)), None)


def _holds(checkout: Path, module: str) -> bool:
    path = module.replace(".", "/")
    files = f"{path}.py", f"{path}/__init__.py"
    return any((checkout / part / file).is_file() for part in PARTS for file in files)


def pi3(module: Any) -> Ways:
    """π³."""
    return {"torch": module.Pi3().eval().cuda()}


def pi3x(module: Any) -> Ways:
    """π³-X, images alone."""
    return {"torch": module.Pi3X().eval().cuda()}


def vggt(module: Any) -> Ways:
    """VGGT with camera and depth heads, as its aggregator, heads and nothing else."""
    model = module.VGGT().eval().cuda()  # it makes some buffers on the CPU
    model.point_head = model.track_head = None
    return {"torch": model}


def mapanything(module: Any) -> Ways:
    """MapAnything, images alone, without and with its memory-efficient mode."""
    model = module.init_model_from_config("mapanything").eval().cuda()

    def run(images: Any, lean: bool) -> Any:
        views = [{"img": image, "data_norm_type": ["dinov2"]} for image in images.unbind(1)]
        return model(views, memory_efficient_inference=lean)

    return {"torch": lambda x: run(x, False), "torch-lean": lambda x: run(x, True)}


_VGGT = ("vggt.models.vggt", "mapanything.models.external.vggt.models.vggt")

ORIGINALS: Mapping[str, Peer] = {
    "pi3": Peer(("pi3.models.pi3",), "github.com/yyfz/Pi3", pi3),
    "pi3x": Peer(("pi3.models.pi3x",), "github.com/yyfz/Pi3", pi3x),
    "vggt": Peer(_VGGT, "github.com/facebookresearch/vggt", vggt),
    "mapanything": Peer(
        ("mapanything.models",), "github.com/facebookresearch/map-anything", mapanything
    ),
}
"""By our names of the models."""


def main(peers: Mapping[str, Peer] = ORIGINALS, description: str | None = __doc__) -> None:
    """Times the model that the command line names, and writes its lines."""
    parser = argparse.ArgumentParser(description=description)
    add = parser.add_argument
    add("model", choices=tuple(peers))
    add("peer", help="checkout of upstream's code")
    add("--views", type=int, nargs="+", default=[50, 100, 200])
    add("--size", type=int, nargs=2, default=[392, 518], help="height and width")
    add("--repeats", type=int, default=5, help="after a warm-up; 0: the first run")
    options = parser.parse_args()
    answers = answers_alone()
    for row in _timed(peers[options.model], options):
        answers.write(json.dumps(row) + "\n")


def _timed(peer: Peer, options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Upstream's model under bfloat16 autocast, as its example runs it.

    A line has views, ratio (the share of key blocks skipped), side (the way), seconds, peak (GiB
    that PyTorch had allocated at the most) and what ran it. Seconds are NaN where memory ran out.
    """
    import torch  # pyright: ignore[reportMissingImports]

    if not torch.cuda.is_available():
        sys.exit(f"PyTorch {torch.__version__} finds no CUDA GPU; install a build of it for one")
    ran_by = {"torch": torch.__version__, "device": torch.cuda.get_device_name()}
    ways = _ways_or_none(peer, options.peer, torch)
    for count in options.views:
        for side, run in ways.items():
            ratio = SKIPPED if side == "sparse" else 0.0
            seconds, peak = _measured(torch, run, (1, count, 3, *options.size), options.repeats)
            told = {"views": count, "ratio": ratio, "side": side}
            yield told | {"seconds": seconds, "peak": peak / 2**30} | ran_by


def _ways_or_none(peer: Peer, checkout: str, torch: Any) -> Ways:
    """See `_ways`; one that always runs out of memory if the weights alone do."""
    try:
        return _ways(peer, checkout, torch)
    except torch.cuda.OutOfMemoryError as error:
        found = error

    def no_room(images: Any) -> None:
        raise found

    return {"torch": no_room}


def _ways(peer: Peer, checkout: str, torch: Any) -> Ways:
    """The model on the GPU, with random weights."""
    module = peer.module_in(checkout)
    if module is None:
        sys.exit(f"{checkout} holds no {' or '.join(peer.modules)}; see {peer.repository}")
    sys.path[:0] = [os.path.join(checkout, part) for part in PARTS]
    load = torch.hub.load
    torch.hub.load = lambda *args, **given: load(*args, **given | {"pretrained": False})
    with torch.device("cuda"):
        return peer.ways(importlib.import_module(module))


def _measured(
    torch: Any, run: Callable[[Any], Any], shape: tuple[int, ...], repeats: int
) -> tuple[float, float]:
    """Seconds of a run, the median after a warm-up, and the most bytes allocated meanwhile."""
    torch.cuda.empty_cache()
    try:
        images = torch.rand(*shape, device="cuda")
        torch.cuda.reset_peak_memory_stats()

        def once() -> None:
            with torch.no_grad(), torch.amp.autocast("cuda", dtype=torch.bfloat16):
                run(images)
            torch.cuda.synchronize()

        times = timeit.repeat(once, number=1, repeat=1 + repeats)
    except torch.cuda.OutOfMemoryError:
        times = [math.nan]
    return median(times[1:] or times), torch.cuda.max_memory_allocated()


if __name__ == "__main__":
    main()
