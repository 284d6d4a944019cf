"""One of several processes with two devices each: `python many_processes.py PORT COUNT NUMBER`.

Exits with 0 if the scene that all reconstruct together is what this one reconstructs alone.
"""

import os
import sys

os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=2"
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"

import jax
import numpy as np
from flax import nnx

import jaxrecon
from jaxrecon.images import PI3_RESIZE
from jaxrecon.models import Pi3
from jaxrecon.pipeline import Pipeline
from jaxrecon.sharding import replicated
from tiny_models import PI3_TINY


def main(port: str, count: int, number: int) -> None:
    jax.distributed.initialize(f"localhost:{port}", count, number)
    mesh = jaxrecon.make_mesh()
    assert mesh.size == 2 * count
    pixels = np.random.default_rng(0).integers(0, 256, (7, 28, 42, 3), np.uint8)
    model = jax.jit(lambda: Pi3(PI3_TINY, rngs=nnx.Rngs(0)))()
    alone = Pipeline(model, "tiny", PI3_RESIZE).reconstruct(pixels, resolution=42)
    shared = jax.device_put(jax.tree.map(np.asarray, model), replicated(mesh))
    pipeline = Pipeline(shared, "tiny", PI3_RESIZE, mesh=mesh)
    together = pipeline.reconstruct(pixels, resolution=42)
    for name in ("points_world", "confidence", "world_from_camera", "intrinsics"):
        expected, found = (np.asarray(getattr(recon, name)) for recon in (alone, together))
        assert found.shape == expected.shape
        assert np.abs(found - expected).max() <= 1e-5 * np.abs(expected).max(), name
    try:
        pipeline.stream(pixels, "out", resolution=42)
    except jaxrecon.InputError as error:
        assert f"found {count} processes" in str(error)
    else:
        raise AssertionError("several processes wrote one folder")


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
