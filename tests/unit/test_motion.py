"""Views that are kept by motion, and the note before very many views are worked out together."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageFilter

import oracle
from image_files import ONE_PATCH, noise, save, write_frames, write_video
from jaxrecon import InputError
from jaxrecon.images import Sampling, load_images, loading_images, view_count, view_names
from jaxrecon.images.motion import Spectra, kept_by_motion, motion_between
from jaxrecon.images.sampling import MOST_MOTION
from jaxrecon.images.views import Source, View
from jaxrecon.pipeline.chunking import MANY_VIEWS
from kept_notes import KeptNotes

SIZE = WIDTH, HEIGHT = 160, 96


@pytest.fixture(scope="module")
def scene() -> Image.Image:
    """Blobs of many sizes."""
    small = Image.fromarray(noise(24, 48))
    fine = Image.fromarray(noise(200, 400, 1)).filter(ImageFilter.GaussianBlur(2))
    return Image.blend(small.resize((400, 200), Image.Resampling.BICUBIC), fine, 0.5)


def shot(scene: Image.Image, x: float = 60, y: float = 50) -> Image.Image:
    """What a camera sees at that place."""
    return scene.crop((round(x), round(y), round(x) + WIDTH, round(y) + HEIGHT))


def moved(before: Image.Image, now: Image.Image) -> float:
    return motion_between(Spectra(before), Spectra(now))


@pytest.fixture(scope="module")
def walk(scene: Image.Image, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten frames that stand, ten that each move by a fortieth of the width, and ten that stand."""
    places = [min(max(number - 9, 0), 10) * WIDTH / 40 for number in range(30)]
    frames = (np.asarray(shot(scene, 60 + place)) for place in places)
    return write_frames(tmp_path_factory.mktemp("walk") / "walk.mp4", frames, SIZE)


def kept(source: Any, **sampling: Any) -> tuple[tuple[str, ...], list[str]]:
    """The names of the views that are taken, and the notes."""
    stages = KeptNotes()
    chosen = Sampling(**sampling)
    with loading_images(source, rule=ONE_PATCH, sampling=chosen, stages=stages) as loading:
        return loading.batch().names, stages.notes


def frames(*numbers: int) -> tuple[str, ...]:
    return tuple(f"frame_{number:06d}" for number in numbers)


@pytest.mark.parametrize("right", [0, 4, 16, 24])
@pytest.mark.parametrize("down", [0, -8])
def test_a_shift_is_measured(scene: Image.Image, right: int, down: int) -> None:
    length = np.hypot(right, down) / WIDTH
    assert moved(shot(scene), shot(scene, 60 - right, 50 - down)) == pytest.approx(length, abs=4e-3)


def test_a_camera_that_goes_ahead_or_turns_moves(scene: Image.Image) -> None:
    before = shot(scene)
    ahead = before.crop((8, 5, WIDTH - 8, HEIGHT - 5)).resize(SIZE, Image.Resampling.BICUBIC)
    assert 0.015 < moved(before, ahead) < 0.05
    rolled = scene.rotate(6, Image.Resampling.BICUBIC, center=(140, 98))
    assert 0.01 < moved(before, shot(rolled)) < 0.06


def test_what_is_no_motion(scene: Image.Image) -> None:
    before = shot(scene)
    assert moved(before, before) == 0
    darker = Image.fromarray((np.asarray(before) * 0.5).astype(np.uint8))
    assert moved(before, darker) < 2e-3
    walker = np.array(before)
    walker[:, 50:80] = noise(HEIGHT, 30, 2)
    assert moved(before, Image.fromarray(walker)) < 2e-3
    black = Image.new("RGB", SIZE)
    assert moved(black, black) == 0


def test_another_picture_is_farther_than_any_motion(scene: Image.Image) -> None:
    other = scene.transpose(Image.Transpose.ROTATE_180)
    assert moved(shot(scene), shot(other)) > MOST_MOTION
    assert moved(Image.new("RGB", SIZE), shot(scene)) > MOST_MOTION


