"""Reconstruction: its checks, picking views, original pixels, and the .npz round trip."""

from dataclasses import fields, replace
from typing import Any

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest

from jaxrecon import InputError
from jaxrecon.formats import VIEW_ARRAYS
from jaxrecon.reconstruction import Reconstruction
from random_recon import HEIGHT, VIEWS, WIDTH, random_recon

ARRAYS = VIEW_ARRAYS


@pytest.fixture
def no_type_checker(monkeypatch):
    """As outside the tests, where no type checker reads the annotations."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)


def assert_same(found: Reconstruction, expected: Reconstruction) -> None:
    for field in fields(Reconstruction):
        a, b = getattr(found, field.name), getattr(expected, field.name)
        if field.name in ARRAYS:
            np.testing.assert_array_equal(a, b)
            assert a.dtype == b.dtype
        else:
            assert a == b


def on_device(recon: Reconstruction) -> Reconstruction:
    return replace(recon, **{name: jnp.asarray(getattr(recon, name)) for name in ARRAYS})


@pytest.mark.parametrize("name", ARRAYS[1:])
@pytest.mark.parametrize("place", [np.asarray, jnp.asarray])
def test_an_array_of_the_wrong_shape_is_refused(name, place, no_type_checker):
    recon = random_recon()
    wrong = place(getattr(recon, name)[:, 1:])
    with pytest.raises(InputError) as refusal:
        replace(recon, **{name: wrong})
    message = str(refusal.value)
    assert message.startswith(f"{name} has shape {wrong.shape}; expected ")
    assert str(getattr(recon, name).shape) in message and str((3, 8, 12, 3)) in message
    assert "\n" not in message


@pytest.mark.parametrize("shape", [(8, 12, 3), (3, 8, 12, 4), (0, 8, 12, 3), (3, 0, 12, 3)])
def test_points_that_are_not_views_of_pixels_are_refused(shape, no_type_checker):
    with pytest.raises(InputError, match=r"points_world has shape .*expected \(V, H, W, 3\)"):
        replace(random_recon(), points_world=np.zeros(shape, np.float32))


def test_mask_and_colours_of_another_type_are_refused(no_type_checker):
    recon = random_recon()
    with pytest.raises(InputError, match=r"^mask has dtype float32; expected bool"):
        replace(recon, mask=recon.confidence)
    with pytest.raises(InputError, match=r"^colors has dtype float32; expected uint8"):
        replace(recon, colors=recon.points_world)


def test_too_few_names_and_a_transform_of_another_size_are_refused():
    recon = random_recon()
    with pytest.raises(InputError, match=r"^names has shape \(2,\); expected \(3,\)"):
        replace(recon, names=recon.names[:2])
    with pytest.raises(InputError, match=r"^transforms has shape \(1,\); expected \(3,\)"):
        replace(recon, transforms=recon.transforms[:1])
    turned = replace(recon.transforms[1], size=(HEIGHT, WIDTH))
    with pytest.raises(InputError, match=r"^transforms\[1\] has size 8x12; expected 12x8"):
        replace(recon, transforms=(recon.transforms[0], turned, recon.transforms[2]))


def test_depth_is_the_third_camera_coordinate():
    recon = random_recon()
    assert recon.depth_z.shape == (VIEWS, HEIGHT, WIDTH)
    assert recon.depth_z[1, 2, 3] == recon.points_camera[1, 2, 3, 2]


def test_numpy_brings_every_array_to_the_host():
    recon = random_recon()
    device = on_device(recon)
    assert all(isinstance(getattr(device, name), jax.Array) for name in ARRAYS)
    assert all(type(getattr(device.numpy(), name)) is np.ndarray for name in ARRAYS)
    assert_same(device.numpy(), recon)


@pytest.mark.parametrize(
    ("chosen", "numbers"),
    [
        (1, [1]),
        (-1, [2]),
        (np.int64(0), [0]),
        (slice(1, None), [1, 2]),
        (slice(None, None, -1), [2, 1, 0]),
        ([2, 0], [2, 0]),
        ((-3, -3), [0, 0]),
        (np.array([1, 2]), [1, 2]),
        (jnp.array([2]), [2]),
    ],
)
@pytest.mark.parametrize("place", [lambda recon: recon, on_device])
def test_picking_views(chosen, numbers, place):
    recon = random_recon()
    picked = place(recon)[chosen]
    assert len(picked) == len(numbers)
    for name in ARRAYS:
        np.testing.assert_array_equal(getattr(picked, name), getattr(recon, name)[numbers])
    assert picked.names == tuple(recon.names[n] for n in numbers)
    assert picked.transforms == tuple(recon.transforms[n] for n in numbers)
    assert (picked.model, picked.seconds) == (recon.model, recon.seconds)


@pytest.mark.parametrize("chosen", [3, -4, [0, 3]])
def test_a_view_that_does_not_exist(chosen):
    wanted = chosen if isinstance(chosen, int) else 3
    with pytest.raises(
        IndexError, match=rf"^view {wanted} is out of range: there are 3 \(0 to 2\)"
    ):
        random_recon()[chosen]


@pytest.mark.parametrize("chosen", [True, [True, False], np.array([True]), "0", 1.0, [0.5], None])
def test_views_are_not_chosen_by_other_things(chosen, no_type_checker):
    with pytest.raises(InputError, match=r"^views are chosen by an int, a slice or a list of ints"):
        random_recon()[chosen]


def test_picking_no_view_is_refused():
    with pytest.raises(InputError, match="at least one view"):
        random_recon()[3:]
    with pytest.raises(InputError, match="at least one view"):
        random_recon()[[]]


def test_iterating_gives_the_views():
    recon = random_recon()
    assert [view.names for view in recon] == [(name,) for name in recon.names]


def test_original_cameras():
    """fx 10, cx 5.25, fy 11, cy 3.75, with c' = (c + 0.5 - offset) / scale - 0.5 on each axis."""
    original = random_recon().to_original()
    assert original.sizes.tolist() == [[24, 16], [120, 40], [20, 16]]
    expected = [
        [[20, 0, 11], [0, 22, 8], [0, 0, 1]],
        [[100, 0, 57], [0, 55, 20.75], [0, 0, 1]],
        [[10, 0, 9.25], [0, 22, 8], [0, 0, 1]],
    ]
    np.testing.assert_allclose(original.intrinsics, expected, rtol=1e-6)


