"""Arrays as images: channels last or first, with alpha, and tensors of other frameworks."""

from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

from image_files import ONE_PATCH
from jaxrecon import InputError
from jaxrecon.images import load_images
from jaxrecon.models import SideRule


class Tensor:
    """As another framework's: neither NumPy's nor JAX's, and `error` if it cannot be taken over."""

    def __init__(self, array: Any, error: str = "") -> None:
        self.array, self.error = array, error

    def __dlpack__(self, **options: Any) -> Any:
        if self.error:
            raise BufferError(self.error)
        return self.array.__dlpack__(**options)

    def __dlpack_device__(self) -> tuple[int, int]:
        return self.array.__dlpack_device__()


def photos() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (2, 14, 14, 3), np.uint8)


def pixels(source: Any) -> np.ndarray:
    return load_images(source, rule=ONE_PATCH).pixels


@pytest.mark.parametrize("wrap", [np.asarray, jnp.asarray, Tensor])
def test_channels_first_and_tensors(wrap: Any) -> None:
    expected, first = pixels(photos()), np.ascontiguousarray(np.moveaxis(photos(), 3, 1))
    np.testing.assert_array_equal(pixels(wrap(photos())), expected)
    np.testing.assert_array_equal(pixels(wrap(first)), expected)
    np.testing.assert_array_equal(pixels([wrap(each) for each in first]), expected)
    np.testing.assert_array_equal(pixels([wrap(first[0]), photos()[1]]), expected)
    floats = first.astype(np.float32) / 255
    np.testing.assert_array_equal(pixels(wrap(floats)), expected)


def test_channels_last_go_first_where_both_would_do() -> None:
    array = np.random.default_rng(0).integers(0, 256, (1, 3, 3, 3), np.uint8)
    np.testing.assert_array_equal(pixels(array), pixels(array[0]))


@pytest.mark.parametrize("rule", [ONE_PATCH, SideRule()])
def test_alpha_is_read_as_that_of_files(rule: Any) -> None:
    from PIL import Image

    array = np.random.default_rng(0).integers(0, 256, (2, 28, 28, 4), np.uint8)
    files = [Image.fromarray(each) for each in array]
    expected = load_images(files, rule=rule).pixels
    for given in (array, np.moveaxis(array, 3, 1), list(array), array / 255):
        np.testing.assert_array_equal(load_images(given, rule=rule).pixels, expected)


def test_tensors_that_cannot_be_taken_over() -> None:
    framework = __name__.partition(".")[0]
    with pytest.raises(InputError, match=rf"images: cannot take over this {framework}\.Tensor "):
        pixels(Tensor(photos(), "it is on\na device"))
    with pytest.raises(
        InputError, match=r"view_0001: cannot .*images\.detach\(\)\.cpu\(\)"
    ) as caught:
        pixels([photos()[0], Tensor(photos(), "it requires grad")])
    assert "\n" not in str(caught.value)
