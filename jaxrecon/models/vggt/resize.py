"""The size of VGGT's images."""

from dataclasses import dataclass, replace

from PIL import Image

from jaxrecon.errors import InputError
from jaxrecon.images.resize import (
    MOST_PATCH,
    MOST_SIDE,
    Fit,
    ImageRule,
    PixelTransform,
    check_pixels,
)
from jaxrecon.sizes import check_whole


@dataclass(frozen=True)
class SideRule(ImageRule):
    """Gives each image one fixed side; the other follows from its own shape, in whole patches.

    Without `pad` the width is fixed, and rows are cropped off above and below a picture that is
    higher than wide. With `pad` the longest side is fixed, and white is added around the picture to
    make it square: nothing is lost. Images that differ in size after that are laid in the middle of
    white ones of the greatest width and height. Transparent pixels are laid over white.

    Source: `load_and_preprocess_images` in vggt/utils/load_fn.py, modes "crop" and "pad".

    Attributes:
      patch: side of one patch, in pixels.
      side: the fixed side, in pixels; a multiple of the patch.
      pad: see above.

    Raises:
      InputError: a number is out of range, or the side is no multiple of the patch.
    """

    patch: int = 14
    side: int = 518
    pad: bool = False

    def __post_init__(self) -> None:
        check_whole(self, "patch", most=MOST_PATCH)
        check_whole(self, "side", least=self.patch, most=MOST_SIDE)
        if self.side % self.patch:
            raise InputError(f"SideRule: {self.side=} must be a multiple of {self.patch=}")

    def with_padding(self) -> "SideRule":
        return replace(self, pad=True)

    def fit(self, width: int, height: int, *, resolution: int | None = None) -> Fit:
        """Each image on its own; a resolution is rounded to whole patches."""
        check_pixels(width, height)
        self.check_resolution(resolution)
        side = self.side if resolution is None else self._whole_patches(float(resolution))
        return Fit(
            lambda original: self._transform(original, side),
            Image.Resampling.BICUBIC,
            over_white=True,
        )

    def _transform(self, original: tuple[int, int], side: int) -> PixelTransform:
        width, height = original
        if self.pad and height > width:
            scaled = self._whole_patches(width * (side / height)), side
        else:
            scaled = side, self._whole_patches(height * (side / width))
        size = (side, side) if self.pad else (side, min(scaled[1], side))
        stretched = PixelTransform.stretch(original, scaled)
        if scaled[1] > size[1]:
            offset = 0.0, -float((scaled[1] - size[1]) // 2)
            return replace(stretched, size=size, offset=offset)
        return stretched.centred(size)

    def _whole_patches(self, side: float) -> int:
        return max(round(side / self.patch), 1) * self.patch


VGGT_RESIZE = SideRule()
"""518 pixels wide, at most as high; upstream's mode "crop"."""
