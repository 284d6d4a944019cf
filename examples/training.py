"""Training: `python examples/training.py [-o run] [--steps 20]`.

A few steps of a very small π³ on rendered scenes, on any machine. To compile takes a minute or two.
For a real run: `jaxrecon train -o run/`.
"""

import argparse
from pathlib import Path

from jaxrecon.models import Pi3Config
from jaxrecon.nn.dinov2 import DinoV2Config
from jaxrecon.progress import Stages
from jaxrecon.training import Bucket, TrainConfig, train

ENCODER = DinoV2Config(width=64, depth=1, heads=4, registers=1, grid=4)
MODEL = Pi3Config(encoder=ENCODER, heads=4, pairs=1, head_width=64, head_heads=4, head_depth=1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-o", "--output", default="run", type=Path, help="folder of the run")
    parser.add_argument("--steps", default=20, type=int)
    options = parser.parse_args()
    config = TrainConfig(
        model=MODEL,
        buckets=(Bucket(scenes=4, views=2, height=56, width=56),),
        steps=options.steps,
        warmup_steps=1,
        log_every=1,
        save_every=10,
        validation_scenes=4,
        dtype="float32",
    )
    train(config, options.output, stages=Stages())
    print(f"weights for `jaxrecon.load`: {options.output}/weights")


if __name__ == "__main__":
    main()
