"""Pictures and videos that are more, or less, than they are called."""

import os
import struct
import subprocess
import sys
import time
import warnings
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import jaxrecon.images.limits
import jaxrecon.images.video
from image_files import ONE_PATCH, noise, save, write_video
from jaxrecon.errors import InputError
from jaxrecon.images import load_images, view_sizes
from jaxrecon.images.listing import digits_key, natural_key
from jaxrecon.images.pictures import (
    file_size,
    holds_too_much,
    open_picture,
    picture_values,
)
from jaxrecon.models import MAPANYTHING_RESIZE, VGGT_RESIZE


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def blank_png(path: Path, width: int, height: int, *, packed: bytes = b"") -> Path:
    """A picture that says how large it is, and holds nearly nothing."""
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", packed) + chunk(b"IEND", b""))
    return path


FOREIGN = {
    "EPS": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 60 40\n%%EndComments\n{ } loop\n%%EOF\n",
    "SVG": b'<svg xmlns="http://www.w3.org/2000/svg"><image href="/etc/passwd"/></svg>',
    "GIF": b"GIF89a\x01\0\x01\0\x80\0\0\0\0\0\xff\xff\xff,\0\0\0\0\x01\0\x01\0\0\x02\x02D\x01\0;",
    "PDF": b"%PDF-1.4\n1 0 obj<</Type/Catalog>>endobj\ntrailer<</Root 1 0 R>>\n",
    "XPM": b'/* XPM */\nstatic char *x[] = {"1 1 1 1","a c #000000","a"};\n',
    "WMF": b"\xd7\xcd\xc6\x9a" + bytes(60),
    "text": b"no picture",
}


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".tif"])
@pytest.mark.parametrize("kind", FOREIGN)
def test_formats_that_are_not_listed(kind: str, suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"a{suffix}"
    path.write_bytes(FOREIGN[kind])
    for read in (file_size, picture_values):
        with pytest.raises(InputError, match="it is not an image of a known kind"):
            read(path)


def test_pictures_that_would_fill_the_memory(tmp_path: Path) -> None:
    for width, height in ((13_000, 13_000), (100_000, 1_500), (2**31 - 1, 2**31 - 1)):
        path = blank_png(tmp_path / "a.png", width, height)
        start = time.monotonic()
        with pytest.raises(InputError, match=r"a\.png: it has .* pixels"):
            picture_values(path)
        assert time.monotonic() - start < 1
    assert not holds_too_much(12_000, 9_000, 20_000_000)  # of a phone


def test_warnings_of_pillow_do_not_reach_the_user(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = save(noise(14, 14), tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert file_size(path) == (14, 14)


@pytest.mark.parametrize("value", [0, 9, 255, 65535])
def test_orientations_that_mean_nothing(value: int, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = value
    for suffix in ("png", "jpg", "tif"):
        path = save(noise(14, 28), tmp_path / f"a.{suffix}", exif=exif)
        assert (file_size(path).orientation, file_size(path)) == (1, (28, 14))
        assert load_images(path, rule=ONE_PATCH).transforms[0].original_size == (28, 14)


def test_what_is_raised_inside_is_told_on_one_line(tmp_path: Path) -> None:
    path = save(noise(14, 14), tmp_path / "a.png")
    with (
        pytest.raises(InputError, match=r"a\.png: the image is damaged or cut short \(two lines\)"),
        open_picture(path),
    ):
        raise ValueError("two\nlines")
    with pytest.raises(InputError, match=r"^mine$"), open_picture(path):
        raise InputError("mine")


def test_pipes_and_devices_are_not_waited_for(tmp_path: Path) -> None:
    if not hasattr(os, "mkfifo"):
        pytest.skip("this system has no named pipes")
    (tmp_path / "photos").mkdir()
    for name in ("photos/a.png", "b.jpg", "c.mp4", "d.MOV"):
        os.mkfifo(tmp_path / name)
    sources = [tmp_path / "photos", tmp_path / "b.jpg", tmp_path / "c.mp4", tmp_path / "d.MOV"]
    for source in (*sources, [tmp_path / "b.jpg"], "/dev/zero", str(tmp_path / "*.jpg")):
        start = time.monotonic()
        with pytest.raises(InputError, match="is a pipe or a device, not a file"):
            load_images(source, rule=ONE_PATCH)
        assert time.monotonic() - start < 1
    with pytest.raises(InputError, match="it is a pipe or a device"):
        picture_values(tmp_path / "b.jpg")


@pytest.mark.parametrize("name", ["a\0b", "\ud800.png", "a\0*.png", "x" * 5000, b"a.png"])
def test_names_of_no_file(name: Any, without_shape_checks: None) -> None:
    for source in (name, [name]):
        with pytest.raises(InputError) as caught:
            load_images(source, rule=ONE_PATCH)
        assert str(caught.value).isprintable()


def test_natural_order_of_digits_of_any_length() -> None:
    names = ["1" * 5000 + ".png", "2.png", "02.png", "10.png", "9" * 4999 + ".png"]
    expected = ["02.png", "2.png", "10.png", "9" * 4999 + ".png", "1" * 5000 + ".png"]
    assert sorted(names, key=natural_key) == expected
    assert digits_key("007") == digits_key("٧") < digits_key("10")


def test_photos_too_narrow_for_a_model(tmp_path: Path) -> None:
    for rule, width, height in ((VGGT_RESIZE, 1, 60_000), (MAPANYTHING_RESIZE, 60_000, 1)):
        packed = zlib.compress(bytes((width + 1) * height))
        path = blank_png(tmp_path / "a.png", width, height, packed=packed)
        with pytest.raises(InputError, match=rf"a\.png is {width}x{height} pixels, too narrow"):
            load_images(path, rule=rule)


def test_images_that_do_not_fit_into_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = np.zeros((3, 28, 28, 3), np.uint8)
    monkeypatch.setattr(jaxrecon.images.limits, "machine_memory", lambda: 3 * 3 * 56 * 56)
    assert load_images(pixels, rule=VGGT_RESIZE, resolution=56).pixels.shape == (3, 56, 56, 3)
    monkeypatch.setattr(jaxrecon.images.limits, "machine_memory", lambda: 3 * 3 * 56 * 56 - 1)
    with pytest.raises(InputError, match="resolution=56: not enough memory for 3 images of 56x56"):
        load_images(pixels, rule=VGGT_RESIZE, resolution=56)


# Videos


def playlists(film: Path) -> dict[str, str]:
    return {
        "HLS": f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{film}\n#EXT-X-ENDLIST\n",
        "HLS of the net": "#EXTM3U\n#EXTINF:1,\nhttp://127.0.0.1:9/a.ts\n#EXT-X-ENDLIST\n",
        "concat": f"ffconcat version 1.0\nfile '{film}'\n",
        "DASH": '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static">'
        f'<Period><AdaptationSet mimeType="video/mp4"><Representation id="1"><BaseURL>{film}'
        "</BaseURL></Representation></AdaptationSet></Period></MPD>",
        "SDP": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=a\nc=IN IP4 127.0.0.1\nt=0 0\n"
        "m=video 9999 RTP/AVP 96\na=rtpmap:96 H264/90000\n",
    }


@pytest.mark.parametrize("suffix", [".mp4", ".avi", ".mkv"])
def test_playlists_are_no_videos(suffix: str, tmp_path: Path) -> None:
    film = write_video(tmp_path / "film.mp4", frames=2)
    for kind, told in playlists(film).items():
        path = tmp_path / f"{kind}{suffix}"
        path.write_text(told)
        with pytest.raises(InputError, match="the video is damaged or no video"):
            load_images(path, rule=ONE_PATCH)


def test_names_that_ffmpeg_reads_as_more_than_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    film = write_video(tmp_path / "film.mp4", frames=2)
    monkeypatch.chdir(tmp_path)
    for name in ("concat:a|b.mp4", "x%03d.mp4", "http:b.mp4", "-i.mp4", "pipe:0.mp4"):
        (tmp_path / name).write_bytes(film.read_bytes())
        assert len(load_images(name, rule=ONE_PATCH).names) == 2


def test_nothing_is_started_and_no_address_is_opened(tmp_path: Path) -> None:
    """A process of its own watches what happens in it while each kind of file is read."""
    film = write_video(tmp_path / "film.mp4", frames=2)
    for number, told in enumerate(playlists(film).values()):
        (tmp_path / f"v{number}.mp4").write_text(told)
    for kind, data in FOREIGN.items():
        (tmp_path / f"{kind}.jpg").write_bytes(data)
    code = """
import sys
from pathlib import Path
import av
from jaxrecon.errors import InputError
from jaxrecon.images import load_images
from jaxrecon.models import PI3_RESIZE
FORBIDDEN = ("subprocess.Popen", "os.exec", "os.posix_spawn", "os.system", "os.fork", "socket.")
seen = []
sys.addaudithook(lambda event, _: seen.append(event) if event.startswith(FORBIDDEN) else None)
for path in sorted(Path(sys.argv[1]).iterdir()):
    try:
        load_images(path, rule=PI3_RESIZE, resolution=28)
        print("read", path.name)
    except InputError:
        print("refused", path.name)
print(seen)
"""
    run = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, timeout=120
    )
    assert not run.stderr
    *told, seen = run.stdout.splitlines()
    assert seen == "[]"
    assert [line for line in told if line.startswith("read")] == ["read film.mp4"]


def test_frames_that_would_fill_the_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_video(tmp_path / "a.mp4", frames=2)
    monkeypatch.setattr(jaxrecon.images.video, "holds_too_much", lambda *size: size[:2] == (64, 48))
    with pytest.raises(InputError, match=r"a\.mp4: its frames have 64x48 pixels, in a file of"):
        load_images(path, rule=ONE_PATCH)


def test_more_frames_than_bytes(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", frames=2)
    data = path.read_bytes()
    place = data.index(b"stts") + 4
    count = struct.pack(">III", 0, 1, 2)
    assert data[place : place + 12] == count
    path.write_bytes(data[: place + 8] + struct.pack(">I", 2**31 - 1) + data[place + 12 :])
    try:
        assert len(load_images(path, rule=ONE_PATCH).names) == 2
    except InputError as error:
        assert str(error).isprintable()


def test_sizes_of_videos_are_not_known_before(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", frames=2)
    with pytest.raises(InputError, match="is a video"):
        view_sizes(path)
