"""From MapAnything's tensors to our parameters."""

import json

import numpy as np
import pytest

from convert import mapanything, pi3
from convert.engine import plan, stream
from convert.families import guess_family
from convert.safetensors_file import TensorSpec
from golden_data import GOLDEN, state_dict
from jaxrecon.checkpoint import shapes
from jaxrecon.errors import WeightsError
from mapanything_stages import (
    CONFIGS,
    MAPANYTHING_TINY,
    MAPANYTHING_V1_TINY,
    abstract_mapanything,
)
from pi3_stages import pi3_targets
from tiny_models import PI3_TINY
from upstream_state import InMemory

STATEDICTS = GOLDEN / "statedict"
F32 = np.dtype(np.float32)
RELEASED = {"mapanything_v11_full": 1_228_491_222, "mapanything_v1_full": 563_335_382}
# One name of each tensor with several, the first in the alphabet, as safetensors files hold it.
FIRST_NAMES = ("dense_head.0.input_process.", "dense_head.0.scratch.refinenet", "dense_head.1.")
SECOND_NAMES = ("dpt_feature_head.", "dpt_regressor_head.", "dense_head.0.scratch.layer")


def listed_specs(name: str) -> dict[str, TensorSpec]:
    listing = json.loads((STATEDICTS / f"{name}.json").read_text())["state_dict"]
    return {key: TensorSpec(tuple(entry["shape"]), F32) for key, entry in listing.items()}


@pytest.mark.parametrize("arch", RELEASED)
def test_every_released_name_has_its_place(arch: str) -> None:
    specs, targets = listed_specs(arch), shapes(abstract_mapanything(CONFIGS[arch]))
    ignored = (*mapanything.IGNORED, *mapanything.repeated(specs))
    planned = plan(specs, mapanything.RULES, ignored, targets)
    used = [piece.source for leaf in planned.leaves for piece in leaf.pieces]
    assert sorted([*used, *planned.ignored]) == sorted(specs)
    again = {name for name, why in planned.ignored.items() if why.startswith("the same tensor")}
    assert planned.ignored.keys() - again == {"info_sharing.view_pos_table"}
    listing = json.loads((STATEDICTS / f"{arch}.json").read_text())["state_dict"]
    assert again == {name for name, entry in listing.items() if "alias_of" in entry}
    assert planned.specs == {path: TensorSpec(shape, F32) for path, shape in targets.items()}
    assert sum(int(np.prod(shape)) for shape in targets.values()) == RELEASED[arch]


@pytest.mark.parametrize("left_out", [FIRST_NAMES, SECOND_NAMES])
def test_one_name_of_each_tensor_is_enough(left_out: tuple[str, ...]) -> None:
    specs = listed_specs("mapanything_v11_tiny")
    kept = {name: spec for name, spec in specs.items() if not name.startswith(left_out)}
    again = mapanything.repeated(kept)
    expected = 0 if left_out is SECOND_NAMES else 4 * 4
    assert len(again) == expected
    ignored = (*mapanything.IGNORED, *again)
    planned = plan(kept, mapanything.RULES, ignored, shapes(abstract_mapanything(MAPANYTHING_TINY)))
    assert len(planned.ignored) == 1 + expected


def test_without_word_of_repeats_they_are_refused() -> None:
    targets = shapes(abstract_mapanything(MAPANYTHING_TINY))
    with pytest.raises(WeightsError, match="fills the same place"):
        plan(listed_specs("mapanything_v11_tiny"), mapanything.RULES, mapanything.IGNORED, targets)


@pytest.mark.parametrize("arch", ["mapanything_v11_tiny", "mapanything_v1_tiny"])
def test_tiny_values(arch: str) -> None:
    state = state_dict(STATEDICTS / f"{arch}.json")
    source, targets = InMemory(state), shapes(abstract_mapanything(CONFIGS[arch]))
    ignored = (*mapanything.IGNORED, *mapanything.repeated(state))
    ours = dict(stream(plan(source.specs, mapanything.RULES, ignored, targets), source))
    features, numbers = "dpt_feature_head", "dpt_regressor_head"
    expected = {
        "scale_token": state["scale_token"],
        "encoder.class_token": state["encoder.model.cls_token"][0, 0],
        "geometry.rays.conv.bias": state["ray_dirs_encoder.conv_in.bias"],
        "geometry.rays.conv.kernel": state["ray_dirs_encoder.conv_in.weight"].transpose(2, 3, 1, 0),
        "geometry.depth.block2.shortcut.kernel": state["depth_encoder.encoder.1.shortcut.weight"][
            ..., 0, 0
        ].T,
        "geometry.rotation.fc1.kernel": state["cam_rot_encoder.encoder.0.0.0.0.weight"].T,
        "geometry.translation.fc2.bias": state["cam_trans_encoder.encoder.0.0.1.bias"],
        "geometry.depth_scale.fc3.bias": state["depth_scale_encoder.encoder.0.1.bias"],
        "geometry.translation_scale.out.bias": state["cam_trans_scale_encoder.encoder.1.bias"],
        "fusion_norm.scale": state["fusion_norm_layer.weight"],
        "norm.bias": state["info_sharing.norm.bias"],
        "dense_head.dpt.level1.project.bias": state[f"{features}.input_process.0.0.0.bias"],
        "dense_head.dpt.level4.resize.bias": state[f"{features}.input_process.3.0.1.bias"],
        "dense_head.dpt.level2.resize.kernel": state[
            f"{features}.input_process.1.0.1.weight"
        ].transpose(0, 2, 3, 1),
        "dense_head.dpt.fusion2.skip.conv1.bias": state[
            f"{features}.scratch.refinenet2.resConfUnit1.conv1.bias"
        ],
        "dense_head.dpt.out.bias": state[f"{numbers}.conv1.bias"],
        "dense_head.conv.bias": state[f"{numbers}.conv2.0.bias"],
        "dense_head.out.bias": state[f"{numbers}.conv2.2.bias"],
        "pose_head.project.bias": state["pose_head.proj.bias"],
        "pose_head.rotation.bias": state["pose_head.fc_rot.bias"],
        "scale_head.fc2.bias": state["scale_head.mlp.1.0.bias"],
    }
    for path, value in expected.items():
        assert np.array_equal(ours[path], value), path
    mlp = "w3" if arch == "mapanything_v11_tiny" else "fc2"
    blocks = "info_sharing.self_attention_blocks"
    layers = {
        ("trunk.global_blocks.mlp.fc2.kernel", 1): f"{blocks}.2.mlp.{mlp}.weight",
        ("trunk.frame_blocks.attention.qkv.kernel", 2): f"{blocks}.5.attn.qkv.weight",
        ("encoder.blocks.norm2.scale", 1): "encoder.model.blocks.1.norm2.weight",
        ("pose_head.residual.fc2.bias", 1): "pose_head.res_conv.1.res_conv2.bias",
    }
    for (path, index), name in layers.items():
        assert np.array_equal(ours[path][index], state[name].T), path


def test_versions_and_families_are_told_apart() -> None:
    specs = listed_specs("mapanything_v11_tiny")
    ignored = (*mapanything.IGNORED, *mapanything.repeated(specs))
    targets = shapes(abstract_mapanything(MAPANYTHING_V1_TINY))
    with pytest.raises(WeightsError, match=r"missing project\.kernel"):
        plan(specs, mapanything.RULES, ignored, targets)
    assert guess_family(specs) == "mapanything"
    with pytest.raises(WeightsError, match="its names are those of the family 'mapanything'"):
        plan(specs, pi3.RULES, pi3.IGNORED, pi3_targets(PI3_TINY))
