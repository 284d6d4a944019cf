"""The page of HTML that shows a reconstruction."""

import json
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from jaxrecon import InputError
from jaxrecon.cli import main
from jaxrecon.cli.output import last_line, settings_of
from jaxrecon.cli.report import known_of
from jaxrecon.formats.judging import judge, median_confidence, named
from jaxrecon.formats.ramps import DEPTH, UNKNOWN, colored, middle_range
from jaxrecon.formats.report import MOST_VIEWS, Known, write_report
from jaxrecon.formats.top_view import PREDICTED, draw_side_view
from jaxrecon.images import PixelTransform
from jaxrecon.reconstruction import Reconstruction, Statistics
from random_recon import random_recon
from room_scenes import room_recon


class Page(HTMLParser):
    """The tags of a page with their attributes, and its text."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(path.read_text())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


# What is measured.


def test_a_sound_scene_is_not_complained_of() -> None:
    judgement = judge(room_recon(views=16).scene())
    assert judgement.warnings == ()
    np.testing.assert_allclose(judgement.agreement, 1.0)
    np.testing.assert_allclose(judgement.kept, 1.0)
    np.testing.assert_allclose(judgement.fov, np.rad2deg(2 * np.arctan(0.5 / 0.7)), rtol=1e-6)
    assert judgement.parallax > 10


def warned(recon: Reconstruction, word: str) -> str:
    """The one warning of a scene."""
    (text,) = judge(recon.scene()).warnings
    assert text.startswith(word)
    return text


def test_low_confidence_is_told() -> None:
    recon = room_recon(views=6)
    recon.mask[:, 4:] = False
    text = warned(recon, "Low confidence")
    assert "keeps 8.3 % of the pixels; the median confidence of all is 0.7." in text


def test_a_view_of_which_nothing_was_kept_is_named() -> None:
    recon = room_recon(views=6)
    recon.mask[2] = False
    assert "of photo 2.jpg" in warned(recon, "Next to nothing was kept")


def test_views_that_do_not_agree_are_named() -> None:
    recon = room_recon(views=16)
    recon.points_camera[3] *= 0.5  # as seen by the others, view 3 stands in the air
    recon.points_world[3] = (
        recon.points_camera[3] @ recon.world_from_camera[3, :3, :3].T
        + recon.world_from_camera[3, :3, 3]
    )
    judgement = judge(recon.scene())
    assert judgement.agreement[3] < 0.2
    assert any("of photo 3.jpg other views confirm" in text for text in judgement.warnings)


def test_little_parallax_is_told() -> None:
    recon = room_recon(views=1)
    assert np.isnan(judge(recon.scene()).parallax)
    twice = recon[[0, 0, 0]]
    assert "0.0 degrees apart" in warned(twice, "Little parallax")


def test_mixed_orientations_are_told() -> None:
    recon = room_recon(views=6)
    tall = PixelTransform.stretch((96, 128), (64, 48))
    mixed = replace(recon, transforms=(*recon.transforms[:4], tall, tall))
    assert "2 of 6 photos are portraits (photo 4.jpg, photo 5.jpg)" in warned(mixed, "Mixed")


def test_cameras_on_their_side_are_named() -> None:
    recon = room_recon(views=6)
    side = np.array([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]])
    recon.world_from_camera[5, :3, :3] @= side
    recon.points_camera[5] = recon.points_camera[5] @ side
    judgement = judge(recon.scene())
    assert any(text.endswith("more: photo 5.jpg.") for text in judgement.warnings)


def test_margins_around_photos_do_not_count() -> None:
    """Portraits of which the model saw all, in the middle of wide pictures."""
    recon = room_recon(views=6)
    width, height = recon.transforms[0].size
    inside = PixelTransform.inside((900, 1600), (width, height))
    left, top, right, bottom = inside.shown
    assert left > width / 4 and (top, bottom) == (0, height)
    recon = replace(recon, transforms=(inside,) * 6)
    recon.mask[:] = False
    recon.mask[..., left:right] = True
    recon.confidence[:] = 1.0
    recon.confidence[..., left:right] = 7.0
    judgement = judge(recon.scene())
    np.testing.assert_allclose([*judgement.kept, judgement.kept_of_all], 1.0)
    angle = 2 * np.arctan((right - left) / 2 / recon.intrinsics[:, 0, 0])
    np.testing.assert_allclose(judgement.fov, np.rad2deg(angle), rtol=1e-6)
    assert median_confidence(recon.scene()) == 7.0
    assert not any("confidence" in warning for warning in judgement.warnings)
    assert "100.0 % of the pixels" in repr(recon)
    recon.mask[:3] = False
    assert judge(recon.scene()).kept_of_all == pytest.approx(0.5)


def test_odd_and_missing_cameras_are_named() -> None:
    recon = room_recon(views=6)
    recon.intrinsics[1, [0, 1], [0, 1]] *= 20
    recon.world_from_camera[4] = np.nan
    recon.intrinsics[5] = np.inf
    told = " ".join(judge(recon.scene()).warnings)
    assert "No camera was found for photo 4.jpg, photo 5.jpg." in told
    assert "The field of view is unusual (4 degrees) for photo 1.jpg" in told
    recon.intrinsics[2, [0, 1], [0, 1]] *= 10
    told = " ".join(judge(recon.scene()).warnings)
    assert "unusual (4 to 8 degrees) for photo 1.jpg, photo 2.jpg" in told


def test_many_views_are_named_briefly() -> None:
    assert named("abcdef", [0, 1]) == "a, b"
    assert named("abcdef", range(6)) == "a, b, c, d and 2 more"


def test_confidence_that_is_no_number_is_left_out() -> None:
    recon = random_recon()
    recon.confidence[:, :, 0] = np.nan
    assert median_confidence(recon.scene()) == pytest.approx(np.nanmedian(recon.confidence))
    recon.confidence[:] = np.nan
    assert np.isnan(median_confidence(recon.scene()))


# Colours.


def test_colours_run_from_low_to_high() -> None:
    values = np.array([0.0, 1.0, 2.0, np.nan, 9.0, 1.0])
    found = colored(values, 0.0, 2.0, DEPTH, np.array([True] * 5 + [False]))
    assert found[0].tolist() == list(DEPTH[0])
    assert found[2].tolist() == found[4].tolist() == list(DEPTH[-1])
    assert found[3].tolist() == found[5].tolist() == list(UNKNOWN)
    assert middle_range(np.arange(101.0), np.ones(101, bool)) == (2, 98)
    assert middle_range(values, np.zeros(6, bool)) == (0, 1)


def test_the_side_view_shows_up_above() -> None:
    recon = room_recon(views=4)
    colors = np.zeros_like(recon.colors)
    colors[recon.points_world[..., 1] > 0.5] = (0, 0, 255)  # y is down
    colors[recon.points_world[..., 1] < -0.5] = (0, 255, 0)
    picture = np.asarray(draw_side_view(replace(recon, colors=colors).scene(), (200, 150)))
    blue = np.argwhere((picture == (0, 0, 255)).all(axis=-1))
    green = np.argwhere((picture == (0, 255, 0)).all(axis=-1))
    assert green[:, 0].mean() + 50 < blue[:, 0].mean()
    assert (picture == PREDICTED).all(axis=-1).any()


# The page.


def test_it_holds_all_and_loads_nothing(tmp_path: Path) -> None:
    recon = replace(
        random_recon(),
        names=("<b>a</b>.jpg", 'b" onload="x', "c"),
        stats=Statistics(sparsity=np.array([[0.25, 0.75], [1.0, 0.0]])),
    )
    path = recon.save(tmp_path / "report.html")
    page = Page(path)
    assert not {"script", "link", "iframe", "b onload"} & {tag for tag, _ in page.tags}
    images = [known for tag, known in page.tags if tag == "img"]
    assert len(images) == 2 + 4 * 3
    assert all((known["src"] or "").startswith("data:image/jpeg;base64,") for known in images)
    addresses = [
        value for _, known in page.tags for value in known.values() if "://" in (value or "")
    ]
    assert addresses == []
    policies = [known["content"] for tag, known in page.tags if "http-equiv" in known]
    assert policies == ["default-src 'none'; img-src data:; style-src 'unsafe-inline'"]
    for text in (
        "<b>a</b>.jpg",
        'b" onload="x',
        "Time",
        "run",
        "1.50 s",
        "50 % in all",
        "Sparsity",
    ):
        assert text in page.text
    cells = [known["title"] for tag, known in page.tags if tag == "td" and "title" in known]
    assert cells == ["25 %", "75 %", "100 %", "0 %"]


def test_of_many_views_some_are_shown(tmp_path: Path) -> None:
    recon = random_recon()[np.arange(90) % 3]
    write_report(recon.scene(), tmp_path / "a.html")
    page = Page(tmp_path / "a.html")
    assert sum(tag == "img" for tag, _ in page.tags) == 2 + 4 * MOST_VIEWS
    assert f"{MOST_VIEWS} of 90 views." in page.text


def test_warnings_and_settings_are_told(tmp_path: Path) -> None:
    recon = room_recon(views=1)[[0, 0]]
    known = Known(settings={"model": "<pi3>"}, files=("scene.ply",), output="out & in")
    write_report(recon.scene(), tmp_path / "a.html", known)
    text = Page(tmp_path / "a.html").text
    for part in ("Little parallax", "<pi3>", "scene.ply", "jaxrecon view 'out & in'", "metres"):
        assert part in text


def test_an_unusable_camera_leaves_no_file(tmp_path: Path) -> None:
    recon = random_recon()
    recon.world_from_camera[1] = np.nan
    with pytest.raises(InputError, match=r"the camera of view 1 \(b.JPG\) is not usable"):
        recon.save(tmp_path / "report.html")
    assert list(tmp_path.iterdir()) == []


# The command.


def test_the_command_writes_beside_the_scene(
    tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[str] = []
    monkeypatch.setattr("jaxrecon.cli.report.open_page", opened.append)
    random_recon().save(tmp_path / "scene.npz")
    summary = {
        "settings": {"model": "pi3"},
        "sparsity": [[0.5]],
        "files": ["scene.npz"],
        "seconds": {"read": 0.25, "run": 1.5, "export": 7.75},
    }
    (tmp_path / "summary.json").write_text(json.dumps(summary))
    assert main(["report", str(tmp_path)]) == 0
    assert capsys.readouterr().out == f"wrote {tmp_path}/report.html\n"
    assert opened == [(tmp_path / "report.html").as_uri()]
    text = Page(tmp_path / "report.html").text
    assert all(part in text for part in ("50 % in all", "pi3", "export", "7.75 s"))
    assert main(["report", str(tmp_path), "-o", str(tmp_path / "b.html"), "--no-open"]) == 0
    assert len(opened) == 1


@pytest.mark.parametrize(
    "summary",
    [
        "[]",
        "{}",
        '{"seconds": {"a": "b"}}',
        '{"seconds": {"a": -1}}',
        '{"settings": 1, "sparsity": "x", "files": {}}',
        '{"sparsity": [[2]]}',
        "[[[[",
    ],
)
def test_summaries_of_others_do_no_harm(tmp_path: Path, summary: str) -> None:
    (tmp_path / "summary.json").write_text(summary)
    try:
        known = known_of(tmp_path)
    except InputError as error:
        assert summary == "[[[[" and "\n" not in str(error)
        return
    assert (known.settings, known.sparsity, known.seconds) == (None, None, None)
    assert list(known.files) == []


def test_points_alone_have_no_report(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    random_recon().save(tmp_path / "scene.ply")
    assert main(["report", str(tmp_path)]) == 2
    assert "holds points alone" in capsys.readouterr().err
    random_recon().save(tmp_path / "scene.npz")
    assert main(["report", str(tmp_path), "-o", str(tmp_path / "a.pdf")]) == 2
    assert "ends in .html" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("there", "told"),
    [
        (
            ["scene.npz", "scene.ply"],
            "; to look at it: jaxrecon view 'my out', jaxrecon report 'my out'",
        ),
        (["scene.ply"], "; to look at it: jaxrecon view 'my out'"),
        (["animation.webp"], ""),
    ],
)
def test_the_last_line_says_how_to_look(
    there: list[str], told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the commands that can show what is there."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my out").mkdir()
    for name in there:
        (tmp_path / "my out" / name).touch()
    summary = {
        "views": 1,
        "points": 1234,
        "kept": 0.063,
        "fov_degrees": None,
        "warnings": ["Low."],
        "output": "my out",
        "files": ["scene.ply", "scene.glb", "colmap/", "summary.json"],
        "points_written": {"scene.ply": 1234, "scene.glb": 1000, "colmap/": 1},
    }
    assert last_line(summary) == (
        "wrote my out: 1 view, 1,234 points (6.3 % of the pixels), 1 warning; scene.ply, "
        f"scene.glb (1,000 points), colmap/ (1 point), summary.json{told}"
    )


def test_settings_are_what_was_given() -> None:
    from argparse import Namespace

    options = Namespace(
        images=["a", "b", "c", "d", "e"], model="pi3", stride=1, run=print, stream=False, size=None
    )
    assert settings_of(options) == {
        "images": ["a", "b", "c", "and 2 more"],
        "model": "pi3",
        "stride": 1,
    }
