"""Sums over point maps: the kernel against the plain form, hand-computed values, where it runs."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from abstract_devices import here_is
from one_program import one_program
from pallas_kernels.point_map_loss import Planes, Sums, point_map_loss
from pallas_kernels.point_map_loss import reference as plain
from pallas_kernels.point_map_loss import triton as kernel
from triton_marks import REFUSED_ON_CPU, lowers_triton, needs_triton

pytestmark = lowers_triton

plain_sums = one_program(plain.point_map_loss_xla)
plain_gradients = one_program(plain.gradients_xla)
kernel_sums = one_program(partial(kernel.point_map_loss_triton, interpret=True))
kernel_gradients = one_program(partial(kernel.gradients_triton, interpret=True))
SHAPES = [(2, 37, 53), (3, 28, 42), (1, 5, 300), (1, 1, 7), (2, 33, 1)]
FEW = [pytest.param(x, marks=pytest.mark.thorough if x == (3, 28, 42) else ()) for x in SHAPES]
"""Without the largest; a single row and a single column are among them."""


def surface(shape: tuple[int, int, int]) -> tuple[plain.Guess, plain.Truth]:
    """A slope with steps and holes in it, and a noisy guess; column W / 2 is right in x = 0."""
    _, height, width = shape
    random = np.random.default_rng(shape)
    rows, columns = np.mgrid[:height, :width]
    mask = random.uniform(size=shape) > 0.1
    step = 3.0 * (random.uniform(size=shape) > 0.95)
    z = np.where(mask, 2 + 0.05 * rows + 0.03 * columns + step, 0)
    true = [u.astype(np.float32) for u in ((columns - width // 2) / 40 * z, rows / 40 * z, z)]
    noise = [np.asarray(1 + 0.1 * random.normal(size=shape), np.float32) for _ in range(3)]
    logits = (3 * random.normal(size=shape)).astype(np.float32)
    guess = Planes(*(jnp.asarray(u * n) for u, n in zip(true, noise, strict=True)))
    truth = plain.Truth(Planes(*map(jnp.asarray, true)), jnp.asarray(mask))
    return plain.Guess(guess, jnp.asarray(logits)), truth


def slopes(images: int) -> Sums:
    random = np.random.default_rng(images)
    return Sums(*(jnp.asarray(random.normal(size=images).astype(np.float32)) for _ in range(3)))


def total(sums: Any) -> jax.Array:
    return sum((x.sum() for x in sums), jnp.zeros(()))


def assert_close(found: Any, wanted: Any, rtol: float = 5e-6) -> None:
    assert jax.tree.structure(found) == jax.tree.structure(wanted)
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        scale = float(np.abs(other).max()) or 1.0
        np.testing.assert_allclose(one, other, rtol=0, atol=rtol * scale)


@needs_triton
@pytest.mark.parametrize("shape", FEW)
def test_the_kernel_sums_what_the_plain_form_sums(shape: tuple[int, int, int]) -> None:
    guess, truth = surface(shape)
    found = kernel_sums(guess, truth)
    assert_close(found, plain_sums(guess, truth))


@needs_triton
@pytest.mark.parametrize("shape", FEW)
def test_the_kernel_has_the_plain_form_s_gradient(shape: tuple[int, int, int]) -> None:
    guess, truth = surface(shape)
    given = slopes(shape[0])
    found = kernel_gradients(guess, truth, given)
    # Where a triangle is nearly a line, its normal turns with the last digit.
    assert_close(found, plain_gradients(guess, truth, given), 5e-5)


def test_sums_of_a_square_of_four_pixels() -> None:
    """A wall at depth 2, one point of it 0.2 nearer, another without truth."""
    flat = [[0, 2], [0, 2]], [[0, 0], [2, 2]]
    true = Planes(*jnp.asarray(np.array([[x] for x in (*flat, [[2, 2], [2, 2]])], np.float32)))
    mask = np.array([[[True, True], [True, False]]])
    guess = true._replace(z=jnp.asarray(np.array([[[2, 1.8], [2, 9]]], np.float32)))
    logits = np.zeros((1, 2, 2), np.float32)
    sums, tallies = jax.jit(point_map_loss)(guess, logits, true, mask)
    # (2, 0, -0.2) x (0, 2, 0) = (0.4, 0, 4); the true normal is (0, 0, 4).
    bend = 1 - 4 / np.hypot(0.4, 4)
    np.testing.assert_allclose(np.ravel(sums), [0.1, bend, 4 * np.log(2)], rtol=1e-4)
    np.testing.assert_allclose(np.ravel(tallies), [3, 1, 0.1, 3], rtol=1e-5)


def test_only_the_guess_has_a_gradient() -> None:
    guess, truth = surface((1, 6, 9))

    def all_sums(points: Planes, logits: jax.Array, true: Planes) -> jax.Array:
        return total(point_map_loss(points, logits, true, truth.mask)[0])

    def tallied(points: Planes) -> jax.Array:
        return total(point_map_loss(points, guess.logits, truth.points, truth.mask)[1])

    given = guess.points, guess.logits, truth.points
    points, logits, true = jax.jit(jax.grad(all_sums, (0, 1, 2)))(*given)
    wanted = plain_gradients(guess, truth, Sums(*[jnp.asarray(np.ones(1, np.float32))] * 3))
    assert_close(jax.device_get(plain.Guess(points, logits)), wanted)
    assert not any(np.any(x) for x in true)
    assert not any(np.any(x) for x in jax.jit(jax.grad(tallied))(guess.points))


@needs_triton
def test_the_kernels_lower_for_a_gpu() -> None:
    def run(image: jax.Array, mask: jax.Array) -> jax.Array:
        planes = Planes(image, image, image)
        return total(point_map_loss(planes, image, planes, mask)[0])

    image, mask = (jax.ShapeDtypeStruct((4, 224, 280), x) for x in (jnp.float32, jnp.bool_))
    with here_is():
        traced = jax.jit(jax.value_and_grad(run)).trace(image, mask)
        text = traced.lower(lowering_platforms=("cuda",)).as_text()
    assert '"point_map_loss"' in text
    assert '"point_map_loss_gradient"' in text


def test_a_backend_asked_for_by_name_runs_or_raises() -> None:
    guess, truth = surface((1, 6, 9))

    def run(name: str | None) -> Any:
        call = one_program(point_map_loss, "implementation")
        return call(guess.points, guess.logits, truth.points, truth.mask, implementation=name)

    assert_close(run("xla"), run(None))
    with pytest.raises(NotImplementedError, match=REFUSED_ON_CPU):
        run("triton")
    with pytest.raises(ValueError, match="implementation='cuda' is unknown; choose one of triton"):
        run("cuda")


def test_arrays_that_disagree_are_refused() -> None:
    (points, logits), (true, mask) = surface((1, 6, 9))
    with pytest.raises(ValueError, match=r"logits must have the shape .* found \(1, 6, 8\)"):
        point_map_loss(points, logits[..., :8], true, mask)
    with pytest.raises(ValueError, match=r"points\.x must have the shape .* found \(6, 9\)"):
        point_map_loss(Planes(*(x[0] for x in points)), logits, true, mask)
    with pytest.raises(ValueError, match="mask must be bool, found float32"):
        point_map_loss(points, logits, true, logits)
    with pytest.raises(ValueError, match=r"truth\.z must be float32, found bfloat16"):
        point_map_loss(points, logits, true._replace(z=true.z.astype(jnp.bfloat16)), mask)


@needs_triton
@pytest.mark.gpu
@pytest.mark.parametrize("shape", [*SHAPES, (3, 112, 280)])
def test_the_kernels_on_a_gpu(shape: tuple[int, int, int]) -> None:
    guess, truth = surface(shape)
    given = slopes(shape[0])
    assert_close(jax.jit(kernel.point_map_loss_triton)(guess, truth), plain_sums(guess, truth))
    found = jax.jit(kernel.gradients_triton)(guess, truth, given)
    # Where a triangle is nearly a line, its normal turns with the last digit.
    assert_close(found, plain_gradients(guess, truth, given), 5e-5)
