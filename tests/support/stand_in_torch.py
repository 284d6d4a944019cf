"""A stand-in for PyTorch with a GPU, and checkouts that hold a stand-in for upstream's code."""

from pathlib import Path

_TORCH = """
from contextlib import nullcontext
from types import SimpleNamespace

__version__, bfloat16 = "9.9", "bfloat16"
device, no_grad = (lambda name: nullcontext()), nullcontext
amp = SimpleNamespace(autocast=lambda device, dtype: nullcontext())
hub = SimpleNamespace(load=lambda *args, **given: given)


class OutOfMemoryError(RuntimeError):
    pass


def rand(*shape, device):
    return SimpleNamespace(shape=shape)


cuda = SimpleNamespace(
    is_available=lambda: {gpu},
    get_device_name=lambda: "Stand-in GPU",
    empty_cache=lambda: None,
    reset_peak_memory_stats=lambda: None,
    max_memory_allocated=lambda: 3 * 2**30,
    synchronize=lambda: None,
    OutOfMemoryError=OutOfMemoryError,
)
"""

_PI3 = """
import os, sys, time
import torch

assert "jax" not in sys.modules, "two frameworks would share the GPU's memory"
print("upstream talks")


class Pi3:
    def eval(self):
        return self

    cuda = eval

    def __call__(self, images):
        _, views, _, height, width = images.shape
        assert (height, width) == (28, 42), images.shape
        {run}
"""


def write_torch(folder: Path, *, gpu: bool = True) -> Path:
    """The package, in a folder that is to be on Python's path."""
    (folder / "torch").mkdir(parents=True)
    (folder / "torch" / "__init__.py").write_text(_TORCH.replace("{gpu}", str(gpu)))
    return folder


def write_pi3(folder: Path, run: str = "time.sleep(0.05)") -> Path:
    """A checkout of π³'s code whose model does `run` for images of 42x28 pixels."""
    (folder / "pi3" / "models").mkdir(parents=True)
    (folder / "pi3" / "models" / "pi3.py").write_text(_PI3.replace("{run}", run))
    return folder
