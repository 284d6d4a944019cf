"""An array of processed images that grows as they come."""

import numpy as np
from jaxtyping import UInt8

from jaxrecon.images.limits import check_processed, no_memory


class Stack:
    """Processed images in one array; those that differ in size lie in the middle of white ones.

    Args:
      capacity: how many images are expected.
      size: width and height of the first.
      argument: what is to blame if they do not fit into memory.

    Raises:
      InputError: they do not; so do the methods.
    """

    def __init__(self, capacity: int, size: tuple[int, int], argument: str) -> None:
        self._argument, self._count = argument, 0
        self._pixels = self._allocate(capacity, size)

    def add(self, pixels: UInt8[np.ndarray, "H W 3"]) -> None:
        """Puts an image behind the others."""
        if self._count == len(self._pixels):
            self._resize(2 * self._count)
        height, width = np.maximum(self._pixels.shape[1:3], pixels.shape[:2]).tolist()
        if (height, width) != self._pixels.shape[1:3]:
            self._enlarge((width, height))
        self._pixels[self._count] = centred(pixels, (width, height))
        self._count += 1

    def whole(self) -> UInt8[np.ndarray, "V H W 3"]:
        """All of them; no more may be added."""
        self._resize(self._count)
        return self._pixels

    def _enlarge(self, size: tuple[int, int]) -> None:
        larger = self._allocate(len(self._pixels), size)
        for number in range(self._count):
            larger[number] = centred(self._pixels[number], size)
        self._pixels = larger

    def _allocate(self, count: int, size: tuple[int, int]) -> UInt8[np.ndarray, "V H W 3"]:
        check_processed(count, size, self._argument)
        try:
            return np.empty((count, size[1], size[0], 3), np.uint8)
        except MemoryError as error:
            raise no_memory(count, size, self._argument) from error

    def _resize(self, count: int) -> None:
        """Makes room for so many images in place, or gives it back."""
        height, width = self._pixels.shape[1:3]
        check_processed(count, (width, height), self._argument)
        try:
            self._pixels.resize((count, height, width, 3), refcheck=False)
        except MemoryError as error:
            raise no_memory(count, (width, height), self._argument) from error


def centred(
    pixels: UInt8[np.ndarray, "H W 3"], size: tuple[int, int]
) -> UInt8[np.ndarray, "H2 W2 3"]:
    """The picture in the middle of a white one of (width, height) `size`."""
    height, width = pixels.shape[:2]
    right, down = size[0] - width, size[1] - height
    if not right and not down:
        return pixels
    margins = ((down // 2, down - down // 2), (right // 2, right - right // 2), (0, 0))
    return np.pad(pixels, margins, constant_values=255)
