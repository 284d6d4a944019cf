"""Videos: the shape of their pixels, how many frames were promised, and names that tell nothing."""

from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from image_files import write_video
from jaxrecon.errors import InputError
from jaxrecon.images import ImageBatch, check_source, load_images
from jaxrecon.images.video import rgb_of
from jaxrecon.images.video_facts import promised_end, shown_size, squared
from jaxrecon.models import PI3_RESIZE
from kept_notes import KeptNotes

av = pytest.importorskip("av")


def told(path: Path, resolution: int = 56, **options: Any) -> tuple[ImageBatch, str]:
    stages = KeptNotes()
    batch = load_images(path, rule=PI3_RESIZE, resolution=resolution, stages=stages, **options)
    return batch, "\n".join(stages.notes)


def film(
    path: Path, *, codec: str = "mpeg4", frames: int = 24, aspect: Any = None, turned: int = 0
) -> Path:
    """Noise, so that frames have about one size, and a disc of 20 pixels as wide as high."""
    rng = np.random.default_rng(0)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=24)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.bit_rate, stream.gop_size = 2_000_000, 4
        if aspect is not None:
            stream.codec_context.sample_aspect_ratio = aspect
        if turned:
            stream.set_display_rotation(turned)
        for _ in range(frames):
            pixels = rng.integers(0, 255, (48, 64, 3), np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())
    return path


@pytest.mark.parametrize(
    ("aspect", "turned", "expected"),
    [
        ("2/1", 0, (128, 48)),
        ("8/9", 0, (57, 48)),
        ("1/1", 0, (64, 48)),
        ("2/1", 90, (48, 128)),
        ("4/3", 180, (85, 48)),
    ],
)
def test_frames_are_as_players_show_them(
    aspect: str, turned: int, expected: tuple[int, int], tmp_path: Path
) -> None:
    path = film(tmp_path / "a.mp4", frames=2, aspect=Fraction(aspect), turned=turned)
    batch, notes = told(path)
    assert [transform.original_size for transform in batch.transforms] == [expected] * 2
    assert notes == ""


def painted(size: tuple[int, int], matrix: int | None, weights: tuple[float, float]) -> Any:
    """A frame of `COLOUR`, as ITU-R BT.601 or BT.709 encode it with these weights of red and blue.

    Args:
      size: width and height.
      matrix: what the frame says of that, by its number in ISO 23091-2.
      weights: see above.
    """
    red, green, blue = np.array(COLOUR) / 255
    of_red, of_blue = weights
    luma = of_red * red + (1 - of_red - of_blue) * green + of_blue * blue
    chroma = [(blue - luma) / (2 * (1 - of_blue)), (red - luma) / (2 * (1 - of_red))]
    frame = av.VideoFrame(*size, "yuv420p")
    levels = (16 + 219 * luma, *(128 + 224 * each for each in chroma))
    for plane, level in zip(frame.planes, levels, strict=True):
        plane.update(bytes([round(level)]) * plane.buffer_size)
    if matrix is not None:
        frame.colorspace = matrix
    return frame


COLOUR = (200, 60, 40)
BT601, BT709 = (0.299, 0.114), (0.2126, 0.0722)


@pytest.mark.parametrize(
    ("size", "matrix", "weights"),
    [
        ((640, 480), None, BT601),
        ((720, 576), None, BT601),
        ((1280, 544), None, BT709),
        ((960, 720), None, BT709),
        ((1280, 720), 5, BT601),
        ((640, 480), 1, BT709),
    ],
)
def test_colours_are_as_players_show_them(size, matrix, weights) -> None:
    pixels = rgb_of(painted(size, matrix, weights))
    assert np.abs(pixels.astype(int) - COLOUR).max() <= 3


@pytest.mark.parametrize("kind", ["rgb24", "gbrp", "gray"])
def test_frames_without_chroma_have_no_matrix(kind: str) -> None:
    colours = np.full((720, 1280, 3), 90, np.uint8)
    colours[..., 0] = 90 if kind == "gray" else 200
    frame = av.VideoFrame.from_ndarray(colours, format="rgb24").reformat(format=kind)
    np.testing.assert_allclose(rgb_of(frame), colours, atol=1)


def test_an_absurd_aspect_is_told_and_left_alone(tmp_path: Path) -> None:
    batch, notes = told(film(tmp_path / "a.mp4", frames=2, aspect=Fraction(5, 1)))
    assert batch.transforms[0].original_size == (64, 48)
    assert "pixels are 5 times as wide as high, which cannot be" in notes


