"""Gaussian splats as PLY: a start for trainers, and something to look at in splat viewers."""

from pathlib import Path

import numpy as np
from jaxtyping import Float, UInt8

from jaxrecon.files import replacing_file
from jaxrecon.formats.options import ExportOptions
from jaxrecon.formats.ply import write_vertices
from jaxrecon.formats.scene import Scene, ScenePoints
from jaxrecon.formats.thinning import thinned_points

DEFAULT_POINTS = 200_000

_SH_0 = 0.28209479177387814
"""The spherical harmonic of degree 0."""

_HIGHER = 45
"""Coefficients of degrees 1 to 3 of three colours, which the viewer of the 3D Gaussian Splatting
paper reads without asking for their number."""

_NEIGHBOURS = 3
_MOST_SIZE = 10.0
_LEAST_OPACITY, _MOST_OPACITY = 0.02, 0.98

_FIELDS = (
    *("x", "y", "z", "nx", "ny", "nz"),
    *(f"f_dc_{n}" for n in range(3)),
    *(f"f_rest_{n}" for n in range(_HIGHER)),
    "opacity",
    *(f"scale_{n}" for n in range(3)),
    *(f"rot_{n}" for n in range(4)),
)
_SPLAT = np.dtype([(name, "<f4") for name in _FIELDS])


def write_splats(scene: Scene, path: Path, options: ExportOptions) -> int:
    """Writes a round splat a point, laid out as the 3D Gaussian Splatting paper's programs do.

    Colour is spherical harmonics of degree 0; those of degrees 1 to 3 are 0. The size is the mean
    distance of the three nearest neighbours, as the paper starts with, opacity the confidence.
    Coordinates are the world's (OpenCV axes). At most `max_points` splats are written, by default
    200,000.

    Returns:
      The number of splats that were written.

    Raises:
      InputError: there is no point to write.
      OutputError: the file cannot be written.
    """
    splats = _splats(thinned_points(scene, options.most_points(DEFAULT_POINTS), options.voxel))
    with replacing_file(path) as temporary:
        write_vertices(splats, temporary)
    return len(splats)


def _splats(points: ScenePoints) -> np.ndarray:
    splats = np.zeros(len(points.pixel), _SPLAT)
    for axis, name in enumerate("xyz"):
        splats[name] = points.xyz[:, axis]
    for channel, value in enumerate(_degree_0(points.rgb).T):
        splats[f"f_dc_{channel}"] = value
    splats["opacity"] = _logit(opacities(points.confidence))
    size = np.log(neighbour_distances(points.xyz))
    for axis in range(3):
        splats[f"scale_{axis}"] = size
    splats["rot_0"] = 1
    return splats


def _degree_0(rgb: UInt8[np.ndarray, "P 3"]) -> Float[np.ndarray, "P 3"]:
    return (rgb / 255 - 0.5) / _SH_0


def opacities(confidence: Float[np.ndarray, " P"]) -> Float[np.ndarray, " P"]:
    """Confidence as a probability, away from 0 and 1, at which a splat would not learn.

    Families whose confidence is no probability have 1 + exp(x): that is the logistic function of x,
    since 1 - 1 / (1 + exp(x)) is.
    """
    found = np.nan_to_num(confidence.astype(np.float64), nan=0.0)
    if found.max(initial=0) > 1:
        found = 1 - 1 / np.maximum(found, 1)
    return found.clip(_LEAST_OPACITY, _MOST_OPACITY)


def _logit(probability: Float[np.ndarray, " P"]) -> Float[np.ndarray, " P"]:
    return np.log(probability / (1 - probability))


def neighbour_distances(xyz: Float[np.ndarray, "P 3"]) -> Float[np.ndarray, " P"]:
    """The mean distance of each point's three nearest neighbours, or of those that there are.

    Equal points count as one: a search among very many of them would not end. Distances are held
    within ten times the median, so that one point far from all others does not make a splat that
    hides the scene. A point alone has 1.
    """
    from scipy.spatial import KDTree

    places, place_of = np.unique(xyz.astype(np.float64), axis=0, return_inverse=True)
    near = min(_NEIGHBOURS, len(places) - 1)
    if not near:
        return np.ones(len(xyz))
    distance = KDTree(places).query(places, k=near + 1, workers=-1)[0][:, 1:].mean(axis=1)
    return distance.clip(None, _MOST_SIZE * float(np.median(distance)))[place_of.reshape(-1)]
