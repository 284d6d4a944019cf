"""The viewer serves points and cameras on this machine."""

import sys
import urllib.request
from pathlib import Path

import numpy as np
import pytest

from jaxrecon import InputError
from jaxrecon.cli import main
from random_recon import VIEWS, random_recon


def test_points_and_cameras_are_served() -> None:
    pytest.importorskip("viser")
    recon = random_recon()
    server = recon.view(port=18080)
    try:
        nodes = {node.name for node in server.scene._handle_from_node_name.values()}
        cameras = [name for name in nodes if name.startswith("/cameras/")]
        assert "/points" in nodes
        assert len(cameras) == VIEWS
        points = server.scene._handle_from_node_name["/points"]
        np.testing.assert_allclose(points.points, np.asarray(recon.points_world)[recon.mask])
        frustum = server.scene._handle_from_node_name[sorted(cameras)[0]]
        np.testing.assert_allclose(frustum.position, recon.world_from_camera[0, :3, 3], rtol=1e-6)
        with urllib.request.urlopen(f"http://localhost:{server.get_port()}") as page:
            assert page.status == 200
    finally:
        server.stop()


def test_the_command_line_shows_a_saved_scene(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    pytest.importorskip("viser")
    path = random_recon().save(tmp_path / "scene.npz")
    assert main(["view", str(path), "--port", "18090", "--once"]) == 0
    assert "http://localhost:" in capsys.readouterr().out


def test_without_viser_the_way_out_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "viser", None)
    with pytest.raises(InputError, match=r"pip install jaxrecon\[view\]"):
        random_recon().view()


def test_a_file_that_is_no_scene_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert main(["view", str(tmp_path / "none.npz")]) == 2
    err = capsys.readouterr().err
    assert err.startswith("jaxrecon: ")
    assert err.count("\n") == 1
