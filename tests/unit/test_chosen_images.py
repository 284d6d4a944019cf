"""Where a file names images, those of a folder that it does not name are no views."""

import json
from argparse import Namespace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from image_files import noise, save
from jaxrecon.cli import priors
from jaxrecon.errors import InputError
from jaxrecon.formats.streamed import Streamed
from jaxrecon.images import view_names
from kept_notes import KeptNotes
from random_recon import random_recon


def given(*images: str, **files: Any) -> Namespace:
    kinds = {"intrinsics": None, "poses": None, "depths": None, "colmap": None}
    return Namespace(images=list(images), allow_outside=False, **(kinds | files))


def chosen(*images: str, **files: Any) -> tuple[tuple[str, ...], str]:
    """The names of the views, and what was noted."""
    stages = KeptNotes()
    source, _ = priors.sources(given(*images, **files), stages)
    return view_names(source), "\n".join(stages.notes)


def nerf(path: Path, *names: str) -> Path:
    frames = [{"file_path": name, "transform_matrix": np.eye(4).tolist()} for name in names]
    path.write_text(json.dumps({"fl_x": 20, "frames": frames}))
    return path


def colmap(folder: Path, *names: str) -> Path:
    folder.mkdir(parents=True)
    rows = [f"{number} 1 0 0 0 0 0 0 1 {name}\n\n" for number, name in enumerate(names, 1)]
    (folder / "images.txt").write_text("".join(rows))
    (folder / "cameras.txt").write_text("1 PINHOLE 28 14 20 20 14 7\n")
    return folder


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Two photos, with depth, a mask and normals of each."""
    folder = tmp_path / "photos [raw]"
    folder.mkdir()
    for stem in ("r_0", "r_1"):
        for name in (f"{stem}.png", f"{stem}_depth_0001.png", f"{stem}.mask.png"):
            save(noise(14, 28), folder / name)
        save(noise(14, 28), folder / f"{stem}_normal.jpg")
    return folder


@pytest.mark.parametrize("stored", ["./photos [raw]/r_{}", "r_{}.png", "elsewhere/r_{}.png"])
@pytest.mark.parametrize("kind", ["poses", "intrinsics", "depths"])
def test_a_nerf_scene_chooses(photos: Path, stored: str, kind: str, tmp_path: Path) -> None:
    file = nerf(tmp_path / "transforms.json", *(stored.format(view) for view in (0, 1)))
    names, note = chosen(str(photos), **{kind: str(file)})
    assert names == ("r_0.png", "r_1.png")
    assert f"NOTE: 6 images are not in {file} and left out (r_0.mask.png, r_0_depth" in note
    every = note.split('"')[1]
    assert len(chosen(every, poses=str(file))[0]) == 8


def test_a_colmap_model_chooses(photos: Path, tmp_path: Path) -> None:
    model = colmap(tmp_path / "model" / "sparse" / "0", "r_1.png")
    names, note = chosen(str(photos), poses=str(tmp_path / "model"))
    assert names == ("r_1.png",)
    assert "NOTE: 7 images are not in" in note
    assert model.exists()


def test_files_choose_together(photos: Path, tmp_path: Path) -> None:
    one, other = nerf(tmp_path / "a.json", "r_0"), nerf(tmp_path / "b.json", "r_1.mask.png")
    names, _ = chosen(str(photos), poses=str(one), intrinsics=str(other))
    assert names == ("r_0.png", "r_1.mask.png")


def test_an_archive_names_no_images(photos: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / "known.npz", poses=np.tile(np.eye(4), (8, 1, 1)))
    names, note = chosen(str(photos), poses=str(tmp_path / "known.npz"))
    assert (len(names), note) == (8, "")


def test_nothing_is_chosen_where_nothing_is_known(photos: Path, tmp_path: Path) -> None:
    """What is wrong is told when the file is read."""
    strangers = nerf(tmp_path / "a.json", "x.png")
    for file in (strangers, tmp_path / "absent.json", tmp_path / "absent"):
        assert len(chosen(str(photos), poses=str(file))[0]) == 8
    (tmp_path / "damaged.json").write_text("{")
    with pytest.raises(InputError, match=r"damaged\.json"):
        chosen(str(photos), poses=str(tmp_path / "damaged.json"))


def test_images_that_are_given_one_by_one_stay(photos: Path, tmp_path: Path) -> None:
    file = nerf(tmp_path / "a.json", "r_0")
    listed = [str(photos / name) for name in ("r_0.png", "r_1.png")]
    assert chosen(*listed, poses=str(file)) == (("r_0.png", "r_1.png"), "")


def test_photos_that_colmap_did_not_register_are_told(photos: Path, tmp_path: Path) -> None:
    colmap(tmp_path / "sparse" / "0", "r_0.png", "r_1.png")
    photos.rename(tmp_path / "images")
    names, note = chosen(colmap=str(tmp_path))
    assert names == ("r_0.png", "r_1.png")
    assert f"NOTE: 6 images are not in the model of {tmp_path} and left out (" in note


@pytest.mark.parametrize("kind", ["npz", "streamed", "colmap"])
def test_results_of_our_own_leave_out_what_they_do_not_know(kind: str, tmp_path: Path) -> None:
    recon = random_recon()
    folder = tmp_path / "photos"
    (folder / "sub").mkdir(parents=True)
    for name in ("a.jpg", "b.JPG", "a.png"):
        save(noise(14, 28), folder / name)
    file = tmp_path / {"npz": "scene.npz", "streamed": "streamed", "colmap": "colmap/"}[kind]
    if kind == "streamed":
        target = Streamed(file, "digest", recon.names)
        target.folder.mkdir()
        target.start({}, overwrite=False)
    else:
        recon.save(f"{file}/" if kind == "colmap" else file)
    names, _ = chosen(str(folder), poses=str(file))
    assert set(names) >= {"a.jpg", "b.JPG"}
