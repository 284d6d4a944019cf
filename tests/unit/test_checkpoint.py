"""Native checkpoints: round trips, damage, interrupted writing, memory, Orbax."""

import json
import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from flax import nnx
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from safetensors.numpy import load_file, save_file

from convert import pi3
from convert.safetensors_file import TensorSpec
from golden_data import GOLDEN, state_dict
from jaxrecon import checkpoint
from jaxrecon.errors import OutputError, WeightsError
from jaxrecon.models.pi3.model import Pi3
from jaxrecon.nn.layers import LayerScale, Mlp, stack
from places import ROOT
from tiny_models import PI3_TINY

HEADER = {
    "family": "small",
    "model": "small-1",
    "config": {"width": 2, "π": [1, 2]},
    "license": "Apache-2.0",
    "source": {"repo": "somebody/small"},
}
TENSORS = {
    "a.kernel": np.arange(6, dtype=np.float32).reshape(2, 3),
    "a.bias": np.array([1.5, -2.0, 0.25], ml_dtypes.bfloat16),
    "scalar": np.array(7.0, np.float32),
    "empty": np.zeros((0, 3), np.float32),
}


class Small(nnx.Module):
    """Two stacked layers, one bfloat16 matrix, one plain parameter."""

    def __init__(self, width: int, rngs: nnx.Rngs) -> None:
        self.mlp = Mlp(width, 2 * width, dtype=jnp.bfloat16, rngs=rngs)
        self.scales = stack(lambda keys: LayerScale(width, 0.5), 2, rngs)
        self.token = nnx.Param(jax.random.normal(rngs.params(), (width,)))
        self.absent = None


def small(width: int = 4, seed: int = 0) -> Small:
    return Small(width, nnx.Rngs(seed))


def abstract(width: int = 4) -> Small:
    return jax.eval_shape(lambda: small(width))


def specs_of(tensors: dict[str, np.ndarray]) -> dict[str, TensorSpec]:
    return {path: TensorSpec(x.shape, x.dtype) for path, x in tensors.items()}


def write(folder: Path, tensors: dict[str, np.ndarray] = TENSORS, **options: Any) -> Path:
    checkpoint.write(folder, tensors.items(), specs_of(tensors), HEADER, **options)
    return folder


def edit_config(folder: Path, change: dict[str, Any]) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))


def assert_same(a: nnx.Module, b: nnx.Module) -> None:
    ours, theirs = checkpoint.flatten(a), checkpoint.flatten(b)
    assert list(ours) == list(theirs)
    for path, leaf in ours.items():
        assert leaf.dtype == theirs[path].dtype, path
        assert np.asarray(leaf).tobytes() == np.asarray(theirs[path]).tobytes(), path


def one_line(folder: Path) -> str:
    """The message with which a checkpoint is refused."""
    with pytest.raises(WeightsError) as caught:
        list(checkpoint.read_tensors(folder))
    message = str(caught.value)
    assert "\n" not in message
    return message


class TestPaths:
    def test_names_of_attributes(self) -> None:
        assert checkpoint.shapes(abstract()) == {
            "mlp.fc1.bias": (8,),
            "mlp.fc1.kernel": (4, 8),
            "mlp.fc2.bias": (4,),
            "mlp.fc2.kernel": (8, 4),
            "scales.gamma": (2, 4),
            "token": (4,),
        }

    def test_unflatten_undoes_flatten(self) -> None:
        module = small()
        rebuilt = checkpoint.unflatten(abstract(), checkpoint.flatten(module))
        assert_same(rebuilt, module)
        assert isinstance(rebuilt.token, nnx.Param)


