"""Where what a run carries from step to step lies: whole on every device, or a part on each."""

from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array

SCENE_AXIS = "scenes"
"""The mesh axis over which scenes are dealt out, and arrays of the state where they are sharded."""

_SMALLEST = 2**12
"""Numbers of the smallest array that is sharded."""

type Specs = dict[str, PartitionSpec]
"""How weights lie, by their paths."""


def sharded_axis(shape: tuple[int, ...], devices: int) -> int | None:
    """The longest axis that the devices can share evenly; None if an array lies whole on each."""
    size = 1
    for side in shape:
        size *= side
    able = [axis for axis, side in enumerate(shape) if side and side % devices == 0]
    if devices == 1 or size < max(_SMALLEST, devices) or not able:
        return None
    return max(able, key=lambda axis: (shape[axis], -axis))


def spec_of(shape: tuple[int, ...], devices: int, *, sharded: bool) -> PartitionSpec:
    """How an array of the state lies."""
    axis = sharded_axis(shape, devices) if sharded else None
    return PartitionSpec() if axis is None else PartitionSpec(*[None] * axis, SCENE_AXIS)


def placed(tree: Any, mesh: Mesh, *, sharded: bool) -> Any:
    """The sharding of every array of a state, or of its shapes."""
    return jax.tree.map(
        lambda x: NamedSharding(mesh, spec_of(x.shape, mesh.size, sharded=sharded)), tree
    )


def abstract_placed(tree: Any, mesh: Mesh, *, sharded: bool) -> Any:
    """Shapes and dtypes of a state, each to be put where it lies."""
    return jax.tree.map(
        lambda x, where: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where),
        tree,
        placed(tree, mesh, sharded=sharded),
    )


def gathered(weights: dict[str, Array], specs: Specs) -> dict[str, Array]:
    """Whole weights of those of which each device holds a part; called on each device."""

    def whole(x: Array, spec: PartitionSpec) -> Array:
        axis = _axis(spec)
        return x if axis is None else jax.lax.all_gather(x, SCENE_AXIS, axis=axis, tiled=True)

    return {path: whole(x, specs[path]) for path, x in weights.items()}


def averaged(gradients: dict[str, Array], specs: Specs) -> dict[str, Array]:
    """Each device's part of the mean of all devices' gradients; called on each device."""

    def part(x: Array, spec: PartitionSpec) -> Array:
        axis = _axis(spec)
        if axis is None:
            return jax.lax.pmean(x, SCENE_AXIS)
        total = jax.lax.psum_scatter(x, SCENE_AXIS, scatter_dimension=axis, tiled=True)
        return total / jax.lax.axis_size(SCENE_AXIS)

    return {path: part(x, specs[path]) for path, x in gradients.items()}


def _axis(spec: PartitionSpec) -> int | None:
    return len(spec) - 1 if len(spec) else None
