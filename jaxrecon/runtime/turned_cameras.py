"""One camera for photos of which some are turned: portrait and landscape of one phone.

Their common camera is that of the sensor: focal lengths along its long and its short side, and the
place where its axis meets it. A turned photo's x is the sensor's y, in one direction or the other.
"""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jaxrecon.errors import InputError
from jaxrecon.images import PixelTransform
from jaxrecon.images.resize import same_shape, valid_regions
from jaxrecon.runtime.cameras import PrincipalPoint

_SLOPE, _PLACE, _SLOPE2, _PLACE2, _BOTH = range(1, 6)
"""The sums over the pixels of a view, behind their number."""


def are_turned(transforms: Sequence[PixelTransform]) -> bool:
    """Whether all photos have one shape, of which some lie and some stand."""
    shape = transforms[0].original_size
    turned = shape[1], shape[0]
    if same_shape(shape, turned):
        return False
    standing = [same_shape(each.original_size, turned) for each in transforms]
    lying = [same_shape(each.original_size, shape) for each in transforms]
    return any(standing) and all(np.logical_or(standing, lying))


def check_turned_sizes(
    transforms: Sequence[PixelTransform], names: Callable[[], Sequence[str]]
) -> None:
    """Refuses one camera where a photo may be a smaller copy or cut out of a larger, turned one.

    Its size does not tell them apart, and their focal lengths in its pixels differ. A photo is
    neither if another one has its size, turned.

    Args:
      transforms: of photos for which `are_turned` holds.
      names: gives theirs, for the message.

    Raises:
      InputError: naming the smallest photo whose size no other one has, turned.
    """
    sizes = [each.original_size for each in transforms]
    alone = [view for view, (width, height) in enumerate(sizes) if (height, width) not in sizes]
    if alone:
        view = min(alone, key=lambda view: max(sizes[view]))
        width, height = sizes[view]
        raise InputError(
            f'intrinsics="shared" (--shared-intrinsics): {names()[view]} is {width}x{height} '
            f"pixels among photos of the other orientation, of which none is {height}x{width}: it "
            "may be a smaller copy or cut out of a larger photo, and these have different focal "
            "lengths; give all photos in one size, leave it out, or fit a camera to each photo"
        )


def turned_intrinsics(
    points_camera: Float[Array, "V H W 3"],
    transforms: Sequence[PixelTransform],
    principal_point: PrincipalPoint,
) -> Float[Array, "V 3 3"]:
    """Fits one camera, in pixels of the photos, to photos for which `are_turned` holds.

    Least squares over the pixels of all photos, as `intrinsics_from_points`; what lies around a
    photo in its processed image does not count. Of the two ways in which the turned photos may have
    been turned, all alike, the one that fits better is taken.

    Args:
      points_camera: the point of each processed pixel in its camera's frame.
      transforms: from the photos to the processed images.
      principal_point: fitted, or held at the photos' centre.

    Returns:
      Intrinsics in pixels of the processed images.
    """
    shape = transforms[0].original_size
    turned = np.array([not same_shape(each.original_size, shape) for each in transforms])
    sizes = np.array([each.original_size for each in transforms], np.float64)
    unit = sizes.max(axis=1) / max(shape)  # a photo may be a smaller copy of its size
    scales = np.array([each.scale for each in transforms])
    offsets = np.array([each.offset for each in transforms])
    factor = 1 / (scales * unit[:, None])
    shift = (0.5 - offsets) * factor - sizes / 2 / unit[:, None]
    shown = valid_regions(transforms)
    sums = _sums(points_camera, jnp.asarray(factor), jnp.asarray(shift), jnp.asarray(shown))
    sums = np.asarray(sums, np.float64)
    free = principal_point == "free"
    sensor, sense = min(
        ((_fit(sums, turned, sense, free=free), sense) for sense in (1, -1)),
        key=lambda fitted: fitted[0][2],
    )
    placed = _placed(sensor[0], sensor[1], turned, sense, unit, sizes, transforms)
    return jnp.asarray(placed)


@jax.jit
def _sums(
    points: Float[Array, "V H W 3"],
    factor: Float[Array, "V 2"],
    shift: Float[Array, "V 2"],
    shown: Int[Array, "V 4"],
) -> Float[Array, "V 2 6"]:
    """Sums of slopes and places, from the photo's centre, along x and y of each view."""
    _, height, width, _ = points.shape
    slope = points[..., :2] / (jnp.abs(points[..., 2:]) + 1e-10)
    grid = jnp.stack(jnp.meshgrid(jnp.arange(width), jnp.arange(height)), axis=-1)[None]
    low, high = shown[:, None, None, :2], shown[:, None, None, 2:]
    inside = ((grid >= low) & (grid < high)).all(axis=-1, keepdims=True)
    place = grid.astype(jnp.float32) * factor[:, None, None] + shift[:, None, None]
    terms = jnp.stack(
        [jnp.ones_like(slope), slope, place, slope * slope, place * place, slope * place], axis=-1
    )
    return jnp.sum(jnp.where(inside[..., None], terms, 0), axis=(1, 2))


def _fit(
    sums: Float[np.ndarray, "V 2 6"], turned: np.ndarray, sense: int, *, free: bool
) -> tuple[Float[np.ndarray, "2"], Float[np.ndarray, "2"], float]:
    """Focal lengths and principal point along the first photo's x and y, and the squared error."""
    focal, centre, error = np.zeros(2), np.zeros(2), 0.0
    signs = np.where(turned, sense, 1)
    for axis in (0, 1):
        # A turned photo's x is this axis' y, and the other way; one of them runs backwards.
        own = np.where(turned[:, None], sums[:, 1 - axis], sums[:, axis])
        sign = signs if axis == 0 else np.where(turned, -sense, 1)
        own[:, _SLOPE] *= sign
        own[:, _PLACE] *= sign
        number, slope, place, slope2, place2, both = own.sum(axis=0)
        mean_slope, mean_place = (slope / number, place / number) if free else (0.0, 0.0)
        spread = slope2 - number * mean_slope**2
        focal[axis] = (both - number * mean_slope * mean_place) / spread
        centre[axis] = mean_place - focal[axis] * mean_slope
        error += float(
            place2
            - 2 * (focal[axis] * both + centre[axis] * place)
            + focal[axis] ** 2 * slope2
            + 2 * focal[axis] * centre[axis] * slope
            + number * centre[axis] ** 2
        )
    return focal, centre, error


def _placed(
    focal: Float[np.ndarray, "2"],
    centre: Float[np.ndarray, "2"],
    turned: np.ndarray,
    sense: int,
    unit: Float[np.ndarray, " V"],
    sizes: Float[np.ndarray, "V 2"],
    transforms: Sequence[PixelTransform],
) -> Float[np.ndarray, "V 3 3"]:
    """The sensor's camera in pixels of each processed image."""
    intrinsics = []
    for view, transform in enumerate(transforms):
        f, c = focal, centre
        if turned[view]:
            f, c = focal[::-1], np.array([-sense * centre[1], sense * centre[0]])
        matrix = np.eye(3)
        matrix[[0, 1], [0, 1]] = f * unit[view]
        matrix[:2, 2] = c * unit[view] + (sizes[view] - 1) / 2
        intrinsics.append(transform.intrinsics_from_original(matrix))
    return np.stack(intrinsics).astype(np.float32)
