"""Files of several pictures, previews of raw files, and what a file is whatever it is called."""

import io
import struct
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, TiffImagePlugin

from image_files import noise
from jaxrecon.cli import main
from jaxrecon.errors import InputError
from jaxrecon.images import check_source, load_images, view_count, view_names, view_sizes
from jaxrecon.images.pictures import file_size, picture_values
from jaxrecon.models import ResizeRule

RULE = ResizeRule(patch=1, pixel_limit=32 * 24)
SIZE = (32, 24)

NEW_SUBFILE, SUBFILE, PHOTOMETRIC, SUB_DIRECTORIES, DNG_VERSION = 254, 255, 262, 330, 50706
CFA, LINEAR_RAW = 32803, 34892


def pictures(count: int, size: tuple[int, int] = SIZE) -> list[Image.Image]:
    """Grey pictures, each 40 levels brighter than the one before."""
    return [Image.new("RGB", size, (40 * number,) * 3) for number in range(count)]


def save_several(path: Path, count: int = 4, **options) -> Path:
    first, *others = pictures(count)
    lossless = {"lossless": True} if path.suffix == ".webp" else {}
    first.save(path, save_all=True, append_images=others, **lossless, **options)
    return path


def levels(source, stride: int = 1) -> list[int]:
    """The grey level in the middle of each view."""
    batch = load_images(source, rule=RULE, stride=stride)
    return batch.pixels[:, 12, 16, 0].tolist()


def load_one(source):
    return load_images(source, rule=RULE)


def message(work, *arguments) -> str:
    with pytest.raises(InputError) as caught:
        work(*arguments)
    return str(caught.value)


