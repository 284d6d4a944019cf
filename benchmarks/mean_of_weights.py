"""The mean of several weights of one model, as a checkpoint folder.

    python benchmarks/mean_of_weights.py OUT run-7/weights=3 run-8/weights=2

Each is a model's name or a checkpoint folder and how much it counts. All must have the same config;
the mean is taken number by number in float32, is stored with matrices in bfloat16, as training
stores weights, and has the header of the first, whose `source` tells what it is a mean of. Each run
has a unit of length of its own, and a mean does not take that of depths and of cameras alike: look
at the column `unit` of `jaxrecon evaluate`. `--depths 1.1` makes all depths of a model with a
refiner so many times larger. `--only encoder. trunk.` takes the mean of weights whose names begin
so, and all others from the last of the checkpoints: heads that were trained together stay so.
"""

import argparse
from typing import Any

import numpy as np

import jaxrecon
from jaxrecon import checkpoint

_CHANNELS, _LOG_DEPTH = 4, 2
"""Of what the refiner adds to: x / z, y / z, log z, and the logit of confidence."""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("output", metavar="OUT", help="folder of the checkpoint to write")
    parser.add_argument("--depths", type=float, default=1.0, help="a factor of all depths")
    parser.add_argument("--only", nargs="+", default=[""], metavar="PREFIX", help="of what")
    parser.add_argument("weights", nargs="+", type=counted, metavar="WEIGHTS=SHARE")
    options = parser.parse_args()

    pipelines = [jaxrecon.load(weights, dtype="float32") for weights, _ in options.weights]
    shares = np.array([share for _, share in options.weights], np.float32)
    shares /= shares.sum()
    first = pipelines[0]
    assert first.header is not None
    for (name, _), pipeline in zip(options.weights, pipelines, strict=True):
        same = pipeline.header is not None and pipeline.header["config"] == first.header["config"]
        assert same, f"{name} has another config than the first"
    leaves = [checkpoint.flatten(pipeline.model) for pipeline in pipelines]
    stored = jaxrecon.load(options.weights[0][0], dtype="bfloat16").model
    mean = {}
    for name, like in checkpoint.flatten(stored).items():
        each = [np.asarray(own[name], np.float32) for own in leaves]
        if name.startswith(tuple(options.only)):
            whole = np.sum([share * own for share, own in zip(shares, each, strict=True)], axis=0)
        else:
            whole = each[-1]
        mean[name] = whole.astype(like.dtype)
    if options.depths != 1:
        mean["refiner.leave.bias"][_LOG_DEPTH::_CHANNELS] += np.log(options.depths)
    told = [(pipeline.header or {}).get("source", {}) for pipeline in pipelines]
    sources = [
        {"weight": float(share)} | told_once(source, told)
        for share, source in zip(shares, told, strict=True)
    ]
    changes = {name: getattr(options, name) for name in ("only", "depths")}
    given = {name: x for name, x in changes.items() if x != parser.get_default(name)}
    source = {"mean_of": sources, **given}
    header = {**first.header, "source": source}
    checkpoint.save(checkpoint.unflatten(stored, mean), options.output, header)
    print(f"{options.output}: the mean of {len(pipelines)}")


def told_once(source: dict[str, Any], others: list[dict[str, Any]]) -> dict[str, Any]:
    """Where weights are from; weights that go on from others of the mean name their number."""
    origin = source.get("from")
    return source | {"from": others.index(origin)} if origin in others else source


def counted(text: str) -> tuple[str, float]:
    """`WEIGHTS=SHARE` in its parts."""
    weights, _, share = text.rpartition("=")
    if not weights or not float(share) > 0:
        raise argparse.ArgumentTypeError(f"{text} is not WEIGHTS=SHARE with a share above 0")
    return weights, float(share)


if __name__ == "__main__":
    main()
