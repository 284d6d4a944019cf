"""From VGGT's tensors to our parameters."""

import json
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from convert import pi3, vggt
from convert.engine import plan, stream
from convert.safetensors_file import TensorSpec
from convert.transforms import TRANSFORMS
from golden_data import GOLDEN, state_dict
from jaxrecon.checkpoint import shapes
from jaxrecon.errors import WeightsError
from jaxrecon.models import PI3
from jaxrecon.models.vggt.model import VGGT_1B
from pi3_stages import pi3_targets
from upstream_state import InMemory
from vggt_stages import VGGT_TINY, abstract_vggt

STATEDICTS = GOLDEN / "statedict"
F32 = np.dtype(np.float32)
MASK_TOKEN = "aggregator.patch_embed.mask_token"


def listed_specs(name: str) -> dict[str, TensorSpec]:
    listing = json.loads((STATEDICTS / f"{name}.json").read_text())["state_dict"]
    return {key: TensorSpec(tuple(entry["shape"]), F32) for key, entry in listing.items()}


def test_every_released_name_has_its_place() -> None:
    specs, targets = listed_specs("vggt_full"), shapes(abstract_vggt(VGGT_1B))
    planned = plan(specs, vggt.RULES, vggt.IGNORED, targets)
    used = [piece.source for leaf in planned.leaves for piece in leaf.pieces]
    assert len(specs) == 1797
    assert sorted([*used, *planned.ignored]) == sorted(specs)
    assert set(planned.ignored) == {MASK_TOKEN}
    assert planned.specs == {path: TensorSpec(shape, F32) for path, shape in targets.items()}
    # All but the mask token's 1024.
    assert sum(int(np.prod(shape)) for shape in targets.values()) == 1_256_537_516 - 1024


def test_without_tracks_the_track_head_is_left_out() -> None:
    specs = listed_specs("vggt_full")
    targets = shapes(abstract_vggt(replace(VGGT_1B, track=False)))
    planned = plan(specs, vggt.RULES, (*vggt.IGNORED, vggt.TRACK_HEAD.ignored), targets)
    tracks = {name for name in specs if name.startswith("track_head.")}
    assert planned.ignored.keys() == tracks | {MASK_TOKEN}
    assert {planned.ignored[name] for name in tracks} == {"the model is built without a track head"}
    used = {piece.source for leaf in planned.leaves for piece in leaf.pieces}
    assert used == specs.keys() - planned.ignored.keys()


def test_a_checkpoint_without_a_track_head() -> None:
    specs = listed_specs("vggt_tiny")
    vggt.TRACK_HEAD.check(specs)
    without = [name for name in specs if not name.startswith("track_head.")]
    with pytest.raises(WeightsError, match=r"small\.pt holds no track head .* load .* without"):
        vggt.TRACK_HEAD.check(without, label="small.pt")


