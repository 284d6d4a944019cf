"""What surrounds a run: no home, terminals that lack characters, long names, links, caches."""

import io
import os
import pwd
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest

from colmap_models import Image, Model
from image_files import noise, save
from jaxrecon import Reconstruction, cli, registry
from jaxrecon.cli import process
from jaxrecon.cli.common import use_cache
from jaxrecon.errors import OutputError, WeightsError
from jaxrecon.files import check_output_folder, replacing_file, replacing_folder
from jaxrecon.files.hidden import LONGEST_NAME, hidden_beside, shortened
from jaxrecon.formats import FORMATS
from jaxrecon.formats.scene import file_stems
from jaxrecon.hub import cache_folder
from jaxrecon.images import load_images
from jaxrecon.priors import read_view_priors
from jaxrecon.progress import Stages
from jaxrecon.registry import loading
from jaxrecon.serving import worker
from places import ROOT, fresh_process
from random_recon import random_recon
from room_scenes import room_recon
from tiny_models import tiny_entry

LONG = "場" * 83 + ".png"


@pytest.fixture
def homeless(monkeypatch: pytest.MonkeyPatch) -> None:
    """A user that the system does not know, as `docker run --user 1234` makes one."""

    def unknown(number: int) -> None:
        raise KeyError(f"getpwuid(): uid not found: {number}")

    for name in ("HOME", "XDG_CACHE_HOME", "JAXRECON_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(pwd, "getpwuid", unknown)


@pytest.mark.usefixtures("homeless")
class TestNoHome:
    def test_models_are_listed(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert cli.main(["models"]) == 0
        assert "pi3-mini" in capsys.readouterr().out

    def test_released_weights_have_no_place(self) -> None:
        with pytest.raises(WeightsError, match=r"no home folder.* set JAXRECON_HOME"):
            registry.native_folder(registry.model_entry("pi3"))

    def test_bundled_weights_need_none(self) -> None:
        entry = registry.model_entry("pi3-mini")
        assert registry.is_here(entry)
        assert registry.native_folder(entry).is_dir()

    def test_programs_are_not_kept(self, capsys: pytest.CaptureFixture[str]) -> None:
        use_cache(Stages(quiet=False))
        assert capsys.readouterr().err == (
            "no home folder: compiled programs are not kept; set JAXRECON_HOME\n"
        )

    @pytest.mark.parametrize("name", ["JAXRECON_HOME", "XDG_CACHE_HOME"])
    def test_a_place_that_is_named(self, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv(name, "/somewhere")
        assert cache_folder().is_relative_to("/somewhere")

    def test_paths_with_a_tilde(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        with pytest.raises(ValueError, match="~/photos does not exist"):
            load_images("~/photos", rule=tiny_entry().family.resize)
        made = random_recon()
        made.save("~result.npz")
        assert Reconstruction.load("~result.npz").names == made.names


class TestTerminals:
    @pytest.mark.parametrize(
        ("encoding", "said"), [("cp1252", r"\u7d50" + " ³"), ("ascii", r"\u7d50 \xb3")]
    )
    def test_what_an_encoding_lacks_is_escaped(
        self, encoding: str, said: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        written = io.BytesIO()
        monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding))
        process.say("結 ³")
        assert written.getvalue().decode(encoding) == said + "\n"

    def test_bytes_of_names_that_are_no_text(self, monkeypatch: pytest.MonkeyPatch) -> None:
        written = io.BytesIO()
        monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, "utf-8"))
        process.say("wrote a\udce9b")
        assert written.getvalue() == b"wrote a\\udce9b\n"

    def test_help_in_ascii(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO(), "ascii"))
        with pytest.raises(SystemExit) as ended:
            cli.main(["reconstruct", "--help"])
        assert ended.value.code == 0


