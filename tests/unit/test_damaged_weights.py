"""Files of weights, configs, scenes and logs, damaged: a right result or one line of ours."""

import json
import os
import shutil
import struct
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from convert.safetensors_file import TensorSpec
from convert.sources import open_source
from jaxrecon import checkpoint
from jaxrecon.errors import MAX_MESSAGE, InputError, JaxreconError, WeightsError
from jaxrecon.images import PixelTransform
from jaxrecon.models import MAPANYTHING, PI3_MINI, VGGT_1B, ResizeRule
from jaxrecon.reading import npz_files
from jaxrecon.reconstruction import Reconstruction
from jaxrecon.registry.config_json import config_from_json
from jaxrecon.structured import structured
from jaxrecon.training.log import read_log
from random_recon import random_recon

HEADER = {"family": "pi3", "model": "m", "license": "", "source": {}, "config": asdict(PI3_MINI)}
TENSORS = {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.zeros(4, np.float16)}


def write_native(folder: Path) -> None:
    specs = {name: TensorSpec(x.shape, x.dtype) for name, x in TENSORS.items()}
    checkpoint.write(folder, TENSORS.items(), specs, HEADER, max_shard_bytes=24)


def write_index(folder: Path) -> None:
    folder.mkdir()
    for name, tensor in TENSORS.items():
        save_file({name: tensor}, folder / f"{name}.safetensors")
    weight_map = {name: f"{name}.safetensors" for name in TENSORS}
    text = json.dumps({"metadata": {"total_size": 32}, "weight_map": weight_map})
    (folder / "model.safetensors.index.json").write_text(text)


def write_scene(folder: Path) -> None:
    random_recon().save(folder / "scene.npz")


def write_streamed(folder: Path) -> None:
    names = [f"{view:06d}_a.npz" for view in range(2)]
    for view, name in enumerate(names):
        random_recon()[[view]].save(folder / name)
    notes = {"format": "jaxrecon-views", "version": 1, "digest": "d", "files": names}
    (folder / "scene.json").write_text(json.dumps(notes))


def line(kind: type[JaxreconError], call: Callable[[], object]) -> str:
    """The one line with which something is refused."""
    with pytest.raises(kind) as caught:
        call()
    message = str(caught.value)
    assert message.isprintable()
    assert len(message) <= MAX_MESSAGE
    return message


class TestNativeConfig:
    @pytest.mark.parametrize(
        "change",
        [
            {"sha256": None},
            {"sha256": ""},
            {"sha256": "A" * 64},
            {"dtype": "object"},
            {"dtype": "float128"},
            {"shape": [2, "3"]},
            {"shape": [True, 6]},
            {"shape": [2**63, 0]},
            {"shape": [0] * 40},
            {"file": "arrays"},
            {"file": "../it/model-00001-of-00002.safetensors"},
            {"file": "x" * 5000},
            {"file": "a\0b"},
            {"file": "a\n\x1b[31m"},
        ],
    )
    def test_entries_that_cannot_be(self, tmp_path: Path, change: dict[str, Any]) -> None:
        write_native(tmp_path / "it")
        path = tmp_path / "it" / "config.json"
        config = json.loads(path.read_text())
        config["tensors"]["a"] |= change
        path.write_text(json.dumps(config))
        told = line(WeightsError, lambda: list(checkpoint.read_tensors(tmp_path / "it")))
        assert str(tmp_path / "it") in told

    def test_a_tensor_in_two_files(self, tmp_path: Path) -> None:
        write_native(tmp_path / "it")
        save_file(TENSORS, tmp_path / "it" / "model-00002-of-00002.safetensors")
        told = line(WeightsError, lambda: list(checkpoint.read_tensors(tmp_path / "it")))
        assert "holds the tensor a, and so does model-00001-of-00002.safetensors" in told

    def test_a_pipe_for_a_file(self, tmp_path: Path) -> None:
        write_native(tmp_path / "it")
        shard = tmp_path / "it" / "model-00001-of-00002.safetensors"
        shard.unlink()
        os.mkfifo(shard)
        assert "is missing" in line(
            WeightsError, lambda: list(checkpoint.read_tensors(tmp_path / "it"))
        )
        config = tmp_path / "it" / "config.json"
        config.unlink()
        os.mkfifo(config)
        assert not checkpoint.is_native(tmp_path / "it")
        line(WeightsError, lambda: checkpoint.read_config(tmp_path / "it"))


