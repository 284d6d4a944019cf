"""Fused kernels: values and gradients against the plain form, lowering, where they run."""

import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import pallas_kernels.bias_gelu as gelu_package
import pallas_kernels.qk_norm_rope as rope_package
import pallas_kernels.residual_norm as norm_package
from abstract_devices import here_is, mesh_of
from drawn_weights import drawn
from jaxrecon.models import Pi3
from jaxrecon.nn.attention import attend_densely
from jaxrecon.nn.execution import INFERENCE, TRAINING, ExecutionConfig
from jaxrecon.runtime.placement import Placement
from one_program import one_program
from pallas_kernels.bias_gelu import bias_gelu
from pallas_kernels.bias_gelu import reference as gelu_plain
from pallas_kernels.bias_gelu import triton as gelu_triton
from pallas_kernels.errors import UnfitError
from pallas_kernels.norm import Norm
from pallas_kernels.qk_norm_rope import qk_norm_rope
from pallas_kernels.qk_norm_rope import reference as rope_plain
from pallas_kernels.qk_norm_rope import triton as rope_triton
from pallas_kernels.residual_norm import reference as norm_plain
from pallas_kernels.residual_norm import residual_norm, residual_sum
from pallas_kernels.residual_norm import triton as norm_triton
from tiny_models import PI3_TINY
from triton_marks import REFUSED_ON_CPU, lowers_triton, needs_triton

pytestmark = lowers_triton

EPS = 1e-5
NAMES = ["residual_norm", "qk_norm_rope", "bias_gelu"]


def thorough(*case: Any) -> Any:
    """One more variant."""
    return pytest.param(*case, marks=pytest.mark.thorough)


def normal(*shape: int, seed: int = 0, dtype: Any = jnp.float32) -> Any:
    values = np.random.default_rng((seed, *shape)).normal(size=shape)
    return values.astype(np.float32).astype(dtype)


def assert_close(found: Any, wanted: Any, rtol: float = 2e-5) -> None:
    """Trees of one structure, each array to within `rtol` of its largest number."""
    assert jax.tree.structure(found) == jax.tree.structure(wanted)
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        assert one.dtype == other.dtype
        one, other = np.float32(one), np.float32(other)
        np.testing.assert_allclose(one, other, rtol=0, atol=rtol * np.abs(other).max() + 1e-9)


def norm_inputs(rows: int, width: int, parts: str, dtype: Any = jnp.float32) -> norm_plain.Inputs:
    """Parts: u for an update, b for its bias, g for LayerScale, n for the norm."""
    norm = Norm(1 + normal(width, seed=5), normal(width, seed=6))
    return norm_plain.Inputs(
        normal(2, rows, width) + 3,
        normal(2, rows, width, seed=1, dtype=dtype) if "u" in parts else None,
        normal(width, seed=2, dtype=dtype) if "b" in parts else None,
        normal(width, seed=3) if "g" in parts else None,
        norm if "n" in parts else None,
    )


@needs_triton
@pytest.mark.parametrize(
    "parts", ["n", "ubgn", "ub", "", *map(thorough, ("un", "ubn", "ugn", "u", "ubg"))]
)
@pytest.mark.parametrize(
    ("rows", "width"),
    [
        (37, 320),
        thorough(3, 64),
        thorough(70, 256),
    ],
)
def test_residual_norm_of_the_kernel(rows: int, width: int, parts: str) -> None:
    inputs = norm_inputs(rows, width, parts)
    options = {"eps": EPS, "dtype": jnp.float32}
    plainly = partial(norm_plain.residual_norm_xla, **options)
    shapes = jax.eval_shape(plainly, inputs)
    gradients = jax.tree.map(lambda x: normal(*x.shape, seed=7), shapes)

    @one_program
    def run(inputs: norm_plain.Inputs, gradients: Any) -> Any:
        wanted, plain = jax.vjp(plainly, inputs)
        found = norm_triton.residual_norm_triton(inputs, **options, interpret=True)
        kept = inputs._replace(x=wanted[0])
        by_kernel = norm_triton.gradients_triton(kept, gradients, eps=EPS, interpret=True)
        by_hand = norm_plain.gradients_xla(kept, gradients, eps=EPS)
        return (found, wanted), (by_kernel, by_hand, plain(gradients)[0])

    (found, wanted), (by_kernel, by_hand, by_jax) = run(inputs, gradients)
    assert_close(found, wanted)
    assert_close(by_kernel, by_jax)
    assert_close(by_hand, by_jax)


