"""How programs are traced and compiled."""

import functools
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import jax

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
