"""One of several processes with two devices each: `python many_processes.py PORT COUNT NUMBER`.

Exits with 0 if the scene that all reconstruct together is what this one reconstructs alone, and
what the processes are given is refused where it differs.
"""

import os
import sys
from collections.abc import Callable
from typing import Any

os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=2"
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"

import jax
import numpy as np
from flax import nnx

import jaxrecon
from drawn_weights import drawn
from jaxrecon.models import PI3_RESIZE, Pi3
from jaxrecon.pipeline import Pipeline
from jaxrecon.runtime.sharding import replicated
from tiny_models import PI3_TINY


def main(port: str, count: int, number: int) -> None:
    jax.distributed.initialize(f"localhost:{port}", count, number)
    mesh = jaxrecon.make_mesh()
    assert mesh.size == 2 * count
    pixels = np.random.default_rng(0).integers(0, 256, (7, 28, 42, 3), np.uint8)
    model = drawn(lambda: Pi3(PI3_TINY, rngs=nnx.Rngs(0)))
    alone = Pipeline(model, "tiny", PI3_RESIZE).reconstruct(pixels, resolution=42)
    shared = jax.device_put(jax.tree.map(np.asarray, model), replicated(mesh))
    pipeline = Pipeline(shared, "tiny", PI3_RESIZE, mesh=mesh)
    together = pipeline.reconstruct(pixels, resolution=42)
    for name in ("points_world", "confidence", "world_from_camera", "intrinsics"):
        expected, found = (np.asarray(getattr(recon, name)) for recon in (alone, together))
        assert found.shape == expected.shape
        assert np.abs(found - expected).max() <= 1e-5 * np.abs(expected).max(), name
    refused(f"found {count} processes", lambda: pipeline.stream(pixels, "out", resolution=42))
    others = "process 0 was given others than process 1; give every process the same"
    mine = pixels[:5] if number else pixels  # in one bucket
    refused(f"images: {others}", lambda: pipeline.reconstruct(mine, resolution=42))
    mine = pixels + np.uint8(number)
    refused(f"images: {others}", lambda: pipeline.reconstruct(mine, resolution=42))
    rtol = 0.03 if number else None
    refused(
        f"arguments: {others}",
        lambda: pipeline.reconstruct(pixels, resolution=42, edge_rtol=rtol),
    )
    pipeline.reconstruct(pixels, resolution=42)


def refused(message: str, work: Callable[[], Any]) -> None:
    """Every process is told."""
    try:
        work()
    except jaxrecon.InputError as error:
        assert message in str(error), error
    else:
        raise AssertionError(f"not refused: {message}")


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
