"""From upstream's tensors to our parameters: layouts, names, strictness, damaged files."""

import json
import re
import sys
from collections.abc import Mapping
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

from convert import pi3
from convert.engine import Plan, plan, stream
from convert.families import guess_family
from convert.rules import Ignore, Rule, block_rules, linear_rules, norm_rules
from convert.safetensors_file import TensorSpec, read_header
from convert.sources import Source, open_source
from convert.transforms import TRANSFORMS
from golden_data import GOLDEN, state_dict
from jaxrecon.errors import WeightsError
from jaxrecon.models.pi3.model import PI3
from pi3_stages import pi3_targets
from tiny_models import PI3_TINY
from upstream_state import InMemory

STATEDICTS = GOLDEN / "statedict"
F32 = np.dtype(np.float32)
RULES = (
    *linear_rules(r"layers\.(?P<layer>\d+)\.fc", "stack.fc"),
    *norm_rules("norm", "norm"),
    Rule("token", "token", "squeeze_leading"),
)
IGNORED = (Ignore("mean", "a constant of the model"),)
TARGETS = {
    "stack.fc.kernel": (2, 3, 4),
    "stack.fc.bias": (2, 4),
    "norm.scale": (3,),
    "norm.bias": (3,),
    "token": (5, 3),
}


def small_state() -> dict[str, np.ndarray]:
    """Fits RULES and TARGETS; no two numbers are the same."""
    sizes = {
        "layers.1.fc.weight": (4, 3),
        "layers.0.fc.weight": (4, 3),
        "layers.0.fc.bias": (4,),
        "layers.1.fc.bias": (4,),
        "norm.weight": (3,),
        "norm.bias": (3,),
        "token": (1, 1, 5, 3),
        "mean": (1,),
    }
    state, start = {}, 0
    for name, shape in sizes.items():
        count = int(np.prod(shape))
        state[name] = np.arange(start, start + count, dtype=np.float32).reshape(shape)
        start += count
    return state


def small_plan(state: Mapping[str, np.ndarray]) -> Plan:
    return plan(InMemory(state).specs, RULES, IGNORED, TARGETS, label="small.safetensors")


def listed_specs(name: str) -> dict[str, TensorSpec]:
    listing = json.loads((STATEDICTS / f"{name}.json").read_text())["state_dict"]
    return {key: TensorSpec(tuple(entry["shape"]), F32) for key, entry in listing.items()}


def error_of(state: Mapping[str, np.ndarray]) -> list[str]:
    with pytest.raises(WeightsError) as caught:
        small_plan(state)
    first, _, _ = str(caught.value).partition(": - ")
    return [first, *caught.value.__notes__[0].split("\n")]


