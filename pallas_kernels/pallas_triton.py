"""Pallas Triton, as long as JAX has it: all kernels written in it import it from here.

JAX 0.11 deprecates it, 0.12 warns, and a later release is without it. Where it is not, each Triton
backend refuses, and the next backend of its operation does the job.
"""

from typing import TYPE_CHECKING, Any, NoReturn

import jax

from jaxrecon.environment import WITHOUT_TRITON, is_on
from pallas_kernels.platform import check_gpu

NEEDED = ("CompilerParams", "dot", "load", "store")
"""What the kernels use of it."""

_INSTEAD = (
    'leave the choice to implementation=None, or name another backend: "xla" anywhere, '
    '"mosaic_gpu" for attention on Hopper'
)


class _Absent:
    """In the module's place: whatever is asked of it is refused."""

    def __init__(self, reason: str) -> None:
        self.refusal = f"triton: {reason}; {_INSTEAD}"

    def __getattr__(self, name: str) -> NoReturn:
        if name.startswith("__"):
            raise AttributeError(name)
        raise NotImplementedError(self.refusal)


def _found() -> Any:
    """The module, or an `_Absent`."""
    if is_on(WITHOUT_TRITON):  # read once, at import
        return _Absent(f"the environment variable {WITHOUT_TRITON} hides Pallas Triton")
    try:
        from jax.experimental.pallas import triton
    except (ImportError, AttributeError):
        return _Absent(f"jax {jax.__version__} has no Pallas Triton")
    missing = [name for name in NEEDED if not hasattr(triton, name)]
    if missing:
        return _Absent(f"Pallas Triton of jax {jax.__version__} has no {', '.join(missing)}")
    return triton


if TYPE_CHECKING:
    from jax.experimental.pallas import triton as plgpu
else:
    plgpu = _found()

REFUSAL: str | None = plgpu.refusal if isinstance(plgpu, _Absent) else None
"""Why no Triton kernel runs or is traced, in any process of this JAX; None where it is there."""


def check_triton() -> None:
    """Refuses, for a Triton backend, a JAX without Triton and any target but an NVIDIA GPU.

    Raises:
      NotImplementedError: see above.
    """
    if REFUSAL is not None:
        raise NotImplementedError(REFUSAL)
    check_gpu("triton")