class TestNative:
    @pytest.mark.parametrize("limit", [10**9, 40, 1])
    def test_round_trip(self, tmp_path: Path, limit: int) -> None:
        folder = write(tmp_path / "model", max_shard_bytes=limit)
        read = dict(checkpoint.read_tensors(folder))
        assert list(read) == list(TENSORS)
        for path, tensor in TENSORS.items():
            assert (read[path].shape, read[path].dtype) == (tensor.shape, tensor.dtype)
            assert read[path].tobytes() == tensor.tobytes()
        config = checkpoint.read_config(folder)
        assert {key: config[key] for key in HEADER} == HEADER

    def test_files_are_ordinary_safetensors(self, tmp_path: Path) -> None:
        folder = write(tmp_path / "model")
        assert sorted(path.name for path in folder.iterdir()) == [
            "config.json",
            "model.safetensors",
        ]
        loaded = load_file(folder / "model.safetensors")
        assert loaded.keys() == TENSORS.keys()
        for path, tensor in TENSORS.items():
            assert loaded[path].tobytes() == tensor.tobytes()

    def test_shards(self, tmp_path: Path) -> None:
        # 24 + 6 bytes fit into 30, the scalar's 4 begin the next file.
        folder = write(tmp_path / "model", max_shard_bytes=30)
        assert load_file(folder / "model-00001-of-00002.safetensors").keys() == {
            "a.kernel",
            "a.bias",
        }
        assert load_file(folder / "model-00002-of-00002.safetensors").keys() == {"scalar", "empty"}
        (folder / "model-00002-of-00002.safetensors").unlink()
        assert "model-00002-of-00002.safetensors is missing" in one_line(folder)

    def test_chosen_paths(self, tmp_path: Path) -> None:
        folder = write(tmp_path / "model")
        chosen = checkpoint.read_tensors(folder, ["scalar", "a.bias"])
        assert [path for path, _ in chosen] == ["scalar", "a.bias"]
        with pytest.raises(WeightsError, match="holds no tensor b"):
            list(checkpoint.read_tensors(folder, ["b"]))

    def test_save_and_restore(self, tmp_path: Path) -> None:
        module = small(seed=3)
        checkpoint.save(module, tmp_path / "model", HEADER)
        tensors = checkpoint.read_tensors(tmp_path / "model")
        assert_same(checkpoint.restore(abstract(), tensors), module)
        entries = checkpoint.read_config(tmp_path / "model")["tensors"]
        assert entries["mlp.fc1.kernel"]["dtype"] == "bfloat16"
        assert entries["scales.gamma"]["dtype"] == "float32"

    def test_overwrite(self, tmp_path: Path) -> None:
        folder = write(tmp_path / "model")
        with pytest.raises(OutputError, match="not empty"):
            write(folder)
        write(folder, {"b": np.zeros(2, np.float32)}, overwrite=True)
        assert [path for path, _ in checkpoint.read_tensors(folder)] == ["b"]

    @pytest.mark.parametrize(
        "tensors",
        [
            [],
            [("b", np.zeros(2, np.float32))],
            [("a", np.zeros(3, np.float32))],
            [("a", np.zeros(2, np.float64))],
            [("a", np.zeros(2, np.float32)), ("b", np.zeros(2, np.float32))],
        ],
        ids=["none", "name", "shape", "dtype", "surplus"],
    )
    def test_what_arrives_must_be_what_was_announced(
        self, tmp_path: Path, tensors: list[tuple[str, np.ndarray]]
    ) -> None:
        specs = {"a": TensorSpec((2,), np.dtype(np.float32))}
        with pytest.raises(ValueError, match=r"expected a |b comes after the last"):
            checkpoint.write(tmp_path / "model", tensors, specs, HEADER)
        assert list(tmp_path.iterdir()) == []

    def test_header_must_be_complete(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match="header must have the keys"):
            checkpoint.write(tmp_path / "model", [], {}, {"family": "small"})


