"""Where things are in the checkout, and the environment of processes that tests start."""

import os
from pathlib import Path

SUPPORT = Path(__file__).parent
TESTS = SUPPORT.parent
ROOT = TESTS.parent
EXAMPLES = ROOT / "examples"
BENCHMARKS = ROOT / "benchmarks"


def fresh_process(devices: int = 1, **variables: str) -> dict[str, str]:
    """Environment of another process, which sees so many CPU devices, this code and `support`."""
    paths = os.pathsep.join([str(ROOT), str(SUPPORT)])
    fixed = {"JAX_PLATFORMS": "cpu", "PYTHONPATH": paths}
    if devices > 1:
        fixed["XLA_FLAGS"] = f"--xla_force_host_platform_device_count={devices}"
    return dict(os.environ) | fixed | variables