def test_original_pixels():
    original = random_recon().to_original()
    assert original.pixels(0).shape == (HEIGHT, WIDTH, 2)
    np.testing.assert_allclose(original.pixels(0)[0, 0], [0.5, 0.5], atol=1e-12)
    np.testing.assert_allclose(original.pixels(0)[7, 11], [22.5, 14.5], atol=1e-12)
    np.testing.assert_allclose(original.pixels(1)[1, 2], [24.5, 7.0], atol=1e-12)
    np.testing.assert_allclose(original.pixels(-1)[0, 3], [7.0, 0.5], atol=1e-12)


def test_original_depth_of_a_stretched_view():
    recon = random_recon()
    depth = on_device(recon).to_original().depth_z(0)
    np.testing.assert_array_equal(depth, recon.depth_z[0].repeat(2, axis=0).repeat(2, axis=1))


def test_original_depth_of_a_cropped_view_is_nan_outside():
    recon = random_recon()
    depth = recon.to_original().depth_z(2)
    assert depth.shape == (16, 20)
    np.testing.assert_array_equal(depth[:, 4:16], recon.depth_z[2].repeat(2, axis=0))
    assert np.isnan(depth[:, :4]).all() and np.isnan(depth[:, 16:]).all()


def test_original_depth_of_an_enlarged_view_takes_existing_pixels():
    recon = random_recon()[0]
    small = replace(recon.transforms[0], original_size=(4, 2), scale=(3.0, 4.0))
    depth = replace(recon, transforms=(small,)).to_original().depth_z(0)
    np.testing.assert_array_equal(depth, recon.depth_z[0][2::4, 1::3])


def test_original_view_out_of_range():
    original = random_recon().to_original()
    for method in (original.pixels, original.depth_z):
        with pytest.raises(IndexError, match=r"^view 3 is out of range"):
            method(3)