class TestTransforms:
    def test_linear_multiplies_from_the_right(self) -> None:
        weight = np.array([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])
        x = np.array([1.0, 10.0, 100.0])
        expected = np.array([321.0, 654.0])  # nn.Linear: out[o] = sum_i weight[o, i] x[i]
        assert np.array_equal(x @ TRANSFORMS["linear"](weight, 2), expected)

    def test_patch_kernel_is_the_convolution_of_one_patch(self) -> None:
        rng = np.random.default_rng(0)
        weight = rng.integers(-9, 9, (2, 3, 14, 14)).astype(np.float64)
        patch = rng.integers(-9, 9, (14, 14, 3)).astype(np.float64)
        expected = np.zeros(2)
        for out, channel, row, column in np.ndindex(weight.shape):
            expected[out] += weight[out, channel, row, column] * patch[row, column, channel]
        kernel = TRANSFORMS["patch_kernel"](weight, 2)
        assert kernel.shape == (588, 2)
        assert np.array_equal(patch.reshape(-1) @ kernel, expected)

    @pytest.mark.parametrize("channels", [1, 3])
    def test_pixel_shuffle_order(self, channels: int) -> None:
        rng = np.random.default_rng(1)
        weight = rng.integers(-9, 9, (channels * 196, 5)).astype(np.float64)
        bias = rng.integers(-9, 9, channels * 196).astype(np.float64)
        x = rng.integers(-9, 9, 5).astype(np.float64)
        upstream = weight @ x + bias
        # F.pixel_shuffle: out[c, row, column] = in[c * 14 * 14 + row * 14 + column].
        expected = np.zeros((14, 14, channels))
        for row, column, channel in np.ndindex(expected.shape):
            expected[row, column, channel] = upstream[channel * 196 + row * 14 + column]
        kernel = TRANSFORMS["pixel_shuffle_kernel"](weight, 2)
        ours = x @ kernel + TRANSFORMS["pixel_shuffle_bias"](bias, 1)
        assert np.array_equal(ours.reshape(14, 14, channels), expected)

    @pytest.mark.parametrize(
        ("shape", "rank", "expected"),
        [
            ((1, 1, 5, 7), 2, (5, 7)),
            ((1, 1, 7), 1, (7,)),
            ((1, 26, 7), 2, (26, 7)),
            ((1, 1, 1, 7), 2, (1, 7)),
            ((5, 7), 2, (5, 7)),
        ],
    )
    def test_squeeze_leading(
        self, shape: tuple[int, ...], rank: int, expected: tuple[int, ...]
    ) -> None:
        tensor = np.arange(np.prod(shape)).reshape(shape)
        squeezed = TRANSFORMS["squeeze_leading"](tensor, rank)
        assert squeezed.shape == expected
        assert np.array_equal(squeezed.ravel(), tensor.ravel())

    def test_squeeze_leading_keeps_axes_that_hold_something(self) -> None:
        with pytest.raises(ValueError, match="no 2 leading axes of length one"):
            TRANSFORMS["squeeze_leading"](np.zeros((1, 2, 5, 7)), 2)

    def test_rules_refuse_unknown_transforms(self) -> None:
        with pytest.raises(ValueError, match="conv"):
            Rule("a", "b", "conv")


