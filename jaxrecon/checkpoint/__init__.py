"""Native checkpoints: our own parameter paths, strict both ways, one tensor in memory at a time.

A checkpoint is a folder. `config.json` says which model it is and lists every tensor with its file,
shape, dtype and SHA-256. The numbers are in `model.safetensors`, or where one file would be too
large in `model-00001-of-00002.safetensors` and so on, or in a folder of Orbax's.
"""

from jaxrecon.checkpoint.config import (
    digest_of_tensors,
    header_of,
    is_native,
    read_config,
)
from jaxrecon.checkpoint.digests import check_digests, digests_of
from jaxrecon.checkpoint.modules import load, load_orbax, restore, save, save_orbax
from jaxrecon.checkpoint.orbax_failures import orbax_failure, orbax_silenced, remove_unfinished
from jaxrecon.checkpoint.paths import flatten, shapes, unflatten
from jaxrecon.checkpoint.tensors import convert_checkpoint, read_tensors, rewrite, write

__all__ = [
    "check_digests",
    "convert_checkpoint",
    "digest_of_tensors",
    "digests_of",
    "flatten",
    "header_of",
    "is_native",
    "load",
    "load_orbax",
    "orbax_failure",
    "orbax_silenced",
    "read_config",
    "read_tensors",
    "remove_unfinished",
    "restore",
    "rewrite",
    "save",
    "save_orbax",
    "shapes",
    "unflatten",
    "write",
]
