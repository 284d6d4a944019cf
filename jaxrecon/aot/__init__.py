"""Whole inference programs in files: written with `jax.export`, run without the model's code."""

from jaxrecon.aot.running import ExportedPipeline, load_exported
from jaxrecon.aot.writing import export_program

__all__ = ["ExportedPipeline", "export_program", "load_exported"]
