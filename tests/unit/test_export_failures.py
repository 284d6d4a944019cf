"""What is left after a failure to write the formats that other tools train on: nothing new."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from jaxrecon import InputError, OutputError
from jaxrecon.formats import FORMATS
from jaxrecon.reconstruction import Reconstruction
from room_scenes import room_recon

resource = pytest.importorskip("resource")

WRITTEN = {
    "nerfstudio": "nerfstudio",
    "splats": "splats.ply",
    "depth": "depth",
    "depth-npy": "depth-npy",
    "depth-exr": "depth-exr",
    "trajectory": "trajectory",
    "mesh": "mesh.glb",
    "mesh-obj": "mesh.obj",
    "mesh-ply": "mesh.ply",
    "rerun": "scene.rrd",
}
FILES = [name for name, file in WRITTEN.items() if "." in file]


@pytest.fixture(autouse=True)
def installed(request: pytest.FixtureRequest) -> None:
    if library := FORMATS[request.node.callspec.params["name"]].library:
        pytest.importorskip(library)


@pytest.fixture(scope="module")
def room() -> Reconstruction:
    return room_recon(2, 48, 64)


@contextmanager
def file_size_limit(size: int) -> Iterator[None]:
    """Every file may have so many bytes, which C's libraries meet as Python does."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def save(room: Reconstruction, place: Path, name: str, **options: bool) -> Path:
    more = {"voxel": 0.2} if name.startswith("mesh") else {}
    return room.save(place / WRITTEN[name], name, **more, **options)  # pyright: ignore[reportArgumentType]


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.mark.parametrize("name", WRITTEN)
def test_a_file_that_may_not_grow(tmp_path, room, name):
    save(room, tmp_path, name)
    before = contents(tmp_path)
    overwrite = {} if name in FILES else {"overwrite": True}
    with file_size_limit(50), pytest.raises(OutputError, match="allowed file size") as refusal:
        save(room, tmp_path, name, **overwrite)
    assert str(refusal.value).startswith(f"cannot write {tmp_path / WRITTEN[name]}")
    assert "\n" not in str(refusal.value) and contents(tmp_path) == before


@pytest.mark.parametrize("name", WRITTEN)
def test_a_folder_without_permission(name, room, tmp_path):
    save(room, tmp_path, name)  # so that nothing is imported as the other user
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o555)
        root = os.geteuid() == 0
        if root:
            os.seteuid(65534)
        try:
            with pytest.raises(OutputError, match="no permission"):
                save(room, Path(folder), name)
        finally:
            if root:
                os.seteuid(0)
        assert not os.listdir(folder)


@pytest.mark.parametrize("name", WRITTEN)
def test_what_is_there_stays_if_nobody_asked_to_replace_it(name, room, tmp_path):
    save(room, tmp_path, name)
    before = contents(tmp_path)
    if name in FILES:
        save(room, tmp_path, name)
    else:
        with pytest.raises(OutputError, match="is not empty"):
            save(room, tmp_path, name)
        assert contents(tmp_path) == before


@pytest.mark.parametrize("name", [name for name in WRITTEN if name != "splats"])
def test_a_camera_that_is_not_finite(name, room, tmp_path):
    poses = np.array(room.world_from_camera)
    poses[1, 0, 3] = np.nan
    with pytest.raises(InputError, match=r"the camera of view 1 \(photo 1.jpg\) is not usable"):
        save(replace(room, world_from_camera=poses), tmp_path, name)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["nerfstudio", "depth"])
def test_names_that_the_file_system_cannot_hold(name, room, tmp_path):
    """Very long, and equal but for case, for views that lie in no file."""
    names = ("x" * 300 + ".jpg", "X" * 300 + ".JPG")
    folder = save(replace(room, names=names), tmp_path, name)
    assert len({path.name.casefold() for path in folder.rglob("*.png")}) == 2


@pytest.mark.parametrize("name", ["depth-npy"])
def test_a_full_disk_of_which_numpy_tells_without_a_number(name, room, tmp_path, monkeypatch):
    def cut_short(*_: object) -> None:
        raise OSError("4800 requested and 992 written")

    monkeypatch.setattr(np, "save", cut_short)
    with pytest.raises(OutputError, match="the disk is full"):
        save(room, tmp_path, name)
    assert not list(tmp_path.iterdir())