def rope_inputs(
    shape: tuple[int, int, int, int], views: int, parts: str, dtype: Any = jnp.float32
) -> rope_plain.Inputs:
    """Parts: b for the bias, n for the norms, r for turning."""
    groups, tokens, heads, width = shape
    q_norm, k_norm = (
        Norm(1 + normal(width, seed=at), normal(width, seed=9 - at)) if "n" in parts else None
        for at in (1, 2)
    )
    angles = normal(tokens // views, 2, width // 4, seed=3)
    return rope_plain.Inputs(
        normal(groups, tokens, 3, heads, width, dtype=dtype),
        normal(3, heads, width, seed=4, dtype=dtype) if "b" in parts else None,
        q_norm,
        k_norm,
        rope_plain.Rotary(np.cos(angles), np.sin(angles)) if "r" in parts else None,
    )


@needs_triton
@pytest.mark.parametrize("parts", ["bnr", "br", "", *map(thorough, ("nr", "bn", "b"))])
@pytest.mark.parametrize("shape", [(2, 21, 5, 64), (1, 21, 4, 64), thorough((1, 150, 2, 128))])
def test_qk_norm_rope_of_the_kernel(shape: tuple[int, int, int, int], parts: str) -> None:
    """Of five heads a program does all, of four or two it does one."""
    inputs = rope_inputs(shape, 3, parts)
    gradients = normal(*shape, seed=5), normal(*shape, seed=6), normal(*shape, seed=7)

    @one_program
    def run(inputs: rope_plain.Inputs, gradients: Any) -> Any:
        wanted, plain = jax.vjp(partial(rope_plain.qk_norm_rope_xla, eps=EPS), inputs)
        found = rope_triton.qk_norm_rope_triton(inputs, eps=EPS, interpret=True)
        by_kernel = rope_triton.gradients_triton(inputs, gradients, eps=EPS, interpret=True)
        return (found, wanted), (by_kernel, plain(gradients)[0])

    (found, wanted), (by_kernel, by_jax) = run(inputs, gradients)
    assert_close(found, wanted)
    # The angles are no parameters: the kernel says zero.
    assert_close(by_kernel._replace(rotary=None), by_jax._replace(rotary=None))
    assert all(not np.any(x) for x in jax.tree.leaves(by_kernel.rotary))


@needs_triton
@pytest.mark.parametrize("parts", ["bnr", thorough("")])
def test_queries_and_keys_without_values(parts: str) -> None:
    """The same as with them, forwards and backwards, in the kernel and in the plain form."""
    shape = 1, 12, 2, 64
    inputs = rope_inputs(shape, 3, parts)
    bias = None if inputs.bias is None else inputs.bias[:2]
    two = inputs._replace(qkv=inputs.qkv[:, :, :2], bias=bias)
    gradients = normal(*shape, seed=5), normal(*shape, seed=6), normal(*shape, seed=7)

    @one_program
    def run(inputs: rope_plain.Inputs, two: rope_plain.Inputs, gradients: Any) -> Any:
        all_three, back = jax.vjp(partial(rope_plain.qk_norm_rope_xla, eps=EPS), inputs)
        plain, plain_back = jax.vjp(partial(rope_plain.qk_norm_rope_xla, eps=EPS), two)
        kernel = rope_triton.qk_norm_rope_triton(two, eps=EPS, interpret=True)
        by_kernel = rope_triton.gradients_triton(two, gradients[:2], eps=EPS, interpret=True)
        found = by_kernel, plain_back(gradients[:2])[0]
        return all_three, plain, kernel, back(gradients)[0], found

    all_three, plain, kernel, gradient, found = run(inputs, two, gradients)
    assert_close(plain, all_three[:2])
    assert_close(kernel, all_three[:2])
    bias = None if gradient.bias is None else gradient.bias[:2]
    expected = gradient._replace(qkv=gradient.qkv[:, :, :2], bias=bias, rotary=None)
    for each in found:
        assert_close(each._replace(rotary=None), expected)


@needs_triton
@pytest.mark.parametrize("parts", ["b", thorough("bnr")])
def test_queries_times_a_factor(parts: str) -> None:
    """In the end, so that no norm takes it away again; keys and values are left as they are."""
    shape, factor = (1, 12, 2, 64), 0.3
    inputs = rope_inputs(shape, 3, parts)
    gradients = normal(*shape, seed=5), normal(*shape, seed=6), normal(*shape, seed=7)
    q_norm, k_norm = inputs.q_norm, inputs.k_norm

    @one_program
    def run(inputs: rope_plain.Inputs, gradients: Any) -> Any:
        def call(qkv: jax.Array, factor: float) -> Any:
            norms = None if q_norm is None or k_norm is None else (q_norm, k_norm)
            told = {"bias": inputs.bias, "norms": norms, "rotary": inputs.rotary}
            return qk_norm_rope(qkv, **told, eps=EPS, query_factor=factor)

        once, _ = jax.vjp(partial(call, factor=1.0), inputs.qkv)
        found, back = jax.vjp(partial(call, factor=factor), inputs.qkv)
        kernel = rope_triton.qk_norm_rope_triton(inputs, eps=EPS, factor=factor, interpret=True)
        _, plain = jax.vjp(
            lambda qkv: rope_plain.qk_norm_rope_xla(
                inputs._replace(qkv=qkv), eps=EPS, factor=factor
            ),
            inputs.qkv,
        )
        return once, found, kernel, back(gradients), plain(gradients)

    (q, k, v), found, kernel, by_rule, by_jax = run(inputs, gradients)
    assert_close(found, (np.float32(factor) * q, k, v))
    assert_close(kernel, found)
    assert_close(by_rule, by_jax)


@needs_triton
@pytest.mark.parametrize(("rows", "width"), [(37, 320), thorough(300, 64), (130, 1280)])
def test_bias_gelu_of_the_kernel(rows: int, width: int) -> None:
    x, bias, gradient = 4 * normal(rows, width), normal(width), normal(rows, width, seed=1)

    @one_program
    def run(x: jax.Array, bias: jax.Array, gradient: jax.Array) -> Any:
        wanted, plain = jax.vjp(gelu_plain.bias_gelu_xla, x, bias)
        found = gelu_triton.bias_gelu_triton(x, bias, interpret=True)
        by_kernel = gelu_triton.gradients_triton(x, bias, gradient, interpret=True)
        return (found, wanted), (by_kernel, plain(gradient))

    (found, wanted), (by_kernel, by_jax) = run(x, bias, gradient)
    assert_close(found, wanted, 5e-7)
    assert_close(by_kernel, by_jax, 1e-6)


@needs_triton
def test_gelu_is_the_exact_one() -> None:
    x = np.linspace(-12, 12, 4001, dtype=np.float32)
    exact = np.float64(x) * (1 + np.vectorize(math.erf)(np.float64(x) / 2**0.5)) / 2
    run = one_program(partial(gelu_triton.bias_gelu_triton, interpret=True))
    found = run(x[:, None], np.zeros(1, np.float32))
    np.testing.assert_allclose(found[:, 0], exact, rtol=0, atol=2e-6)


@needs_triton
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_gelu_of_16_bits_is_rounded_as_if_exact(dtype: Any) -> None:
    """Within 0.55 of the numbers that the type has next to each other, of the tails' too."""
    x = jnp.linspace(-8, 8, 4001).astype(dtype)
    real = np.asarray(x, np.float64)
    half = np.vectorize(math.erfc)(-real / 2**0.5) / 2
    exact = real * half
    run = one_program(partial(gelu_triton.bias_gelu_triton, interpret=True))
    found = np.asarray(run(x[:, None], jnp.zeros(1, dtype))[:, 0], np.float64)
    # What float16 tells apart below its smallest normal number is a multiple of 2^-24. Beyond 7
    # the outcome stays where it was.
    smallest = 2.0**-24 if dtype == jnp.float16 else 2e-11
    step = jnp.finfo(dtype).eps * 2.0 ** np.floor(np.log2(np.abs(exact) + 1e-300))
    step = np.maximum(step, smallest)
    assert (np.abs(found - exact) <= 0.55 * step).all()

    run = one_program(partial(gelu_triton.gradients_triton, interpret=True))
    slope = run(x[:, None], jnp.zeros(1, dtype), jnp.ones((4001, 1), dtype))[0]
    density = np.exp(-real * real / 2) * (2 * math.pi) ** -0.5
    found = np.asarray(slope[:, 0], np.float64)
    np.testing.assert_allclose(found, half + real * density, rtol=0, atol=4e-3)


@needs_triton
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16, jnp.float32])
def test_gelu_of_huge_numbers_is_a_number(dtype: Any) -> None:
    huge = float(jnp.finfo(dtype).max)
    x = jnp.array([[huge], [jnp.inf], [-huge], [-jnp.inf]], dtype)
    run = one_program(partial(gelu_triton.bias_gelu_triton, interpret=True))
    found = np.asarray(run(x, jnp.zeros(1, dtype))[:, 0], np.float64)
    np.testing.assert_array_equal(found[:2], [huge, np.inf])
    np.testing.assert_allclose(found[2:], 0, atol=1e-11)


