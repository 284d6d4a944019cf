"""A π³ with a wider refiner that computes the same.

    python benchmarks/widen_refiner.py pi3-mini OUT --width 64

New features of the convolutions are drawn at random and read by new ones alone, so that the maps
stay what they are until the weights are trained (`jaxrecon train --init OUT`). With
`--propagation`, depths are propagated, at first with nine tenths of the weight on a pixel's own.
"""

import argparse
from dataclasses import asdict, replace

import jax
import jax.numpy as jnp
from flax import nnx

import jaxrecon
from jaxrecon import checkpoint
from jaxrecon.models.pi3 import Pi3
from jaxrecon.training.config import TrainConfig
from jaxrecon.training.state import initial_weights


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", help="a model's name or checkpoint folder")
    parser.add_argument("output", metavar="OUT", help="folder of the checkpoint to write")
    parser.add_argument("--width", type=int, default=64, help="features of the wider refiner")
    parser.add_argument("--propagation", action="store_true", help="propagate depths behind it")
    options = parser.parse_args()
    pipeline = jaxrecon.load(options.model, dtype="float32")
    model = pipeline.model
    assert isinstance(model, Pi3), f"{options.model} is no π³"
    assert pipeline.header is not None
    wider = widened(model, options.width, propagation=options.propagation)
    header = {**pipeline.header, "config": asdict(wider.config)}
    checkpoint.save(wider, options.output, header)
    print(f"{options.output}: {model.config.refine_width} features, now {options.width}")


def widened(model: Pi3, width: int, *, propagation: bool = False) -> Pi3:
    """With a refiner of that width which makes of the maps what the model's own makes."""
    config = replace(
        model.config,
        refine_width=width,
        refine_propagation=propagation or model.config.refine_propagation,
    )
    fresh, given = initial_weights(TrainConfig(model=config)), checkpoint.flatten(model)
    weights = {
        path: _grown(given[path], value) if path in given else value
        for path, value in fresh.items()
    }
    return checkpoint.unflatten(jax.eval_shape(lambda: Pi3(config, rngs=nnx.Rngs(0))), weights)


def _grown(given: jax.Array, fresh: jax.Array) -> jax.Array:
    """The given numbers; new outputs are fresh, and the given ones take nothing from new inputs."""
    if given.shape == fresh.shape:
        return given
    if given.ndim == 1:
        return fresh.at[: given.shape[0]].set(given)
    taken, made = given.shape[-2:]
    grown = fresh.at[..., taken:, :made].set(0.0)
    return jnp.asarray(grown.at[..., :taken, :made].set(given), jnp.float32)


if __name__ == "__main__":
    main()
