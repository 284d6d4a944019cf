"""python benchmarks/peers.py sparse-vggt path/to/sparse-vggt --views 50 100

Times upstream's models in PyTorch, with random weights of the released sizes; writes a line of JSON
for each number of views, with NaN seconds where memory ran out. `benchmark_models.py --peer` runs
it beside ours. A peer is a checkout of github.com/yyfz/Pi3, facebookresearch/vggt or
facebookresearch/map-anything (which holds VGGT too, and needs `uniception` and `hydra-core`), as
`jaxrecon bench --against` takes it. sparse-vggt and sparse-pi3 are the paper's code with a quarter
of the key blocks kept: a checkout of brianwang00001/sparse-vggt with its submodules, which needs
its fork of SpargeAttn.
"""

import importlib
from typing import Any

from jaxrecon.peers.upstream import ORIGINALS, SKIPPED, Peer, Ways, main, pi3, vggt


def sparse_vggt(module: Any) -> Ways:
    """The paper's code, with camera and depth heads; a ratio alone chooses the blocks."""
    (model,) = vggt(importlib.import_module("vggt.models.vggt")).values()
    swap = module.sparse_aggregator_from_vggt
    model.aggregator, _ = swap(model.aggregator, sparse_ratio=SKIPPED, verbose=False)
    return {"sparse": model}


def sparse_pi3(module: Any) -> Ways:
    """The paper's code; a ratio alone chooses the blocks."""
    (model,) = pi3(importlib.import_module("pi3.models.pi3")).values()
    swap = module.sparse_model_from_pi3
    return {"sparse": swap(model, sparse_ratio=SKIPPED, verbose=False)[0]}


_PAPER = "github.com/brianwang00001/sparse-vggt"

PEERS = {
    **ORIGINALS,
    "sparse-vggt": Peer(("sparse_vggt.models.vggt",), _PAPER, sparse_vggt),
    "sparse-pi3": Peer(("sparse_vggt.models.pi3",), _PAPER, sparse_pi3),
}


if __name__ == "__main__":
    main(PEERS, __doc__)
