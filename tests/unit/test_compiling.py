"""How programs are compiled."""

import threading
from concurrent.futures import Future
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import pytest

from jaxrecon.compiling import COMPILER_OPTIONS, background_threads, compiled

GPU = COMPILER_OPTIONS["gpu"]
FLAG = "xla_gpu_enable_triton_gemm"
REST = {name: value for name, value in GPU.items() if name != FLAG}


class Lowered:
    """Remembers what it was compiled with."""

    def compile(self, compiler_options: Any) -> Any:
        return compiler_options


@pytest.mark.parametrize(
    ("platform", "flags", "options"),
    [
        ("gpu", "", {FLAG: False} | REST),
        ("gpu", "--xla_gpu_deterministic_ops=true", {FLAG: False} | REST),
        ("gpu", f"--{FLAG}=true", REST),
        ("cpu", "", None),
    ],
)
def test_options_by_platform_and_environment(
    monkeypatch: pytest.MonkeyPatch, platform: str, flags: str, options: Any
) -> None:
    monkeypatch.setenv("XLA_FLAGS", flags)
    assert compiled(Lowered(), SimpleNamespace(platform=platform)) == options


def test_a_program_runs_here() -> None:
    lowered = jax.jit(lambda x: x + 1).lower(jnp.zeros(3))
    program = compiled(lowered, jax.devices()[0])
    assert program(jnp.ones(3)).tolist() == [2.0, 2.0, 2.0]


def test_an_error_does_not_wait_for_threads_that_still_compile() -> None:
    go_on, begun, ended = threading.Event(), threading.Event(), list[int]()

    def compile_for_long(number: int) -> None:
        begun.set()
        assert go_on.wait(60)
        ended.append(number)

    works: list[Future[None]] = []
    with pytest.raises(KeyboardInterrupt), background_threads(1) as pool:
        works += [pool.submit(compile_for_long, number) for number in range(3)]
        assert begun.wait(60)
        raise KeyboardInterrupt
    assert not ended
    assert [work.cancelled() for work in works] == [False, True, True]
    go_on.set()
    works[0].result()
    assert ended == [0]
