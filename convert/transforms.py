"""How a PyTorch tensor is laid out anew for a parameter of ours.

Each transform takes the tensor and the rank that the parameter has (one layer of it, where layers
are stacked), and raises ValueError where the tensor can't be laid out so. In shapes, `Cpp` is an
axis of (channel, row, column) of a patch and `ppC` one of (row, column, channel).
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType

import numpy as np
from jaxtyping import Shaped

PATCH = 14
"""Side of a patch in pixels, the same in every family."""

type Transform = Callable[[np.ndarray, int], np.ndarray]


def identity(tensor: Shaped[np.ndarray, "*dims"], rank: int) -> Shaped[np.ndarray, "*dims"]:
    """The tensor as it is."""
    del rank
    return tensor


def linear(weight: Shaped[np.ndarray, "out in"], rank: int) -> Shaped[np.ndarray, "in out"]:
    """Weight of `nn.Linear`, which multiplies from the left, to a kernel on the right."""
    del rank
    return weight.T


def patch_kernel(weight: Shaped[np.ndarray, "D C p p"], rank: int) -> Shaped[np.ndarray, "ppC D"]:
    """Convolution whose stride is its size, to a kernel on a patch's (row, column, channel)."""
    del rank
    return weight.transpose(2, 3, 1, 0).reshape(-1, weight.shape[0])


def convolution(
    weight: Shaped[np.ndarray, "out in h w"], rank: int
) -> Shaped[np.ndarray, "h w in out"]:
    """Weight of `nn.Conv2d` to a kernel for images with channels last."""
    del rank
    return weight.transpose(2, 3, 1, 0)


def pointwise(weight: Shaped[np.ndarray, "out in 1 1"], rank: int) -> Shaped[np.ndarray, "in out"]:
    """Convolution of size one, to a kernel on the channels."""
    del rank
    return np.squeeze(weight, (2, 3)).T


def transposed_convolution(
    weight: Shaped[np.ndarray, "in out h w"], rank: int
) -> Shaped[np.ndarray, "in h w out"]:
    """Weight of `nn.ConvTranspose2d` whose stride is its size, to a kernel on the channels."""
    del rank
    return weight.transpose(0, 2, 3, 1)


def virtual_tracks(
    tensor: Shaped[np.ndarray, "1 tracks 1 D"], rank: int
) -> Shaped[np.ndarray, "tracks D"]:
    """Drops the axes of length one of VGGT's virtual tracks."""
    del rank
    return np.squeeze(tensor, (0, 2))


def pixel_shuffle_kernel(
    weight: Shaped[np.ndarray, "Cpp in"], rank: int
) -> Shaped[np.ndarray, "in ppC"]:
    """Linear layer before `F.pixel_shuffle`, to a kernel that gives (row, column, channel)."""
    del rank
    return _channel_last(weight).T


def pixel_shuffle_bias(bias: Shaped[np.ndarray, "Cpp"], rank: int) -> Shaped[np.ndarray, "ppC"]:
    """Bias of the linear layer before `F.pixel_shuffle`, to (row, column, channel)."""
    del rank
    return _channel_last(bias)


def squeeze_leading(tensor: Shaped[np.ndarray, "*dims"], rank: int) -> Shaped[np.ndarray, "..."]:
    """Drops leading axes of length one until `rank` axes are left."""
    extra = max(tensor.ndim - rank, 0)
    if any(length != 1 for length in tensor.shape[:extra]):
        raise ValueError(f"shape {tensor.shape} has no {extra} leading axes of length one")
    return tensor.reshape(tensor.shape[extra:])


def _channel_last(tensor: np.ndarray) -> np.ndarray:
    """First axis from (channel, row, column) order to (row, column, channel) order."""
    split = tensor.reshape(-1, PATCH * PATCH, *tensor.shape[1:])
    return split.swapaxes(0, 1).reshape(tensor.shape)


TRANSFORMS: Mapping[str, Transform] = MappingProxyType(
    {
        "identity": identity,
        "linear": linear,
        "patch_kernel": patch_kernel,
        "convolution": convolution,
        "pointwise": pointwise,
        "transposed_convolution": transposed_convolution,
        "virtual_tracks": virtual_tracks,
        "pixel_shuffle_kernel": pixel_shuffle_kernel,
        "pixel_shuffle_bias": pixel_shuffle_bias,
        "squeeze_leading": squeeze_leading,
    }
)
