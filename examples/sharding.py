"""Several devices: `python examples/sharding.py [--devices 2]`.

Shards the views of the bundled scene over devices. `JAX_NUM_CPU_DEVICES=2` divides a CPU into two;
with GPUs or TPUs, leave it out.
"""

import argparse
from pathlib import Path

import jaxrecon

IMAGES = Path(__file__).parent / "scene" / "images"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--devices", type=int, help="how many; all if not given")
    mesh = jaxrecon.make_mesh(parser.parse_args().devices)
    recon = jaxrecon.load("pi3-mini", mesh=mesh, shard_weights=True).reconstruct(IMAGES)
    print(f"{len(recon)} views on {mesh.size} x {mesh.devices.flat[0].device_kind}")


if __name__ == "__main__":
    main()
