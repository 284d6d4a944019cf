"""Pictures inside pages of HTML."""

import base64
import io

import numpy as np
from jaxtyping import UInt8
from PIL import Image

_QUALITY = 82


def jpeg_url(pixels: UInt8[np.ndarray, "H W 3"], most: int) -> str:
    """A picture as the address of itself, no side longer than `most` pixels."""
    image = Image.fromarray(pixels)
    image.thumbnail((most, most))
    file = io.BytesIO()
    image.save(file, format="JPEG", quality=_QUALITY)
    return f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}"
