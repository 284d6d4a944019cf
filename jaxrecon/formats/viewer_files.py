"""What a path shows in the viewer: a whole reconstruction, or points alone."""

import io
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float, UInt8

from jaxrecon.checks import path_of
from jaxrecon.errors import InputError
from jaxrecon.extras import Extra
from jaxrecon.formats.declared import LONGEST_HEADER, bytes_declared_by_glb, bytes_declared_by_ply
from jaxrecon.formats.glb import display_colors
from jaxrecon.formats.npz import read_npz
from jaxrecon.formats.scene import Scene
from jaxrecon.formats.streamed import is_streamed, read_streamed
from jaxrecon.formats.viewer_cloud import MOST_HELD, Cloud
from jaxrecon.reading import is_folder, is_plain_file, open_plain, unpacked_limit

POINTS_ALONE = (".ply", ".glb")
"""Files that are shown and hold no reconstruction."""

SUFFIXES = (".npz", *POINTS_ALONE)
"""Files that are shown; in a folder the first kind that is there."""

_ADVICE = "give a folder that jaxrecon reconstruct wrote, or a .npz, .ply or .glb file"
_DC = 0.28209479177387814  # the spherical harmonic of degree 0, 1 / (2 sqrt(pi))
_Y_DOWN, _Y_UP = (0.0, -1.0, 0.0), (0.0, 1.0, 0.0)


@dataclass(frozen=True, eq=False)
class LoosePoints:
    """Points of a file without cameras; `up` is the direction that is up there."""

    cloud: Cloud
    up: Float[np.ndarray, "3"]


def shown_file(path: str | Path) -> Path:
    """The file, or folder of a streamed reconstruction, that a path means.

    Of a folder its `scene.npz`, `scene.ply` or `scene.glb`, or the one file of such a kind; or what
    is in its folder `scene`.

    Raises:
      InputError: it is absent or holds nothing of the kind.
    """
    path = path_of("path", path)
    if is_folder(path):
        found = _in_folder(path)
        if found is None and is_folder(path / "scene"):
            found = _in_folder(path / "scene")
        if found is None:
            raise InputError(f"{path} holds no scene to show; {_ADVICE}")
        return found
    if not is_plain_file(path):
        raise InputError(f"{path} is not there; {_ADVICE}")
    if path.suffix.lower() not in SUFFIXES:
        raise InputError(f"{path} cannot be shown; {_ADVICE}")
    return path


def _in_folder(folder: Path) -> Path | None:
    if is_streamed(folder):
        return folder
    for suffix in SUFFIXES:
        if is_plain_file(folder / f"scene{suffix}"):
            return folder / f"scene{suffix}"
    for suffix in SUFFIXES:
        found = [file for file in folder.glob(f"*{suffix}") if is_plain_file(file)]
        if len(found) == 1:
            return found[0]
    return None


def read_shown(path: str | Path) -> Scene | LoosePoints:
    """Reads what `shown_file` has found.

    Raises:
      InputError: it is damaged, not a reconstruction, or has no points.
    """
    path = Path(path)
    if is_folder(path):
        return read_streamed(path)
    match path.suffix.lower():
        case ".ply":
            return LoosePoints(_read_ply(path), np.array(_Y_DOWN))
        case ".glb":
            return LoosePoints(_read_glb(path), np.array(_Y_UP))
        case _:
            return read_npz(path)


@contextmanager
def _damage_told(path: Path, what: str) -> Iterator[None]:
    """Whatever a reader of a library makes of a damaged file becomes one line; it warns of none."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except (InputError, MemoryError):
        raise
    except Exception as error:
        raise InputError(f"{path} is not a whole {what} file of points; {_ADVICE}") from error


def _read_ply(path: Path) -> Cloud:
    from plyfile import PlyData

    with _damage_told(path, "PLY"):
        # A plain file, which the reader maps into memory by its name.
        with open_plain(path, advice=_ADVICE) as file:
            start, size = file.read(LONGEST_HEADER), os.fstat(file.fileno()).st_size
        _check_declared(path, bytes_declared_by_ply(start), size)
        vertex = PlyData.read(str(path))["vertex"].data
        names = vertex.dtype.names or ()
        xyz = np.stack([vertex[axis] for axis in "xyz"], axis=1).astype(np.float32)
        channels = ("red", "green", "blue")
        if all(name in names for name in channels):
            rgb = np.stack([vertex[name] for name in channels], axis=1)
        elif "f_dc_0" in names:  # Gaussian splats
            waves = np.stack([vertex[f"f_dc_{axis}"] for axis in range(3)], axis=1)
            rgb = np.rint(255 * np.clip(0.5 + _DC * waves, 0, 1))
        else:
            rgb = np.full(xyz.shape, 128)
        return _cloud(path, xyz, rgb.astype(np.uint8))


def _read_glb(path: Path) -> Cloud:
    with Extra("mesh", "showing GLB files needs trimesh"):
        import trimesh
    with _damage_told(path, "GLB"), open_plain(path, advice=_ADVICE) as file:
        content = file.read()
        _check_declared(path, bytes_declared_by_glb(content), len(content))
        world = trimesh.load_scene(io.BytesIO(content), file_type="glb")
        xyz, rgb = [], []
        for name in world.graph.nodes_geometry:
            turn, geometry = world.graph[name]
            each = world.geometry[geometry]
            if not isinstance(each, (trimesh.PointCloud, trimesh.Trimesh)):
                continue
            xyz.append(trimesh.transform_points(each.vertices, turn))
            rgb.append(_colors(each))
        return _cloud(
            path,
            np.concatenate([*xyz, np.empty((0, 3))]),
            display_colors(np.concatenate([*rgb, np.empty((0, 3), np.uint8)])),
        )


def _check_declared(path: Path, declared: int, size: int) -> None:
    """Refuses a file whose reader would take memory for more than it can hold."""
    if declared > unpacked_limit(size):
        raise InputError(
            f"{path} declares {declared} bytes of points and has {size} bytes in all, so it is "
            f"damaged; {_ADVICE}"
        )


def _colors(geometry: object) -> UInt8[np.ndarray, "P 3"]:
    """Linear colours of vertices, as glTF has them; grey where there are none."""
    visual = getattr(geometry, "visual", None)
    colors = getattr(visual, "vertex_colors", None)
    if colors is None or not len(colors):
        return np.full((len(geometry.vertices), 3), 55, np.uint8)  # pyright: ignore
    return np.asarray(colors)[:, :3]


def _cloud(path: Path, xyz: np.ndarray, rgb: UInt8[np.ndarray, "P 3"]) -> Cloud:
    """The finite points, in an order drawn by lot."""
    finite = np.flatnonzero(np.isfinite(xyz).all(axis=1))
    if not len(finite):
        raise InputError(f"{path} has no point with finite coordinates; {_ADVICE}")
    drawn = np.random.default_rng(0).choice(len(finite), min(MOST_HELD, len(finite)), replace=False)
    chosen = finite[drawn]
    return Cloud(
        xyz=xyz[chosen].astype(np.float32),
        rgb=rgb[chosen],
        confidence=np.ones(len(chosen), np.float32),
        view=np.zeros(len(chosen), np.int32),
        kept=np.ones(len(chosen), bool),
        count=len(finite),
        find_edges=lambda: np.zeros(len(chosen), bool),
    )