def call_norm(name: str | None = None, width: int = 320) -> Callable[[Any], Any]:
    def call(x: jax.Array) -> jax.Array:
        norm = Norm(jnp.ones(width), jnp.zeros(width))
        update, gamma = x.astype(jnp.bfloat16), jnp.ones(width)
        options = {"norm": norm, "dtype": jnp.bfloat16, "implementation": name}
        total, normed = residual_norm(x, update, gamma=gamma, **options)
        return total.sum() + normed.astype(jnp.float32).sum()

    return call


def call_rope(name: str | None = None, width: int = 64) -> Callable[[Any], Any]:
    def call(x: jax.Array) -> jax.Array:
        qkv = x[..., : 3 * width].astype(jnp.bfloat16).reshape(1, -1, 3, 1, width)
        norm = Norm(jnp.ones(width), jnp.zeros(width))
        angles = jnp.zeros((10, 2, width // 4))
        made = qk_norm_rope(qkv, norms=(norm, norm), rotary=(angles, angles), implementation=name)
        return sum((part.astype(jnp.float32).sum() for part in made), jnp.zeros(()))

    return call


def call_gelu(name: str | None = None) -> Callable[[Any], Any]:
    def call(x: jax.Array) -> jax.Array:
        return bias_gelu(x.astype(jnp.bfloat16), jnp.zeros(x.shape[-1]), implementation=name).sum()

    return call


@needs_triton
@pytest.mark.parametrize(
    ("call", "kernel"),
    [(call_norm(), "residual_norm"), (call_rope(), "qk_norm_rope"), (call_gelu(), "bias_gelu")],
)
def test_kernels_lower_for_a_gpu(call: Callable[[Any], Any], kernel: str) -> None:
    x = jax.ShapeDtypeStruct((500, 320), jnp.float32)
    with here_is():
        text = (
            jax.jit(jax.value_and_grad(call)).trace(x).lower(lowering_platforms=("cuda",)).as_text()
        )
    assert f'"{kernel}"' in text
    assert f'"{kernel}_gradient"' in text


@pytest.mark.parametrize("call", [call_norm, call_rope, call_gelu])
def test_a_backend_asked_for_by_name_runs_or_raises(call: Callable[..., Any]) -> None:
    x = normal(20, 320)
    either, xla = one_program(lambda x: (call(None)(x), call("xla")(x)))(x)
    np.testing.assert_allclose(either, xla, rtol=1e-6)
    with pytest.raises(NotImplementedError, match=REFUSED_ON_CPU):
        jax.eval_shape(call("triton"), x)
    with pytest.raises(ValueError, match="implementation='cuda' is unknown; choose one of triton"):
        jax.eval_shape(call("cuda"), x)


@needs_triton
def test_what_the_kernels_cannot_do_xla_does() -> None:
    with here_is():
        wide = jax.ShapeDtypeStruct((500, 5000), jnp.float32)
        assert jax.eval_shape(call_norm(width=5000), wide).shape == ()
        with pytest.raises(UnfitError, match="width 5000 is beyond 4096"):
            jax.eval_shape(call_norm("triton", width=5000), wide)
        assert jax.eval_shape(call_rope(width=24), wide).shape == ()
        with pytest.raises(UnfitError, match="head width 24 is no power of two from 64"):
            jax.eval_shape(call_rope("triton", width=24), wide)


def test_shapes_that_disagree_are_refused() -> None:
    x, vector = jnp.asarray(normal(4, 8)), jnp.asarray(normal(8))
    norm = Norm(vector, vector)
    with pytest.raises(ValueError, match="x must be float32, found bfloat16"):
        residual_norm(x.astype(jnp.bfloat16), norm=norm)
    with pytest.raises(ValueError, match=r"one shape, found \(4, 8\) and \(3, 8\)"):
        residual_sum(x, x[:3])
    with pytest.raises(ValueError, match=r"gamma must have shape \(8,\), found \(7,\)"):
        residual_sum(x, x, gamma=vector[:7])
    with pytest.raises(ValueError, match="update_bias and gamma need an update"):
        residual_norm(x, norm=norm, gamma=vector)
    with pytest.raises(ValueError, match=r"bias must have shape \(8,\), found \(7,\)"):
        bias_gelu(x, vector[:7])
    qkv, *angles = map(jnp.asarray, (normal(2, 6, 3, 1, 8), normal(3, 2, 2), normal(4, 2, 2)))
    with pytest.raises(ValueError, match=r"qkv must have shape \(G, T, 3 or 2, N, K\)"):
        qk_norm_rope(qkv[:, :, :1])
    with pytest.raises(ValueError, match=r"bias must have shape \(3, 1, 8\), found \(8,\)"):
        qk_norm_rope(qkv, bias=vector)
    with pytest.raises(ValueError, match="the norm of the keys must have 8 numbers"):
        qk_norm_rope(qkv, norms=(norm, Norm(vector[:4], vector[:4])))
    with pytest.raises(ValueError, match=r"cosines and sines must have shape \(P, 2, 2\)"):
        qk_norm_rope(qkv, rotary=(angles[0][..., :1], angles[0][..., :1]))
    with pytest.raises(ValueError, match="6 tokens are no whole number of views of 4"):
        qk_norm_rope(qkv, rotary=(angles[1], angles[1]))


def test_backends_have_what_they_compute_and_its_gradient() -> None:
    for package in (norm_package, rope_package, gelu_package):
        assert all(len(functions) == 2 for functions in package.IMPLEMENTATIONS.values())


@needs_triton
@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("width", [64, 320, 1024])
def test_kernels_on_a_gpu(width: int, dtype: Any) -> None:
    """Each kernel and its gradient against the plain form, compiled, some 1,000 rows."""
    tight = 1e-5 if dtype == jnp.float32 else 1e-2
    inputs = norm_inputs(533, width, "ubgn", dtype)
    options = {"eps": EPS, "dtype": dtype}
    plain = jax.jit(lambda x: norm_plain.residual_norm_xla(x, **options))(inputs)
    found = jax.jit(lambda x: norm_triton.residual_norm_triton(x, **options))(inputs)
    assert_close(found, plain, tight)
    gradients, kept = jax.tree.map(lambda x: x[::-1], plain), inputs._replace(x=plain[0])
    wanted = jax.jit(lambda *x: norm_plain.gradients_xla(*x, eps=EPS))(kept, gradients)
    found = jax.jit(lambda *x: norm_triton.gradients_triton(*x, eps=EPS))(kept, gradients)
    assert_close(found, wanted, tight)

    inputs = rope_inputs((3, 400, width // 64, 64), 4, "bnr", dtype)
    plain = jax.jit(lambda x: rope_plain.qk_norm_rope_xla(x, eps=EPS))(inputs)
    found = jax.jit(lambda x: rope_triton.qk_norm_rope_triton(x, eps=EPS))(inputs)
    assert_close(found, plain, tight)
    wanted = jax.jit(lambda *x: rope_plain.gradients_xla(*x, eps=EPS))(inputs, plain)
    found = jax.jit(lambda *x: rope_triton.gradients_triton(*x, eps=EPS))(inputs, plain)
    assert_close(found._replace(rotary=None), wanted._replace(rotary=None), tight)

    x, bias = 4 * normal(1111, width, dtype=dtype), normal(width, dtype=dtype)
    plain = jax.jit(gelu_plain.bias_gelu_xla)(x, bias)
    assert_close(jax.jit(gelu_triton.bias_gelu_triton)(x, bias), plain, tight)
    wanted = jax.jit(gelu_plain.gradients_xla)(x, bias, plain)
    assert_close(jax.jit(gelu_triton.gradients_triton)(x, bias, plain), wanted, tight)


@pytest.mark.parametrize(("depth", "registers"), [(0, 0), (1, 5)])
@pytest.mark.thorough
def test_a_network_that_learns_is_the_same_network(depth: int, registers: int) -> None:
    """Values and gradients in float32, with every kind of block that π³ has."""
    encoder = replace(PI3_TINY.encoder, depth=depth)
    config = replace(PI3_TINY, encoder=encoder, registers=registers, pairs=1, head_depth=1)
    model = drawn(lambda: Pi3(config, dtype=jnp.float32, rngs=nnx.Rngs(0)))
    images = np.abs(normal(1, 2, 28, 42, 3)) / 3

    def total(model: Pi3, images: jax.Array, execution: ExecutionConfig) -> jax.Array:
        made = model(images, execution=execution)
        # Not the rotations: with weights such as these they are near singular.
        return jnp.tanh(made.points_camera).mean() + made.confidence.mean()

    run = jax.jit(jax.value_and_grad(total), static_argnums=2)
    plain, found = (run(model, images, execution) for execution in (INFERENCE, TRAINING))
    assert_close(found, plain, 3e-4)


@needs_triton
def test_a_trunk_for_a_gpu_is_made_of_them() -> None:
    """On one device, and on each of several; but not where the compiler parts the program."""
    encoder = replace(PI3_TINY.encoder, width=128, heads=2, depth=0)
    config = replace(PI3_TINY, encoder=encoder, heads=2)
    model = jax.eval_shape(lambda: Pi3(config, dtype=jnp.bfloat16, rngs=nnx.Rngs(0)))

    def kernels(views: int, devices: int | None, execution: ExecutionConfig) -> list[str]:
        mesh = mesh_of({} if devices is None else {"views": devices})
        where = Placement(execution, None if devices is None else mesh)

        def run(model: Pi3, images: jax.Array) -> jax.Array:
            return where.encode(model, images, attention=attend_densely).views[0]

        images = jax.ShapeDtypeStruct((1, views, 28, 28, 3), jnp.float32)
        with jax.sharding.use_abstract_mesh(mesh):
            traced = jax.jit(run).trace(model, images)
            text = traced.lower(lowering_platforms=("cuda",)).as_text()
        return [name for name in NAMES if f'"{name}"' in text]

    assert kernels(3, None, INFERENCE) == NAMES
    assert kernels(3, 1, INFERENCE) == NAMES
    assert kernels(4, 2, INFERENCE) == NAMES
    assert kernels(3, None, ExecutionConfig(kernels=False)) == []


def test_layers_that_learn_are_no_loop() -> None:
    """A loop would copy, at each turn, what the backward pass needs."""
    model = jax.eval_shape(lambda: Pi3(PI3_TINY, dtype=jnp.float32, rngs=nnx.Rngs(0)))
    images = jax.ShapeDtypeStruct((1, 2, 28, 28, 3), jnp.float32)

    def run(execution: ExecutionConfig) -> str:
        made = jax.make_jaxpr(lambda model, x: model(x, execution=execution).points_world)
        return str(made(model, images))

    assert f"length={PI3_TINY.pairs}" in run(INFERENCE)
    assert f"unroll={PI3_TINY.pairs}" in run(TRAINING)
