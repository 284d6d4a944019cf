"""The models that have names, and how each comes to be a `Pipeline`."""

from jaxrecon.registry.config_json import config_from_json
from jaxrecon.registry.entries import (
    FAMILIES,
    MODELS,
    PI3_FAMILY,
    Bundled,
    Family,
    HubFile,
    ModelEntry,
    available_models,
    find_entry,
    model_entry,
)
from jaxrecon.registry.fetching import convert_weights, is_here, local_folder, native_folder
from jaxrecon.registry.loading import load, load_abstract

__all__ = [
    "FAMILIES",
    "MODELS",
    "PI3_FAMILY",
    "Bundled",
    "Family",
    "HubFile",
    "ModelEntry",
    "available_models",
    "config_from_json",
    "convert_weights",
    "find_entry",
    "is_here",
    "load",
    "load_abstract",
    "local_folder",
    "model_entry",
    "native_folder",
]
