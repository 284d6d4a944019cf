"""A π³ with more pairs that computes the same: `python benchmarks/deepen.py pi3-mini OUT 1 2`.

Behind each pair of the trunk that is named, numbered from 0, a copy of it comes in whose layer
scales are zero, so that it adds nothing until it is trained (`jaxrecon train --init OUT`).
"""

import argparse
from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

import jax
import numpy as np
from flax import nnx

import jaxrecon
from jaxrecon import checkpoint
from jaxrecon.models.pi3 import Pi3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", help="a model's name or checkpoint folder")
    parser.add_argument("output", metavar="OUT", help="folder of the checkpoint to write")
    parser.add_argument("pairs", type=int, nargs="+", help="pairs to repeat")
    options = parser.parse_args()
    pipeline = jaxrecon.load(options.model, dtype="float32")
    model = pipeline.model
    assert isinstance(model, Pi3), f"{options.model} is no π³"
    assert pipeline.header is not None
    deeper = deepened(model, options.pairs)
    header = {**pipeline.header, "config": asdict(deeper.config)}
    checkpoint.save(deeper, options.output, header)
    print(f"{options.output}: {model.config.pairs} pairs, now {deeper.config.pairs}")


def deepened(model: Pi3, repeated: Sequence[int]) -> Pi3:
    """With a copy of each of those pairs behind it that adds nothing."""
    order = np.sort(np.concatenate([np.arange(model.config.pairs), repeated]))
    added = np.concatenate([[False], order[1:] == order[:-1]])
    deeper = Pi3(replace(model.config, pairs=len(order)), rngs=nnx.Rngs(0))

    def longer(path: Any, leaf: jax.Array) -> jax.Array:
        name = jax.tree_util.keystr(path)
        if "trunk" not in name or "_blocks" not in name:
            return leaf
        copied = leaf[order]
        return copied.at[added].set(0.0) if "gamma" in name else copied

    state = jax.tree_util.tree_map_with_path(longer, nnx.state(model))
    nnx.update(deeper, state)
    return deeper


if __name__ == "__main__":
    main()
