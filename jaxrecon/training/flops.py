"""How much arithmetic a step of training is."""

from jaxrecon.models import Pi3Config
from jaxrecon.nn import depth_filter
from jaxrecon.nn.refine import BLOCKS, CELL, PATCH_FEATURES
from jaxrecon.training.config import Bucket


def step_flops(config: Pi3Config, bucket: Bucket) -> int:
    """Floating-point operations of the matrix products of one forward and backward pass.

    A product of (m, k) and (k, n) counts 2 m k n; the backward pass counts twice the forward pass,
    what it computes again not at all (the convention of PaLM, arXiv 2204.02311, appendix B).
    """
    patches = bucket.height * bucket.width // config.encoder.patch**2
    tokens = patches + config.registers
    encoded = patches + 1 + config.encoder.registers
    width, head = config.encoder.width, config.head_width
    image = 2 * 3 * config.encoder.patch**2 * width * patches
    image += config.encoder.depth * _block(width, encoded, encoded)
    image += config.pairs * _block(width, tokens, tokens)
    image += config.pairs * _block(width, tokens, bucket.views * tokens)
    image += 3 * config.head_depth * _block(head, tokens, tokens)
    image += 3 * 2 * 2 * width * head * tokens
    image += 2 * head * (2 * config.point_width + config.camera_width) * tokens
    image += 2 * config.point_width * 4 * config.encoder.patch**2 * patches
    image += 2 * 6 * config.camera_width**2 * patches
    image += _refined(config, bucket.height * bucket.width)
    image += _filtered(config, bucket.height * bucket.width)
    return 3 * bucket.images * image


def _block(width: int, queries: int, keys: int) -> int:
    """A block of attention and an MLP of four times the width, for one image's tokens."""
    return 24 * width * width * queries + 4 * width * queries * keys


def _refined(config: Pi3Config, pixels: int) -> int:
    """The linear map and the 3x3 convolutions of a `PixelRefiner`."""
    width = config.refine_width
    if not width:
        return 0
    dealt = 2 * 2 * config.point_width * PATCH_FEATURES * (pixels // CELL**2)
    return dealt + _convolved(width, PATCH_FEATURES + (7 + 4) * CELL**2, BLOCKS, pixels)


def _filtered(config: Pi3Config, pixels: int) -> int:
    """The 3x3 convolutions of a `DepthFilter`."""
    numbers = depth_filter.SEEN + len(depth_filter.NEIGHBOURS)
    ends = config.refine_width + numbers * CELL**2
    return _convolved(config.filter_width, ends, depth_filter.BLOCKS, pixels)


def _convolved(width: int, ends: int, blocks: int, pixels: int) -> int:
    """3x3 convolutions of cells: residual blocks, the first one and the last one around them.

    `ends` are the features that enter the first one and leave the last one.
    """
    return 2 * 9 * width * (ends + 2 * blocks * width) * (pixels // CELL**2)