class TestSeveralPictures:
    @pytest.mark.parametrize("name", ["clip.webp", "clip.png", "clip.tif", "clip.tiff"])
    def test_alone_they_are_views(self, tmp_path: Path, name: str) -> None:
        path = save_several(tmp_path / name)
        assert view_count(path) is None
        batch = load_images(path, rule=RULE)
        assert batch.names == tuple(f"frame_{number:06d}" for number in range(4))
        assert batch.pixels[:, 12, 16, 0].tolist() == [0, 40, 80, 120]
        assert levels(path, stride=3) == [0, 120]

    def test_an_avif_sequence(self, tmp_path: Path) -> None:
        path = save_several(tmp_path / "clip.avif", quality=100)
        assert np.abs(np.array(levels(path)) - [0, 40, 80, 120]).max() <= 4

    @pytest.mark.parametrize("name", ["clip.webp", "clip.png", "clip.tif"])
    def test_beside_photos_they_are_refused(self, tmp_path: Path, name: str) -> None:
        path = save_several(tmp_path / name)
        pictures(1)[0].save(tmp_path / "photo.jpg")
        for source in (tmp_path, [str(path), str(tmp_path / "photo.jpg")]):
            told = message(load_one, source)
            assert f"{name}: it holds 4 pictures, where one is expected; give it alone" in told
            assert told == message(view_sizes, source)

    def test_names_and_sizes_are_not_known_before(self, tmp_path: Path) -> None:
        path = save_several(tmp_path / "clip.tif")
        for listing in (view_names, view_sizes):
            assert "is a video or an animation, whose frames are not" in message(listing, path)

    def test_a_burst_in_heic(self, tmp_path: Path) -> None:
        pytest.importorskip("pillow_heif").register_heif_opener()
        path = save_several(tmp_path / "burst.heic", quality=100)
        assert np.abs(np.array(levels(path)) - [0, 40, 80, 120]).max() <= 3
        assert "burst.heic: it holds 4 pictures" in message(load_one, [str(path)])

    @pytest.mark.parametrize(
        "data",
        [
            b"P6\n2 1\n255\n" + bytes(6),
            b"P6\n2 1\n65535\n" + bytes(12),
            b"P5\n2 1\n255\n" + bytes(2),
            b"P5\n2 1\n65535\n" + bytes(4),
        ],
    )
    def test_pictures_behind_one_another(self, tmp_path: Path, data: bytes) -> None:
        """FFmpeg writes such files (`-f image2pipe`)."""
        path = tmp_path / "a.ppm"
        path.write_bytes(data)
        assert file_size(path) == (2, 1)
        path.write_bytes(data + b"\n" + data)
        assert "a.ppm: more pictures follow the first in it; save each" in message(file_size, path)

    def test_as_maps_they_are_refused(self, tmp_path: Path) -> None:
        path = save_several(tmp_path / "depth.tif")
        assert "it holds 4 pictures" in message(picture_values, path)

    def test_the_stand_in_of_an_animation_is_no_view(self, tmp_path: Path) -> None:
        path = save_several(tmp_path / "clip.png", default_image=True)
        assert levels(path) == [40, 80, 120]

    def test_pages_of_other_sizes_and_orientations(self, tmp_path: Path) -> None:
        path, exif = tmp_path / "scan.tif", Image.Exif()
        exif[0x0112] = 6
        first, second = pictures(2)
        first.save(path, save_all=True, append_images=[second.resize((24, 32))], exif=exif)
        batch = load_images(path, rule=RULE)
        assert batch.transforms[0].original_size == (24, 32)
        assert len(batch.names) == 2

    def test_a_damaged_page(self, tmp_path: Path) -> None:
        path = save_several(tmp_path / "clip.tif")
        data = path.read_bytes()
        path.write_bytes(data[: len(data) * 3 // 4])
        assert "clip.tif" in message(load_one, path)

    def test_pages_without_an_end(self, tmp_path: Path) -> None:
        path = save_several(tmp_path / "clip.tif", count=2)
        with TiffImagePlugin.TiffImageFile(path) as picture:
            second = picture.tag_v2.next
        data = bytearray(path.read_bytes())
        entries = struct.unpack_from("<H", data, second)[0]
        struct.pack_into("<L", data, second + 2 + 12 * entries, second)
        path.write_bytes(data)
        assert "its directories have no end" in message(file_size, path)


class TestCameras:
    """Multi-picture JPEGs (MPO): 3D cameras' are views, phones' gain maps and previews are not."""

    def write(self, path: Path, kinds: tuple[int, ...], sizes: list[tuple[int, int]]) -> Path:
        first, *others = [
            picture.resize(size) for picture, size in zip(pictures(len(sizes)), sizes, strict=True)
        ]
        first.save(path, "MPO", save_all=True, append_images=others)
        data = bytearray(path.read_bytes())
        place = data.index(struct.pack("<L", 0x030000), data.index(b"MPF\0") + 20)
        for number, kind in enumerate(kinds):
            struct.pack_into("<L", data, place + 16 * number, kind)
        path.write_bytes(data)
        return path

    @pytest.mark.parametrize("kind", [0x020001, 0x020002, 0x020003, 0x000000])
    def test_views(self, tmp_path: Path, kind: int) -> None:
        path = self.write(tmp_path / "a.mpo", (0x030000, kind), [SIZE, SIZE])
        assert np.abs(np.array(levels(path)) - [0, 40]).max() <= 2

    @pytest.mark.parametrize(
        ("kind", "size"), [(0x010001, SIZE), (0x010002, SIZE), (0x000000, (16, 12))]
    )
    def test_what_serves_the_first(self, tmp_path: Path, kind: int, size: tuple[int, int]) -> None:
        path = self.write(tmp_path / "a.jpg", (0x030000, kind), [SIZE, size])
        assert view_names(path) == ("a.jpg",)
        assert levels(path) == [0]

    def test_the_others_are_cut_off(self, tmp_path: Path) -> None:
        path = self.write(tmp_path / "a.jpg", (0x030000, 0x000000), [SIZE, SIZE])
        data = path.read_bytes()
        path.write_bytes(data[: data.rindex(b"\xff\xd8\xff")])
        assert levels(path) == [0]


def tiff(path: Path, *directories: dict[int, int], sizes=(SIZE,)) -> Path:
    """A TIFF of as many pictures, each with its own tags."""
    frames = []
    for tags, size, picture in zip(directories, sizes, pictures(len(sizes)), strict=True):
        info = TiffImagePlugin.ImageFileDirectory_v2()
        for tag, value in tags.items():
            info[tag] = value
        picture = picture.resize(size)
        picture.encoderinfo = {"tiffinfo": info}
        frames.append((picture, info))
    with open(path, "w+b") as file, TiffImagePlugin.AppendingTiffWriter(file) as writer:
        for picture, info in frames:
            picture.save(writer, "TIFF", tiffinfo=info)
            writer.newFrame()
    return path


def with_hidden(path: Path, tags: dict[int, int], size: tuple[int, int]) -> Path:
    """Hides a directory of such tags and size behind the first one, as raw files do."""
    tiff(path, {SUB_DIRECTORIES: 0})
    data = bytearray(path.read_bytes())
    hidden = {256: size[0], 257: size[1], **tags}
    place = len(data)
    data += struct.pack("<H", len(hidden))
    for tag, value in sorted(hidden.items()):
        data += struct.pack("<HHLL", tag, 4, 1, value)
    data += struct.pack("<L", 0)
    start = struct.unpack_from("<L", data, 4)[0]
    for entry in range(struct.unpack_from("<H", data, start)[0]):
        at = start + 2 + 12 * entry
        if struct.unpack_from("<H", data, at)[0] == SUB_DIRECTORIES:
            struct.pack_into("<HHLL", data, at, SUB_DIRECTORIES, 4, 1, place)
    path.write_bytes(data)
    return path


class TestPreviews:
    @pytest.mark.parametrize("name", ["a.tif", "a.dng", "a.NEF", "a.arw", "a.jpg"])
    @pytest.mark.parametrize("photometric", [CFA, LINEAR_RAW])
    def test_raw_data_behind_a_preview(self, tmp_path: Path, name: str, photometric: int) -> None:
        path = with_hidden(tmp_path / name, {PHOTOMETRIC: photometric}, (640, 480))
        assert "it is a camera's raw file, in which only a preview" in message(file_size, path)
        assert "develop it to JPEG" in message(load_one, path)

    def test_raw_data_of_the_same_size(self, tmp_path: Path) -> None:
        path = with_hidden(tmp_path / "a.srw", {PHOTOMETRIC: CFA}, SIZE)
        assert "raw file" in message(file_size, path)

    def test_a_larger_picture_out_of_reach(self, tmp_path: Path) -> None:
        path = with_hidden(tmp_path / "a.tif", {PHOTOMETRIC: 2}, (640, 480))
        assert "it shows only reduced copies of its picture" in message(file_size, path)

    def test_a_pyramid(self, tmp_path: Path) -> None:
        path = with_hidden(tmp_path / "a.tif", {PHOTOMETRIC: 2, NEW_SUBFILE: 1}, (16, 12))
        assert file_size(path) == SIZE

    def test_a_digital_negative(self, tmp_path: Path) -> None:
        path = tiff(tmp_path / "a.tif", {DNG_VERSION: 1})
        assert "raw file" in message(file_size, path)

    @pytest.mark.parametrize("tags", [{NEW_SUBFILE: 1}, {SUBFILE: 2}])
    def test_reduced_copies_alone(self, tmp_path: Path, tags: dict[int, int]) -> None:
        path = tiff(tmp_path / "a.tif", tags)
        assert "only reduced copies" in message(file_size, path)

    @pytest.mark.parametrize("preview", [{NEW_SUBFILE: 1}, {NEW_SUBFILE: 4}, {SUBFILE: 2}])
    @pytest.mark.parametrize("first", [True, False])
    def test_beside_the_picture(self, tmp_path: Path, preview: dict[int, int], first: bool) -> None:
        directories = [preview, {NEW_SUBFILE: 0}]
        path = tiff(
            tmp_path / "a.tif", *(directories if first else directories[::-1]), sizes=(SIZE, SIZE)
        )
        assert levels(path) == [40 if first else 0]

    @pytest.mark.parametrize("sizes", [(SIZE, (8, 6)), ((8, 6), SIZE)])
    def test_unmarked_thumbnails(self, tmp_path: Path, sizes) -> None:
        path = tiff(tmp_path / "a.tif", {}, {}, sizes=sizes)
        assert file_size(path) == SIZE

    @pytest.mark.parametrize(
        "head",
        [
            *(b"IIRO\x08\0\0\0", b"IIRS\x08\0\0\0", b"MMOR\0\0\0\x08", b"IIU\0\x18\0\0\0"),
            *(b"FUJIFILMCCD-RAW 0201", b"FOVb\0\0\2\0", b"II\x1a\0\0\0HEAPCCDR"),
            *(b"II*\0\x10\0\0\0CR\2\0", b"II*\0\x08\0\0\0IIII"),
            b"\0\0\0\x18ftypcrx \0\0\0\1crx isom",
        ],
    )
    def test_formats_of_makers(self, tmp_path: Path, head: bytes) -> None:
        path = tmp_path / "photo.tif"
        path.write_bytes(head + bytes(200))
        assert "it is a camera's raw file" in message(file_size, path)


class TestContentDecides:
    def heic(self, path: Path) -> Path:
        heif = pytest.importorskip("pillow_heif")
        heif.register_heif_opener()
        pictures(2)[1].save(path, format="HEIF", quality=90)
        for table in (Image.OPEN, Image.MIME):
            table.pop("HEIF", None)  # as in a process that has read none yet
        return path

    @pytest.mark.parametrize("name", ["a.JPG", "a.png", "a.tif", "a.heic"])
    def test_heic_under_any_name(self, tmp_path: Path, name: str) -> None:
        path = self.heic(tmp_path / name)
        assert file_size(path) == SIZE
        assert abs(levels(path)[0] - 40) <= 2

    def test_heic_without_its_plugin(self, tmp_path: Path, monkeypatch) -> None:
        path = self.heic(tmp_path / "a.jpg")
        monkeypatch.setitem(sys.modules, "pillow_heif", None)
        told = message(load_one, path)
        assert told.endswith("HEIC images need pillow-heif; pip install jaxrecon[heic]")

    def test_jpeg_named_heic_needs_no_plugin(self, tmp_path: Path, monkeypatch) -> None:
        monkeypatch.setitem(sys.modules, "pillow_heif", None)
        pictures(2)[1].save(tmp_path / "a.heic", format="JPEG")
        check_source(tmp_path)
        assert abs(levels(tmp_path)[0] - 40) <= 1

    def test_avif_under_another_name(self, tmp_path: Path) -> None:
        pictures(2)[1].save(tmp_path / "a.jpg", format="AVIF", quality=100)
        assert abs(levels(tmp_path)[0] - 40) <= 2

    @pytest.mark.parametrize("brand", [b"isom", b"mp42", b"qt  ", b"M4V "])
    def test_a_video_among_photos(self, tmp_path: Path, brand: bytes) -> None:
        path = tmp_path / "a.jpg"
        path.write_bytes(b"\0\0\0\x14ftyp" + brand + b"\0\0\0\0" + brand + bytes(100))
        assert "it is a video, not an image; give it alone" in message(file_size, path)

    def test_gif(self, tmp_path: Path) -> None:
        path = save_several(tmp_path / "clip.png")
        with Image.open(path) as picture:
            picture.save(tmp_path / "clip.gif", save_all=True)
        for name in ("clip.gif", "b.png"):
            (tmp_path / "clip.gif").replace(tmp_path / name)
            told = message(load_one, tmp_path / name)
            assert "it is not an image of a known kind, but a GIF; save its pictures as PNG" in told
            (tmp_path / name).replace(tmp_path / "clip.gif")


class TestMaps:
    def test_a_turned_map(self, tmp_path: Path) -> None:
        exif = Image.Exif()
        exif[0x0112] = 3
        Image.fromarray(noise(4, 4)).save(tmp_path / "depth.png", exif=exif)
        assert "depth.png: it is turned by its EXIF orientation" in message(
            picture_values, tmp_path / "depth.png"
        )


class TestVeryLargePhotos:
    def photo(self, path: Path) -> Path:
        file = io.BytesIO()
        Image.new("L", (12000, 9000), 120).save(file, "JPEG", quality=20)
        path.write_bytes(file.getvalue())
        return path

    def test_a_raised_limit_trusts_them(self, tmp_path: Path, monkeypatch) -> None:
        path = self.photo(tmp_path / "a.jpg")
        told = message(file_size, path)
        assert "12000x9000 pixels" in told and "(--max-pixels)" in told
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 12000 * 9000)
        with warnings.catch_warnings(action="error"):
            assert file_size(path) == (12000, 9000)

    def test_on_the_command_line(self, tmp_path: Path, capsys) -> None:
        folder = tmp_path / "photos"
        folder.mkdir()
        self.photo(folder / "a.jpg")
        np.savez(tmp_path / "k.npz", poses=np.eye(4)[None])
        before = Image.MAX_IMAGE_PIXELS
        options = ["reconstruct", str(folder), "--poses", str(tmp_path / "k.npz"), "-m"]
        options += ["mapanything", "--weights", str(tmp_path / "none"), "-o", str(tmp_path / "out")]
        for trusted, expected in (("108000000", "none"), ("107999999", "12000x9000 pixels")):
            assert main([*options, "--max-pixels", trusted]) == 2
            assert expected in capsys.readouterr().err
            assert before == Image.MAX_IMAGE_PIXELS