@pytest.mark.parametrize("place", [lambda recon: recon, on_device])
def test_npz_round_trip(tmp_path, place):
    recon = random_recon()
    path = place(recon).save(tmp_path / "new" / "scene.npz")
    assert path == tmp_path / "new" / "scene.npz"
    assert_same(Reconstruction.load(path), recon)
    assert_same(Reconstruction.load(str(path)), recon)


def test_npz_keeps_values_that_are_not_finite_and_odd_names(tmp_path):
    recon = random_recon()
    recon.points_world[0, 0, 0] = np.nan, np.inf, -np.inf
    recon = replace(recon, names=("π³ 1.jpg", "", "a\nb"), seconds={}, model="")
    assert_same(Reconstruction.load(recon.save(tmp_path / "s.npz")), recon)


def test_npz_is_open_to_numpy_without_pickle(tmp_path):
    recon = random_recon()
    with np.load(recon.save(tmp_path / "s.npz"), allow_pickle=False) as archive:
        assert {*ARRAYS, "names", "original_sizes", "scales", "offsets"} < set(archive)
        assert archive["names"].tolist() == list(recon.names)


def test_every_truncation_of_an_npz_is_refused(tmp_path):
    path = random_recon().save(tmp_path / "scene.npz")
    whole = path.read_bytes()
    for length in [*range(0, len(whole), 997), len(whole) - 1]:
        path.write_bytes(whole[:length])
        with pytest.raises(InputError) as refusal:
            Reconstruction.load(path)
        assert str(path) in str(refusal.value) and "\n" not in str(refusal.value)


def test_a_flipped_byte_in_an_npz_is_refused(tmp_path):
    path = random_recon().save(tmp_path / "scene.npz")
    content = bytearray(path.read_bytes())
    content[1000] ^= 0xFF
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"not a whole \.npz"):
        Reconstruction.load(path)


class Boom:
    def __reduce__(self):
        return (pytest.fail, ("the file was unpickled",))


def test_files_that_are_not_reconstructions_are_refused(tmp_path):
    path = tmp_path / "scene.npz"
    for write in (
        lambda file: file.write(b"solid cube"),
        lambda file: np.save(file, np.zeros(3)),
        lambda file: np.savez(file, points_world=np.zeros((1, 2, 2, 3))),
        lambda file: np.savez(file, jaxrecon_npz=np.int64(2)),
        lambda file: np.savez(file, jaxrecon_npz=np.array([Boom()], object)),
    ):
        with open(path, "wb") as file:
            write(file)
        told = r"is not a whole \.npz file of a reconstruction"
        with pytest.raises(InputError, match=told) as caught:
            Reconstruction.load(path)
        assert "unsafely" not in str(caught.value)


@pytest.mark.parametrize("name", ["mask", "scales", "names"])
def test_an_npz_whose_arrays_disagree_is_refused(tmp_path, name, no_type_checker):
    path = random_recon().save(tmp_path / "scene.npz")
    with np.load(path) as archive:
        arrays = dict(archive)
    for wrong in (arrays[name][:2], arrays[name][0]):
        np.savez(path, **(arrays | {name: wrong}))
        with pytest.raises(InputError, match=r"is not a whole \.npz file of a reconstruction"):
            Reconstruction.load(path)


def test_an_absent_npz(tmp_path):
    with pytest.raises(InputError, match=r"cannot read .*none.npz: No such file"):
        Reconstruction.load(tmp_path / "none.npz")
    with pytest.raises(InputError, match="cannot read"):
        Reconstruction.load(tmp_path)


@pytest.mark.usefixtures("without_shape_checks")
@pytest.mark.parametrize("views", [slice(0, 2), [0, 1], [], np.arange(3), slice(2, 2)])
@pytest.mark.parametrize("map_of", ["depth_z", "pixels"])
def test_maps_of_photos_are_of_one_view(map_of: str, views: Any) -> None:
    original = random_recon().to_original()
    with pytest.raises(InputError, match="give the number of one view"):
        getattr(original, map_of)(views)
    for one in (1, -2, np.int64(1), jnp.asarray(1), [1]):
        found = getattr(original, map_of)(one)
        np.testing.assert_array_equal(found, getattr(original, map_of)(1))
