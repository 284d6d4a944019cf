"""JAX without Pallas Triton: all else works, and Triton's backends say why they do not."""

import json
import subprocess
import sys

import jax
import pytest

from jaxrecon.environment import WITHOUT_TRITON
from pallas_kernels import pallas_triton
from places import ROOT, SUPPORT, fresh_process

SCRIPT = SUPPORT / "without_triton.py"
SUITES = (
    "block_sparse_attention",
    "fused_kernels",
    "compensation",
    "block_selection",
    "point_map_loss",
)


def run_without(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SCRIPT), *arguments]
    # Each module of tests sets these for itself.
    environment = fresh_process(
        JAX_NUMPY_DTYPE_PROMOTION="standard", JAX_NUMPY_RANK_PROMOTION="allow"
    )
    return subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )


def test_other_backends_serve_and_triton_says_why_it_does_not() -> None:
    done = run_without("checks")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    said = f"triton: jax {jax.__version__} has no Pallas Triton; leave the choice to"
    assert len(found["refusals"]) == 8
    assert all(refusal.startswith(said) for refusal in found["refusals"].values())
    assert found["kernels"] == {
        "NVIDIA H100 80GB HBM3": ["mosaic_gpu"],
        "NVIDIA A100-SXM4-80GB": ["@attention_xla"],
    }


@pytest.mark.thorough
def test_the_kernels_own_tests_pass() -> None:
    files = [str(ROOT / "tests" / "unit" / f"test_{name}.py") for name in SUITES]
    done = run_without("pytest", "-q", "-p", "no:cacheprovider", *files)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "has no Pallas Triton" in done.stdout


def test_a_triton_that_lacks_something_is_absent(monkeypatch: pytest.MonkeyPatch) -> None:
    triton = pytest.importorskip("jax.experimental.pallas.triton")
    monkeypatch.delattr(triton, "store")
    found = pallas_triton._found()
    with pytest.raises(NotImplementedError, match=r"Pallas Triton of jax .* has no store; leave"):
        found.load()


def test_the_switch_hides_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(WITHOUT_TRITON, "1")
    with pytest.raises(NotImplementedError, match="JAXRECON_WITHOUT_TRITON hides Pallas Triton"):
        pallas_triton._found().CompilerParams()


def test_there_is_one_place_that_imports_it() -> None:
    """So that one place is changed when it goes."""
    sources = {path: path.read_text() for path in (ROOT / "pallas_kernels").rglob("*.py")}
    importing = [path.name for path, text in sources.items() if "import triton\n" in text]
    importing += [path.name for path, text in sources.items() if "pallas.triton" in text]
    importing += [path.name for path, text in sources.items() if "pallas import triton as" in text]
    assert set(importing) == {"pallas_triton.py"}
