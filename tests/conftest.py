"""Command-line options, markers and fixtures shared by the tests.

With CHECK_ANNOTATIONS=1 in the environment annotations are checked at run time (jaxtyping and
beartype), which takes a seventh of the time of tracing: `make check` and `make test-all` do so.
"""

import gc
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import jax
import jaxtyping
import pytest

import golden_data
from kept_bytecode import keep_bytecode

# Most of what JAX makes stays: to look through it time and again is a tenth of the time.
gc.set_threshold(50_000, 20, 20)

MOST_COMPILED = 4 << 30
"""Bytes of compiled programs that are kept."""

IMPLICIT = (
    "test_block_selection",
    "test_block_sparse_attention",
    "test_compensation",
    "test_dense_attention",
    "test_extending",
    "test_gpu",
    "test_mapanything",
    "test_old_names",
    "test_parity",
    "test_scenes_phone",
    "test_sharded_state",  # the gradient of JAX's own attention promotes, in bfloat16
    "test_sparse",
)
"""Modules whose own arithmetic leaves dtypes or ranks to JAX; the library's never does."""

if os.environ.get("CHECK_ANNOTATIONS") == "1":
    jaxtyping.install_import_hook(["jaxrecon", "pallas_kernels", "convert"], "beartype.beartype")


COMPILED = Path(".pytest_cache") / "compiled"
"""Where compiled programs are kept, below the folder of the tests' configuration."""
BYTECODE = Path(".pytest_cache") / "bytecode"
"""Where bytecode is kept if Python is told to write none."""


def pytest_configure(config: pytest.Config) -> None:
    keep_bytecode(config.rootpath / BYTECODE)
    if not hasattr(config, "workerinput"):  # before workers look for programs
        from kept_programs import sweep  # not above: it imports what is to be checked

        sweep(config.rootpath / COMPILED, MOST_COMPILED)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--golden",
        type=Path,
        default=None,
        help="run every golden case found in this folder (default: tests/golden and, if there, "
        "shared/golden beside the checkout)",
    )


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "golden" in metafunc.fixturenames:
        cases = golden_data.find_cases(metafunc.config.getoption("--golden"))
        wanted = metafunc.definition.get_closest_marker("golden_of")
        if wanted is not None:
            cases = golden_data.cases_of(cases, *wanted.args)
        full = [case.name for case in cases if "_full_" in case.name or "_vitl_" in case.name]
        marks = {name: [pytest.mark.slow] for name in full}
        if metafunc.config.getoption("--golden") is None:
            variants = _variants([case.name for case in cases])
            marks |= {name: [pytest.mark.thorough] for name in variants}
        parameters = [pytest.param(case, marks=marks.get(case.name, ())) for case in cases]
        metafunc.parametrize("golden", parameters, ids=lambda case: case.name, scope="module")


DENSE = ("pi3", "pi3x", "vggt", "mapanything")
EVERY_STAGE = (
    "pi3x_tiny_84x42_n2_b2_mm",
    "vggt_tiny_84x42_n2_b2",
    "mapanything_v11_tiny_84x42_v2_b2_partial",
)
"""Of each family the golden case whose activations every run looks at; of π³, the epsilons'."""


def _variants(names: list[str]) -> list[str]:
    """Golden cases that differ from another of the family by a rule alone.

    They skip blocks by one of two rules, where another has both; or show how large the norms'
    epsilons are, which one family shows in every run; or look at all activations of images of
    another shape, or where other priors are given, than the case in `EVERY_STAGE`.
    """
    models = [name for name in names if name.startswith("sparse_") and "_tiny_" in name]
    single = [name for name in models if "_cNone_" in name or "_rNone_" in name]
    families = {name.split("_")[1] for name in models if name not in single}
    epsilons = [name for name in names if name.startswith("eps_") and "_pi3_" not in name]
    dense = [name for name in names if name.split("_")[0] in DENSE and "_tiny_" in name]
    return [
        *epsilons,
        *(name for name in single if name.split("_")[1] in families),
        *(name for name in dense if name not in EVERY_STAGE),
    ]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if jax.default_backend() == "gpu":
        from triton_marks import lowers_triton  # not above: it imports what is to be checked

        for item in items:
            item.add_marker(lowers_triton)
    for platform in ("gpu", "tpu"):
        if jax.default_backend() == platform:
            continue
        skip = pytest.mark.skip(reason=f"needs a {platform.upper()}, found {jax.default_backend()}")
        for item in items:
            if item.get_closest_marker(platform):
                item.add_marker(skip)


@pytest.fixture(scope="module", autouse=True)
def explicit_promotion(request: pytest.FixtureRequest) -> Iterator[None]:
    """What differs in dtype or rank is made alike by the code, not by JAX."""
    if request.path.stem in IMPLICIT:
        yield
        return
    with pytest.MonkeyPatch.context() as patch:
        configure(patch, "jax_numpy_dtype_promotion", "strict")
        configure(patch, "jax_numpy_rank_promotion", "raise")
        yield
    jax.config.update("jax_numpy_dtype_promotion", "standard")
    jax.config.update("jax_numpy_rank_promotion", "allow")


@pytest.fixture(scope="session", autouse=True)
def cheap_compilation(pytestconfig: pytest.Config) -> Iterator[None]:
    """On a CPU tests mostly compile, what then runs once: so little of it is optimised.

    What still takes long is compiled once, for all workers, the processes that tests start, and
    later runs: JAX finds programs by their code, its own version and the compiler's options.
    """
    with pytest.MonkeyPatch.context() as patch:
        if jax.default_backend() == "cpu":
            configure(patch, "jax_disable_most_optimizations", True)
            folder = pytestconfig.rootpath / COMPILED
            configure(patch, "jax_compilation_cache_dir", str(folder))
            configure(patch, "jax_persistent_cache_min_compile_time_secs", 0.05)
            # With a limit to its size JAX locks the cache, so that none reads what another writes.
            configure(patch, "jax_compilation_cache_max_size", MOST_COMPILED)
            import kept_programs  # not above, as in `pytest_configure`

            kept_programs.write_without_looking_through(patch)
        yield


def configure(patch: pytest.MonkeyPatch, name: str, value: object) -> None:
    """Sets an option of JAX, here until it is set again and for new processes until the undoing."""
    jax.config.update(name, value)
    patch.setenv(name.upper(), str(value))


@pytest.fixture(scope="module", autouse=True)
def programs_are_let_go() -> Iterator[None]:
    """Each kernel of a program compiled for the CPU is mapped three times, of 65,530 a process.

    Until then programs stay: modules share many small ones.
    """
    yield
    if mapped_regions() > 30_000:
        let_go()


def mapped_regions() -> int:
    """Regions of this process's memory, where the system tells them."""
    try:
        return Path("/proc/self/maps").read_bytes().count(b"\n")
    except OSError:
        return sys.maxsize


def let_go() -> None:
    jax.clear_caches()
    gc.collect()


@pytest.fixture(scope="module")
def full_optimization() -> Iterator[None]:
    """Programs are compiled as users' are."""
    let_go()
    with pytest.MonkeyPatch.context() as patch:
        configure(patch, "jax_disable_most_optimizations", False)
        yield
    jax.config.update("jax_disable_most_optimizations", jax.default_backend() == "cpu")
    let_go()


@pytest.fixture
def without_shape_checks() -> Iterator[None]:
    """Turns the tests' own check of annotations off, to reach what users would see."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)
