"""What was read is never deleted by what is written, whoever allows to overwrite."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import jaxrecon
from jaxrecon import Stages, registry
from jaxrecon.cli import main
from jaxrecon.errors import InputError, OutputError
from jaxrecon.files import check_output_folder
from jaxrecon.formats import FORMATS, photos_of
from jaxrecon.pipeline import SequenceReconstruction
from jaxrecon.reconstruction import Reconstruction
from jaxrecon.registry import load_abstract
from random_recon import random_recon
from tiny_models import tiny_entry, write_native, write_upstream

FOLDERS = [name for name, kind in FORMATS.items() if kind.is_folder]
READ = "is read from there and would be deleted; choose another folder"


def content(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


@pytest.fixture
def recon(tmp_path: Path) -> Reconstruction:
    """Of photos in `work/photos`, of which the first is in no file and the last is gone."""
    photos = tmp_path / "work" / "photos"
    photos.mkdir(parents=True)
    recon = random_recon()
    files: list[str | None] = [str(photos / f"{number}.jpg") for number in range(len(recon))]
    for file in files[:-1]:
        Path(str(file)).write_bytes(b"a photo")
    return replace(recon, files=(None, *files[1:]))


@pytest.mark.parametrize("place", ["work/photos", "work", "work/../work/photos/."])
@pytest.mark.parametrize("name", FOLDERS)
def test_photos_beside_what_is_written(
    recon: Reconstruction, name: str, place: str, tmp_path: Path
) -> None:
    before = content(tmp_path)
    for overwrite in (True, False):
        with pytest.raises(OutputError, match=READ):
            recon.save(tmp_path / place, name, overwrite=overwrite)
    assert content(tmp_path) == before


def test_other_folders_may_be_overwritten(recon: Reconstruction, tmp_path: Path) -> None:
    place = tmp_path / "work" / "photos" / "trajectory"
    for _ in range(2):
        recon.save(place, "trajectory", overwrite=True)
    gone = replace(recon, files=(*(None for _ in recon.files[1:]), str(place / "gone.jpg")))
    assert not photos_of(gone.files)
    gone.save(place, "trajectory", overwrite=True)
    assert (place.parent / "1.jpg").read_bytes() == b"a photo"


def test_photos_of_a_result_that_is_saved_again(
    recon: Reconstruction, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    scene = recon.save(tmp_path / "scene.npz")
    before = content(tmp_path)
    for place in ("work", "work/photos"):
        where = str(tmp_path / place)
        assert main(["save", str(scene), "-o", where, "--formats", "ply", "--overwrite"]) == 2
        assert READ in capsys.readouterr().err
    assert content(tmp_path) == before


def test_a_sequence_is_not_saved_over_itself(tmp_path: Path) -> None:
    sequence = object.__new__(SequenceReconstruction)
    object.__setattr__(sequence, "folder", tmp_path / "sequence")
    (tmp_path / "sequence").mkdir()
    for place in (tmp_path / "sequence", tmp_path):
        with pytest.raises(OutputError, match=READ):
            sequence.save(place, ["trajectory"], overwrite=True)
    assert (tmp_path / "sequence").is_dir()


@pytest.mark.usefixtures("without_shape_checks")
def test_overwriting_is_allowed_by_true_alone(tmp_path: Path) -> None:
    """A text such as "False" counts as true where Python decides."""
    photos = np.zeros((2, 28, 42, 3), np.uint8)
    weights = write_upstream(tmp_path / "weights.safetensors")
    model = load_abstract("pi3-mini")
    place = tmp_path / "results"
    place.mkdir()
    (place / "mine").write_bytes(b"kept")
    calls: list[Callable[..., Any]] = [
        partial(check_output_folder, place),
        partial(random_recon().save, place, "trajectory"),
        partial(random_recon().save_pictures, place),
        partial(model.stream, photos, place, stages=Stages(quiet=True)),
        partial(model.reconstruct_sequence, photos, place, stages=Stages(quiet=True)),
        partial(jaxrecon.export_program, model, place, views=2, size=(42, 28)),
        partial(registry.convert_weights, tiny_entry(), weights, place),
    ]
    for call in calls:
        for value in ("False", 1):
            with pytest.raises(InputError, match=r"overwrite=.* must be True or False"):
                call(overwrite=value)
    assert content(place) == {"mine": b"kept"}


@pytest.mark.usefixtures("without_shape_checks")
def test_other_truth_values(tmp_path: Path) -> None:
    wrong: Any = "no"
    with pytest.raises(InputError, match="use_quantile='no' must be True or False"):
        jaxrecon.export_program(
            jaxrecon.load("pi3-mini", stages=Stages(quiet=True)),
            tmp_path / "a",
            views=2,
            size=(42, 28),
            use_quantile=wrong,
        )
    source = tmp_path / "b.safetensors"
    with pytest.raises(InputError, match="int8='no' must be True or False"):
        registry.convert_weights(tiny_entry(), source, tmp_path / "c", int8=wrong)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("kind", ["upstream", "linked", "native"])
def test_weights_that_are_converted(kind: str, tmp_path: Path) -> None:
    folder = tmp_path / "weights"
    folder.mkdir()
    if kind == "native":
        source = write_native(folder / "native")
    else:
        source = write_upstream(folder / "model.safetensors")
    given = source
    if kind == "linked":
        given = tmp_path / "link.safetensors"
        given.symlink_to(source)
    before = content(tmp_path)
    for place in (folder, tmp_path, *([source] if kind == "native" else [])):
        with pytest.raises(OutputError, match=READ):
            registry.convert_weights(tiny_entry(), given, place, overwrite=True)
    assert content(tmp_path) == before
    registry.convert_weights(tiny_entry(), given, folder / "new", overwrite=True)
    assert np.all([content(tmp_path)[name] == data for name, data in before.items()])
