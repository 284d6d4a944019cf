"""How programs are traced and compiled."""

import functools
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import jax
import numpy as np
from jax.core import Tracer

from jaxrecon.errors import InputError
from jaxrecon.forking import check_not_forked
from jaxrecon.program_cache import keep_sound

COMPILER_OPTIONS: dict[str, dict[str, bool | int | str]] = {
    "gpu": {
        "xla_gpu_enable_triton_gemm": False,
        "xla_disable_hlo_passes": "cublas-pad-for-gemms",
    }
}
"""By platform. Trying Triton's matrix products takes half of the time to compile a GPU program, and
they run no faster (docs/benchmarks.md). The pass would copy the tokens before and after each matrix
product where their number is no multiple of 8, which cuBLAS does not ask for."""


def has_cublas_gelu(device: Any) -> bool:
    """Whether XLA, as `compiled` has it compile, has cuBLAS compute GELU with products.

    It does so for NVIDIA GPUs, where no flag has Triton multiply or takes passes away.
    """
    if device.platform != "gpu" or "NVIDIA" not in device.device_kind:
        return False
    flags = os.environ.get("XLA_FLAGS", "")
    others = "xla_gpu_enable_triton_gemm", "xla_gpu_enable_cublaslt", "xla_disable_hlo_passes"
    return not any(name in flags for name in others)


_NO_MESH = jax.sharding.Mesh(np.empty((), object), ())


def compiled(lowered: Any, device: Any) -> Any:
    """The executable (`jax.stages.Compiled`) of a lowered program for a kind of device.

    What the environment's `XLA_FLAGS` set is left as they set it.

    Raises:
      JaxreconError: this is a child of fork; see `check_not_forked`.
    """
    check_not_forked()
    flags = os.environ.get("XLA_FLAGS", "")
    options = COMPILER_OPTIONS.get(device.platform, {})
    options = {name: value for name, value in options.items() if name not in flags}
    program = lowered.compile(compiler_options=options or None)
    keep_sound()
    return program


@contextmanager
def background_threads(count: int | None = None) -> Iterator[ThreadPoolExecutor]:
    """Threads whose work is not waited for where the block ends, nor begun any more.

    What is needed of it the block waits for itself. XLA stops at nothing while it compiles, and
    weights may be long to read: an error, Ctrl-C too, would come minutes late.
    """
    pool = ThreadPoolExecutor(count)
    try:
        yield pool
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def without_x64[**P, R](function: Callable[P, R]) -> Callable[P, R]:
    """The function, in float32 even where the caller has set `jax_enable_x64`.

    In a child of fork it raises what `check_not_forked` does.
    """

    @functools.wraps(function)
    def narrow(*args: P.args, **kwargs: P.kwargs) -> R:
        check_not_forked()
        with jax.enable_x64(False):
            return function(*args, **kwargs)

    return narrow


def on_its_own[**P, R](function: Callable[P, R]) -> Callable[P, R]:
    """The function, which users call, free of what they have set around it: x64 and a mesh.

    A mesh of `jax.set_mesh` would have weights and programs on all of its devices.

    Within a function that JAX traces it raises InputError; in a child of fork see `without_x64`.
    """
    narrow = without_x64(function)

    @functools.wraps(function)
    def alone(*args: P.args, **kwargs: P.kwargs) -> R:
        check_not_forked()  # first: what follows asks JAX
        _check_not_traced(function.__name__)
        if jax.sharding.get_abstract_mesh().empty or not jax.sharding.get_mesh().size:
            return narrow(*args, **kwargs)
        with jax.set_mesh(_NO_MESH):
            return narrow(*args, **kwargs)

    return alone


def _check_not_traced(name: str) -> None:
    """Refuses to work where JAX notes down what is done and does nothing of it.

    Raises:
      InputError: naming what was called.
    """
    if isinstance(jax.lax.iota(np.int32, 1), Tracer):
        raise InputError(
            f"{name}: it is called inside a function that JAX traces (jax.jit, jax.eval_shape), "
            "but it reads files and runs programs of its own; call it outside, and give that "
            "function what it returns"
        )


@contextmanager
def reported_refusals(what: str) -> Iterator[None]:
    """Tells the user of an attention backend that was asked for by name and cannot do `what`.

    Raises:
      InputError: in place of the backend's NotImplementedError.
    """
    try:
        yield
    except NotImplementedError as error:
        raise InputError(f"attention: cannot {what} ({error}); choose another one") from error