class TestAhead:
    """Threads read the next few tensors, in pieces."""

    @pytest.fixture
    def folder(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        """30 tensors of 40 to 70 bytes, which are read in pieces of 16."""
        monkeypatch.setattr("convert.safetensors_file._PIECE", 16)
        tensors = {f"t{n}": np.linspace(0, n + 1, 10 + n % 8, dtype=np.float32) for n in range(30)}
        specs = {path: TensorSpec(array.shape, array.dtype) for path, array in tensors.items()}
        checkpoint.write(tmp_path / "model", iter(tensors.items()), specs, HEADER)
        return tmp_path / "model"

    def test_in_order_and_the_same(self, folder: Path) -> None:
        plain = list(checkpoint.read_tensors(folder))
        for readers in (1, 2, 8, 40):
            with pytest.MonkeyPatch.context() as patched:
                patched.setattr("jaxrecon.checkpoint.tensors._READERS", readers)
                ahead = list(checkpoint.read_tensors(folder, ahead=True))
            assert [path for path, _ in ahead] == [path for path, _ in plain]
            for (_, ours), (_, theirs) in zip(ahead, plain, strict=True):
                np.testing.assert_array_equal(ours, theirs, strict=True)

    def test_cast_while_read(self, folder: Path) -> None:
        half = np.dtype(ml_dtypes.bfloat16)
        cast = checkpoint.read_tensors(folder, dtypes={"t3": half, "t20": half}, ahead=True)
        for (path, ours), (_, theirs) in zip(cast, checkpoint.read_tensors(folder), strict=True):
            wanted = theirs.astype(half) if path in ("t3", "t20") else theirs
            np.testing.assert_array_equal(ours, wanted, strict=True)

    @pytest.mark.parametrize("ahead", [False, True])
    def test_a_flipped_bit_in_any_piece(self, folder: Path, ahead: bool) -> None:
        path = folder / "model.safetensors"
        whole = path.read_bytes()
        for place in (-1, -18, -35):
            content = bytearray(whole)
            content[place] ^= 1
            path.write_bytes(content)
            with pytest.raises(WeightsError, match="the bytes of t29 have changed"):
                list(checkpoint.read_tensors(folder, dtypes={"t29": np.dtype("f2")}, ahead=ahead))

    def test_only_a_few_wait(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        read: list[str] = []
        monkeypatch.setattr("jaxrecon.checkpoint.tensors._READERS", 2)
        monkeypatch.setattr(
            "jaxrecon.checkpoint.tensors._read",
            lambda stored, path, sha256, dtype: read.append(path) or np.zeros(1),
        )
        tensors = checkpoint.read_tensors(folder, ahead=True)
        assert next(tensors)[0] == "t0"
        del tensors  # waits for those that are being read
        assert set(read) <= {"t0", "t1", "t2"}


class TestDamage:
    def test_flipped_bit(self, tmp_path: Path) -> None:
        folder = write(tmp_path / "model")
        path = folder / "model.safetensors"
        content = bytearray(path.read_bytes())
        content[-1] ^= 1  # the last byte belongs to the scalar
        path.write_bytes(content)
        assert "the bytes of scalar have changed" in one_line(folder)
        unverified = dict(checkpoint.read_tensors(folder, verify=False))
        assert unverified["scalar"] != TENSORS["scalar"]

    def test_truncated(self, tmp_path: Path) -> None:
        folder = write(tmp_path / "model")
        path = folder / "model.safetensors"
        path.write_bytes(path.read_bytes()[:-1])
        assert "damaged, incomplete" in one_line(folder)

    def test_other_file_in_place(self, tmp_path: Path) -> None:
        folder = write(tmp_path / "model")
        save_file(TENSORS | {"b": np.zeros(1)}, folder / "model.safetensors")
        assert "tensor b is {'dtype': 'float64', 'file': 'model.safetensors'" in one_line(folder)
        save_file(TENSORS | {"scalar": np.zeros(1)}, folder / "model.safetensors")
        assert "tensor scalar is" in one_line(folder)

    def test_not_a_checkpoint(self, tmp_path: Path) -> None:
        assert "is not a native checkpoint: it holds no config.json" in one_line(tmp_path)
        (tmp_path / "config.json").write_text('{"model_type": "vit"}')
        assert "is not the config of a native checkpoint" in one_line(tmp_path)
        (tmp_path / "config.json").write_text('{"format": "jaxrecon"')
        assert "cannot read" in one_line(tmp_path)

    @pytest.mark.parametrize(
        ("change", "expected"),
        [
            (
                {"format_version": 3},
                "has format_version 3, this version reads 1 and 2; install a newer",
            ),
            ({"format_version": True}, "has format_version True, this version reads 1 and 2"),
            ({"quantisation": "int4"}, "must have exactly the fields"),
            ({"tensors": []}, "must have exactly the fields"),
            ({"tensors": {"a": {"file": "x"}}}, "tensor a must have exactly the fields"),
        ],
    )
    def test_config_of_another_kind(
        self, tmp_path: Path, change: dict[str, Any], expected: str
    ) -> None:
        folder = write(tmp_path / "model")
        edit_config(folder, change)
        assert expected in one_line(folder)

    def test_config_may_not_leave_the_folder(self, tmp_path: Path) -> None:
        save_file({"a": np.zeros(1)}, tmp_path / "outside.safetensors")
        folder = write(tmp_path / "model")
        entry = {"file": "../outside.safetensors", "shape": [1], "dtype": "float64"}
        edit_config(folder, {"tensors": {"a": entry | {"sha256": "0" * 64}}})
        assert "which is not one in the folder" in one_line(folder)


class TestInterrupted:
    @pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
    def test_nothing_is_left(self, tmp_path: Path, error: type[BaseException]) -> None:
        def breaking() -> Iterator[tuple[str, np.ndarray]]:
            yield "a.kernel", TENSORS["a.kernel"]
            raise error

        with pytest.raises(error):
            checkpoint.write(tmp_path / "model", breaking(), specs_of(TENSORS), HEADER)
        assert list(tmp_path.iterdir()) == []

    def test_the_old_checkpoint_stays(self, tmp_path: Path) -> None:
        folder = write(tmp_path / "model")
        with pytest.raises(ValueError, match="expected b"):
            checkpoint.write(
                folder, [], {"b": TensorSpec((1,), np.dtype("f4"))}, HEADER, overwrite=True
            )
        assert [path.name for path in tmp_path.iterdir()] == ["model"]
        assert list(dict(checkpoint.read_tensors(folder))) == list(TENSORS)

    def test_file_size_limit(self, tmp_path: Path) -> None:
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
        try:
            with pytest.raises(OutputError, match="would pass the allowed file size"):
                write(tmp_path / "model", {"a": np.zeros(1_000_000, np.float32)})
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert list(tmp_path.iterdir()) == []


class TestRestore:
    def test_casts_to_the_dtype_of_the_module(self) -> None:
        tensors = {
            path: np.full(shape, 1 + 2**-9 + 2**-12, np.float32)
            for path, shape in checkpoint.shapes(abstract()).items()
        }
        module = checkpoint.restore(abstract(), tensors.items())
        assert module.mlp.fc1.kernel.dtype == jnp.bfloat16
        # bfloat16 has 8 bits: halfway between 1 and 1 + 2^-7 lies 1 + 2^-8, so this goes to 1.
        assert float(module.mlp.fc1.kernel[0, 0]) == 1.0
        assert float(module.token[0]) == 1 + 2**-9 + 2**-12

    def test_one_error_lists_everything(self) -> None:
        tensors = {p: np.asarray(x) for p, x in checkpoint.flatten(small()).items()}
        del tensors["token"]
        tensors["scales.gamma"] = np.zeros((3, 4), np.float32)
        tensors["mlp.fc3.bias"] = np.zeros(4, np.float32)
        with pytest.raises(WeightsError) as caught:
            checkpoint.restore(abstract(), tensors.items(), label="small/")
        assert str(caught.value) == (
            "small/ does not fit the model: 1 missing, 1 unexpected, 1 different: "
            "- missing token (4,); + unexpected mlp.fc3.bias (4,); "
            "~ scales.gamma has shape (3, 4), expected (2, 4)"
        )
        assert "\n".join(caught.value.__notes__) == (
            "- missing token (4,)\n"
            "+ unexpected mlp.fc3.bias (4,)\n"
            "~ scales.gamma has shape (3, 4), expected (2, 4)"
        )

    def test_goes_to_the_sharding(self) -> None:
        tensors = {p: np.asarray(x) for p, x in checkpoint.flatten(small()).items()}
        module = checkpoint.restore(abstract(), tensors.items(), sharding=mesh_sharding())
        assert {x.sharding for x in jax.tree.leaves(module)} == {mesh_sharding()}

    def test_a_leaf_may_have_its_own_sharding(self) -> None:
        module = small()
        tensors = {p: np.asarray(x) for p, x in checkpoint.flatten(module).items()}
        own = mesh_sharding("x")
        leaves = checkpoint.flatten(abstract())
        leaves["token"] = jax.ShapeDtypeStruct((4,), jnp.float32, sharding=own)
        target = checkpoint.unflatten(abstract(), leaves)
        restored = checkpoint.restore(target, tensors.items(), sharding=mesh_sharding())
        assert restored.token[...].sharding == own
        assert restored.scales.gamma[...].sharding == mesh_sharding()
        assert_same(restored, module)


class TestConversion:
    def test_tiny_pi3_through_files(self, tmp_path: Path) -> None:
        state = state_dict(GOLDEN / "statedict" / "pi3_tiny.json")
        save_file(state, tmp_path / "model.safetensors")
        target = jax.eval_shape(lambda: Pi3(PI3_TINY, rngs=nnx.Rngs(0)))
        planned = checkpoint.convert_checkpoint(
            tmp_path / "model.safetensors",
            tmp_path / "native",
            rules=pi3.RULES,
            ignored=pi3.IGNORED,
            targets=checkpoint.shapes(target),
            header=HEADER,
        )
        assert set(planned.ignored) == {"image_mean", "image_std"}
        model = checkpoint.restore(target, checkpoint.read_tensors(tmp_path / "native"))
        kernel = np.asarray(model.trunk.global_blocks.mlp.fc1.kernel[...])
        assert np.array_equal(kernel[1], state["decoder.3.mlp.fc1.weight"].T)
        assert checkpoint.read_config(tmp_path / "native")["license"] == "Apache-2.0"

    def test_an_existing_folder_is_refused_before_the_source_is_read(self, tmp_path: Path) -> None:
        folder = write(tmp_path / "native")
        with pytest.raises(OutputError, match="not empty"):
            checkpoint.convert_checkpoint(
                tmp_path / "absent.safetensors",
                folder,
                rules=(),
                ignored=(),
                targets={},
                header=HEADER,
            )

    @pytest.mark.skipif(sys.platform != "linux", reason="reads /proc/self/status")
    @pytest.mark.thorough
    def test_memory_holds_one_parameter_at_a_time(self, tmp_path: Path) -> None:
        """A conversion of 200 MiB, and reading it back, stay below 1.5 parameters of 40 MiB."""
        done = subprocess.run(
            [sys.executable, "-c", MEMORY, str(tmp_path)],
            capture_output=True,
            text=True,
            check=False,
            cwd=ROOT,
        )
        assert done.returncode == 0, done.stderr
        converting, reading = map(int, done.stdout.split())
        assert converting < 60 * 1024
        assert reading < 60 * 1024


MEMORY = """
import sys
from pathlib import Path
import numpy as np
from convert.rules import Rule
from convert.safetensors_file import TensorSpec, write_file
from jaxrecon import checkpoint

STACKS, LAYERS, SIDE = 5, 10, 1024

def kib(field):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field + ":"))

names = [f"s{stack}.{layer}" for stack in range(STACKS) for layer in range(LAYERS)]
spec = TensorSpec((SIDE, SIDE), np.dtype(np.float32))
upstream, native = (Path(sys.argv[1]) / name for name in ("upstream.safetensors", "native"))
tensors = ((name, np.full(*spec[:1], i, spec.dtype)) for i, name in enumerate(names))
write_file(upstream, dict.fromkeys(names, spec), tensors)
header = {"family": "x", "model": "x", "config": {}, "license": "", "source": {}}
before = kib("VmRSS")
checkpoint.convert_checkpoint(
    upstream,
    native,
    rules=(Rule(r"s(?P<stack>\\d)\\.(?P<layer>\\d+)", r"s\\g<stack>", "linear"),),
    ignored=(),
    targets={f"s{stack}": (LAYERS, SIDE, SIDE) for stack in range(STACKS)},
    header=header,
)
converting = kib("VmHWM") - before
for path, tensor in checkpoint.read_tensors(native):
    assert (tensor[:, 0, 0] == np.arange(10) + 10 * int(path[1:])).all()
    del tensor
print(converting, kib("VmHWM") - before)
"""


class TestOrbax:
    def test_round_trip(self, tmp_path: Path) -> None:
        module = small(seed=5)
        checkpoint.save_orbax(module, tmp_path / "model", HEADER)
        assert_same(checkpoint.load_orbax(tmp_path / "model", abstract()), module)
        assert checkpoint.read_config(tmp_path / "model")["model"] == "small-1"

    def test_restores_into_the_given_sharding(self, tmp_path: Path) -> None:
        module = small()
        checkpoint.save_orbax(module, tmp_path / "model", HEADER)
        loaded = checkpoint.load_orbax(tmp_path / "model", abstract(), sharding=mesh_sharding())
        assert {x.sharding for x in jax.tree.leaves(loaded)} == {mesh_sharding()}
        assert_same(loaded, module)

    def test_another_model(self, tmp_path: Path) -> None:
        checkpoint.save_orbax(small(), tmp_path / "model", HEADER)
        with pytest.raises(WeightsError, match=r"~ token has shape \(4,\), expected \(6,\)"):
            checkpoint.load_orbax(tmp_path / "model", abstract(6))

    def test_damaged(self, tmp_path: Path) -> None:
        checkpoint.save_orbax(small(), tmp_path / "model", HEADER)
        for path in (tmp_path / "model" / "arrays").rglob("*"):
            if path.is_file():
                path.write_bytes(b"")
        with pytest.raises(WeightsError, match="is damaged"):
            checkpoint.load_orbax(tmp_path / "model", abstract())

    def test_the_two_kinds_are_told_apart(self, tmp_path: Path) -> None:
        checkpoint.save_orbax(small(), tmp_path / "orbax", HEADER)
        checkpoint.save(small(), tmp_path / "native", HEADER)
        assert "use load_orbax" in one_line(tmp_path / "orbax")
        with pytest.raises(WeightsError, match="was not written by Orbax"):
            checkpoint.load_orbax(tmp_path / "native", abstract())


def mesh_sharding(*axes: str) -> NamedSharding:
    mesh = jax.make_mesh((1,), ("x",), (AxisType.Auto,), devices=jax.devices()[:1])
    return NamedSharding(mesh, PartitionSpec(*axes))


class TestOrbaxDigests:
    """Files of Orbax are compared with their SHA-256 before Orbax reads them."""

    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        checkpoint.save_orbax(small(seed=5), tmp_path / "model", HEADER)
        return tmp_path / "model"

    @staticmethod
    def refusal(folder: Path) -> str:
        with pytest.raises(WeightsError) as caught:
            checkpoint.load(folder, abstract())
        message = str(caught.value)
        assert "\n" not in message
        assert len(message) <= 500
        return message

    def test_every_file_is_covered(self, folder: Path) -> None:
        files = [path for path in (folder / "arrays").rglob("*") if path.is_file()]
        for path in files:
            content = path.read_bytes()
            path.write_bytes(bytes([content[0] ^ 64]) + content[1:])
            assert f"{path} is damaged: its bytes have changed" in self.refusal(folder)
            path.write_bytes(content[:-1])
            assert f"{path} is damaged: its bytes have changed" in self.refusal(folder)
            path.unlink()
            assert f"{path} is missing" in self.refusal(folder)
            os.mkfifo(path)
            assert "a pipe or a device" in self.refusal(folder)
            path.unlink()
            path.write_bytes(content)
        assert_same(checkpoint.load(folder, abstract()), small(seed=5))

    def test_a_file_that_was_not_there(self, folder: Path) -> None:
        (folder / "arrays" / "d" / "another").write_bytes(b"x")
        assert "another does not belong to the checkpoint" in self.refusal(folder)

    @pytest.mark.parametrize(
        "change",
        [
            lambda files: files.popitem(),
            lambda files: files.update({"../x": {"bytes": 1, "sha256": "0" * 64}}),
            lambda files: next(iter(files.values())).update(sha256="0" * 63),
            lambda files: next(iter(files.values())).update(bytes="1"),
            lambda files: next(iter(files.values())).pop("bytes"),
        ],
    )
    def test_damaged_lists(self, folder: Path, change: Any) -> None:
        files = json.loads((folder / "config.json").read_text())["files"]
        change(files)
        edit_config(folder, {"files": files})
        self.refusal(folder)

    def test_digests_of_other_files_are_refused(self, tmp_path: Path) -> None:
        folder = write(tmp_path / "model")
        edit_config(folder, {"files": {}})
        assert "mixes files of Orbax with others" in one_line(folder)

    def test_checkpoints_without_digests(self, folder: Path) -> None:
        path = folder / "config.json"
        values = json.loads(path.read_text())
        del values["files"]
        path.write_text(json.dumps(values))
        assert_same(checkpoint.load(folder, abstract()), small(seed=5))
        for path in (folder / "arrays").rglob("d/*"):
            path.write_bytes(path.read_bytes()[:8])
        assert "arrays is damaged (" in self.refusal(folder)

    def test_tensors_that_are_not_wanted_are_not_read(self, folder: Path) -> None:
        leaves = checkpoint.flatten(abstract())
        config = checkpoint.read_config(folder)["tensors"]
        assert leaves.keys() == config.keys()
        entries = config | {"head.x": config["token"] | {"shape": [2**40]}}
        edit_config(folder, {"tensors": entries})
        assert_same(checkpoint.load(folder, abstract(), unread="head."), small(seed=5))
        assert "1 unexpected" in self.refusal(folder)
