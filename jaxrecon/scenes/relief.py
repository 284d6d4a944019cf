"""Windows, shelves and panels: boxes let into flat upright surfaces in rows and columns.

A ray that meets such a surface inside an opening goes on to the back of the box or to one of its
four sides, so that depth stays exact. Outlines of solids do not change.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jaxrecon.pytree import pytree_dataclass
from jaxrecon.scenes.noise import hashed, uniform
from jaxrecon.scenes.rng import Rng
from jaxrecon.scenes.vectors import Vector


@pytree_dataclass
class Relief:
    """Openings of `M` surfaces, in metres; `depth` is 0 where there are none.

    `across` and `up` are the sizes of a cell, `wide` and `high` the shares of it that are open, and
    `missing` is the share of cells without an opening.
    """

    across: Array
    up: Array
    wide: Array
    high: Array
    depth: Array
    missing: Array
    seed: Int[Array, "..."]

    def __getitem__(self, index: object) -> "Relief":
        return jax.tree.map(lambda leaf: leaf[index], self)


def draw_relief(rng: Rng, size: Float[Array, " M"], room: Array, share: float) -> Relief:
    """Openings for `share` of surfaces about `size` metres wide, at most `room` metres deep."""
    streams = rng.split(2)
    count = size.shape[0]
    u = streams[0].uniform(8, count)
    across = jnp.clip(size * jnp.exp2(-3.2 + 2.2 * u[1]), 0.12, 4.0)
    depth = jnp.minimum(across * (0.08 + 0.5 * u[2] ** 2), room)
    return Relief(
        across=across,
        up=across * jnp.exp2(-0.6 + 1.6 * u[3]),
        wide=0.3 + 0.6 * u[4],
        high=0.3 + 0.6 * u[5],
        depth=jnp.where(u[0] < share, depth, 0.0),
        missing=jnp.where(u[6] < 0.5, 0.0, 0.5 * u[7]),
        seed=streams[1].integer(count),
    )


@pytree_dataclass
class Entered:
    """What rays do behind a surface: how far they go on, and what they meet.

    `inside` tells which rays enter an opening, `further` is what is added to the ray parameter,
    `normal` is that of the box's back or side, and `back` tells one from the other.
    """

    inside: Bool[Array, "..."]
    further: Array
    normal: Vector
    back: Bool[Array, "..."]
    cell: Array


def enter(relief: Relief, point: Vector, normal: Vector, ray: Vector) -> Entered:
    """Follows rays into openings.

    Args:
      relief: that of each surface.
      point: where the ray meets the surface, in metres along the solid's own axes.
      normal: the outer normal there, along one of these axes.
      ray: its direction along these axes.
    """
    on_x = jnp.abs(normal.x) > 0.5
    upright = jnp.abs(normal.z) < 0.5
    u, along = jnp.where(on_x, point.y, point.x), jnp.where(on_x, ray.y, ray.x)
    inwards = jnp.maximum(jnp.abs(normal.dot(ray)), 1e-6)
    column, off_u, far_u = _opening(u, along, relief.across, relief.wide)
    row, off_v, far_v = _opening(point.z, ray.z, relief.up, relief.high)
    cell = hashed(column, row, column, relief.seed)
    there = uniform(cell) >= relief.missing
    inside = upright & there & (relief.depth > 0.01) & (off_u < 0) & (off_v < 0)
    behind = relief.depth / inwards
    further = jnp.minimum(behind, jnp.minimum(far_u, far_v))
    back = behind <= further
    side = ~back & (far_u <= far_v)
    turned = -jnp.sign(along)
    flat = jnp.zeros_like(turned)
    sill = ~back & ~side
    inner = Vector(
        jnp.where(back, normal.x, jnp.where(side & ~on_x, turned, flat)),
        jnp.where(back, normal.y, jnp.where(side & on_x, turned, flat)),
        jnp.where(back, normal.z, jnp.where(sill, -jnp.sign(ray.z), flat)),
    )
    return Entered(inside, further, inner, back, cell)


def _opening(
    place: Array, along: Array, width: Array, share: Array
) -> tuple[Int[Array, "..."], Array, Array]:
    """Number of the cell, distance from its opening (negative inside), and way to its side."""
    number = jnp.floor(place / width)
    middle = place - (number + 0.5) * width
    half = 0.5 * share * width
    ahead = jnp.where(along > 0, half - middle, half + middle)
    way = jnp.maximum(ahead, 0) / jnp.maximum(jnp.abs(along), 1e-6)
    return number.astype(jnp.int32), jnp.abs(middle) - half, way