def test_squared_frames_are_resampled() -> None:
    ramp = Image.fromarray(np.tile(np.arange(8, dtype=np.uint8) * 30, (4, 1))).convert("RGB")
    wide = np.asarray(squared(ramp, 2.0, turned=False))
    assert wide.shape == (4, 16, 3)
    assert (np.diff(wide[0, :, 0].astype(int)) >= 0).all()
    assert np.asarray(squared(ramp, 2.0, turned=True)).shape == (8, 8, 3)
    assert squared(ramp, None, turned=True) is ramp
    assert shown_size((10, 10), 0.01) == (1, 10)


@pytest.mark.parametrize(
    ("suffix", "codec", "packets"),
    [
        ("mkv", "mpeg4", False),
        ("webm", "libvpx", False),
        ("mpg", "mpeg2video", True),
        ("ts", "mpeg2video", True),
        ("wmv", "msmpeg4v3", True),
    ],
)
def test_frames_that_were_promised_are_missed(
    suffix: str, codec: str, packets: bool, tmp_path: Path
) -> None:
    path = film(tmp_path / f"whole.{suffix}", codec=codec)
    batch, notes = told(path)
    assert (len(batch.names), notes) == (24, "")
    assert told(path, stride=5)[1] == ""
    data = path.read_bytes()
    cut = tmp_path / f"cut.{suffix}"
    cut.write_bytes(data[: len(data) * 6 // 10])
    batch, notes = told(cut)
    assert 5 < len(batch.names) < 22
    assert f"cut.{suffix} ends" in notes
    assert f"after {len(batch.names)} frames" in notes
    if not packets:
        assert f"some {24 - len(batch.names)} fewer than its container promises" in notes


@pytest.mark.parametrize("suffix", ["mp4", "mov", "avi", "mkv", "ts", "wmv", "flv", "mpg"])
def test_whole_videos_keep_their_promise(suffix: str, tmp_path: Path) -> None:
    codec = {"flv": "flv1", "wmv": "msmpeg4v3", "ts": "mpeg2video", "mpg": "mpeg2video"}.get(
        suffix, "mpeg4"
    )
    batch, notes = told(film(tmp_path / f"a.{suffix}", codec=codec, frames=9))
    assert (len(batch.names), notes) == (9, "")


def test_frames_of_unlike_length_keep_the_promise(tmp_path: Path) -> None:
    """The last of them is shown for longer than the mean."""
    path = tmp_path / "a.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=24)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for place in (0, 1, 2, 10, 30):
            frame = av.VideoFrame.from_ndarray(np.zeros((48, 64, 3), np.uint8), format="rgb24")
            frame.pts = place
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    batch, notes = told(path)
    assert len(batch.names) == 5
    assert "container promises" not in notes


def test_sound_that_lasts_longer_promises_no_frames() -> None:
    class Stream:
        duration, start_time, time_base, metadata = None, None, None, {}

    class Container:
        format = type("Format", (), {"name": "matroska,webm"})
        duration, start_time, streams = 3_000_000, 0, [None, None]

    container: Any = Container()
    stream: Any = Stream()
    assert promised_end(container, stream) == 2.0
    container.streams = [None]
    assert promised_end(container, stream) == 3.0
    stream.metadata = {"DURATION": "00:01:02.500000000"}
    assert promised_end(container, stream) == 62.5


@pytest.mark.parametrize("name", ["a.3gp", "a.mts", "a.M2TS", "a.dat", "clip", "a.ogv", "a.wmv"])
def test_the_content_decides_what_is_a_video(name: str, tmp_path: Path) -> None:
    write_video(tmp_path / "film.mp4", frames=2).rename(tmp_path / name)
    batch, notes = told(tmp_path / name)
    assert (len(batch.names), notes) == (2, "")
    with pytest.raises(InputError, match="is a video; in a list give images"):
        check_source([tmp_path / name, tmp_path / name])


def test_a_picture_that_is_named_as_a_video(tmp_path: Path) -> None:
    Image.new("RGB", (56, 42), "white").save(tmp_path / "a.mp4", format="JPEG")
    assert told(tmp_path / "a.mp4")[0].names == ("a.mp4",)


def test_recordings_of_360_degree_cameras_are_told(tmp_path: Path) -> None:
    write_video(tmp_path / "film.mp4", frames=2).rename(tmp_path / "VID_00.insv")
    assert "VID_00.insv is named as one of a 360-degree camera" in told(tmp_path / "VID_00.insv")[1]


def test_interlaced_frames_are_told(tmp_path: Path) -> None:
    path = tmp_path / "a.mpg"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg2video", rate=25, options={"flags": "+ildct+ilme"})
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for number in range(3):
            pixels = np.full((48, 64, 3), 80 * number, np.uint8)
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    batch, notes = told(path)
    assert len(batch.names) == 3
    assert f"3 of 3 frames of {path} are interlaced" in notes