def safetensors(entries: dict[str, Any] | str, data: bytes = b"") -> bytes:
    text = (entries if isinstance(entries, str) else json.dumps(entries)).encode()
    return struct.pack("<Q", len(text)) + text + data


def entry(shape: list[int], start: int, end: int, dtype: str = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}


class TestSafetensors:
    @pytest.mark.parametrize(
        "data",
        [
            safetensors({"a": entry([2**62, 4, 0], 0, 0)}),
            safetensors({"a": entry([0] * 33, 0, 0)}),
            safetensors({"a": entry([0, 2**31, 2**31, 2**31], 0, 0)}),
            safetensors({"a": entry([4], 0, 16), "b": entry([4], 8, 24)}, b"\0" * 24),
            safetensors({"a": entry([4], 0, 16)}, b"\0" * 15),
            safetensors({"a": entry([4], 8, 24)}, b"\0" * 24),
            safetensors({"a": entry([3], 0, 16)}, b"\0" * 16),
            safetensors({"a": entry([4], 16, 0)}, b"\0" * 16),
            safetensors({"a": entry([-4], 0, 16)}, b"\0" * 16),
            safetensors({"a": entry([16], 0, 16, "F8_E4M3")}, b"\0" * 16),
            safetensors({"a": entry([4], 0, 16, "O")}, b"\0" * 16),
            safetensors(
                '{"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}, '
                '"a": {"dtype": "F32", "shape": [1], "data_offsets": [4, 8]}}',
                b"\0" * 8,
            ),
            safetensors("[" * 100_000),
            struct.pack("<Q", 2**64 - 1) + b"{}",
            struct.pack("<Q", 100) + b"{}",
            b"\1\2",
            b"",
        ],
    )
    def test_files_that_cannot_be(self, tmp_path: Path, data: bytes) -> None:
        path = tmp_path / "it.safetensors"
        path.write_bytes(data)
        assert str(path) in line(WeightsError, lambda: open_source(path))

    def test_offsets_need_not_be_aligned(self, tmp_path: Path) -> None:
        parts = {"a": entry([3], 0, 3, "U8"), "b": entry([2], 3, 11)}
        data = b"abc" + np.array([1.5, -2], np.float32).tobytes()
        (tmp_path / "it.safetensors").write_bytes(safetensors(parts, data))
        assert open_source(tmp_path / "it.safetensors").read("b").tolist() == [1.5, -2]

    def test_a_pipe(self, tmp_path: Path) -> None:
        os.mkfifo(tmp_path / "it.safetensors")
        line(WeightsError, lambda: open_source(tmp_path / "it.safetensors"))

    def test_a_file_that_became_shorter(self, tmp_path: Path) -> None:
        path = tmp_path / "it.safetensors"
        save_file(TENSORS, path)
        source = open_source(path)
        path.write_bytes(path.read_bytes()[:-1])
        read = [lambda name=name: source.read(name) for name in TENSORS]
        assert "became shorter" in " ".join(line(WeightsError, one) for one in read[-1:])


