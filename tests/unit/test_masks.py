"""Masks that users give: found by name, brought to size, and in force in every result."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flax import nnx
from PIL import Image

from drawn_weights import drawn
from image_files import write_tiff
from jaxrecon import InputError, OutputError, Reconstruction
from jaxrecon.images import ImageBatch, check_masks, load_images
from jaxrecon.models import PI3_RESIZE, VGGT_RESIZE, Pi3
from jaxrecon.pipeline import Pipeline
from ramp_photos import save_photo
from tiny_models import PI3_TINY

SIZE = (60, 40)


def save_mask(path: Path, keep: np.ndarray, **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(keep.astype(np.uint8) * 255).save(path, **options)
    return path


def left_half(size: tuple[int, int] = SIZE) -> np.ndarray:
    """Keeps the left half."""
    return np.broadcast_to(np.arange(size[0]) < size[0] // 2, size[::-1])


def batch_of(photos: list[Path], rule: Any = PI3_RESIZE) -> ImageBatch:
    return load_images(photos, rule=rule, resolution=84)


@pytest.mark.parametrize(("kind", "white"), [("<u2", 65535), ("<f4", 1.0), ("u1", 255)])
def test_masks_of_tiffs_in_which_zero_is_white(tmp_path, kind, white):
    photo = save_photo(tmp_path / "a.jpg", SIZE)
    values = np.where(left_half(), 0, white).astype(kind)
    bits = 8 * values.itemsize
    tags = {"bits": bits, "photometric": 0, "sample_format": 3 if kind == "<f4" else 1}
    mask = write_tiff(tmp_path / "mask.tif", values.tobytes(), SIZE, **tags)
    found, expected = (batch_of([photo]).masked([each]).masks for each in (mask, left_half()))
    assert found is not None and expected is not None
    np.testing.assert_array_equal(found.keep, expected.keep)


@pytest.mark.parametrize(
    ("photos", "masks"),
    [
        (("a.jpg",), ("a.jpg.png",)),
        (("a.jpg",), ("a.png",)),
        (("a.jpg",), ("a.jpg.PNG",)),
        (("x/i.jpg", "y/i.jpg"), ("x/i.jpg.png", "y/i.png")),
        (("x/1.jpg", "y/2.jpg"), ("1.jpg.png", "2.png")),
        (("e\u0301.jpg",), ("\u00e9.jpg.png",)),
        (("my photo 1.jpg",), ("my photo 1.jpg.png",)),
    ],
)
def test_masks_are_found_by_name(tmp_path, photos, masks):
    places = [save_photo(tmp_path / "in" / photo, SIZE) for photo in photos]
    for mask in masks:
        save_mask(tmp_path / "masks" / mask, left_half())
    batch = batch_of(places).masked(tmp_path / "masks")
    assert batch.masks is not None
    assert batch.masks.photos == tuple(str(tmp_path / "masks" / mask) for mask in masks)
    middle = batch.pixels.shape[2] // 2
    assert batch.masks.keep[:, :, : middle - 1].all()
    assert not batch.masks.keep[:, :, middle + 1 :].any()


@pytest.mark.parametrize("rule", [PI3_RESIZE, VGGT_RESIZE, VGGT_RESIZE.with_padding()])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_masks_lie_as_the_upright_photo(tmp_path, rule, orientation):
    """Red in the ramp tells the column: what is kept has little of it."""
    photo = save_photo(tmp_path / "a.png", (45, 101), orientation)
    batch = batch_of([photo], rule).masked([left_half((45, 101))])
    assert batch.masks is not None
    left, top, right, bottom = batch.transforms[0].shown
    shown, red = np.s_[0, top + 2 : bottom - 2, left + 2 : right - 2], batch.pixels[..., 0]
    keep = batch.masks.keep[shown]
    assert red[shown][keep].max() < 140 and red[shown][~keep].min() > 110
    assert 0.4 < keep.mean() < 0.6


@pytest.mark.parametrize("form", [lambda a: a, list])
@pytest.mark.parametrize("dtype", [bool, np.uint8, np.float32])
def test_masked_pixels_are_left_out(tmp_path, form, dtype):
    photo = save_photo(tmp_path / "a.png", SIZE)
    masked = np.ma.masked_array(np.ones((1, *SIZE[::-1]), dtype), ~left_half()[None])
    found, plain = (batch_of([photo]).masked(each) for each in (form(masked), [left_half()]))
    assert found.masks is not None and plain.masks is not None
    np.testing.assert_array_equal(found.masks.keep, plain.masks.keep)
    assert not plain.masks.keep.all()
    np.testing.assert_array_equal(found.masks.photos[0], left_half())


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "I;16"])
def test_what_is_not_black_is_kept(tmp_path, mode):
    photo = save_photo(tmp_path / "in/a.jpg", SIZE)
    image = Image.fromarray(left_half().astype(np.uint8))  # 1 of 255, in a label map
    image = Image.fromarray(left_half().astype(np.uint16)) if mode == "I;16" else image
    if mode in ("1", "RGB"):
        image = Image.fromarray(left_half().astype(np.uint8) * 255).convert(mode)
    if mode == "P":
        image.putpalette([0, 0, 0, 200, 0, 0])
    image.save(tmp_path / "m.png")
    batch = batch_of([photo]).masked([tmp_path / "m.png"])
    assert batch.masks is not None and 0.4 < batch.masks.keep.mean() < 0.6


class TestRefused:
    @pytest.fixture
    def batch(self, tmp_path: Path) -> ImageBatch:
        return batch_of([save_photo(tmp_path / f"in/{n}.jpg", SIZE) for n in "ab"])

    def refuse(self, batch: ImageBatch, masks: Any, told: str) -> None:
        with pytest.raises(InputError, match=told) as refusal:
            batch.masked(masks)
        assert "\n" not in str(refusal.value)

    def test_missing_ones(self, batch: ImageBatch, tmp_path: Path) -> None:
        save_mask(tmp_path / "m/a.png", left_half())
        told = r"m has none for 1 of 2 photos \(b\.jpg\); call them as b\.jpg\.png"
        self.refuse(batch, tmp_path / "m", told)
        with pytest.raises(InputError, match=told):
            check_masks(str(tmp_path / "in"), tmp_path / "m")
        self.refuse(batch, tmp_path / "none", "none is no folder")
        self.refuse(batch, [left_half()], "found 1 for 2 views")

    def test_another_size(self, batch: ImageBatch, tmp_path: Path) -> None:
        for name in "ab":
            save_mask(tmp_path / f"m/{name}.png", left_half((40, 60)))
        told = r"m/a\.png is 40x60, the photo a\.jpg is 60x40 once upright"
        self.refuse(batch, tmp_path / "m", told)
        self.refuse(batch, [left_half((40, 60))] * 2, r"that of a\.jpg is 40x60")

    def test_what_is_no_mask(self, batch: ImageBatch, tmp_path: Path) -> None:
        alpha = tmp_path / "alpha.png"
        Image.new("RGBA", SIZE).save(alpha)
        self.refuse(batch, [alpha] * 2, r"alpha\.png has an alpha channel")
        (tmp_path / "text.png").write_text("no picture")
        self.refuse(batch, [tmp_path / "text.png"] * 2, r"cannot read .*text\.png")
        self.refuse(batch, [tmp_path / "gone.png"] * 2, r"gone\.png")
        self.refuse(batch, [np.zeros((40, 60, 3))] * 2, r"has shape \(40, 60, 3\)")
        for dtype in (np.float16, np.float32, np.float64):
            holed = np.ones((40, 60), dtype)
            holed[3, 4] = np.nan
            self.refuse(batch, [np.ones((40, 60)), holed], r"that of .* has values that are NaN")
        self.refuse(batch, 5, "found 5; give a folder")
        self.refuse(batch, [None, None], r"found None for a\.jpg")


@pytest.fixture(scope="module")
def pipeline() -> Pipeline:
    return Pipeline(drawn(lambda: Pi3(PI3_TINY, rngs=nnx.Rngs(0))), "tiny", PI3_RESIZE)


def test_masked_pixels_never_leave(pipeline: Pipeline, tmp_path: Path) -> None:
    pycolmap = pytest.importorskip("pycolmap")
    photos = [save_photo(tmp_path / f"in/{o}.png", SIZE, o) for o in (1, 6)]
    for photo in photos:
        save_mask(tmp_path / f"masks/{photo.name}.png", left_half())
    given: dict[str, Any] = {"resolution": 42, "min_confidence": 0.0, "edge_rtol": None}
    files = [str(photo) for photo in photos]
    whole = pipeline.reconstruct(files, **given)
    recon = pipeline.reconstruct(files, masks=tmp_path / "masks", **given)
    middle = recon.mask.shape[2] // 2
    mask = np.asarray(recon.mask)
    assert np.asarray(whole.mask)[..., middle + 1 :].any() and mask[..., : middle - 1].any()
    assert not mask[..., middle + 1 :].any()
    assert (mask <= np.asarray(whole.mask)).all()
    folder = pipeline.stream(
        files, tmp_path / "stream", masks=tmp_path / "masks", views_at_once=1, **given
    )
    np.testing.assert_array_equal(Reconstruction.load(folder).mask, mask)
    with pytest.raises(Exception, match="another reconstruction"):
        pipeline.stream(files, folder, **given)
    colmap = recon.save(tmp_path / "colmap")
    for image in pycolmap.Reconstruction(colmap / "sparse/0").images.values():
        xy = np.array([point.xy for point in image.points2D])
        assert len(xy) and xy[:, 0].max() <= SIZE[0] / 2 + 1
        with Image.open(colmap / f"masks/{image.name}.png") as written:
            np.testing.assert_array_equal(np.asarray(written) == 255, left_half())
    assert sorted(os.listdir(recon[1].save(tmp_path / "one") / "masks")) == ["6.png.png"]
    processed = recon.save(tmp_path / "processed", size="processed")
    with Image.open(processed / "masks/1.png.png") as written:
        assert written.size == recon.mask.shape[:0:-1]


@pytest.mark.parametrize("name", ["colmap", "nerfstudio"])
def test_a_photo_whose_name_leaves_no_room_for_its_masks(pipeline, tmp_path, name) -> None:
    """COLMAP calls the mask of `a.jpg` `a.jpg.png`, which the file system may not hold."""
    names = "a.png", f"{'x' * 250}.png"
    photos = [str(save_photo(tmp_path / name, SIZE, 1)) for name in names]
    given: dict[str, Any] = {"resolution": 42, "min_confidence": 0.0, "edge_rtol": None}
    recon = pipeline.reconstruct(photos, masks=[left_half()] * 2, **given)
    with pytest.raises(OutputError, match=r"longer than the file system holds.*258 bytes"):
        recon.save(tmp_path / "out", format=name)
    assert sorted(os.listdir(tmp_path)) == list(names)
    recon.save(tmp_path / "out", format=name, size="processed")
