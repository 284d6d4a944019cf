"""Loading by name, by folder and by file: the hub, the cache, and everything that can be wrong."""

import json
import os
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import huggingface_hub
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from huggingface_hub import constants

import jaxrecon
import jaxrecon.hub
from convert.engine import plan
from drawn_weights import drawn
from golden_data import GOLDEN
from hub_server import COMMIT, Hub, serving
from jaxrecon import checkpoint, registry
from jaxrecon.errors import InputError, JaxreconError, OutputError, WeightsError
from jaxrecon.hub import cache_folder
from jaxrecon.models import Pi3, ResizeRule
from jaxrecon.nn.attention import attend_densely
from jaxrecon.progress import Stages
from jaxrecon.registry import Bundled, HubFile, ModelEntry, fetching, loading
from tiny_models import (
    PI3_TINY,
    TINY_PARAMETERS,
    tiny_entry,
    upstream_state,
    write_native,
    write_upstream,
)

PI3 = registry.MODELS["pi3"]
MINI = registry.MODELS["pi3-mini"]
KNOWN = ", ".join(registry.FAMILIES)
NAMES = ", ".join(registry.MODELS)
QUIET = Stages(quiet=True)


@pytest.fixture(scope="session")
def upstream(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_upstream(tmp_path_factory.mktemp("upstream") / "model.safetensors")


@pytest.fixture(scope="session")
def native(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_native(tmp_path_factory.mktemp("native") / "tiny")


@pytest.fixture
def tiny_is_pi3(monkeypatch: pytest.MonkeyPatch) -> None:
    """The released π³ has the small model's sizes."""
    monkeypatch.setitem(registry.MODELS, "pi3", tiny_entry())


@pytest.fixture(autouse=True)
def own_caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Our cache and the hub's lie in `tmp_path`; no token and no proxy of the machine is used."""
    monkeypatch.setenv("JAXRECON_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(loading, "_stated", set())
    huggingface_hub.close_session()
    yield
    huggingface_hub.close_session()


@contextmanager
def online(upstream: Path, monkeypatch: pytest.MonkeyPatch, **how: Any) -> Iterator[Hub]:
    """A hub that has the small model's file as π³'s; waiting before another try takes no time."""
    hub = Hub("/yyfz233/Pi3/resolve/{revision}/model.safetensors", upstream.read_bytes(), **how)
    with serving(hub):
        point_at(hub.url, monkeypatch)
        yield hub


def point_at(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    template = constants.HUGGINGFACE_CO_URL_TEMPLATE.removeprefix(constants.ENDPOINT)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", url + template)
    monkeypatch.setattr(constants, "ENDPOINT", url)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr("time.sleep", lambda seconds: None)


def assert_tiny(pipeline: jaxrecon.Pipeline) -> None:
    """The golden weights arrived: two tensors that are taken over as they are, and the count."""
    state, leaves = upstream_state(), checkpoint.flatten(pipeline.model)
    np.testing.assert_array_equal(leaves["register_tokens"], state["register_token"][0, 0])
    np.testing.assert_array_equal(leaves["encoder.norm.scale"], state["encoder.norm.weight"])
    assert sum(leaf.size for leaf in leaves.values()) == TINY_PARAMETERS


def refusal(error: type[JaxreconError], *arguments: Any, **options: Any) -> str:
    """The one line with which `load` refuses."""
    with pytest.raises(error) as raised:
        registry.load(*arguments, **options)
    text = str(raised.value)
    assert "\n" not in text
    return text


class TestReleasedModels:
    def test_listing(self) -> None:
        assert jaxrecon.available_models() == (
            *("pi3", "pi3-mini", "pi3x", "vggt", "vggt-commercial", "mapanything"),
            *("mapanything-apache", "mapanything-v1", "mapanything-apache-v1"),
        )
        assert registry.model_entry("pi3") is PI3

    def test_unknown_name(self) -> None:
        with pytest.raises(InputError, match=rf"^unknown model 'x'; known models: {NAMES}$"):
            registry.model_entry("x")

    @pytest.mark.parametrize("entry", registry.MODELS.values(), ids=lambda entry: entry.name)
    def test_parameters(self, entry: ModelEntry) -> None:
        leaves = checkpoint.shapes(entry.family.abstract(entry.config))
        assert entry.parameters == sum(int(np.prod(shape)) for shape in leaves.values())

    def test_every_released_tensor_has_its_place(self) -> None:
        listing = json.loads((GOLDEN / "statedict" / "pi3_full.json").read_text())
        specs = {k: (tuple(v["shape"]), v["dtype"]) for k, v in listing["state_dict"].items()}
        targets = checkpoint.shapes(PI3.family.abstract(PI3.config))
        planned = plan(specs, PI3.family.rules, PI3.family.ignored, targets)
        used = [piece.source for leaf in planned.leaves for piece in leaf.pieces]
        assert sorted([*used, *planned.ignored]) == sorted(specs)
        assert {leaf.path: leaf.spec.shape for leaf in planned.leaves} == targets
        without = {name: spec for name, spec in specs.items() if name != "point_head.proj.bias"}
        with pytest.raises(WeightsError, match=r"- missing point_head.bias \(588,\)"):
            plan(without, PI3.family.rules, PI3.family.ignored, targets)
        with pytest.raises(WeightsError, match=r"\+ unexpected another.bias \(3,\)"):
            plan(
                specs | {"another.bias": ((3,), "float32")},
                PI3.family.rules,
                PI3.family.ignored,
                targets,
            )


class TestCacheFolder:
    def test_home(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("HOME", "/somebody")
        monkeypatch.setenv("XDG_CACHE_HOME", "/elsewhere")
        monkeypatch.setenv("JAXRECON_HOME", "~/weights")
        assert cache_folder() == Path("/somebody/weights")
        monkeypatch.delenv("JAXRECON_HOME")
        assert cache_folder() == Path("/elsewhere/jaxrecon")
        monkeypatch.delenv("XDG_CACHE_HOME")
        assert cache_folder() == Path("/somebody/.cache/jaxrecon")


@pytest.mark.usefixtures("tiny_is_pi3")
class TestHub:
    def test_found_in_the_hubs_cache_without_network(self, upstream: Path, tmp_path: Path) -> None:
        repo = tmp_path / "hub" / "models--yyfz233--Pi3"
        snapshot = repo / "snapshots" / COMMIT
        for folder in (repo / "refs", repo / "blobs", snapshot):
            folder.mkdir(parents=True)
        (repo / "refs" / "main").write_text(COMMIT)
        shutil.copy(upstream, repo / "blobs" / "5eed")
        (snapshot / "model.safetensors").symlink_to("../../blobs/5eed")
        assert_tiny(registry.load("pi3", stages=QUIET))
        assert checkpoint.read_config(tmp_path / "home" / "pi3") | {"tensors": {}} == {
            "format": "jaxrecon",
            "format_version": 1,
            "family": "pi3",
            "model": "pi3",
            "config": asdict(PI3_TINY),
            "license": "CC BY-NC 4.0 (no commercial use)",
            "source": {"repo": "yyfz233/Pi3", "file": "model.safetensors"},
            "resize": {"patch": 14, "pixel_limit": 255_000},
            "tensors": {},
        }

    def test_downloaded_and_converted_once(
        self, upstream: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path = "/yyfz233/Pi3/resolve/main/model.safetensors"
        stages = Stages(quiet=True)
        with online(upstream, monkeypatch) as hub:
            assert_tiny(registry.load("pi3", stages=stages))
            assert hub.requests == [("HEAD", path, None), ("GET", path, None)]
            assert list(stages.seconds) == ["fetch", "convert", "load"]
            again = Stages(quiet=True)
            monkeypatch.setattr(fetching, "convert_weights", None)
            assert_tiny(registry.load("pi3", stages=again))
            assert len(hub.requests) == 2
            assert list(again.seconds) == ["load"]
        assert [entry.name for entry in (tmp_path / "home").iterdir()] == ["pi3"]

    def test_a_revision_is_asked_for_and_cached_apart(
        self, upstream: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path = "/yyfz233/Pi3/resolve/refs%2Fpr%2F1/model.safetensors"
        with online(upstream, monkeypatch, revisions=("refs%2Fpr%2F1",)) as hub:
            assert_tiny(registry.load("pi3", revision="refs/pr/1", stages=QUIET))
            assert hub.requests == [("HEAD", path, None), ("GET", path, None)]
        assert [entry.name for entry in (tmp_path / "home").iterdir()] == ["pi3@refs_pr_1"]

    def test_the_token_is_sent(self, upstream: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("HF_TOKEN", "hf_secret")
        with online(upstream, monkeypatch) as hub:
            registry.native_folder(tiny_entry())
        assert [token for _, _, token in hub.requests] == ["Bearer hf_secret"] * 2

    def test_offline_with_nothing_cached(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("socket.create_connection", None)  # which must not be called
        assert refusal(WeightsError, "pi3") == (
            "cannot get yyfz233/Pi3/model.safetensors: it is not in the hub's cache and the hub "
            "cannot be reached; take the small bundled model, pi3-mini (-m pi3-mini), or on a "
            "connected machine download model.safetensors of the Hugging Face repository "
            "yyfz233/Pi3, then run: "
            f"jaxrecon convert pi3 model.safetensors -o {tmp_path}/home/pi3"
        )

    def test_the_way_out_works(
        self, upstream: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("JAXRECON_HOME", str(tmp_path / "my home"))
        text = refusal(WeightsError, "pi3", revision="v1")
        folder = re.search(r"model\.safetensors -o '(.*)'$", text)
        assert folder
        registry.convert_weights(tiny_entry(), upstream, folder[1])
        assert_tiny(registry.load("pi3", revision="v1", stages=QUIET))

    @pytest.mark.parametrize(
        ("status", "code", "reason"),
        [
            (404, "EntryNotFound", "the repository has no such file"),
            (401, "RepoNotFound", "the hub shows no such repository (for a private one set HF_"),
            (401, "", "Client error '401 Unauthorized' for url 'http://127.0.0.1"),
            (403, "GatedRepo", "the hub shows no such repository (for a private one set HF_TOKEN)"),
            (500, "", "the hub cannot be reached"),
        ],
    )
    def test_the_hub_refuses(
        self,
        status: int,
        code: str,
        reason: str,
        upstream: Path,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        with online(upstream, monkeypatch, status=status, error_code=code):
            text = refusal(WeightsError, "pi3")
        assert text.startswith("cannot get yyfz233/Pi3/model.safetensors: ")
        assert reason in text
        assert f"jaxrecon convert pi3 model.safetensors -o {tmp_path}/home/pi3" in text
        assert not (tmp_path / "home").exists()

    def test_no_such_revision(self, upstream: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        with online(upstream, monkeypatch):
            text = refusal(WeightsError, "pi3", revision="v9")
        assert text.startswith(
            "cannot get yyfz233/Pi3/model.safetensors (revision v9): "
            "the repository has no such revision; "
        )

    def test_nobody_answers(self, upstream: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        with online(upstream, monkeypatch) as hub:
            pass
        point_at(hub.url, monkeypatch)
        assert "the hub cannot be reached" in refusal(WeightsError, "pi3")

    def test_nobody_answers_soon_and_without_noise(
        self, upstream: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        """The hub's client tries again and again, and logs each time."""
        with online(upstream, monkeypatch) as hub:
            pass
        point_at(hub.url, monkeypatch)
        slept: list[float] = []
        monkeypatch.setattr("time.sleep", slept.append)
        refusal(WeightsError, "pi3")
        assert not slept and not caplog.records

    def test_a_proxy_is_left_to_the_client(
        self, upstream: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with online(upstream, monkeypatch) as hub:
            pass
        point_at(hub.url, monkeypatch)
        assert not jaxrecon.hub._can_be_reached()
        monkeypatch.delenv("NO_PROXY")
        monkeypatch.delenv("no_proxy", raising=False)
        monkeypatch.setenv("HTTP_PROXY", "http://proxy.invalid:1")
        assert jaxrecon.hub._can_be_reached()

    @pytest.mark.parametrize("name", ["yyfz233/Pi3", "YYFZ233/pi3"])
    def test_named_by_its_repository(
        self, name: str, upstream: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with online(upstream, monkeypatch):
            assert_tiny(registry.load(name, stages=QUIET))
        assert [entry.name for entry in (tmp_path / "home").iterdir()] == ["pi3"]
        assert registry.model_entry("facebook/VGGT-1B").name == "vggt"

    def test_a_folder_called_like_a_repository_comes_first(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        (tmp_path / "yyfz233" / "Pi3").mkdir(parents=True)
        assert "yyfz233/Pi3" in refusal(WeightsError, "yyfz233/Pi3")
        assert not (tmp_path / "home").exists()

    def test_the_line_breaks(
        self, upstream: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with online(upstream, monkeypatch, sent=100_000) as hub:
            text = refusal(WeightsError, "pi3")
            assert text.startswith("cannot get yyfz233/Pi3/model.safetensors: ")
            assert not (tmp_path / "home").exists()
            hub.sent = None
            assert_tiny(registry.load("pi3", stages=QUIET))

    def test_what_could_not_be_used_is_not_fetched(
        self, upstream: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        source = HubFile("yyfz233/Pi3", "model.pt")
        monkeypatch.setitem(registry.MODELS, "pi3", replace(tiny_entry(), source=source))
        monkeypatch.setitem(sys.modules, "torch", None)
        with online(upstream, monkeypatch) as hub:
            assert refusal(WeightsError, "pi3").startswith("reading model.pt needs PyTorch; inst")
            assert refusal(InputError, "pi3", tracks=True) == (
                "tracks: models of the family pi3 follow no points; load vggt for that"
            )
        assert hub.requests == []

    def test_another_model_is_served(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        state = {"downstream_head1.proj.weight": np.zeros((2, 8), np.float32)}
        other = write_upstream(tmp_path / "other.safetensors", state)
        with (
            online(other, monkeypatch),
            pytest.raises(WeightsError, match="names are those of the family 'dust3r'"),
        ):
            registry.load("pi3", stages=QUIET)
        assert not list((tmp_path / "home").glob("*"))

    def test_files_of_others_in_the_cache_are_kept(
        self, upstream: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Such as upstream's code, where its folder is given as that of the cache."""
        place = tmp_path / "home" / "pi3"
        place.mkdir(parents=True)
        (place / "mine.txt").write_text("kept")
        with online(upstream, monkeypatch) as hub:
            text = refusal(OutputError, "pi3")
            assert text == (
                f"cannot write {place}: the weights of pi3 are to be kept there, but it holds "
                "other files; move them, or set JAXRECON_HOME to another folder"
            )
            assert hub.requests == []
            assert [path.name for path in place.iterdir()] == ["mine.txt"]
            (place / "mine.txt").unlink()
            assert_tiny(registry.load("pi3", stages=QUIET))

    def test_another_process_was_faster_where_there_are_no_locks(
        self, upstream: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        place = tmp_path / "home" / "pi3"
        fetch = fetching.fetch

        def overtaken(*args: Any, **options: Any) -> Path:
            registry.convert_weights(tiny_entry(), upstream, place)
            return fetch(*args, **options)

        monkeypatch.setattr(fetching, "fetch", overtaken)
        with online(upstream, monkeypatch):
            assert_tiny(registry.load("pi3", stages=QUIET))
        assert [path.name for path in place.parent.iterdir()] == ["pi3"]

    def test_weights_of_another_format_in_the_cache(self, native: Path, tmp_path: Path) -> None:
        place = tmp_path / "home" / "pi3"
        place.parent.mkdir()
        edited(native, place, lambda config: config.update(format_version=3))
        way_out = f"; to have them fetched and converted again, delete {place}"
        text = refusal(WeightsError, "pi3")
        assert "config.json has format_version 3, this version reads" in text
        assert text.endswith(way_out)
        assert way_out not in refusal(WeightsError, "pi3", weights=place)
        assert way_out not in refusal(WeightsError, place)

    def test_a_damaged_file_in_the_hubs_cache(
        self, upstream: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        cut = tmp_path / "cut.safetensors"
        cut.write_bytes(upstream.read_bytes()[:-1])
        with online(cut, monkeypatch):
            text = refusal(WeightsError, "pi3")
        assert text.startswith(f"{tmp_path}/hub/")
        assert text.endswith("; delete it from the hub's cache to have it downloaded again")


@pytest.fixture(scope="session")
def halves(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small model as it would be shipped: every tensor in bfloat16, with pi3-mini's header."""
    folder = tmp_path_factory.mktemp("shipped") / "pi3-mini"
    entry = replace(MINI, config=PI3_TINY)
    model = drawn(lambda: Pi3(PI3_TINY, dtype=jnp.bfloat16, rngs=nnx.Rngs(0)))
    model = jax.tree.map(lambda leaf: np.asarray(leaf).astype(jnp.bfloat16), model)
    checkpoint.save(model, folder, entry.header)
    return folder


def shipped(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The package's pi3-mini has the small model's sizes and lies in `folder`."""
    entry = replace(MINI, config=PI3_TINY, source=Bundled(folder))
    monkeypatch.setitem(registry.MODELS, "pi3-mini", entry)


class TestBundled:
    def test_needs_neither_hub_nor_cache(
        self, halves: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        shipped(halves, monkeypatch)
        monkeypatch.setattr(fetching, "fetch", None)
        pipeline = registry.load("pi3-mini", stages=QUIET)
        assert pipeline.name == "pi3-mini"
        assert registry.native_folder(registry.model_entry("pi3-mini")) == halves
        assert not (tmp_path / "home").exists()

    @pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
    def test_stored_in_bfloat16_and_restored_as_the_model_wants(
        self, dtype: Any, halves: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        shipped(halves, monkeypatch)
        stored = dict(checkpoint.read_tensors(halves))
        assert {tensor.dtype for tensor in stored.values()} == {np.dtype(jnp.bfloat16)}
        leaves = checkpoint.flatten(registry.load("pi3-mini", dtype=dtype, stages=QUIET).model)
        wanted = checkpoint.flatten(registry.PI3_FAMILY.abstract(PI3_TINY, dtype))
        for path, leaf in leaves.items():
            assert leaf.dtype == wanted[path].dtype, path
            half = np.asarray(leaf).astype(jnp.bfloat16)
            np.testing.assert_array_equal(half, stored[path], err_msg=path)
        for path in ("encoder.norm.scale", "trunk.frame_blocks.scale1.gamma", "point_head.kernel"):
            assert leaves[path].dtype == jnp.float32

    @pytest.mark.parametrize(
        ("photo", "processed"),
        [((640, 480), (252, 196)), ((480, 640), (196, 252)), ((1000, 1000), (224, 224))],
    )
    def test_images_get_the_size_of_its_training(
        self,
        photo: tuple[int, int],
        processed: tuple[int, int],
        halves: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        shipped(halves, monkeypatch)
        rule = registry.load("pi3-mini", stages=QUIET).resize
        assert isinstance(rule, ResizeRule)
        assert rule.size_for(*photo) == processed

    def test_missing_from_the_installation(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        shipped(tmp_path / "absent", monkeypatch)
        assert refusal(WeightsError, "pi3-mini") == (
            f"the weights of pi3-mini are not in {tmp_path}/absent: this installation has none; "
            "train them with `jaxrecon train` and give their folder as `weights`"
        )

    def test_other_weights(
        self, halves: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        shipped(tmp_path / "absent", monkeypatch)
        assert registry.load("pi3-mini", weights=halves, stages=QUIET).name == "pi3-mini"

    def test_has_no_revision_and_no_upstream(self, upstream: Path, tmp_path: Path) -> None:
        text = refusal(InputError, "pi3-mini", revision="v1")
        assert text == "revision='v1' goes with a model's name alone, for what is downloaded"
        with pytest.raises(InputError, match=r"^pi3-mini has no upstream weights to convert: "):
            registry.convert_weights(MINI, upstream, tmp_path / "out")
        assert not (tmp_path / "out").exists()


class TestResize:
    """Native checkpoints say which size they want."""

    def test_stated(self, halves: Path, tmp_path: Path) -> None:
        folder = edited(halves, tmp_path / "it", lambda config: config.update(model="mine"))
        pipeline = registry.load(folder, stages=QUIET)
        assert (pipeline.name, pipeline.resize) == ("mine", ResizeRule(14, 224 * 224))

    def test_not_stated(self, halves: Path, tmp_path: Path) -> None:
        folder = edited(halves, tmp_path / "it", lambda config: config.pop("resize"))
        assert registry.load(folder, stages=QUIET).resize == ResizeRule(14, 255_000)

    def test_patches_of_another_size(self, halves: Path, tmp_path: Path) -> None:
        for patch in (7, 16, 28):  # one that divides the model's, one that does not, twice it
            change = {"patch": patch, "pixel_limit": 50176}
            folder = edited(
                halves, tmp_path / f"{patch}", lambda config, to=change: config.update(resize=to)
            )
            message = refusal(WeightsError, folder)
            assert f"whole patches of {patch} pixels, but the model's patches have" in message

    def test_damaged(self, halves: Path, tmp_path: Path) -> None:
        folder = edited(halves, tmp_path / "it", lambda config: config["resize"].update(patch="14"))
        assert refusal(WeightsError, folder) == (
            f"{folder}: config.json does not fit ResizeRule "
            "(must be int, found '14' @ config.patch); convert the weights again with this version"
        )


class TestPlaces:
    def test_native_folder(self, native: Path) -> None:
        pipeline = registry.load(native, stages=QUIET)
        assert_tiny(pipeline)
        assert pipeline.name == "pi3"
        assert pipeline.resize == PI3.resize
        assert pipeline.attention is attend_densely

    @pytest.mark.usefixtures("tiny_is_pi3")
    def test_upstream_file(self, upstream: Path) -> None:
        assert_tiny(registry.load(str(upstream), stages=QUIET))

    @pytest.mark.usefixtures("tiny_is_pi3")
    def test_name_with_upstream_file(self, upstream: Path, tmp_path: Path) -> None:
        assert_tiny(registry.load("pi3", weights=upstream, stages=QUIET))
        assert not (tmp_path / "home").exists()

    def test_name_with_native_folder(self, native: Path) -> None:
        assert_tiny(registry.load("pi3", weights=str(native), stages=QUIET))

    def test_an_upstream_file_of_other_sizes(self, upstream: Path) -> None:
        with pytest.raises(WeightsError) as raised:
            registry.load(upstream)
        first, differences = str(raised.value), raised.value.__notes__[0].splitlines()
        # The released encoder has 21 layers more than the small one, its trunk 16 pairs more.
        assert first.startswith(f"{upstream} does not fit the model: ")
        assert "- missing layer " + ", ".join(map(str, range(3, 24))) in differences[0]
        assert differences[-1] == f"... and {_count(first) - 20} more"

    def test_a_wrong_shape_a_missing_and_another_tensor(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_is_pi3: None
    ) -> None:
        state = upstream_state()
        del state["point_head.proj.bias"]
        state["another.bias"] = np.zeros(3, np.float32)
        state["encoder.norm.weight"] = np.zeros(65, np.float32)
        path = write_upstream(tmp_path / "bad.safetensors", state)
        with pytest.raises(WeightsError) as raised:
            registry.load("pi3", weights=path)
        assert str(raised.value) == (
            f"{path} does not fit the model: 1 missing, 1 unexpected, 1 different; "
            "its names are those of the family 'pi3': - missing point_head.bias (588,); "
            "+ unexpected another.bias (3,); ~ encoder.norm.weight has shape (65,), expected (64,)"
        )


def _count(first: str) -> int:
    return sum(int(number) for number in re.findall(r"(\d+) (?:missing|unexp|diff)", first))


class TestRefusals:
    def test_unknown_model(self) -> None:
        text = refusal(InputError, "pi4")
        assert text == (
            f"unknown model 'pi4': not one of {NAMES}, nor a checkpoint folder or weight file; "
            "did you mean pi3?"
        )

    def test_weights_that_do_not_exist(self, tmp_path: Path) -> None:
        missing = tmp_path / "missing.safetensors"
        text = refusal(InputError, "pi3", weights=missing)
        assert text == f"weights='{missing}': there is no such file or folder"

    @pytest.mark.parametrize("kind", ["nothing", "itself", "pipe", "link to a pipe"])
    def test_what_is_neither_file_nor_folder(
        self, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        place, pipe = tmp_path / "yyfz233" / "Pi3", tmp_path / "pipe"
        place.parent.mkdir()
        os.mkfifo(pipe)
        if kind == "pipe":
            pipe.rename(place)
        else:
            target = {"nothing": tmp_path / "gone", "itself": place}.get(kind, pipe)
            place.symlink_to(target)
        told = {
            "nothing": f"is a link to {tmp_path}/gone, where there is nothing; mend the link, or",
            "itself": f"is a link to {place}, which leads back to itself; mend the link, or rem",
            "pipe": "is a pipe or a device, not a file or folder; check the path",
            "link to a pipe": "leads to a pipe or a device, not a file or folder; check the path",
        }[kind]
        assert refusal(InputError, place).startswith(f"{place} {told}")
        assert refusal(InputError, "pi3", weights=place).startswith(f"weights: {place} {told}")
        # which is not taken for the repository
        assert refusal(InputError, "yyfz233/Pi3").startswith(f"yyfz233/Pi3 {told}")
        with pytest.raises(WeightsError, match=re.escape(f"{place} {told}")):
            registry.convert_weights(PI3, place, tmp_path / "out")

    def test_weights_with_a_path(self, native: Path) -> None:
        text = refusal(InputError, native, weights="x")
        assert text == f"weights='x' goes with a model's name ({NAMES}), found '{native}'"

    @pytest.mark.parametrize("with_name", [True, False])
    def test_a_revision_of_something_local(self, with_name: bool, native: Path) -> None:
        arguments = ("pi3", {"weights": native}) if with_name else (native, {})
        text = refusal(InputError, arguments[0], revision="v1", **arguments[1])
        assert text == "revision='v1' goes with a model's name alone, for what is downloaded"

    @pytest.mark.parametrize("dtype", ["float16", "int8", "half a byte", np.float64])
    def test_dtype(self, dtype: Any, native: Path) -> None:
        text = refusal(InputError, native, dtype=dtype)
        assert text == f"dtype={dtype!r} is not usable; choose float32 or bfloat16"

    def test_attention(self, native: Path, without_shape_checks: None) -> None:
        text = refusal(InputError, native, attention="flash")
        assert text.startswith("attention='flash' is unknown; choose one of auto, fast, ")

    def test_another_familys_file(self, tmp_path: Path) -> None:
        state = {"downstream_head1.proj.weight": np.zeros((2, 8), np.float32)}
        path = write_upstream(tmp_path / "other.safetensors", state)
        text = refusal(WeightsError, path)
        assert text == f"{path}: it looks like dust3r; this version knows {KNOWN}"

    def test_nobodys_file(self, tmp_path: Path) -> None:
        path = write_upstream(tmp_path / "other.safetensors", {"a": np.zeros(3, np.float32)})
        text = refusal(WeightsError, path)
        assert text == (
            f"{path}: its tensors belong to no known family; this version knows {KNOWN}"
        )


def edited(native: Path, folder: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    """A copy of a native checkpoint with another `config.json`."""
    shutil.copytree(native, folder)
    config = json.loads((folder / "config.json").read_text())
    change(config)
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.mark.usefixtures("tiny_is_pi3")
class TestUpstreamFolders:
    def test_their_own_config_is_passed_over(self, upstream: Path, tmp_path: Path) -> None:
        """As the hub's snapshots have one."""
        place = tmp_path / "snapshot"
        place.mkdir()
        shutil.copy(upstream, place / "model.safetensors")
        (place / "config.json").write_text('{"architectures": []}')
        assert_tiny(registry.load(place, stages=QUIET))
        assert_tiny(registry.load("pi3", weights=place, stages=QUIET))
        registry.convert_weights(tiny_entry(), place, tmp_path / "out")
        assert_tiny(registry.load(tmp_path / "out", stages=QUIET))

    def test_an_index_that_leads_out_of_the_folder(self, upstream: Path, tmp_path: Path) -> None:
        place = tmp_path / "it"
        place.mkdir()
        shutil.copy(upstream, tmp_path / "a.safetensors")
        index = place / "model.safetensors.index.json"
        index.write_text(json.dumps({"weight_map": {"a": "../a.safetensors"}}))
        assert refusal(WeightsError, place) == (
            f"{index} names the file ../a.safetensors, which is not one beside it; download the "
            "index again"
        )

    def test_a_native_checkpoint_without_its_config(self, native: Path, tmp_path: Path) -> None:
        place = shutil.copytree(native, tmp_path / "it")
        (place / "config.json").unlink()
        assert refusal(WeightsError, place).startswith(
            f"{place}: it has the tensors of a native checkpoint, but no config.json that"
        )


class TestNativeCheckpoints:
    def test_another_family(self, native: Path, tmp_path: Path) -> None:
        folder = edited(native, tmp_path / "it", lambda config: config.update(family="pi9"))
        text = refusal(WeightsError, folder)
        assert text == (
            f"{folder}: the checkpoint is of the family 'pi9'; this version knows {KNOWN}"
        )

    def test_another_familys_checkpoint_for_a_name(
        self, native: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        other = replace(registry.PI3_FAMILY, name="pi9")
        monkeypatch.setitem(registry.FAMILIES, "pi9", other)
        folder = edited(native, tmp_path / "it", lambda config: config.update(family="pi9"))
        text = refusal(WeightsError, "pi3", weights=folder)
        assert text == (
            f"{folder}: the checkpoint is of the family 'pi9', but pi3 is of 'pi3'; "
            "load it by its folder instead"
        )

    @pytest.mark.parametrize(
        ("change", "told"),
        [
            (lambda c: c.update(sparse=1), "extra fields found (sparse) @ config"),
            (lambda c: c.update(heads="4"), "must be int, found '4' @ config.heads"),
            (
                lambda c: c["encoder"].update(size=1),
                "extra fields found (size) @ config.encoder",
            ),
            (
                lambda c: c["encoder"].update(grid="5", width=6.5),
                "must be int, found 6.5 @ config.encoder.width; "
                "must be int, found '5' @ config.encoder.grid",
            ),
        ],
    )
    def test_config_fields(
        self, change: Callable[[Any], object], told: str, native: Path, tmp_path: Path
    ) -> None:
        folder = edited(native, tmp_path / "it", lambda config: change(config["config"]))
        assert refusal(WeightsError, folder) == (
            f"{folder}: config.json does not fit Pi3Config ({told}); "
            "convert the weights again with this version"
        )

    def test_whole_numbers_will_do(
        self, native: Path, tmp_path: Path, without_shape_checks: None
    ) -> None:
        folder = edited(native, tmp_path / "it", lambda c: c["config"].update(rope_base=100))
        assert_tiny(registry.load(folder, stages=QUIET))

    def test_config_of_other_sizes(self, native: Path, tmp_path: Path) -> None:
        folder = edited(native, tmp_path / "it", lambda c: c["config"].update(registers=6))
        with pytest.raises(WeightsError) as raised:
            registry.load(folder)
        assert str(raised.value) == (
            f"{folder} does not fit the model: 0 missing, 0 unexpected, 1 different: "
            "~ register_tokens has shape (5, 64), expected (6, 64)"
        )

    @pytest.mark.parametrize("place", [-1, -1_000_000])
    def test_a_flipped_bit(self, place: int, native: Path, tmp_path: Path) -> None:
        shutil.copytree(native, tmp_path / "it")
        file = tmp_path / "it" / "model.safetensors"
        content = bytearray(file.read_bytes())
        content[place] ^= 1
        file.write_bytes(content)
        text = refusal(WeightsError, tmp_path / "it")
        assert text.startswith(f"{file} is damaged: the bytes of ")

    def test_a_truncated_file(self, native: Path, tmp_path: Path) -> None:
        shutil.copytree(native, tmp_path / "it")
        file = tmp_path / "it" / "model.safetensors"
        file.write_bytes(file.read_bytes()[:-1])
        assert refusal(WeightsError, tmp_path / "it").startswith(f"{file} is damaged, incomplete")


class TestDtype:
    def test_bfloat16_is_for_the_matrices_of_the_blocks(self, native: Path) -> None:
        model = registry.load(native, dtype="bfloat16", stages=QUIET).model
        leaves = checkpoint.flatten(model)
        halves = {path for path, leaf in leaves.items() if leaf.dtype == jnp.bfloat16}
        wholes = {path for path, leaf in leaves.items() if leaf.dtype == jnp.float32}
        assert halves | wholes == leaves.keys()
        matrix = r"(.*_blocks|.*\.blocks)\.(attention\.(qkv|out)|mlp\.fc[12])\.(kernel|bias)"
        around = r"(encoder\.patch_embed|.*_decoder\.(project|out))\.(kernel|bias)"
        assert halves == {path for path in leaves if re.fullmatch(f"{matrix}|{around}", path)}
        assert {path for path in leaves if "norm" in path or "_head." in path} <= wholes

    def test_default_on_the_cpu(self, native: Path) -> None:
        leaves = checkpoint.flatten(registry.load(native, stages=QUIET).model)
        assert {str(leaf.dtype) for leaf in leaves.values()} == {"float32"}


class TestLicence:
    LINE = "weights of pi3: CC BY-NC 4.0 (no commercial use)\n"

    def test_stated_once(self, native: Path, capsys: pytest.CaptureFixture[str]) -> None:
        registry.load(native, stages=QUIET)
        assert capsys.readouterr() == ("", "")
        registry.load(native)
        assert capsys.readouterr() == ("", self.LINE)
        registry.load(native)
        assert capsys.readouterr() == ("", "")

    def test_among_the_stages(self, native: Path, capsys: pytest.CaptureFixture[str]) -> None:
        registry.load(native, stages=Stages())
        out, err = capsys.readouterr()
        assert out == ""
        assert re.fullmatch(r" +load: \d\.\d\d s\n" + re.escape(self.LINE), err)

    def test_of_a_file_that_may_be_several_models(
        self, upstream: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        free = replace(tiny_entry(), name="pi3-free", weights_licence="Apache-2.0")
        monkeypatch.setitem(registry.MODELS, "pi3", tiny_entry())
        registry.load(upstream)
        assert capsys.readouterr() == ("", self.LINE)
        monkeypatch.setitem(registry.MODELS, "pi3-free", free)
        pipeline = registry.load(upstream)
        assert capsys.readouterr().err == (
            "weights of pi3: licence not known, for pi3 and pi3-free have the same tensors; name "
            "one of them and give the file as its weights (--weights, weights=)\n"
        )
        assert pipeline.header is not None
        assert pipeline.header["source"] == {"file": "model.safetensors"}
        assert pipeline.header["license"].startswith("licence not known")
        assert registry.load("pi3-free", weights=upstream).name == "pi3-free"
        assert capsys.readouterr().err == "weights of pi3-free: Apache-2.0\n"


def test_a_checkpoint_written_with_orbax_loads_by_its_folder(tmp_path: Path) -> None:
    native = tmp_path / "native"
    write_native(native)
    first = jaxrecon.load(native)
    header = {
        key: value
        for key, value in checkpoint.read_config(native).items()
        if key in ("family", "model", "config", "license", "source", "resize")
    }
    checkpoint.save_orbax(first.model, tmp_path / "orbax", header)
    again = jaxrecon.load(tmp_path / "orbax")
    assert again.name == first.name
    for ours, theirs in zip(
        jax.tree.leaves(again.model), jax.tree.leaves(first.model), strict=True
    ):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("number", [np.nan, np.inf])
def test_weights_that_are_not_finite(number: float, tmp_path: Path) -> None:
    """Such as those of a file in float16 whose numbers were too large for that."""
    state = upstream_state()
    name = "decoder.0.attn.qkv.weight"
    state[name] = state[name].astype(np.float16)
    state[name][0, :2] = number
    path, out = write_upstream(tmp_path / "model.safetensors", state), tmp_path / "native"
    with pytest.raises(WeightsError, match=rf"{name} holds 2 numbers that are not finite, of \d"):
        registry.convert_weights(tiny_entry(), path, out)
    assert not out.exists()