class TestIndex:
    @pytest.mark.parametrize(
        "value",
        [True, 1.5, [], {"b": "c"}, "", ".", "..", "sub/a.safetensors", "C:a", "\x00", "a" * 300],
    )
    def test_values_that_are_no_names(self, tmp_path: Path, value: Any) -> None:
        write_index(tmp_path / "it")
        index = tmp_path / "it" / "model.safetensors.index.json"
        index.write_text(json.dumps({"weight_map": {"a": "a.safetensors", "b": value}}))
        assert str(index) in line(WeightsError, lambda: open_source(index))

    def test_a_tensor_that_is_named_twice(self, tmp_path: Path) -> None:
        write_index(tmp_path / "it")
        index = tmp_path / "it" / "model.safetensors.index.json"
        index.write_text('{"weight_map": {"a": "a.safetensors", "a": "b.safetensors"}}')
        assert "stands twice" in line(WeightsError, lambda: open_source(index))

    def test_links_into_a_cache_are_followed(self, tmp_path: Path) -> None:
        write_index(tmp_path / "it")
        shutil.move(tmp_path / "it" / "a.safetensors", tmp_path / "blob")
        (tmp_path / "it" / "a.safetensors").symlink_to(tmp_path / "blob")
        assert np.array_equal(open_source(tmp_path / "it").read("a"), TENSORS["a"])


@pytest.mark.parametrize(
    ("config", "path", "value"),
    [
        (PI3_MINI, "encoder.patch", 0),
        (PI3_MINI, "encoder.width", 2**40),
        (PI3_MINI, "encoder.grid", -3),
        (PI3_MINI, "head_heads", 5),
        (PI3_MINI, "head_heads", 256),
        (PI3_MINI, "rope_base", 0.0),
        (PI3_MINI, "rope_base", float("inf")),
        (VGGT_1B, "taps", [4, 4, 17, 23]),
        (VGGT_1B, "taps", [4, 11, 17, 24]),
        (VGGT_1B, "channels", [256, 512, 1024, 1023]),
        (VGGT_1B, "camera_rounds", 0),
        (VGGT_1B, "tracker.stride", 0),
        (VGGT_1B, "tracker.levels", 63),
        (VGGT_1B, "tracker.motion_scale", 0.0),
        (MAPANYTHING, "taps", [-1, 11, 15]),
        (MAPANYTHING, "features", 1),
        (MAPANYTHING, "vector_widths", [128, 0, 512]),
        (MAPANYTHING, "layer_scale", 10**400),
        (ResizeRule(), "patch", 0),
        (ResizeRule(), "pixel_limit", 10**18),
    ],
)
def test_sizes_that_no_model_can_have(config: Any, path: str, value: Any) -> None:
    values = asdict(config)
    *outer, last = path.split(".")
    place = values
    for name in outer:
        place = place[name]
    place[last] = value
    told = line(WeightsError, lambda: config_from_json(type(config), values, Path("it")))
    assert last in told


def test_structured_names_whatever_is_wrong() -> None:
    deep: list = []
    for _ in range(5000):
        deep = [deep]
    for value in (deep, {"encoder": deep}, {"heads": deep}, {"encoder": {"mlp": {}}}, None, 5):
        with pytest.raises(ValueError, match=r"config|must be|cannot be read"):
            structured(type(PI3_MINI), value)


class TestLog:
    @pytest.mark.parametrize(
        "text",
        (
            *('"x"', "null", "", "\x00", '{"step": 1.0}', '{"step": -1}', '{"step": true}'),
            *('{"step": 3000000000}', '{"step": 1, "loss": "1"}', '{"step": 1, "loss": null}'),
            *(
                '{"step": 1, "step": 2}',
                '{"step": 1, "seconds": -1}',
                '{"step": 1, "seconds": NaN}',
            ),
        ),
    )
    def test_lines_that_are_no_record(self, tmp_path: Path, text: str) -> None:
        log = tmp_path / "log.jsonl"
        log.write_text(f'{{"step": 0}}\n{text}\n{{"step": 2}}\n')
        assert f"{log}:2: the line is no record" in line(InputError, lambda: read_log(log))

    def test_a_last_line_that_was_cut(self, tmp_path: Path) -> None:
        (tmp_path / "log.jsonl").write_bytes(b'{"step": 0}\n{"step": 2, "na\xff')
        assert read_log(tmp_path / "log.jsonl") == [{"step": 0}]

    def test_a_pipe(self, tmp_path: Path) -> None:
        os.mkfifo(tmp_path / "log.jsonl")
        line(InputError, lambda: read_log(tmp_path / "log.jsonl"))


