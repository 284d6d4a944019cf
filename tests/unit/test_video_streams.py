"""Which of a video file's streams is the video."""

from pathlib import Path

import numpy as np
import pytest

from jaxrecon.errors import InputError
from jaxrecon.images import load_images
from jaxrecon.models import ResizeRule

av = pytest.importorskip("av")
stream_module = pytest.importorskip("av.stream")
NONE = stream_module.Disposition(0)
DEFAULT = stream_module.Disposition.default
COVER = stream_module.Disposition.attached_pic

RULE = ResizeRule(patch=1, pixel_limit=64 * 48)


def write(path: Path, *streams: tuple[tuple[int, int], int, object], codec: str = "mpeg4") -> Path:
    """Streams of a size, of one grey level, with a disposition; three frames each."""
    with av.open(str(path), "w") as container:
        added = []
        for size, _, disposition in streams:
            stream = container.add_stream(codec, rate=25)
            stream.width, stream.height = size
            stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
            stream.disposition = disposition
            added.append(stream)
        container.start_encoding()
        for number in range(3):
            for stream, ((width, height), level, _) in zip(added, streams, strict=True):
                grey = np.full((height, width, 3), level, np.uint8)
                frame = av.VideoFrame.from_ndarray(grey, format="rgb24")
                frame.pts = number
                container.mux(stream.encode(frame))
        for stream in added:
            container.mux(stream.encode())
    return path


def found(path: Path) -> tuple[tuple[int, int], int]:
    """Size and grey level of the views."""
    batch = load_images(path, rule=RULE)
    assert len(batch.names) == 3
    return batch.transforms[0].original_size, int(batch.pixels[0, 24, 32, 0])


SMALL, LARGE = (32, 24), (64, 48)


@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".mkv"])
@pytest.mark.parametrize(
    "streams",
    [
        [(SMALL, 200, NONE), (LARGE, 100, DEFAULT)],  # a preview track that is switched off
        [(LARGE, 200, NONE), (SMALL, 100, DEFAULT), (SMALL, 0, NONE)],
        [(SMALL, 200, DEFAULT), (LARGE, 100, DEFAULT)],  # a proxy beside the film
        [(LARGE, 100, NONE)],  # nothing else is there
    ],
)
def test_the_best_stream(tmp_path: Path, suffix: str, streams) -> None:
    path = write(tmp_path / f"a{suffix}", *streams)
    size, level = found(path)
    wanted = next((size, level) for size, level, _ in streams if level == 100)
    assert size == wanted[0]
    assert abs(level - wanted[1]) < 8


@pytest.mark.parametrize("suffix", [".avi", ".mpg"])
def test_containers_without_defaults(tmp_path: Path, suffix: str) -> None:
    codec = "mpeg1video" if suffix == ".mpg" else "mpeg4"
    size = (64, 48)
    path = write(tmp_path / f"a{suffix}", ((32, 24), 200, NONE), (size, 100, NONE), codec=codec)
    assert found(path)[0] == size


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_streams_that_are_alike(tmp_path: Path, suffix: str) -> None:
    path = write(tmp_path / f"a{suffix}", (LARGE, 200, DEFAULT), (LARGE, 100, DEFAULT))
    with pytest.raises(InputError, match="it holds 2 videos of 64x48 pixels; save the one that"):
        load_images(path, rule=RULE)


@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".m4v"])
def test_cover_art(tmp_path: Path, suffix: str) -> None:
    """The cover, one large frame, is stored in the tags of MP4 and QuickTime files."""
    film = write(tmp_path / "film.mp4", (SMALL, 100, DEFAULT))
    cover = write(tmp_path / "cover.mp4", (LARGE, 200, NONE), codec="mjpeg")
    for kept in (True, False):
        path = tmp_path / f"a{kept}{suffix}"
        copy(film if kept else None, cover, path)
        if kept:
            assert found(path)[0] == SMALL
        else:
            with pytest.raises(InputError, match="no video stream found"):
                load_images(path, rule=RULE)


def copy(film: Path | None, cover: Path, path: Path) -> None:
    """A file with the cover first, and the film, or sound in its place."""
    with av.open(str(path), "w", format="mp4") as target, av.open(str(cover)) as source:
        stream = target.add_stream_from_template(source.streams.video[0])
        stream.disposition = COVER
        if film is None:
            sound = target.add_stream("aac", rate=8000)
            for packet in source.demux(source.streams.video[0]):
                if packet.pts == 0:
                    packet.stream = stream
                    target.mux(packet)
            silence = av.AudioFrame(format="fltp", layout="mono", samples=1024)
            silence.sample_rate, silence.pts = 8000, 0
            for plane in silence.planes:
                plane.update(bytes(plane.buffer_size))
            target.mux(sound.encode(silence))
            target.mux(sound.encode())
            return
        with av.open(str(film)) as other:
            main = target.add_stream_from_template(other.streams.video[0])
            main.disposition = DEFAULT
            picture = next(p for p in source.demux(source.streams.video[0]) if p.size)
            picture.stream = stream
            target.mux(picture)
            for packet in other.demux(other.streams.video[0]):
                if packet.size:
                    packet.stream = main
                    target.mux(packet)
