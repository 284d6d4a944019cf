"""COLMAP's camera models; those with a lens are left to pycolmap."""

from types import ModuleType

import numpy as np
from jaxtyping import Float

from jaxrecon.errors import InputError
from jaxrecon.extras import Extra
from jaxrecon.priors.camera import lens_shift, pinhole_from_corner

_PINHOLES = {"SIMPLE_PINHOLE": 3, "PINHOLE": 4}
"""The models without a lens, in the order of their numbers, and how many parameters they have."""


def model_name(number: int) -> str:
    """The name of the camera model of that number in binary files.

    Raises:
      InputError: it has a lens and pycolmap is not installed, or there is no such model.
    """
    if 0 <= number < len(_PINHOLES):
        return tuple(_PINHOLES)[number]
    pycolmap = _pycolmap(f"of number {number}")
    names = {int(known): name for name, known in pycolmap.CameraModelId.__members__.items()}
    if number not in names or number < 0:
        raise _unknown(f"of number {number}", pycolmap)
    return names[number]


def parameter_count(model: str) -> int:
    """How many parameters a camera model has.

    Raises:
      InputError: it has a lens and pycolmap is not installed, or there is no such model.
    """
    if model in _PINHOLES:
        return _PINHOLES[model]
    pycolmap = _pycolmap(model)
    if model not in pycolmap.CameraModelId.__members__ or model == "INVALID":
        raise _unknown(model, pycolmap)
    return len(pycolmap.Camera.create_from_model_name(1, model, 1.0, 1, 1).params)


def nearest_pinhole(
    model: str, parameters: tuple[float, ...], size: tuple[int, int]
) -> tuple[Float[np.ndarray, "3 3"], float]:
    """A camera's matrix without its lens, and how far in pixels the lens moves a pixel at most.

    The matrix is in OpenCV's pixels. For a camera without focal lengths it means nothing, and the
    lens moves pixels infinitely far.

    Raises:
      InputError: it has a lens and pycolmap is not installed.
    """
    if model in _PINHOLES:
        *focal, cx, cy = parameters
        return pinhole_from_corner((focal[0], focal[-1]), (cx, cy)), 0.0
    width, height = size
    camera = _pycolmap(model).Camera(
        model=model, width=width, height=height, params=list(parameters)
    )
    if not camera.focal_length_idxs():
        return np.eye(3), float("inf")
    focal = camera.focal_length_x, camera.focal_length_y
    center = camera.principal_point_x, camera.principal_point_y

    def without_lens(pixels: Float[np.ndarray, "G 2"]) -> Float[np.ndarray, "G 2"]:
        return camera.cam_from_img(pixels) * focal + center

    return pinhole_from_corner(focal, center), lens_shift(without_lens, size)


def _pycolmap(model: str) -> ModuleType:
    with Extra("colmap", f"COLMAP's camera model {model} has a lens, for which pycolmap is needed"):
        import pycolmap
    return pycolmap


def _unknown(model: str, pycolmap: ModuleType) -> InputError:
    return InputError(
        f"pycolmap {pycolmap.__version__} knows no camera model {model}; export the model again, "
        "or upgrade pycolmap"
    )