class TestBytesThatAreNoText:
    """Names of photos in Latin-1, as old archives and disks have them."""

    NAMES = (os.fsdecode(b"caf\xe9.jpg"), "b.jpg")

    @pytest.fixture
    def recon(self) -> Reconstruction:
        return room_recon(2, 48, 64, names=self.NAMES)

    @pytest.mark.parametrize("name", FORMATS)
    def test_every_format_is_written(
        self, name: str, recon: Reconstruction, tmp_path: Path
    ) -> None:
        kind = FORMATS[name]
        if kind.library is not None:
            pytest.importorskip(kind.library)
        path = recon.save(tmp_path / kind.file.rstrip("/"), format=name)
        assert any(path.iterdir()) if kind.is_folder else path.stat().st_size > 0

    def test_pages_escape_them(self, recon: Reconstruction, tmp_path: Path) -> None:
        page = recon.save(tmp_path / "report.html").read_text(encoding="utf-8")
        assert r"caf\udce9.jpg" in page
        assert r"caf\udce9.jpg" in recon._repr_html_()

    def test_the_viewer_escapes_them(self, recon: Reconstruction) -> None:
        pytest.importorskip("viser")
        server = recon.view(port=18230)
        try:
            handles = server.gui._gui_input_handle_from_uuid.values()
            labels = [handle.label for handle in handles]
            choices = [c for handle in handles for c in getattr(handle, "options", ())]
        finally:
            server.stop()
        assert r"caf\udce9.jpg" in labels
        assert r"1: caf\udce9.jpg" in choices
        assert "".join([*labels, *map(str, choices)]).encode()

    @pytest.mark.parametrize("text", [False, True])
    def test_colmap_models_are_read_back(
        self, recon: Reconstruction, tmp_path: Path, text: bool
    ) -> None:
        model = recon.save(tmp_path / "colmap", text=text)
        sizes = [transform.original_size for transform in recon.transforms]
        known = read_view_priors(model, self.NAMES, sizes=sizes, wanted=["poses"])
        poses = known.by_view("poses", 2)
        for view in range(2):
            np.testing.assert_allclose(poses[view], recon.world_from_camera[view], atol=1e-5)

    @pytest.mark.parametrize("text", [False, True])
    def test_colmap_models_of_others(self, tmp_path: Path, text: bool) -> None:
        model = Model((Image(self.NAMES[0]),), {}).write(tmp_path, text=text)
        known = read_view_priors(model, self.NAMES, sizes=[(120, 80)] * 2)
        assert set(known.by_view("poses", 2)) == set(known.by_view("intrinsics", 2)) == {0}


class TestLongNames:
    def test_cut_between_characters(self) -> None:
        cut = shortened("é" * 100, 50)
        assert cut.startswith("é" * 20 + "~")
        assert len(cut.encode()) <= 50
        assert shortened("short", 50) == "short"

    def test_stems_stay_distinct(self) -> None:
        names = [f"a/{'x' * 250}{end}.png" for end in "1223"]
        stems = file_stems(names)
        assert len(set(stems)) == 4
        assert max(len(f"000000_{stem}_12.json".encode()) for stem in stems) <= LONGEST_NAME

    @pytest.mark.parametrize("length", [246, 247, 250, 255])
    def test_files_and_folders(self, tmp_path: Path, length: int) -> None:
        file, folder = tmp_path / ("f" * length), tmp_path / ("d" * length)
        with replacing_file(file) as temporary:
            temporary.write_text("whole")
        with replacing_folder(folder) as new:
            (new / "a").write_text("whole")
        assert file.read_text() == (folder / "a").read_text() == "whole"
        assert sorted(tmp_path.iterdir()) == [folder, file]

    def test_hidden_names_fit(self) -> None:
        path = Path("/somewhere") / LONG
        assert len(hidden_beside(path, ".0.part").name.encode()) <= LONGEST_NAME
        assert hidden_beside(path, ".part") != hidden_beside(path.with_suffix(".jpg"), ".part")

    @pytest.mark.parametrize("target", ["scene.npz", "colmap/", "scene.glb", "pictures/"])
    def test_every_format(self, tmp_path: Path, target: str) -> None:
        made = replace(random_recon(), names=(f"one/{LONG}", f"two/{LONG}", "a.png"))
        if target == "pictures/":
            made.save_pictures(tmp_path / "pictures")
        else:
            made.save(f"{tmp_path}/{target}")
        assert (tmp_path / target).exists()

    def test_photos_are_read(self, tmp_path: Path) -> None:
        photo = save(noise(14, 14), tmp_path / LONG)
        assert load_images(photo, rule=tiny_entry().family.resize).names == (LONG,)


