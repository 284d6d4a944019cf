"""The viewer serves points and cameras on this machine."""

import sys
import urllib.request
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from jaxrecon import InputError, browsing
from jaxrecon.cli import main
from jaxrecon.formats.viewer_cameras import cameras_of
from jaxrecon.formats.viewer_cloud import Eye, cloud_of
from jaxrecon.formats.viewer_nodes import ShownCameras, ShownPoints
from random_recon import VIEWS, random_recon
from room_scenes import room_recon


def test_points_and_cameras_are_served() -> None:
    pytest.importorskip("viser")
    recon = random_recon()
    server = recon.view(port=18080)
    try:
        nodes = {node.name for node in server.scene._handle_from_node_name.values()}
        cameras = [name for name in nodes if name.startswith("/cameras/")]
        assert len(cameras) == VIEWS
        points = server.scene._handle_from_node_name["/points/coarse"].points
        expected = np.asarray(recon.points_world)[recon.mask]
        np.testing.assert_array_equal(
            points[np.lexsort(points.T)], expected[np.lexsort(expected.T)]
        )
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


def test_points_alone_are_shown(tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
    pytest.importorskip("viser")
    random_recon().save(tmp_path / "scene.ply")
    assert main(["view", str(tmp_path), "--port", "0", "--once", "--max-points", "5"]) == 0
    captured = capfd.readouterr()
    assert captured.out.startswith(f"showing {tmp_path}/scene.ply at http://localhost:")
    assert captured.out.count("\n") == 1  # viser's banner is not among it
    assert captured.err == ""


def test_an_address_of_others_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    pytest.importorskip("viser")
    path = random_recon().save(tmp_path / "scene.npz")
    for host in ("192.0.2.1", "no such.name", "a" * 300):
        assert main(["view", str(path), "--host", host, "--once"]) == 2
        assert "give an address of this machine" in capsys.readouterr().err


def test_show_opens_a_browser_or_a_notebooks_cell(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("viser")
    opened: list[str] = []
    monkeypatch.setattr(browsing, "open_page", lambda url: opened.append(f"browser {url}"))
    monkeypatch.setattr(browsing, "show_in_notebook", lambda url: opened.append(f"cell {url}"))
    for notebook in (False, True):
        monkeypatch.setattr(browsing, "in_notebook", lambda notebook=notebook: notebook)
        random_recon().show(port=0).stop()
    assert [place.rsplit(":", 1)[0] for place in opened] == [
        "browser http://localhost",
        "cell http://localhost",
    ]


def test_a_sample_is_shown_first_and_the_rest_once_a_page_stands_still() -> None:
    pytest.importorskip("viser")
    server = random_recon().view(port=0, max_points=40)
    try:
        points = ShownPoints(server, cloud_of(room_recon(views=6).scene()), 0.1, 2000)
        points._coarse, points._fine = 500, 1500
        points._when_still.touch = lambda patience=0.0: None  # the test itself says when
        told: list[int] = []
        points.told = lambda: told.append(points.count)
        points.choose(confidence=0.6)
        assert told == [500]
        eye = Eye(np.zeros(3), np.eye(3), 1.0, 1.0)
        points.refine()
        assert told == [500]  # no page has come yet
        points.came(eye)
        points.refine()
        assert told == [500, 2000]
        assert (points._nodes["fine"].points.shape, points._nodes["fine"].visible) == (
            (1500, 3),
            True,
        )
        points.moved(replace(eye, position=np.array([0.05, 0, 0])))
        assert not points._nodes["fine"].visible
        before = points._nodes["fine"]
        points.refine()
        assert points._nodes["fine"].visible
        turned = replace(eye, rotation=np.diag([-1.0, 1, -1]))
        points.moved(turned)
        points.refine()
        assert points._nodes["fine"] is not before  # which were in sight no more
        assert told == [500, 2000, 2000]
        before = points._nodes["fine"]
        points.moved(replace(turned, fov=1.05))
        points.refine()
        assert points._nodes["fine"] is before and before.visible  # nearly the same points
        points.grow(2.0)
        assert points._nodes["coarse"].point_size == 0.2
        points.choose(hidden=frozenset(range(6)))
        assert told[-1] == 0
        assert "fine" not in points._nodes
    finally:
        server.stop()


def test_toggles_hide_cameras() -> None:
    pytest.importorskip("viser")
    recon = room_recon(views=4)
    scene = recon.scene()
    cameras = cameras_of(scene)
    server = recon.view(port=0)
    try:
        shown = ShownCameras(server, cameras, scene.colors, ["a", "b", "c", "d"], 0.1)

        def visible() -> list[bool]:
            return [node.visible for node in shown.nodes]

        assert visible() == [False, True, True, True]  # the first look is from the first one
        shown.seen_from(np.array([[9.0, 9, 9]]))
        assert visible() == [True] * 4
        shown.hide(frozenset({1}))
        shown.seen_from(cameras.centre[2:3])
        assert visible() == [True, False, False, True]
        shown.show(False)
        assert visible() == [False] * 4
        shown.show(True)
        assert visible() == [True, False, False, True]
    finally:
        server.stop()
