"""Arrays as images: of NumPy and JAX, and tensors of other frameworks."""

from typing import Any, Protocol, TypeGuard, runtime_checkable

import jax
import numpy as np
from jax.core import Tracer
from jaxtyping import Num

from jaxrecon.errors import InputError, one_line

CHANNELS = (3, 4)
"""RGB, and RGB with alpha."""

_CONVERSION = "convert the array"
_WHOLE = "give 0 to 255 as uint8, or divide by the highest possible value (65535 for 16 bits)"
_CONVERSIONS = {"u": _WHOLE, "i": _WHOLE}
"""What to do, by the kind of dtype."""


@runtime_checkable
class Tensor(Protocol):
    """What may be taken over as an array, whatever framework it is of: the protocol of DLPack."""

    def __dlpack__(self, *arguments: Any, **options: Any) -> Any: ...

    def __dlpack_device__(self) -> tuple[Any, int]: ...


type AnyArray = np.ndarray | jax.Array | Tensor


def is_array(value: object) -> TypeGuard[AnyArray]:
    """Whether it is an array, or a tensor that may be taken for one."""
    return isinstance(value, np.ndarray | jax.Array | Tensor)


def images_of(value: AnyArray) -> list[Num[np.ndarray, "H W C"]]:
    """The images of an array: (V, H, W, C), (V, C, H, W), or one image alone, (H, W, C).

    Raises:
      InputError: it is none of these, or holds no pixels.
    """
    array = _host(value, "images")
    if array.ndim == 3:
        return [_checked(array, "images", "(V, H, W, 3)")]
    if array.ndim != 4:
        raise InputError(_unfit(array, "images", "(V, H, W, 3)"))
    if array.shape[3] not in CHANNELS and array.shape[1] in CHANNELS:
        array = np.moveaxis(array, 1, 3)
    return list(_checked(array, "images", "(V, H, W, 3)"))


def image_of(value: AnyArray, name: str) -> Num[np.ndarray, "H W C"]:
    """An array that is one of a list: (H, W, C), or (C, H, W).

    Raises:
      InputError: it is neither, or holds no pixels.
    """
    array = _host(value, name)
    if array.ndim == 3 and array.shape[2] not in CHANNELS and array.shape[0] in CHANNELS:
        array = np.moveaxis(array, 0, 2)
    if array.ndim != 3:
        raise InputError(_unfit(array, name, "(H, W, 3)"))
    return _checked(array, name, "(H, W, 3)")


def _host(value: AnyArray, name: str) -> np.ndarray:
    """An array in host memory, without a copy where none is needed."""
    if isinstance(value, np.ma.MaskedArray):
        raise InputError(
            f"{name}: found a masked array, whose mask says nothing here; give {name}.data, and "
            "what is not masked as masks"
        )
    if isinstance(value, Tracer):
        raise InputError(
            f"{name}: found an array that JAX traces, of no values (jax.jit, jax.vmap, jax.grad); "
            "reconstruct outside of the function that it transforms"
        )
    if isinstance(value, np.ndarray | jax.Array):
        return np.asarray(value)
    kind = f"{type(value).__module__.partition('.')[0]}.{type(value).__name__}"
    try:
        return np.from_dlpack(value)
    except Exception as error:  # whatever a framework raises
        raise InputError(
            f"{name}: cannot take over this {kind} ({one_line(str(error), 100)}); give an array of "
            "the host instead, for PyTorch images.detach().cpu().float().numpy()"
        ) from error


def _checked(array: np.ndarray, name: str, expected: str) -> np.ndarray:
    if array.shape[-1] not in CHANNELS:
        raise InputError(_unfit(array, name, expected))
    if array.size == 0:
        raise InputError(f"{name}: the array of shape {array.shape} is empty; give some pixels")
    if array.dtype not in (np.uint8, np.float16, np.float32, np.float64):
        raise InputError(
            f"{name}: expected uint8, or float16, float32 or float64 in [0, 1], "
            f"got {array.dtype}; {_CONVERSIONS.get(array.dtype.kind, _CONVERSION)}"
        )
    return array


def _unfit(array: np.ndarray, name: str, expected: str) -> str:
    """Why an array is refused, and what its shape looks like it needs."""
    return f"{name}: expected an array of shape {expected}, got {array.shape}; {_way(array, name)}"


def _way(array: np.ndarray, name: str) -> str:
    """How to mend a shape. Three channels first may be three grey images as well."""
    if array.dtype.kind in "USO" and array.ndim < 3:
        return f"if these are paths, give {name}.tolist()"
    if array.ndim > 4 and {array.shape[-1], array.shape[-3]} & {*CHANNELS}:
        return f"give one scene at a time, such as {name}{'[0]' * (array.ndim - 4)}"
    if array.ndim == 4 and array.shape[-1] in CHANNELS:
        return f"a list has one image at a time: give those of {name} one by one"
    if array.ndim == 3 and array.shape[0] in CHANNELS:
        return f"for one image with channels first give {name}[None]"
    if array.ndim in (3, 4) and array.shape[-1] == 1:
        return f"grey needs three equal channels, as np.repeat({name}, 3, axis=-1) makes them"
    if array.ndim == 4 and array.shape[1] == 1:
        return f"grey needs three equal channels, as np.repeat({name}, 3, axis=1) makes them"
    if array.ndim in (2, 3):
        return f"grey needs three equal channels, as np.stack([{name}] * 3, axis=-1) makes them"
    return "put three colour channels last, as np.moveaxis(images, -3, -1) does"
