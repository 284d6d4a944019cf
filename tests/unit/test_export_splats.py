"""Gaussian splats, read back by plyfile."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from jaxrecon import InputError
from jaxrecon.formats.splats import neighbour_distances, opacities
from random_recon import one_pixel_recon, random_recon
from room_scenes import room_recon

plyfile = pytest.importorskip("plyfile")


def read(path: Any) -> Any:
    return plyfile.PlyData.read(path)["vertex"]


def test_fields_are_those_that_the_papers_programs_read_in_their_order(tmp_path):
    vertex = read(random_recon().save(tmp_path / "a.ply", "splats"))
    names = [each.name for each in vertex.properties]
    assert names[:9] == ["x", "y", "z", "nx", "ny", "nz", "f_dc_0", "f_dc_1", "f_dc_2"]
    assert names[9:54] == [f"f_rest_{n}" for n in range(45)]
    assert names[54:] == [
        *("opacity", "scale_0", "scale_1", "scale_2", "rot_0", "rot_1", "rot_2", "rot_3")
    ]
    assert {each.val_dtype for each in vertex.properties} == {"f4"}


def test_splats_are_the_points_with_their_colours_and_confidence(tmp_path):
    recon = random_recon()
    vertex = read(recon.save(tmp_path / "a.ply", "splats"))
    order = np.argsort(-np.asarray(recon.confidence)[recon.mask], kind="stable")
    points = np.asarray(recon.points_world)[recon.mask][order]
    np.testing.assert_array_equal(np.stack([vertex[n] for n in "xyz"], -1), points)
    shown = 0.28209479177387814 * np.stack([vertex[f"f_dc_{n}"] for n in range(3)], -1) + 0.5
    colors = np.asarray(recon.colors)[recon.mask][order]
    np.testing.assert_array_equal(np.rint(255 * shown), colors)
    confidence = np.asarray(recon.confidence)[recon.mask][order].clip(0.02, 0.98)
    np.testing.assert_allclose(1 / (1 + np.exp(-vertex["opacity"])), confidence, atol=1e-6)
    turn = np.stack([vertex[f"rot_{n}"] for n in range(4)], -1)
    np.testing.assert_array_equal(turn, np.tile([1, 0, 0, 0], (len(points), 1)))
    distance = np.linalg.norm(points[:, None] - points, axis=-1).astype(np.float64)
    nearest = np.sort(distance, axis=1)[:, 1:4].mean(axis=1)
    expected = nearest.clip(None, 10 * np.median(nearest))
    for axis in range(3):
        np.testing.assert_allclose(np.exp(vertex[f"scale_{axis}"]), expected, rtol=1e-3)


def test_so_many_as_asked_for_are_written(tmp_path):
    vertex = read(room_recon().save(tmp_path / "a.ply", "splats", max_points=500))
    assert 100 < len(vertex["x"]) <= 500


def test_one_point_alone_has_a_size(tmp_path):
    vertex = read(one_pixel_recon().save(tmp_path / "a.ply", "splats"))
    assert vertex["scale_0"].tolist() == [0] and np.isfinite(vertex["opacity"]).all()


def test_equal_points_are_quick_and_have_the_size_of_their_neighbours():
    cube = np.stack(np.meshgrid(*[np.arange(10.0)] * 3), -1).reshape(-1, 3)
    points = np.concatenate([np.zeros((50_000, 3)), cube, [[1e6, 0, 0]]])
    np.testing.assert_array_equal(neighbour_distances(points)[:-1], 1)
    assert neighbour_distances(points)[-1] == 10  # it would hide the scene otherwise


def test_confidence_of_other_families_is_a_probability():
    x = np.array([-1.0, 0.0, 2.0])
    np.testing.assert_allclose(opacities(1 + np.exp(x)), 1 / (1 + np.exp(-x)))
    np.testing.assert_allclose(
        opacities(np.array([0.0, 0.3, np.nan, 1.0])), [0.02, 0.3, 0.02, 0.98]
    )


def test_no_splats_without_a_point(tmp_path):
    recon = random_recon()
    with pytest.raises(InputError, match="the mask keeps no point"):
        replace(recon, mask=np.zeros_like(recon.mask)).save(tmp_path / "a.ply", "splats")
    assert not list(tmp_path.iterdir())