class TestLinks:
    def test_a_linked_folder_is_written_where_it_leads(self, tmp_path: Path) -> None:
        real, link = tmp_path / "disk" / "real", tmp_path / "link"
        real.mkdir(parents=True)
        (real / "old").write_text("old")
        link.symlink_to(real)
        with replacing_folder(link, overwrite=True) as new:
            (new / "new").write_text("new")
        assert link.is_symlink()
        assert [file.name for file in real.iterdir()] == ["new"]

    def test_a_linked_file_is_written_where_it_leads(self, tmp_path: Path) -> None:
        (tmp_path / "disk").mkdir()
        real, link = tmp_path / "disk" / "real.ply", tmp_path / "link.ply"
        link.symlink_to(real)  # which is not there yet
        for text in ("first", "second"):
            with replacing_file(link) as temporary:
                assert temporary.parent == real.parent
                temporary.write_text(text)
            assert real.read_text() == text
        assert link.is_symlink()
        assert [file.name for file in real.parent.iterdir()] == ["real.ply"]

    def test_a_link_to_nothing_is_no_folder(self, tmp_path: Path) -> None:
        link = tmp_path / "link"
        link.symlink_to("nowhere")
        with pytest.raises(OutputError, match=r"is a link to .*nowhere, which does not exist"):
            check_output_folder(link)

    def test_a_link_to_a_file_is_no_folder(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("")
        (tmp_path / "link").symlink_to("file")
        with pytest.raises(OutputError, match="a file of that name exists"):
            check_output_folder(tmp_path / "link")

    def test_links_that_lead_in_a_circle(self, tmp_path: Path) -> None:
        (tmp_path / "a").symlink_to("b")
        (tmp_path / "b").symlink_to("a")
        with pytest.raises(OutputError, match="cannot write"):
            check_output_folder(tmp_path / "a")


@pytest.mark.parametrize("kind", ["below a file", "a file", "a link to nothing"])
def test_a_cache_that_cannot_be_written(
    tmp_path: Path,
    kind: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    place = tmp_path / "place"
    if kind == "a link to nothing":
        place.symlink_to("nowhere/at/all")
    else:
        place.write_text("")
    monkeypatch.setenv("JAXRECON_HOME", str(place / "cache" if kind == "below a file" else place))
    use_cache(Stages(quiet=False))
    (line,) = capsys.readouterr().err.splitlines()
    assert "compiled programs are not kept; set JAXRECON_HOME" in line


def test_one_switch_leaves_compiled_programs_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JAXRECON_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("JAXRECON_KEEP_PROGRAMS", "0")
    before = jax.config.jax_compilation_cache_dir
    jax.config.update("jax_compilation_cache_dir", None)
    try:
        use_cache(Stages(quiet=True))
        worker._keep_programs()
        loading.keep_programs()
        assert jax.config.jax_compilation_cache_dir is None
    finally:
        jax.config.update("jax_compilation_cache_dir", before)
    assert not (tmp_path / "home").exists()


def test_zlib_comes_before_libraries_with_its_symbols() -> None:
    code = "import sys, jaxrecon; print('zlib' in sys.modules, 'jax' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], env=fresh_process(), capture_output=True, text=True
    )
    assert done.stdout.split() == ["True", "False"]


def test_pycolmap_imported_beside(tmp_path: Path) -> None:
    pytest.importorskip("pycolmap", reason="needs pycolmap")
    code = (
        "import jaxrecon, pycolmap, numpy as np, sys\n"
        "np.savez_compressed(sys.argv[1], a=np.zeros(100_000))\n"
        "assert not np.load(sys.argv[1])['a'].any()\n"
        "from PIL import Image\n"
        "Image.fromarray(np.zeros((99, 99, 3), np.uint8)).save(sys.argv[1] + '.png')\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "a.npz")]
    assert subprocess.run(command, env=fresh_process(), timeout=120).returncode == 0


def test_the_size_that_a_file_system_allows() -> None:
    assert os.pathconf("/", "PC_NAME_MAX") >= LONGEST_NAME


def test_paths_are_expanded_by_what_never_fails() -> None:
    """`Path.expanduser` and `Path.home` raise where a user has no home; `os.path`'s do not."""
    code = {
        file: file.read_text()
        for room in ("jaxrecon", "convert")
        for file in (ROOT / room).rglob("*.py")
    }
    assert len(code) > 100
    found = [
        file for file, text in code.items() if re.search(r"\.expanduser\(\)|Path\.home\(", text)
    ]
    assert found == []
