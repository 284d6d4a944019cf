"""Which photos and frames are taken: every n-th, so many a second, at most so many."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from image_files import ONE_PATCH, noise, save, write_video
from jaxrecon.errors import InputError
from jaxrecon.images import USUAL_FPS, Sampling, load_images, loading_images, view_count
from kept_notes import KeptNotes


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three seconds of ten frames each."""
    return write_video(tmp_path_factory.mktemp("film") / "film.mp4", frames=30, size=(16, 16))


def numbers(film: Path, **sampling: Any) -> list[int]:
    batch = load_images(film, rule=ONE_PATCH, **sampling)
    return [int(name.removeprefix("frame_")) for name in batch.names]


@pytest.mark.parametrize(
    ("sampling", "expected"),
    [
        ({}, list(range(30))),
        ({"stride": 7}, [0, 7, 14, 21, 28]),
        ({"fps": 2}, [0, 5, 10, 15, 20, 25]),
        ({"fps": 3}, [0, 4, 7, 10, 14, 17, 20, 24, 27]),
        ({"fps": 100}, list(range(30))),
        ({"fps": 0.1}, [0]),
        ({"max_views": 3}, [0, 10, 20]),
        ({"max_views": 31}, list(range(30))),
        ({"fps": 5, "max_views": 4}, [0, 8, 15, 23]),
        ({"stride": 2, "max_views": 6}, [0, 5, 10, 15, 20, 25]),
    ],
)
def test_frames_of_a_video(film: Path, sampling: dict[str, Any], expected: list[int]) -> None:
    assert numbers(film, **sampling) == expected


def test_usual_rate_of_a_video_is_told(film: Path) -> None:
    stages = KeptNotes()
    sampling = Sampling(usual_fps=USUAL_FPS)
    with loading_images(film, rule=ONE_PATCH, sampling=sampling, stages=stages) as loading:
        assert len(loading.batch().names) == 6
    (note,) = stages.notes
    assert "2 frames a second are taken of film.mp4, about 6 of 30 frames" in note
    assert "--fps" in note and "--stride 1" in note


def test_what_is_asked_for_is_not_noted(film: Path) -> None:
    for sampling in (Sampling(stride=1, usual_fps=USUAL_FPS), Sampling(fps=2.0, usual_fps=1.0)):
        stages = KeptNotes()
        with loading_images(film, rule=ONE_PATCH, sampling=sampling, stages=stages) as loading:
            assert len(loading.batch().names) == (30 if sampling.stride else 6)
        assert not stages.notes


def test_skipped_views_are_the_first_of_those_taken(film: Path, tmp_path: Path) -> None:
    with loading_images(film, rule=ONE_PATCH, sampling=Sampling(fps=2, skip=4)) as loading:
        assert loading.batch().names == ("frame_000020", "frame_000025")
    photos = [save(noise(14, 14, i), tmp_path / f"{i}.png") for i in range(9)]
    with loading_images(photos, rule=ONE_PATCH, sampling=Sampling(stride=2, skip=3)) as loading:
        assert loading.batch().names == ("6.png", "8.png")


def test_most_photos_are_spread_evenly(tmp_path: Path) -> None:
    for number in range(10):
        save(noise(14, 14, number), tmp_path / f"{number}.png")
    assert load_images(tmp_path, rule=ONE_PATCH, max_views=4).names == (
        *("0.png", "2.png", "5.png", "7.png"),
    )
    assert view_count(tmp_path, stride=3, max_views=2) == 2
    assert view_count(tmp_path, max_views=99) == 10


@pytest.mark.parametrize(
    ("sampling", "message"),
    [
        ({"fps": 0}, "fps=0 must be above 0"),
        ({"fps": float("inf")}, "must be above 0 and finite"),
        ({"fps": 2, "stride": 3}, "both choose frames"),
        ({"max_views": 0}, "max_views=0 must be at least 1"),
        ({"stride": 0}, "takes no image"),
        ({"fps": 2}, "the list of images is no video, whose frames have times; give stride"),
    ],
)
def test_refused(sampling: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        load_images([np.zeros((14, 14, 3), np.uint8)], rule=ONE_PATCH, **sampling)
