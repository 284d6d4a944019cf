"""How golden cases of preprocessing tell what was done to which pictures."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from golden_data import Golden, stored_stride
from image_files import save
from jaxrecon.images import ImageRule, load_images
from jaxrecon.models import (
    MAPANYTHING_RESIZE,
    PI3_RESIZE,
    VGGT_RESIZE,
    AspectRule,
    ResizeRule,
    SideRule,
)

PATCH = 14

VGGT_RULES: dict[str, ImageRule] = {"crop": VGGT_RESIZE, "pad": SideRule(pad=True)}


@dataclass(frozen=True)
class Scene:
    """One call of an upstream loader.

    Attributes:
      key: of its pixels among the outputs.
      letters: of the pictures.
      rule: what does the same here.
      shape: of the result, (V, C, H, W).
      stride: of the result, every such row and column is stored.
      resolution: the wanted longest side.
      interval: every such picture is taken.
      unchanged: the colours are not normalised.
    """

    key: str
    letters: str
    rule: ImageRule
    shape: tuple[int, ...]
    stride: int
    resolution: int | None = None
    interval: int = 1
    unchanged: bool = False

    def paths(self, golden: Golden, folder: Path) -> list[Path]:
        """The pictures, written to a folder."""
        inputs = golden.inputs()
        return [save(inputs[f"png_{x}"], folder / f"png_{x}.png") for x in self.letters]


def letters_of(golden: Golden) -> str:
    """Of all pictures of a case, in the order of their names."""
    names = (name for name in golden.inputs() if re.fullmatch(r"png_.", name))
    return "".join(sorted(name[-1] for name in names))


def pi3_scenes(golden: Golden) -> list[Scene]:
    """`default_limit`, or `limit_<pixels>`, and perhaps `_interval<pictures>`."""
    scenes = []
    for key, shape in golden.info["shapes"].items():
        limit = re.search(r"limit_(\d+)", key)
        interval = re.search(r"interval_?(\d+)", key)
        rule = ResizeRule(pixel_limit=int(limit[1])) if limit else PI3_RESIZE
        scenes.append(
            Scene(
                key,
                letters_of(golden),
                rule,
                tuple(shape),
                _stride(golden, key, shape),
                interval=int(interval[1]) if interval else 1,
            )
        )
    return scenes


def vggt_scenes(golden: Golden) -> list[Scene]:
    """`<mode>:<letters>`; the pixels of several pictures are called `<mode>_list`."""
    scenes = []
    for name, shape in golden.info["shapes"].items():
        mode, letters = name.split(":")
        key = f"{mode}_{letters if len(letters) == 1 else 'list'}"
        stride = _stride(golden, key, shape)
        scenes.append(Scene(key, letters, VGGT_RULES[mode], tuple(shape), stride))
    return scenes


def assert_pi3_sizes(golden: Golden) -> None:
    """The sizes of π³'s rule are those of a case's table."""
    for row in golden.info["size_table"]:
        rule = ResizeRule(pixel_limit=row["limit"])
        assert rule.size_for(row["W"], row["H"]) == tuple(reversed(row["out_HW"])), row


def assert_pi3_pixels(golden: Golden, folder: Path) -> None:
    """Its pictures, written to a folder and loaded from there, have its pixels."""
    scenes, expected = pi3_scenes(golden), golden.outputs()
    assert {scene.key for scene in scenes} == expected.keys()
    for scene in scenes:
        scene.paths(golden, folder)
        _assert_pixels(scene, folder, expected[scene.key])


def assert_vggt_pixels(golden: Golden, folder: Path) -> None:
    """Each picture alone, then all in one scene; one has transparent pixels."""
    scenes, expected = vggt_scenes(golden), golden.outputs()
    assert {scene.key for scene in scenes} == expected.keys()
    for scene in scenes:
        _assert_pixels(scene, scene.paths(golden, folder), expected[scene.key])


def _assert_pixels(scene: Scene, source: Path | list[Path], expected: np.ndarray) -> None:
    actual = as_upstream(load_images(source, rule=scene.rule, stride=scene.interval).pixels)
    assert actual.shape == scene.shape
    stored = actual[..., :: scene.stride, :: scene.stride]
    np.testing.assert_allclose(stored, expected, rtol=0, atol=1e-6)


def mapanything_scenes(golden: Golden) -> list[Scene]:
    """Entries that tell arguments and pictures."""
    scenes = []
    for key, told in golden.info["shapes"].items():
        if not isinstance(told, dict):
            continue
        args, shape = told["args"], told["shape"]
        rule, resolution = _mapanything_rule(args, shape)
        unchanged = args.get("norm_type") == "identity"
        scenes.append(
            Scene(
                key,
                told["images"],
                rule,
                tuple(shape),
                told["stored_stride"],
                resolution,
                unchanged=unchanged,
            )
        )
    return scenes


def prepared_rules(golden: Golden) -> dict[str, tuple[AspectRule, int | None]]:
    """Of views with intrinsics: the rule by the beginning of their keys."""
    found: dict[str, tuple[AspectRule, int | None]] = {}
    for key, shape in golden.info["shapes"].items():
        if name := re.fullmatch(r"(pp_.+)_v0_img", key):
            longest = re.search(r"longest(\d+)", key)
            rule = MAPANYTHING_RESIZE if longest else _one_size(shape)
            even = AspectRule(sizes=rule.sizes, even_crop=True)
            found[name[1]] = even, int(longest[1]) if longest else None
    return found


def _mapanything_rule(args: dict[str, Any], shape: list[int]) -> tuple[AspectRule, int | None]:
    """The rule and the resolution that upstream's arguments stand for."""
    mode, size = args.get("resize_mode"), args.get("size", "")
    sides = [int(side) // PATCH * PATCH for side in re.findall(r"\d+", size)]
    if mode == "longest_side":
        return MAPANYTHING_RESIZE, int(size)
    if mode == "square":
        return AspectRule(sizes=((1.0, sides[0], sides[0]),)), None
    if mode == "fixed_size":
        return AspectRule(sizes=((1.0, sides[0], sides[1]),)), None
    if args.get("resolution_set", "518") != "518":
        return _one_size(shape), None  # a set of sizes that no released model has
    return MAPANYTHING_RESIZE, None


def _one_size(shape: list[int]) -> AspectRule:
    return AspectRule(sizes=((1.0, shape[-1], shape[-2]),))


def _stride(golden: Golden, key: str, shape: list[int]) -> int:
    stored = golden.info["outputs"][key]["stored_shape"]
    return stored_stride(shape[-2:], stored[-2:])


def as_upstream(pixels: np.ndarray) -> np.ndarray:
    """8-bit images as upstream has them: channels first, in [0, 1]."""
    return np.moveaxis(pixels, -1, 1) / np.float32(255)
