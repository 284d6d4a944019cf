"""Pictures as surfaces: what the atlas holds, and what a picture of a folder must be."""

from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from jaxrecon.errors import InputError
from jaxrecon.scenes.photographs import Pictures, hue_turned, pyramid
from jaxrecon.scenes.vectors import Vector
from jaxrecon.training.textures import picture_files, read_pictures


def drawn(seed: int, side: int = 16) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (side, side, 3), np.uint8)


@pytest.fixture(scope="module")
def pictures() -> Pictures:
    return Pictures(np.stack([pyramid(drawn(seed)) for seed in range(3)]))


def colour(pictures: Pictures, number: int, u: np.ndarray, v: np.ndarray, width: float) -> Vector:
    shape = np.broadcast_shapes(np.shape(u), np.shape(v))
    return pictures.colour(
        jnp.full(shape, number),
        jnp.broadcast_to(jnp.float32(u), shape),
        jnp.broadcast_to(jnp.float32(v), shape),
        jnp.full(shape, width, jnp.float32),
    )


def middles(side: int) -> tuple[np.ndarray, np.ndarray]:
    at = (np.arange(side) + 0.5) / side
    return at[None, :], at[:, None]


def test_the_middle_of_a_texel_has_its_colour(pictures: Pictures) -> None:
    assert pictures.side == 16
    for number in range(3):
        found = colour(pictures, number, *middles(16), 1 / 16).stack()
        np.testing.assert_allclose(255 * found, drawn(number), atol=0.01)


@pytest.mark.parametrize("side", [8, 4, 2, 1])
def test_a_wide_pixel_sees_means_of_light(pictures: Pictures, side: int) -> None:
    found = colour(pictures, 1, *middles(side), 1 / side).stack()
    size = 16 // side
    light = (drawn(1) / 255.0) ** 2.2
    mean = light.reshape(side, size, side, size, 3).mean(axis=(1, 3))
    np.testing.assert_allclose(found, mean ** (1 / 2.2), atol=0.6 / 255)


def test_a_picture_goes_on_as_in_a_mirror(pictures: Pictures) -> None:
    u, v = middles(16)
    straight = colour(pictures, 2, u, v, 1 / 16).stack()
    for mirrored in ((2 - u, v), (u, 2 - v), (-u, -v), (u + 2, v - 4)):
        np.testing.assert_allclose(
            colour(pictures, 2, *mirrored, 1 / 16).stack(), straight, atol=1e-5
        )


def test_between_texels_colours_blend(pictures: Pictures) -> None:
    u, v = (np.arange(15) + 1) / 16, np.full(15, 0.5 / 16)
    found = colour(pictures, 0, u, v, 1 / 16).stack()
    row = drawn(0)[0].astype(float)
    np.testing.assert_allclose(255 * found, (row[1:] + row[:-1]) / 2, atol=0.01)


def test_hues_turn_about_grey() -> None:
    red = Vector(jnp.float32(1), jnp.float32(0), jnp.float32(0))
    np.testing.assert_allclose(
        hue_turned(red, jnp.float32(2 * np.pi / 3)).stack(), [0, 1, 0], atol=1e-6
    )
    grey = Vector(*(jnp.float32(0.4),) * 3)
    np.testing.assert_allclose(hue_turned(grey, jnp.float32(1.0)).stack(), [0.4] * 3, atol=1e-6)


def save(path: Path, size: tuple[int, int] = (20, 12), mode: str = "RGB") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, 77 if mode in "LP" else (200, 100, 50)[: len(mode)] or 1).save(path)
    return path


def test_a_folder_of_pictures(tmp_path: Path) -> None:
    names = ["b/10.png", "b/2.jpg", "a.webp", "grey.bmp"]
    for name in names[:3]:
        save(tmp_path / name)
    save(tmp_path / names[3], mode="L")
    save(tmp_path / ".hidden" / "x.png")
    (tmp_path / "notes.txt").write_text("no picture")
    found = [str(path.relative_to(tmp_path)) for path in picture_files(tmp_path)]
    assert found == ["a.webp", "b/2.jpg", "b/10.png", "grey.bmp"]
    read = read_pictures(tmp_path, side=8)
    assert read.texels.shape == (4, 64 + 16 + 4 + 1)
    assert read.side == 8
    assert set(read.texels[2]) == {200 << 16 | 100 << 8 | 50}
    assert set(read.texels[3]) == {77 << 16 | 77 << 8 | 77}


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda folder: None, "textures: {folder} does not exist; give a folder of pictures"),
        (lambda folder: folder.write_text("x"), "textures: {folder} is a file, not a folder"),
        (lambda folder: folder.mkdir(), "textures: no pictures in {folder}; give a folder of JPEG"),
        (
            lambda folder: save(folder / "dot.png", (1, 1)),
            "textures: {folder}/dot.png is 1x1 pixels; give pictures of at least 8 pixels a side",
        ),
        (
            lambda folder: save(folder / "line.png", (300, 2)),
            "textures: {folder}/line.png is 300x2 pixels; give pictures of at least 8",
        ),
        (
            lambda folder: (folder.mkdir(), (folder / "a.jpg").write_text("no image")),
            "cannot read {folder}/a.jpg: it is not an image of a known kind",
        ),
        (
            lambda folder: (folder.mkdir(), (folder / "a.png").write_bytes(b"")),
            "cannot read {folder}/a.png: the file is empty",
        ),
    ],
)
def test_what_is_no_folder_of_pictures(make: object, told: str, tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    make(folder)  # pyright: ignore[reportCallIssue]
    with pytest.raises(InputError) as error:
        read_pictures(folder)
    assert str(error.value).startswith(told.format(folder=folder))


def test_more_pictures_than_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(3):
        save(tmp_path / f"{number}.png")
    monkeypatch.setattr("jaxrecon.training.textures._MOST_TEXELS", 2 * 85)
    with pytest.raises(InputError, match=r"holds 3 pictures; give at most 2"):
        read_pictures(tmp_path, side=8)
