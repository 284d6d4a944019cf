"""The one function that callers import, its gradient, and the choice of a backend."""

from collections.abc import Callable, Mapping
from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Shaped

from pallas_kernels.backends import by_direction, check_backend, run_backend
from pallas_kernels.point_map_loss.reference import (
    Guess,
    Planes,
    Sums,
    Tallies,
    Truth,
    gradients_xla,
    point_map_loss_xla,
)
from pallas_kernels.point_map_loss.triton import gradients_triton, point_map_loss_triton

IMPLEMENTATIONS: Mapping[str, tuple[Callable[..., tuple[Sums, Tallies]], Callable[..., Guess]]] = {
    "triton": (point_map_loss_triton, gradients_triton),
    "xla": (point_map_loss_xla, gradients_xla),
}
"""Backends by name, the fastest first: what they compute, and its gradient."""

_FORWARDS, _BACKWARDS = by_direction(IMPLEMENTATIONS)


def point_map_loss(
    points: Planes,
    logits: Float[Array, "..."],
    truth: Planes,
    mask: Shaped[Array, "..."],
    *,
    implementation: str | None = None,
) -> tuple[Sums, Tallies]:
    """Sums over the pixels of each of `G` images; only `points` and `logits` have a gradient.

    Args:
      points: each pixel's point in its camera's frame, in the truth's unit of length.
      logits: of the confidence, (G, H, W).
      truth: the true points, in front of the camera where there are any.
      mask: where there are any, (G, H, W).
      implementation: "triton", "xla", or None for the fastest that can do the job.

    Returns:
      What is to become small, and what goes with it; all (G,), float32.

    Raises:
      ValueError: shapes or dtypes disagree, or the implementation's name is unknown.
      NotImplementedError: the backend asked for by name cannot do this job here.

    Source: π³ (arXiv 2507.13347, section 3.3).
    """
    check_backend(IMPLEMENTATIONS, implementation)
    guess, known = Guess(points, logits), Truth(truth, mask)
    for name, array in _named(guess, known).items():
        if array.ndim != 3 or array.shape != points.x.shape:
            raise ValueError(f"{name} must have the shape (G, H, W) of points, found {array.shape}")
        wanted = jnp.bool_ if name == "mask" else jnp.float32
        if array.dtype != wanted:
            raise ValueError(f"{name} must be {jnp.dtype(wanted).name}, found {array.dtype}")
    return _run(implementation, guess, known)


def _named(guess: Guess, truth: Truth) -> dict[str, Array]:
    planes = {"points": guess.points, "truth": truth.points}
    named = {f"{name}.{axis}": x for name, p in planes.items() for axis, x in p._asdict().items()}
    return named | {"logits": guess.logits, "mask": truth.mask}


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _run(implementation: str | None, guess: Guess, truth: Truth) -> tuple[Sums, Tallies]:
    return run_backend(_FORWARDS, implementation, "compare point maps", guess, truth)


def _forwards(
    implementation: str | None, guess: Guess, truth: Truth
) -> tuple[tuple[Sums, Tallies], tuple[Guess, Truth]]:
    return _run(implementation, guess, truth), (guess, truth)


def _backwards(
    implementation: str | None, kept: tuple[Guess, Truth], gradients: tuple[Sums, Tallies]
) -> tuple[Guess, None]:
    job = "differentiate the comparison of point maps"
    return run_backend(_BACKWARDS, implementation, job, *kept, gradients[0]), None


_run.defvjp(_forwards, _backwards)
