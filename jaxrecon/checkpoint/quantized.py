"""Matrices stored in 8 bits: whole numbers, and a scale for each column.

A matrix `W` (in, out), or a stack of some (layers, in, out), is stored as `round(W / s)` in int8
beside `s` (1, out), the largest magnitude of each column over 127. It is read as float32. On the
bundled weights this moves results far less than training does (`docs/pi3-mini-history.md`).
"""

from collections.abc import Iterable, Iterator, Mapping
from math import prod
from typing import Any

import numpy as np
from jaxtyping import Float, Int8, Shaped

from convert.safetensors_file import TensorSpec
from jaxrecon.errors import WeightsError

_LEAST = 4096
"""Matrices of fewer numbers save next to nothing."""

_LARGEST = 127

type Tensors = Iterator[tuple[str, Shaped[np.ndarray, "..."]]]


def scale_path(path: str) -> str:
    """The name under which the scales of a matrix are stored."""
    return f"{path}.scale"


def is_quantizable(path: str, spec: TensorSpec) -> bool:
    """Whether it is the matrix of a linear layer, or a stack of some, and large enough to count."""
    return path.endswith(".kernel") and len(spec.shape) in (2, 3) and prod(spec.shape) >= _LEAST


def quantized_specs(specs: Mapping[str, TensorSpec]) -> dict[str, TensorSpec]:
    """What is stored of tensors of such shapes, each matrix followed by its scales."""
    stored: dict[str, TensorSpec] = {}
    for path, spec in specs.items():
        if is_quantizable(path, spec):
            *layers, _, out = spec.shape
            stored[path] = TensorSpec(spec.shape, np.dtype(np.int8))
            stored[scale_path(path)] = TensorSpec((*layers, 1, out), np.dtype(np.float32))
        else:
            stored[path] = spec
    return stored


def quantized(tensors: Iterable[tuple[str, np.ndarray]]) -> Tensors:
    """The tensors as `quantized_specs` says.

    Raises:
      WeightsError: a matrix holds a number that is not finite.
    """
    for path, tensor in tensors:
        if is_quantizable(path, TensorSpec(tensor.shape, tensor.dtype)):
            whole, scale = _rounded(path, tensor.astype(np.float32))
            yield path, whole
            yield scale_path(path), scale
        else:
            yield path, tensor


def _rounded(
    path: str, matrix: Float[np.ndarray, "*layers D E"]
) -> tuple[Int8[np.ndarray, "*layers D E"], Float[np.ndarray, "*layers 1 E"]]:
    largest = np.abs(matrix).max(axis=-2, keepdims=True)
    if not np.isfinite(largest).all():
        raise WeightsError(
            f"{path} holds numbers that are not finite, which 8 bits cannot store; copy or convert "
            "the checkpoint again"
        )
    scale = np.where(largest > 0, largest / _LARGEST, 1).astype(np.float32)
    return np.rint(matrix / scale).astype(np.int8), scale


def parameters(entries: Mapping[str, Any]) -> dict[str, Any]:
    """The entries of a config's tensors but for the scales, which are no parameters."""
    scales = {scale_path(path) for path, entry in entries.items() if entry["dtype"] == "int8"}
    return {path: entry for path, entry in entries.items() if path not in scales}


def check_scale(where: str, entry: Mapping[str, Any], scale: Mapping[str, Any] | None) -> None:
    """Refuses a matrix whose scales are absent or of another shape.

    Raises:
      WeightsError: naming it.
    """
    shape = entry["shape"]
    wanted = [*shape[:-2], 1, *shape[-1:]]
    if scale is None or len(shape) < 2 or (scale["shape"], scale["dtype"]) != (wanted, "float32"):
        raise WeightsError(
            f"{where} is stored in 8 bits, but float32 scales of shape {wanted} are not there; "
            "copy or convert the checkpoint again"
        )


def dequantized(
    where: str, whole: Int8[np.ndarray, "*layers D E"], scale: Float[np.ndarray, "*layers 1 E"]
) -> Float[np.ndarray, "*layers D E"]:
    """The matrix that was stored, in float32.

    Raises:
      WeightsError: a scale is not a positive number.
    """
    if not (np.isfinite(scale) & (scale > 0)).all():
        raise WeightsError(
            f"{where}: the scales of its columns must be positive; copy or convert the checkpoint "
            "again"
        )
    return whole * scale