@pytest.mark.parametrize(
    ("sampling", "expected"),
    [
        ({}, (0, 11, 13, 15, 17, 19)),
        ({"stride": 2}, (0, 12, 14, 16, 18)),
        ({"stride": 3}, (0, 12, 15, 18)),
        ({"fps": 2.5}, (0, 12, 16, 20)),
        ({"max_views": 3}, (0, 20)),
        ({"skip": 2}, (13, 15, 17, 19)),
    ],
)
def test_frames_of_a_video(walk: Path, sampling: dict[str, Any], expected: tuple[int, ...]) -> None:
    # a frame is wanted each 0.045 of the width, and each frame moves by 0.025
    names, notes = kept(walk, motion=0.045, **sampling)
    assert names == frames(*expected)
    (note,) = notes
    views = len(expected) + sampling.get("skip", 0)
    assert f"motion=0.045 (--motion): {views} of" in note and "stands still" not in note


def test_the_frames_are_those_of_their_names(walk: Path) -> None:
    every = load_images(walk, rule=ONE_PATCH)
    some = load_images(walk, rule=ONE_PATCH, motion=0.045)
    numbers = [every.names.index(name) for name in some.names]
    np.testing.assert_array_equal(some.pixels, every.pixels[numbers])


def test_a_still_camera_leaves_one_view_and_a_note(scene: Image.Image, tmp_path: Path) -> None:
    light = (np.asarray(shot(scene)) * (0.5 + 0.1 * number) for number in range(5))
    still = write_frames(tmp_path / "still.mp4", (each.astype(np.uint8) for each in light), SIZE)
    names, notes = kept(still, stride=1, motion=0.01)
    assert names == frames(0)
    (note,) = notes
    assert "1 of 5 views are kept: the camera stands still" in note


def test_photos_and_arrays_and_animations(scene: Image.Image, tmp_path: Path) -> None:
    pictures = [shot(scene, 60 + x) for x in (0, 1, 10, 11, 20)]
    for number, picture in enumerate(pictures):
        save(np.asarray(picture), tmp_path / f"{number}.png")
    assert kept(tmp_path, motion=0.04)[0] == ("0.png", "2.png", "4.png")
    arrays = np.stack([np.asarray(picture) for picture in pictures])
    assert kept(arrays, motion=0.04)[0] == ("view_0000", "view_0002", "view_0004")
    assert kept(pictures[:1], motion=0.04) == (("view_0000",), [])
    pages = tmp_path / "pages.tif"
    pictures[0].save(pages, save_all=True, append_images=pictures[1:])
    assert kept(pages, motion=0.04)[0] == frames(0, 2, 4)


def test_what_is_not_known_before_reading(tmp_path: Path) -> None:
    photo = save(noise(14, 14), tmp_path / "a.png")
    assert view_count([photo], motion=0.1) is None
    with pytest.raises(InputError, match=r"motion=0\.1 \(--motion\).* leave it out"):
        view_names([photo], motion=0.1)


def test_views_are_read_one_by_one(scene: Image.Image) -> None:
    read: list[int] = []

    def views() -> Iterator[View]:
        for number in range(9):
            read.append(number)
            yield View(str(number), lambda number=number: shot(scene, 60 + 4 * number))

    chosen = iter(kept_by_motion(Source(9, views()), 0.045, 0).views)
    assert [next(chosen).name, next(chosen).name] == ["0", "2"]
    assert read == [0, 1, 2]


def test_very_many_views_of_a_video_are_told_before(tmp_path: Path) -> None:
    class Told(Exception):
        """Ends the run before anything is compiled."""

    class Ending(KeptNotes):
        def note(self, text: str) -> None:
            if "reconstructed together" in text:
                raise Told(text)

    pipeline = oracle.oracle()
    count = MANY_VIEWS + 1
    video = write_video(tmp_path / "long.mp4", frames=count, size=(16, 16))
    with pytest.raises(Told, match=rf"about {count} views .*--chunk 60.*--fps.*--max-views"):
        pipeline.reconstruct(video, stride=1, stages=Ending())