CHANGED = {
    "points as dates": ("points_world", lambda x: x.astype("M8[s]")),
    "points of another view count": ("points_camera", lambda x: x[:1]),
    "flat points": ("points_world", lambda x: x.reshape(-1, 3)),
    "confidence as text": ("confidence", lambda x: x.astype("U9")),
    "mask of numbers": ("mask", lambda x: x.astype(np.uint8)),
    "colors of 16 bits": ("colors", lambda x: x.astype(np.uint16)),
    "poses of three rows": ("world_from_camera", lambda x: x[:, :3]),
    "complex cameras": ("intrinsics", lambda x: x.astype(complex)),
    "sizes of zero": ("original_sizes", lambda x: x * 0),
    "sizes below zero": ("original_sizes", lambda x: -x),
    "scales of zero": ("scales", lambda x: x * 0),
    "scales that are not finite": ("scales", lambda x: x * np.nan),
    "endless offsets": ("offsets", lambda x: x + np.inf),
    "offsets far away": ("offsets", lambda x: x + 1e6),
    "too few names": ("names", lambda x: x[1:]),
    "a single name": ("names", lambda x: x[0]),
    "names beyond Unicode": ("names", lambda x: np.full(len(x), 0x7FFFFFFF, "u4").view("U1")),
    "two models": ("model", lambda x: np.array([x, x])),
    "a number for a model": ("model", lambda x: np.array(3)),
    "stages without seconds": ("stage_seconds", lambda x: np.zeros(len(x) + 1)),
    "another version": ("jaxrecon_npz", lambda x: x + 1),
    "a version that is a list": ("jaxrecon_npz", lambda x: x[None]),
    "an endless unit": ("metric_scale", lambda x: np.array(np.inf)),
}


class TestScene:
    @pytest.mark.parametrize("label", CHANGED)
    def test_arrays_that_cannot_be(self, tmp_path: Path, label: str) -> None:
        write_scene(tmp_path)
        path = tmp_path / "scene.npz"
        with np.load(path) as stored:
            arrays: Any = {"metric_scale": np.array(1.0)} | dict(stored)
        name, change = CHANGED[label]
        np.savez(path, **(arrays | {name: change(arrays[name])}))
        told = line(InputError, lambda: Reconstruction.load(path))
        assert str(path) in told
        assert name in told or "stages" in told or "points_camera" in told

    def test_cameras_may_be_odd(self, tmp_path: Path) -> None:
        write_scene(tmp_path)
        path = tmp_path / "scene.npz"
        with np.load(path) as stored:
            arrays: Any = dict(stored)
        odd = {name: arrays[name] * np.nan for name in ("world_from_camera", "intrinsics")}
        np.savez(path, **(arrays | odd))
        assert np.isnan(Reconstruction.load(path).intrinsics).all()

    def test_constant_scenes_are_read_again(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(npz_files, "unpacked_limit", lambda stored: 10 * stored)
        recon, image = random_recon(), (3, 64, 64)
        constant = replace(
            recon,
            points_world=np.zeros((*image, 3), np.float32),
            points_camera=np.zeros((*image, 3), np.float32),
            confidence=np.zeros(image, np.float32),
            mask=np.zeros(image, bool),
            colors=np.zeros((*image, 3), np.uint8),
            transforms=(PixelTransform.stretch((64, 64), (64, 64)),) * 3,
        )
        constant.save(tmp_path / "scene.npz")
        assert not Reconstruction.load(tmp_path / "scene.npz").mask.any()

    @pytest.mark.parametrize(
        "files",
        [[], {}, None, "a", [1], ["../a.npz"], ["000000_a.npz"] * 2, ["a\0"], ["x" * 5000], [[]]],
    )
    def test_lists_of_views_that_cannot_be(self, tmp_path: Path, files: Any) -> None:
        write_streamed(tmp_path / "it")
        notes = json.loads((tmp_path / "it" / "scene.json").read_text())
        (tmp_path / "it" / "scene.json").write_text(json.dumps(notes | {"files": files}))
        told = line(InputError, lambda: Reconstruction.load(tmp_path / "it"))
        assert str(tmp_path / "it") in told