class TestEngine:
    def test_streams_every_target_in_order(self) -> None:
        state = small_state()
        source = InMemory(state)
        planned = small_plan(state)
        streamed = dict(stream(planned, source))
        assert isinstance(source, Source)
        assert list(streamed) == list(TARGETS)
        assert {path: x.shape for path, x in streamed.items()} == TARGETS
        kernels = [state["layers.0.fc.weight"].T, state["layers.1.fc.weight"].T]
        assert np.array_equal(streamed["stack.fc.kernel"], np.stack(kernels))
        biases = [state["layers.0.fc.bias"], state["layers.1.fc.bias"]]
        assert np.array_equal(streamed["stack.fc.bias"], np.stack(biases))
        assert np.array_equal(streamed["norm.scale"], state["norm.weight"])
        assert np.array_equal(streamed["token"], state["token"][0, 0])
        assert planned.ignored == {"mean": "a constant of the model"}

    def test_a_leaf_keeps_the_dtype_of_its_tensors(self) -> None:
        state = {
            name: x.astype(ml_dtypes.bfloat16)
            if "norm" in name or name.endswith("0.fc.bias")
            else x
            for name, x in small_state().items()
        }
        source = InMemory(state)
        streamed = dict(stream(small_plan(state), source))
        assert streamed["norm.scale"].dtype == ml_dtypes.bfloat16
        assert streamed["stack.fc.kernel"].dtype == np.float32
        assert streamed["stack.fc.bias"].dtype == np.float32  # one layer bfloat16, one float32
        assert np.array_equal(streamed["norm.scale"], state["norm.weight"])

    def test_one_error_lists_everything(self) -> None:
        state = small_state()
        del state["norm.bias"], state["layers.1.fc.bias"]
        state["head.weight"] = np.zeros((7, 2), np.float32)
        state["layers.2.fc.weight"] = np.zeros((4, 3), np.float32)
        state["norm.weight"] = np.zeros(6, np.float32)
        state["layers.0.fc.weight"] = np.zeros((5, 3), np.float32)
        assert error_of(state) == [
            "small.safetensors does not fit the model: 2 missing, 2 unexpected, 2 different",
            "- missing layer 1 of stack.fc.bias (2, 4)",
            "- missing norm.bias (3,)",
            "+ unexpected head.weight (7, 2)",
            "+ unexpected layers.2.fc.weight (4, 3): stack.fc.kernel has 2 layers",
            "~ layers.0.fc.weight has shape (5, 3) (laid out as (3, 5)), expected (3, 4)",
            "~ norm.weight has shape (6,), expected (3,)",
        ]

    def test_a_shape_that_cannot_be_laid_out(self) -> None:
        state = small_state() | {"token": np.zeros((1, 2, 5, 3), np.float32)}
        assert error_of(state)[1:] == ["~ token has shape (1, 2, 5, 3), expected (5, 3)"]

    def test_two_tensors_for_one_place(self) -> None:
        specs = {name: TensorSpec((3,), F32) for name in ("a.x", "b.x")}
        rules = (Rule(r"\w\.x", "x"),)
        with pytest.raises(WeightsError, match=r"\+ unexpected b\.x \(3,\): a\.x fills the same"):
            plan(specs, rules, (), {"x": (3,)})

    def test_layers_that_share_a_place(self) -> None:
        specs = {name: TensorSpec((3,), F32) for name in ("a.0", "a.1", "a.2")}
        rules = (Rule(r"a\.(?P<layer>\d)", "x", every=2),)
        with pytest.raises(WeightsError, match=r"1 unexpected.* a\.1 \(3,\): a\.0 fills the same"):
            plan(specs, rules, (), {"x": (2, 3)})

    def test_a_target_that_the_model_lacks(self) -> None:
        specs = {"a": TensorSpec((3,), F32)}
        with pytest.raises(WeightsError, match=r"\+ unexpected a \(3,\): the model has no x"):
            plan(specs, (Rule("a", "x"),), (), {})

    def test_two_rules_for_one_tensor_are_a_fault_of_the_rules(self) -> None:
        rules = (Rule("a", "x"), Rule(".", "y"))
        with pytest.raises(ValueError, match=r"a matches more than one rule: a and \."):
            plan({"a": TensorSpec((3,), F32)}, rules, (), {"x": (3,)})

    def test_long_lists_are_cut(self) -> None:
        state = small_state() | {f"extra{i}": np.zeros(1, np.float32) for i in range(27)}
        lines = error_of(state)
        assert len(lines) == 1 + 20 + 1
        assert lines[-1] == "... and 7 more"

    def test_block_rules_number_both_stacks(self) -> None:
        rules = block_rules(r"decoder\.(?P<layer>\d*[13579])", "global", every=2)
        specs = {f"decoder.{i}.ls1.gamma": TensorSpec((3,), F32) for i in (1, 3, 11, 5, 7, 9)}
        leaf = plan(specs, rules, (), {"global.scale1.gamma": (6, 3)}).leaves[0]
        assert [piece.source for piece in leaf.pieces] == [
            f"decoder.{i}.ls1.gamma" for i in (1, 3, 5, 7, 9, 11)
        ]


