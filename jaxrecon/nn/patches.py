"""Pixels of square patches as the features of one, and back."""

from jaxtyping import Array, Float


def fold(x: Float[Array, "G H W C"], side: int) -> Float[Array, "G h w D"]:
    """The pixels of each patch of `side` x `side` (row, column, channel) as features of one."""
    views, height, width, channels = x.shape
    rows, columns = height // side, width // side
    patches = x.reshape(views, rows, side, columns, side, channels)
    return patches.swapaxes(2, 3).reshape(views, rows, columns, side * side * channels)


def unfold(x: Float[Array, "G h w D"], side: int) -> Float[Array, "G H W C"]:
    """The features of each patch as its pixels; undoes `fold`."""
    views, rows, columns, features = x.shape
    patches = x.reshape(views, rows, columns, side, side, features // side**2)
    return patches.swapaxes(2, 3).reshape(views, rows * side, columns * side, -1)
