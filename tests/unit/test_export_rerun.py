"""Recordings for Rerun, read back by its own reader."""

import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from jaxrecon import InputError
from jaxrecon.reconstruction import Reconstruction
from room_scenes import room_recon

pytest.importorskip("rerun")
chunks = pytest.importorskip("rerun.chunk")

VIEWS, HEIGHT, WIDTH = 3, 24, 32


@pytest.fixture
def room() -> Reconstruction:
    return room_recon(VIEWS, HEIGHT, WIDTH)


def columns(path: Path) -> dict[tuple[str, str], list[Any]]:
    """What each entity's components hold, in the order of the timeline."""
    found: dict[tuple[str, str], list[Any]] = {}
    for chunk in chunks.RrdReader(str(path)).stream():
        batch = chunk.to_record_batch()
        times = batch.column("view").to_pylist() if "view" in batch.schema.names else None
        for name in batch.schema.names:
            rows = batch.column(name).to_pylist()
            held = found.setdefault((chunk.entity_path, name), [])
            held += zip(times or [None] * len(rows), rows, strict=True)
    return {
        key: [row for _, row in sorted(rows, key=lambda pair: pair[0] or 0)]
        for key, rows in found.items()
    }


def test_cameras_pictures_depth_and_points_come_back(tmp_path, room):
    path = room.save(tmp_path / "out.rrd")
    found = columns(path)
    poses = np.asarray(room.world_from_camera)
    for view in range(VIEWS):
        at = "/world/camera"
        assert found[at, "view"][view] == view
        np.testing.assert_allclose(
            found[at, "Transform3D:translation"][view][0], poses[view, :3, 3], atol=1e-6
        )
        turn = np.reshape(found[at, "Transform3D:mat3x3"][view][0], (3, 3)).T  # by columns
        np.testing.assert_allclose(turn, poses[view, :3, :3], atol=1e-6)
        matrix = np.reshape(found[at, "Pinhole:image_from_camera"][view][0], (3, 3)).T
        corner = np.array([[0, 0, 0.5], [0, 0, 0.5], [0, 0, 0]])
        np.testing.assert_allclose(matrix - corner, np.asarray(room.intrinsics)[view], rtol=1e-6)
        assert found[at, "Pinhole:resolution"][view][0] == [WIDTH, HEIGHT]
        assert found[at, "photo"][view] == [room.names[view]]
        blob = bytes(found["/world/camera/picture", "EncodedImage:blob"][view][0])
        with Image.open(io.BytesIO(blob)) as picture:
            difference = np.asarray(picture).astype(int) - np.asarray(room.colors)[view]
        assert np.abs(difference).mean() < 8
        at = "/world/camera/depth"
        buffer = np.array(found[at, "DepthImage:buffer"][view][0], np.uint8)
        depth = buffer.view("<u2").reshape(HEIGHT, WIDTH) / found[at, "DepthImage:meter"][view][0]
        np.testing.assert_allclose(depth, np.asarray(room.depth_z)[view], atol=0.0006)
    points = np.array(found["/world/points", "Points3D:positions"][0])
    known = np.asarray(room.points_world)[room.mask]
    assert len(points) == len(known)
    np.testing.assert_array_equal(np.sort(points, axis=0), np.sort(known, axis=0))
    assert len(found["/world/points", "Points3D:colors"][0]) == len(points)
    still = {path for path, _ in found if path.startswith("/world/cameras/")}
    assert len(still) == VIEWS


def test_so_many_points_as_asked_for_are_written(tmp_path, room):
    found = columns(room.save(tmp_path / "out.rrd", max_points=100))
    assert len(found["/world/points", "Points3D:positions"][0]) == 100


def test_no_recording_without_a_point(tmp_path, room):
    empty = replace(room, mask=np.zeros_like(room.mask))
    with pytest.raises(InputError, match="the mask keeps no point"):
        empty.save(tmp_path / "out.rrd")
    assert not list(tmp_path.iterdir())