class TestPi3:
    def test_every_released_name_has_its_place(self) -> None:
        specs, targets = listed_specs("pi3_full"), pi3_targets(PI3)
        planned = plan(specs, pi3.RULES, pi3.IGNORED, targets)
        used = [piece.source for leaf in planned.leaves for piece in leaf.pieces]
        assert len(specs) == 1210
        assert sorted([*used, *planned.ignored]) == sorted(specs)
        assert set(planned.ignored) == {"image_mean", "image_std"}
        assert planned.specs == {path: TensorSpec(shape, F32) for path, shape in targets.items()}
        assert sum(int(np.prod(shape)) for shape in targets.values()) == 958_696_732

    def test_tiny_values(self) -> None:
        state = state_dict(STATEDICTS / "pi3_tiny.json")
        source = InMemory(state)
        ours = dict(
            stream(plan(source.specs, pi3.RULES, pi3.IGNORED, pi3_targets(PI3_TINY)), source)
        )
        expected = {
            "register_tokens": state["register_token"][0, 0],
            "encoder.class_token": state["encoder.cls_token"][0, 0],
            "encoder.position_embedding": state["encoder.pos_embed"][0],
            "encoder.register_tokens": state["encoder.register_tokens"][0],
            "encoder.norm.scale": state["encoder.norm.weight"],
            "point_decoder.project.kernel": state["point_decoder.projects.weight"].T,
            "confidence_decoder.out.bias": state["conf_decoder.linear_out.bias"],
            "camera_head.mlp1.kernel": state["camera_head.more_mlps.0.weight"].T,
            "camera_head.mlp2.kernel": state["camera_head.more_mlps.2.weight"].T,
            "camera_head.translation.kernel": state["camera_head.fc_t.weight"].T,
            "camera_head.rotation.bias": state["camera_head.fc_rot.bias"],
        }
        for path, value in expected.items():
            assert np.array_equal(ours[path], value), path
        layers = {
            ("encoder.blocks.attention.out.kernel", 2): "encoder.blocks.2.attn.proj.weight",
            ("trunk.frame_blocks.attention.qkv.kernel", 1): "decoder.2.attn.qkv.weight",
            ("trunk.global_blocks.attention.q_norm.scale", 0): "decoder.1.attn.q_norm.weight",
            ("trunk.global_blocks.attention.k_norm.bias", 1): "decoder.3.attn.k_norm.bias",
            ("trunk.global_blocks.scale2.gamma", 1): "decoder.3.ls2.gamma",
            ("camera_decoder.blocks.mlp.fc2.kernel", 4): "camera_decoder.blocks.4.mlp.fc2.weight",
            ("camera_head.residual.fc3.kernel", 1): "camera_head.res_conv.1.res_conv3.weight",
        }
        for (path, index), name in layers.items():
            assert np.array_equal(ours[path][index], state[name].T), path

    def test_mask_token_is_ignored_if_present(self) -> None:
        specs = listed_specs("pi3_tiny") | {"encoder.mask_token": TensorSpec((1, 64), F32)}
        planned = plan(specs, pi3.RULES, pi3.IGNORED, pi3_targets(PI3_TINY))
        assert "pre-trained" in planned.ignored["encoder.mask_token"]

    def test_another_family_is_named(self) -> None:
        specs = {
            f"aggregator.frame_blocks.{i}.norm1.weight": TensorSpec((64,), F32) for i in range(24)
        }
        with pytest.raises(WeightsError, match="its names are those of the family 'vggt'"):
            plan(specs, pi3.RULES, pi3.IGNORED, pi3_targets(PI3_TINY))

    @pytest.mark.parametrize(
        ("names", "family"),
        [
            (["conf_decoder.projects.bias", "point_decoder.projects.bias"], "pi3"),
            (["conf_decoder.projects.bias", "metric_decoder.projects.bias"], "pi3x"),
            (["encoder.model.cls_token", "info_sharing.view_pos_table"], "mapanything"),
            (["trunk.frame_blocks.norm1.bias"], "jaxrecon"),
            (["x"], None),
        ],
    )
    def test_guess_family(self, names: list[str], family: str | None) -> None:
        assert guess_family(names) == family


