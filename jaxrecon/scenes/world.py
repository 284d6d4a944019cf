"""A scene as numbers: what stands in it, what surrounds it, what lights it and who looks at it."""

from typing import Protocol, runtime_checkable

from jaxtyping import Array, Bool, Int

from jaxrecon.pytree import pytree_dataclass
from jaxrecon.scenes.cameras import Cameras
from jaxrecon.scenes.patches import Patches
from jaxrecon.scenes.photographs import Prints
from jaxrecon.scenes.relief import Relief
from jaxrecon.scenes.solids import Solids
from jaxrecon.scenes.textures import Materials
from jaxrecon.scenes.vectors import Vector


@runtime_checkable
class Surroundings(Protocol):
    """The walls or the ground around the solids of a scene."""

    def depth(self, origin: Vector, ray: Vector) -> Array:
        """Ray parameter where each ray meets them, FAR where it does not."""
        ...

    def face(self, point: Vector, ray: Vector) -> tuple[Vector, Int[Array, "..."]]:
        """Unit normal at a point that a ray has met, and the number of its face."""
        ...

    def ambient(self, point: Vector, normal: Vector) -> Vector:
        """Light that reaches a surface from everywhere."""
        ...

    def through_air(self, colour: Vector, ray: Vector, depth: Array) -> Vector:
        """Colour of a surface (or of nothing, at FAR) as seen along a ray."""
        ...


@pytree_dataclass
class Lights:
    """`L` balls of light; brightness falls with the square of the distance."""

    position: Vector
    colour: Vector
    radius: Array


@pytree_dataclass
class World:
    """A scene; materials are those of the solids, then those of the faces around them.

    So are the openings in surfaces and the pictures on them, where a scene has any. One picture
    more, the last, is seen where nothing else is. `plain` tells whether most surfaces are paint;
    the materials and pictures of rectangles on surfaces, `patches`, follow those of the faces.
    """

    cameras: Cameras
    solids: Solids
    surroundings: Surroundings
    materials: Materials
    lights: Lights
    seed: Int[Array, ""]
    relief: Relief | None = None
    prints: Prints | None = None
    plain: Bool[Array, ""] | None = None
    patches: Patches | None = None


@pytree_dataclass
class Hit:
    """What each ray meets first.

    `u` and `v` are coordinates on the surface in metres, `footprint` is the width of a pixel
    there, and `number` is that of the material. Where surfaces have openings, `entry` is the place
    from which light is looked for, in front of the opening, and `dimmed` the share of light inside.
    """

    depth: Array
    found: Bool[Array, "..."]
    point: Vector
    normal: Vector
    u: Array
    v: Array
    footprint: Array
    number: Int[Array, "..."]
    entry: Vector | None = None
    dimmed: Array | None = None
