"""How large and how many the processed images may be."""

from jaxrecon.checks import shown
from jaxrecon.errors import InputError
from jaxrecon.machine import machine_memory

MOST_PIXELS = 2**26
"""Of one processed image, some 8192x8192: a hundred times what any model was made for."""

MOST_PIXELS_TOGETHER = 2**35
"""Of all images: above it the sizes of attention's arrays pass 63 bits."""

MOST_PIXELS_BEFORE_CROP = 2**27
"""Of an image that is resized first and cropped then."""


def check_processed(count: int, size: tuple[int, int], argument: str) -> None:
    """Refuses images that no machine could hold or no model take, before memory is taken for them.

    Args:
      count: of the images.
      size: their width and height once processed, in pixels.
      argument: the name of what is to blame, and its value if it is short; begins the message.

    Raises:
      InputError: one has more than `MOST_PIXELS`, all together have more than
        `MOST_PIXELS_TOGETHER`, or they would not fit into this machine's memory.
    """
    width, height = size
    if width * height > MOST_PIXELS:
        raise InputError(
            f"{argument}: an image of {_told(size)} pixels is more than the {MOST_PIXELS} "
            "pixels that an image may have; give a lower one"
        )
    memory, pixels = machine_memory(), count * width * height
    if pixels > MOST_PIXELS_TOGETHER or (memory is not None and 3 * pixels > memory):
        raise no_memory(count, size, argument)


def no_memory(count: int, size: tuple[int, int], argument: str) -> InputError:
    """The error where images do not fit into memory; see `check_processed`."""
    return InputError(
        f"{argument}: not enough memory for {shown(count)} images of {_told(size)} pixels; give a "
        "lower resolution or fewer images (a larger stride)"
    )


def check_before_crop(name: str, original: tuple[int, int], scaled: tuple[int, int]) -> None:
    """Refuses an image so narrow that resizing it for its crop would fill the memory.

    Raises:
      InputError: naming the image and its size.
    """
    if scaled[0] * scaled[1] > MOST_PIXELS_BEFORE_CROP:
        raise InputError(
            f"{name} is {_told(original)} pixels, too narrow for this model, which would "
            f"resize it to {_told(scaled)} and crop it; crop it before"
        )


def _told(size: tuple[int, int]) -> str:
    return f"{shown(size[0])}x{shown(size[1])}"
