"""What was read is never deleted by what is written, whoever allows to overwrite."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from jaxrecon import registry
from jaxrecon.cli import main
from jaxrecon.errors import OutputError
from jaxrecon.formats import FORMATS, photos_of
from jaxrecon.pipeline import SequenceReconstruction
from jaxrecon.reconstruction import Reconstruction
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