class TestSafetensorsSource:
    def test_reads_what_the_library_wrote(self, tmp_path: Path) -> None:
        state = {
            "f32": np.arange(6, dtype=np.float32).reshape(2, 3),
            "bf16": np.array([1.5, -2.0, 3e38], ml_dtypes.bfloat16),
            "f16": np.array([[0.1]], np.float16),
            "scalar": np.array(7, np.int64),
            "flags": np.array([True, False]),
        }
        save_file(state, tmp_path / "model.safetensors", metadata={"format": "pt"})
        source = open_source(tmp_path)
        assert source.specs.keys() == state.keys()
        for name, value in state.items():
            read = source.read(name)
            assert source.specs[name] == (value.shape, value.dtype) == (read.shape, read.dtype)
            assert read.tobytes() == value.tobytes()

    def test_several_files(self, tmp_path: Path) -> None:
        index = write_shards(tmp_path)
        for place in (tmp_path, index):
            source = open_source(place)
            assert {name: source.read(name).tolist() for name in source.specs} == {
                "a": [1.0],
                "b": [2.0, 3.0],
            }

    def test_missing_shard(self, tmp_path: Path) -> None:
        index = write_shards(tmp_path)
        (tmp_path / "part2.safetensors").unlink()
        with pytest.raises(WeightsError, match=r"names the file part2\.safetensors, which is miss"):
            open_source(index)

    def test_index_names_a_tensor_that_no_file_holds(self, tmp_path: Path) -> None:
        index = write_shards(tmp_path, {"c": "part2.safetensors"})
        with pytest.raises(
            WeightsError, match=r"1 tensors that its files lack, such as c in part2"
        ):
            open_source(index)

    def test_index_may_not_leave_its_folder(self, tmp_path: Path) -> None:
        (tmp_path / "inner").mkdir()
        save_file({"c": np.zeros(1)}, tmp_path / "outside.safetensors")
        index = write_shards(tmp_path / "inner", {"c": "../outside.safetensors"})
        with pytest.raises(
            WeightsError, match=r"\.\./outside\.safetensors, which is not one beside it"
        ):
            open_source(index)

    @pytest.mark.parametrize("text", ["{", "[]", '{"weight_map": 3}', '{"weight_map": {"a": []}}'])
    def test_damaged_index(self, tmp_path: Path, text: str) -> None:
        index = tmp_path / "model.safetensors.index.json"
        index.write_text(text)
        with pytest.raises(WeightsError, match="is not a safetensors index; download it again"):
            open_source(index)

    @pytest.mark.parametrize("keep", [0, 4, 40, -1])
    def test_truncated(self, tmp_path: Path, keep: int) -> None:
        path = tmp_path / "model.safetensors"
        save_file({"a": np.arange(100.0)}, path)
        path.write_bytes(path.read_bytes()[:keep])
        message = one_line(path)
        assert message.startswith(f"{path} is damaged, incomplete, or no safetensors file (")
        assert message.endswith("); download it again")

    def test_not_safetensors(self, tmp_path: Path) -> None:
        path = tmp_path / "model.safetensors"
        path.write_text("<html>404 not found, but long enough to look like a file</html>")
        assert "no safetensors file" in one_line(path)

    def test_shortened_while_open(self, tmp_path: Path) -> None:
        path = tmp_path / "model.safetensors"
        save_file({"a": np.arange(100.0)}, path)
        source = open_source(path)
        path.write_bytes(path.read_bytes()[:-8])
        with pytest.raises(WeightsError, match="became shorter"):
            source.read("a")
        path.unlink()
        with pytest.raises(WeightsError, match="No such file"):
            source.read("a")

    def test_unknown_number_format(self, tmp_path: Path) -> None:
        path = tmp_path / "model.safetensors"
        save_file({"a": np.zeros(4, ml_dtypes.float8_e4m3fn)}, path)
        with pytest.raises(WeightsError, match="tensor a has the number format F8_E4M3, which is"):
            read_header(path)

    @pytest.mark.parametrize(
        ("names", "expected"),
        [
            ([], "holds no safetensors file"),
            (["a.safetensors", "b.safetensors"], "2 safetensors checkpoints .*index.json if these"),
            (["a.safetensors.index.json", "b.safetensors.index.json"], "2 safetensors checkpoints"),
        ],
    )
    def test_unclear_folder(self, tmp_path: Path, names: list[str], expected: str) -> None:
        for name in names:
            (tmp_path / name).touch()
        assert re.search(expected, one_line(tmp_path))

    def test_absent_and_unknown_files(self, tmp_path: Path) -> None:
        assert "does not exist" in one_line(tmp_path / "model.safetensors")
        (tmp_path / "model.gguf").touch()
        assert "not a checkpoint of a known kind" in one_line(tmp_path / "model.gguf")


