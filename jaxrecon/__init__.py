"""Feed-forward 3D reconstruction in JAX: photos in, cameras, depth and a point cloud out.

    import jaxrecon
    recon = jaxrecon.load("pi3").reconstruct("photos/")
    recon.save("scene.ply")

Letters in shapes, everywhere in the package:

    B  batch (scenes)         V  views (images of one scene)
    T  query tokens           S  key tokens
    N  attention heads        K  width of one head         D  width of the model
    h w  patch grid           H W  pixels

Geometry names carry the frame: `points_world`, `points_camera`, `world_from_camera` (maps camera
coordinates to world coordinates), `depth_z` (along the optical axis) and `depth_ray` (along the
ray). Axes are OpenCV's: x right, y down, z forward. Pixel coordinates are OpenCV's too: the centre
of the top-left pixel is (0, 0).
"""

import zlib as _zlib  # noqa: F401
from importlib import import_module
from typing import TYPE_CHECKING

from jaxrecon import renamed_modules
from jaxrecon.forking import watch_forks
from jaxrecon.version import __version__ as __version__

if TYPE_CHECKING:
    from jaxrecon.aot import ExportedPipeline, export_program, load_exported
    from jaxrecon.bundle_adjustment import bundle_adjust
    from jaxrecon.errors import InputError, JaxreconError, OutputError, WeightsError
    from jaxrecon.formats import PointTracks
    from jaxrecon.pipeline import CameraConfig, MaskConfig, Pipeline, SequenceReconstruction
    from jaxrecon.plan import MemoryPlan, memory_plan
    from jaxrecon.priors import ViewPriors
    from jaxrecon.progress import Stages
    from jaxrecon.reconstruction import Reconstruction
    from jaxrecon.registry import available_models, load
    from jaxrecon.runtime.sharding import make_mesh
    from jaxrecon.sparse import FastAttention, SparseAttention

# Imported on first use, so that `jaxrecon --help` and the converter start without JAX.
_HOMES = {
    "CameraConfig": "pipeline",
    "ExportedPipeline": "aot",
    "FastAttention": "sparse",
    "InputError": "errors",
    "JaxreconError": "errors",
    "MaskConfig": "pipeline",
    "MemoryPlan": "plan",
    "OutputError": "errors",
    "WeightsError": "errors",
    "Pipeline": "pipeline",
    "PointTracks": "formats",
    "Reconstruction": "reconstruction",
    "SequenceReconstruction": "pipeline",
    "SparseAttention": "sparse",
    "Stages": "progress",
    "ViewPriors": "priors",
    "available_models": "registry",
    "bundle_adjust": "bundle_adjustment",
    "export_program": "aot",
    "load": "registry",
    "load_exported": "aot",
    "make_mesh": "runtime.sharding",
    "memory_plan": "plan",
}

__all__ = [
    "CameraConfig",
    "ExportedPipeline",
    "FastAttention",
    "InputError",
    "JaxreconError",
    "MaskConfig",
    "MemoryPlan",
    "OutputError",
    "Pipeline",
    "PointTracks",
    "Reconstruction",
    "SequenceReconstruction",
    "SparseAttention",
    "Stages",
    "ViewPriors",
    "WeightsError",
    "available_models",
    "bundle_adjust",
    "export_program",
    "load",
    "load_exported",
    "make_mesh",
    "memory_plan",
]


# zlib is imported here for the order alone: pycolmap's wheel exports symbols of its names, and what
# loads zlib after it (archives of NumPy, PNG of Pillow) would call a mixture of both.
watch_forks()
renamed_modules.install()


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'jaxrecon' has no attribute '{name}'")
    return getattr(import_module(f"jaxrecon.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
