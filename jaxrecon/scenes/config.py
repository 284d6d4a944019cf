"""What kinds of scenes are drawn."""

from dataclasses import dataclass

from jaxrecon.errors import InputError
from jaxrecon.sizes import check_real, check_whole

_SHARES = (
    "picture_share",
    "close_ups",
    "roofs",
    "wings",
    "trees",
    "all_round",
    "relief",
    "contrast",
    "phone",
    "plain",
    "vistas",
)


def _check(name: str, value: object, good: bool, wanted: str) -> None:
    if not good:
        raise InputError(f"SceneConfig: {name} is {value}; it must be {wanted}")


@dataclass(frozen=True)
class SceneConfig:
    """Settings of the scene generator; lengths in metres, angles in degrees.

    Attributes:
      samples: colour samples a pixel; the first is at its centre.
      outdoor_every: every so manieth scene is a landscape, the others are rooms; 0 for rooms only.
      boxes, cylinders, spheres: how many of each stand in a scene, at most.
      pictures: thin boxes on the walls of a room.
      lights: lamps of a room; a landscape has one sun.
      fov: range of the field of view across the longer side of an image.
      room: range of the width and depth of a room.
      reach: depth beyond which a landscape ends and sky begins.
      nearest_reach: where it is above 0, landscapes end anywhere between here and `reach`, behind
        all that stands in them, so that how far the horizon is must be seen and cannot be learnt.
      noise: highest standard deviation of the image noise, in display values.
      exposure: standard deviation of a view's exposure error, in stops.
      picture_share: share of surfaces with a picture, where pictures are given.
      clutter: small things, on the table and the floor of a room or on the ground.
      close_ups: share of rooms of which the table is seen from near.
      buildings: blocks of the size of houses in a landscape.
      roofs: share of houses with a gable roof.
      wings: share of landscapes with houses where the others are wings of the first.
      trees: share of landscapes without houses where a tree stands in the middle.
      relief: share of upright surfaces with windows, shelves or panels let into them.
      handheld: cameras as people hold them: near and far, along wide and narrow paths, rolled.
      all_round: share of handheld scenes, but for those with houses, whose cameras go round what
        they look at by up to the whole circle.
      contrast: how much lamps, sun and sky differ in strength and colour, 0 for little, up to 1.
      lens: distortion at the corner of an image, at most, as a share of the distance from its
        centre; intrinsics are those of the pinhole camera without it.
      phone: strength of what phones do to pictures: blur, sharpening, blocks, noise, vignette,
        colours; 0 for nothing, 1 for much.
      plain: share of scenes of which most surfaces are painted in one colour, with isolated
        pictures, posters, doors and windows on upright ones; their rooms may be halls, in which
        most cameras look at a table from near.
      vistas: share of handheld rooms that are long, whose cameras stand about a table at one end
        and look over it to the other.

    Raises:
      InputError: a setting is out of range.
    """

    samples: int = 4
    outdoor_every: int = 4
    boxes: int = 4
    cylinders: int = 2
    spheres: int = 2
    pictures: int = 2
    lights: int = 2
    fov: tuple[float, float] = (45.0, 80.0)
    room: tuple[float, float] = (3.5, 9.0)
    reach: float = 40.0
    noise: float = 0.02
    exposure: float = 0.25
    picture_share: float = 0.75
    clutter: int = 0
    close_ups: float = 0.0
    buildings: int = 0
    roofs: float = 0.0
    wings: float = 0.0
    trees: float = 0.0
    all_round: float = 0.0
    relief: float = 0.0
    handheld: bool = False
    contrast: float = 0.0
    lens: float = 0.0
    phone: float = 0.0
    plain: float = 0.0
    nearest_reach: float = 0.0
    vistas: float = 0.0

    def __post_init__(self) -> None:
        check_whole(self, "samples", "lights", most=1024)
        check_whole(self, "boxes", "cylinders", "spheres", most=32)
        check_whole(self, "pictures", least=0, most=32)
        check_whole(self, "outdoor_every", least=0, most=2**20)
        check_real(self, "noise", "exposure", least=0, most=100)
        check_whole(self, "clutter", "buildings", least=0, most=32)
        check_real(self, *_SHARES, least=0, most=1)
        check_real(self, "lens", least=0, most=0.2)
        solids = self.boxes + self.cylinders + self.spheres + self.pictures + 2 + self.clutter
        named = "boxes + cylinders + spheres + pictures + clutter + 2"
        _check(named, solids, solids <= 32, "at most 32")
        _check("buildings", self.buildings, self.buildings <= self.boxes, "at most boxes")
        boxes, roofed = self.boxes + self.pictures + 2, 2 * self.buildings
        wanted = "at most half of boxes + pictures + 2 where roofs is above 0"
        _check("buildings", self.buildings, not self.roofs or roofed <= boxes, wanted)
        _check(
            "fov",
            self.fov,
            10 <= self.fov[0] <= self.fov[1] <= 120,
            "the smaller first, within 10 and 120",
        )
        _check(
            "room",
            self.room,
            3 <= self.room[0] <= self.room[1] <= 12,
            "the smaller first, within 3 and 12",
        )
        _check("reach", self.reach, 20 <= self.reach <= 200, "within 20 and 200")
        drawn = self.nearest_reach == 0 or 20 <= self.nearest_reach <= self.reach
        _check("nearest_reach", self.nearest_reach, drawn, "0, or from 20 to reach")

    @property
    def clutter_kinds(self) -> tuple[int, int, int]:
        """Boxes, cylinders and spheres among the clutter."""
        drums, balls = self.clutter // 3, self.clutter // 8
        return self.clutter - drums - balls, drums, balls

    def outdoors(self, number: int) -> bool:
        """Whether the scene of this number is a landscape."""
        return bool(self.outdoor_every) and number % self.outdoor_every == self.outdoor_every - 1


SCENES = SceneConfig()
"""The scenes on which pi3-mini is trained and measured."""