class TestWrappersPrefix:
    """`module.` of DDP, `_orig_mod.` of torch.compile, `model.` of a framework, or several."""

    @pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "model.", "net.student."])
    def test_is_left_out_where_all_share_it(self, tmp_path: Path, prefix: str) -> None:
        state = {
            prefix + name: np.zeros(3, np.float32) + number
            for number, name in enumerate(("conf_decoder.0.ls1.gamma", "register_token"))
        }
        save_file(state, tmp_path / "a.safetensors")
        source = open_source(tmp_path / "a.safetensors")
        assert sorted(source.specs) == ["conf_decoder.0.ls1.gamma", "register_token"]
        assert source.read("register_token")[0] == 1

    @pytest.mark.parametrize(
        "names",
        [
            ("module.conf_decoder.0.ls1.gamma", "step"),  # not all share it
            ("module.weight", "module.bias"),  # of no family without it
            ("module", "module."),
        ],
    )
    def test_stays_otherwise(self, tmp_path: Path, names: tuple[str, ...]) -> None:
        save_file({name: np.zeros(3, np.float32) for name in names}, tmp_path / "a.safetensors")
        assert sorted(open_source(tmp_path / "a.safetensors").specs) == sorted(names)


class TestTorchSource:
    def test_without_pytorch(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "torch", None)
        (tmp_path / "model.pt").touch()
        assert "needs PyTorch; install it (pip install 'jaxrecon[torch]')" in one_line(
            tmp_path / "model.pt"
        )

    @pytest.mark.parametrize("wrapper", [None, "model", "state_dict"])
    def test_state_dict(self, tmp_path: Path, wrapper: str | None) -> None:
        torch = pytest.importorskip("torch", reason="PyTorch files need PyTorch to be read")
        state = {
            "a": torch.arange(6.0).reshape(2, 3).T,
            "b": torch.tensor([1.5, -2.0], dtype=torch.bfloat16),
            "c": torch.nn.Parameter(torch.tensor([0.5], dtype=torch.float16)),
        }
        torch.save({wrapper: state, "epoch": 3} if wrapper else state, tmp_path / "model.pt")
        source = open_source(tmp_path / "model.pt")
        assert source.specs["a"] == ((3, 2), np.float32)
        assert source.specs["b"] == ((2,), ml_dtypes.bfloat16)
        assert source.read("a").tolist() == [[0.0, 3.0], [1.0, 4.0], [2.0, 5.0]]
        assert source.read("b").tolist() == [1.5, -2.0]
        assert source.read("c").tolist() == [0.5]

    def test_refused(self, tmp_path: Path) -> None:
        torch = pytest.importorskip("torch", reason="PyTorch files need PyTorch to be read")
        path = tmp_path / "model.pth"
        path.write_bytes(b"not a checkpoint")
        assert "damaged or not a plain PyTorch state dict" in one_line(path)
        torch.save({"a": torch.zeros(1), "step": 3}, path)
        assert "entry step is a int, not a tensor" in one_line(path)
        torch.save([torch.zeros(1)], path)
        assert "holds no state dict" in one_line(path)


def one_line(path: Path) -> str:
    """The message with which a checkpoint is refused."""
    with pytest.raises(WeightsError) as caught:
        open_source(path)
    message = str(caught.value)
    assert "\n" not in message
    return message


def write_shards(folder: Path, extra: Mapping[str, str] | None = None) -> Path:
    save_file({"a": np.array([1.0])}, folder / "part1.safetensors")
    save_file({"b": np.array([2.0, 3.0])}, folder / "part2.safetensors")
    weight_map = {"a": "part1.safetensors", "b": "part2.safetensors", **(extra or {})}
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {"total_size": 24}, "weight_map": weight_map}))
    return index