def test_tiny_values() -> None:
    state = state_dict(STATEDICTS / "vggt_tiny.json")
    source, targets = InMemory(state), shapes(abstract_vggt(VGGT_TINY))
    ours = dict(stream(plan(source.specs, vggt.RULES, vggt.IGNORED, targets), source))
    former, dense = "track_head.tracker.updateformer", "depth_head.scratch"
    expected = {
        "camera_tokens": state["aggregator.camera_token"][0],
        "register_tokens": state["aggregator.register_token"][0],
        "encoder.norm.bias": state["aggregator.patch_embed.norm.bias"],
        "camera_head.first_pose": state["camera_head.empty_pose_tokens"][0, 0],
        "camera_head.modulation.kernel": state["camera_head.poseLN_modulation.1.weight"].T,
        "camera_head.pose.fc2.bias": state["camera_head.pose_branch.fc2.bias"],
        "depth_head.dpt.level2.project.kernel": state["depth_head.projects.1.weight"][..., 0, 0].T,
        "depth_head.dpt.level3.out.kernel": state[f"{dense}.layer3_rn.weight"].T.swapaxes(0, 1),
        "depth_head.dpt.fusion3.skip.conv2.bias": state[
            f"{dense}.refinenet3.resConfUnit1.conv2.bias"
        ],
        "depth_head.dpt.fusion4.refine.conv1.bias": state[
            f"{dense}.refinenet4.resConfUnit2.conv1.bias"
        ],
        "depth_head.dpt.fusion1.out.bias": state[f"{dense}.refinenet1.out_conv.bias"],
        "point_head.conv.bias": state["point_head.scratch.output_conv2.0.bias"],
        "point_head.out.bias": state["point_head.scratch.output_conv2.2.bias"],
        "track_head.dpt.level4.resize.bias": state[
            "track_head.feature_extractor.resize_layers.3.bias"
        ],
        "track_head.tracker.view_tokens": state["track_head.tracker.query_ref_token"][0],
        "track_head.tracker.transformer.virtual_tracks": state[f"{former}.virual_tracks"][0, :, 0],
    }
    for path, value in expected.items():
        assert np.array_equal(ours[path], value), path
    layers = {
        ("trunk.frame_blocks.attention.qkv.kernel", 3): "aggregator.frame_blocks.3.attn.qkv.weight",
        ("trunk.global_blocks.scale1.gamma", 2): "aggregator.global_blocks.2.ls1.gamma",
        ("camera_head.blocks.mlp.fc1.kernel", 1): "camera_head.trunk.1.mlp.fc1.weight",
    }
    names = {
        "along": ("time_blocks", "attn", "norm1"),
        "between": ("space_virtual_blocks", "attn", "norm2"),
        "gather": ("space_virtual2point_blocks", "cross_attn", "norm_context"),
        "spread": ("space_point2virtual_blocks", "cross_attn", "norm_context"),
    }
    for path, (name, attention, norm) in names.items():
        ours_at, theirs = f"track_head.tracker.transformer.{path}", f"{former}.{name}.1"
        layers[f"{ours_at}.attention.qkv.kernel", 1] = f"{theirs}.{attention}.in_proj_weight"
        layers[f"{ours_at}.{norm}.scale", 1] = f"{theirs}.{norm}.weight"
    for (path, index), name in layers.items():
        assert np.array_equal(ours[path][index], state[name].T), path


def test_families_are_told_apart() -> None:
    tiny = shapes(abstract_vggt(VGGT_TINY))
    with pytest.raises(WeightsError, match="its names are those of the family 'pi3'"):
        plan(listed_specs("pi3_full"), vggt.RULES, vggt.IGNORED, tiny)
    with pytest.raises(WeightsError, match="its names are those of the family 'vggt'"):
        plan(listed_specs("vggt_tiny"), pi3.RULES, pi3.IGNORED, pi3_targets(PI3))


@pytest.mark.parametrize("stride", [1, 2])
def test_convolution_kernel(stride: int) -> None:
    """`nn.Conv2d` with padding 1, written out."""
    rng = np.random.default_rng(0)
    weight = rng.integers(-9, 9, (2, 3, 3, 3)).astype(np.float32)
    image = rng.integers(-9, 9, (5, 4, 3)).astype(np.float32)
    padded = np.pad(image, ((1, 1), (1, 1), (0, 0)))
    kernel = TRANSFORMS["convolution"](weight, 4)
    out = jax.lax.conv_general_dilated(
        jnp.asarray(image[None]),
        jnp.asarray(kernel),
        (stride, stride),
        ((1, 1), (1, 1)),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )[0]
    for row, column in np.ndindex(out.shape[:2]):
        window = padded[stride * row : stride * row + 3, stride * column : stride * column + 3]
        expected = np.einsum("ocij,ijc->o", weight, window)
        np.testing.assert_array_equal(out[row, column], expected)


@pytest.mark.usefixtures("without_shape_checks")
@pytest.mark.parametrize(
    ("transform", "shape"), [("pointwise", (4, 3, 3, 3)), ("virtual_tracks", (1, 4, 2, 3))]
)
def test_axes_that_hold_something_are_not_dropped(transform: str, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="size not equal to one"):
        TRANSFORMS[transform](np.zeros(shape), 2)
