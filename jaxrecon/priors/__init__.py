"""What is known of the views before they are reconstructed: cameras, poses and depths.

`ViewPriors` is what a caller gives, in pixels of the original images; `read_view_priors` makes it
from files. `PriorArrays` is what a model takes, in pixels of the processed images. Which models
take priors is told by `ModelDefaults.priors`.
"""

from jaxrecon.deprecation import moved_names
from jaxrecon.priors.arrays import (
    PriorArrays,
    abstract_priors,
    padded_priors,
    prior_arrays,
    prior_world,
    reference_view,
)
from jaxrecon.priors.colmap import colmap_images
from jaxrecon.priors.readers import read_sparse_depths, read_view_priors
from jaxrecon.priors.sparse_depth import SparseDepth
from jaxrecon.priors.view_priors import KINDS, PerView, ViewPriors

__all__ = [
    "KINDS",
    "PerView",
    "PriorArrays",
    "SparseDepth",
    "ViewPriors",
    "abstract_priors",
    "colmap_images",
    "padded_priors",
    "prior_arrays",
    "prior_world",
    "read_sparse_depths",
    "read_view_priors",
    "reference_view",
]

__getattr__ = moved_names(
    __name__,
    {
        "KnownViews": "jaxrecon.priors:ViewPriors",
        "read_known_views": "jaxrecon.priors:read_view_priors",
    },
)
