"""From π³-X's tensors to our parameters, with and without the branch for priors."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from convert import pi3x
from convert.engine import plan, stream
from convert.families import guess_family
from convert.safetensors_file import TensorSpec
from golden_data import GOLDEN, state_dict
from jaxrecon import InputError, WeightsError, checkpoint, registry
from jaxrecon.checkpoint import shapes
from jaxrecon.models import PI3X, Pi3XConfig
from jaxrecon.progress import Stages
from jaxrecon.registry import MODELS, ModelEntry, loading
from jaxrecon.registry.entries import PI3X_FAMILY
from pi3x_stages import PI3X_TINY
from upstream_state import InMemory

STATEDICTS = GOLDEN / "statedict"
F32 = np.dtype(np.float32)
QUIET = Stages(quiet=True)
BARE = replace(PI3X_TINY, priors=False)


def targets_of(config: Pi3XConfig) -> dict[str, tuple[int, ...]]:
    return shapes(PI3X_FAMILY.abstract(config))


@pytest.mark.parametrize(
    ("config", "parameters", "left_out"),
    [(PI3X, 1_360_032_433, 2), (replace(PI3X, priors=False), 992_465_329, 438)],
)
def test_every_released_name_has_its_place(
    config: Pi3XConfig, parameters: int, left_out: int
) -> None:
    listing = json.loads((STATEDICTS / "pi3x_full.json").read_text())["state_dict"]
    specs = {key: TensorSpec(tuple(entry["shape"]), F32) for key, entry in listing.items()}
    targets = targets_of(config)
    ignored = MODELS["pi3x"].family.ignored_among(specs, config)
    planned = plan(specs, pi3x.RULES, ignored, targets)
    used = [piece.source for leaf in planned.leaves for piece in leaf.pieces]
    assert sorted([*used, *planned.ignored]) == sorted(specs)
    assert len(planned.ignored) == left_out
    assert planned.specs == {path: TensorSpec(shape, F32) for path, shape in targets.items()}
    assert sum(int(np.prod(shape)) for shape in targets.values()) == parameters
    assert guess_family(specs) == "pi3x"


def test_tiny_values() -> None:
    state = state_dict(STATEDICTS / "pi3x_tiny.json")
    source, targets = InMemory(state), targets_of(PI3X_TINY)
    ours = dict(stream(plan(source.specs, pi3x.RULES, pi3x.IGNORED, targets), source))
    head, block = "point_head.upsample_blocks.1", "metric_decoder.blocks.3"
    expected = {
        "metric.token": state["metric_token"][0, 0],
        "metric.project_views.bias": state["metric_decoder.projects_y.bias"],
        "metric.log_scale.kernel": state["metric_head.weight"].T,
        "conditioning.depth_token": state["depth_emb"][0, 0],
        "conditioning.ray_embed.bias": state["ray_embed.proj.bias"],
        "conditioning.depth_encoder.class_token": state["depth_encoder.cls_token"][0, 0],
        "point_head.upsample_blocks.1.expand.kernel": state[f"{head}.0.0.weight"].transpose(
            0, 2, 3, 1
        ),
        "point_head.upsample_blocks.1.conv.bias": state[f"{head}.0.1.bias"],
        "point_head.upsample_blocks.1.residuals.0.norm2.scale": state[f"{head}.1.layers.3.weight"],
        "point_head.upsample_blocks.1.residuals.1.conv2.bias": state[f"{head}.2.layers.5.bias"],
        "point_head.outputs.1.out.bias": state["point_head.output_block.1.2.bias"],
        "confidence_head.outputs.0.conv.bias": state["conf_head.output_block.0.0.bias"],
        "camera_head.rotation.bias": state["camera_head.fc_rot.bias"],
    }
    for path, value in expected.items():
        assert np.array_equal(ours[path], value), path
    layers = {
        ("metric.blocks.key.kernel", 3): f"{block}.cross_attn.k_proj.weight",
        ("metric.blocks.norm_views.bias", 3): f"{block}.norm_y.bias",
        ("metric.blocks.norm1.scale", 3): f"{block}.norm2.weight",
        ("metric.blocks.norm2.scale", 3): f"{block}.norm3.weight",
        ("conditioning.pose_blocks.attention.qkv.kernel", 1): "pose_inject_blk.1.attn.qkv.weight",
        ("trunk.global_blocks.attention.out.kernel", 1): "decoder.3.attn.proj.weight",
    }
    for (path, index), name in layers.items():
        assert np.array_equal(ours[path][index], state[name].T), path


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> ModelEntry:
    """The name stands for the small model."""
    entry = replace(MODELS["pi3x"], config=PI3X_TINY)
    monkeypatch.setattr(loading, "MODELS", {"pi3x": entry, "mapanything": MODELS["mapanything"]})
    return entry


@pytest.fixture
def upstream(tmp_path: Path) -> Callable[..., Path]:
    """The file that upstream would publish, or one without the branch for priors."""

    def write(*, priors: bool = True) -> Path:
        state, file = state_dict(STATEDICTS / "pi3x_tiny.json"), tmp_path / f"{priors}.safetensors"
        gone = () if priors else pi3x.PRIORS.upstream
        save_file({k: v for k, v in state.items() if not k.startswith(gone)}, file)
        return file

    return write


def test_the_branch_is_read_unless_it_is_left_out(
    tiny: ModelEntry, upstream: Callable[..., Path], tmp_path: Path
) -> None:
    registry.convert_weights(tiny, upstream(), tmp_path / "native")
    for place in (upstream(), tmp_path / "native"):
        whole = registry.load(place, stages=QUIET)
        bare = registry.load(place, priors=False, stages=QUIET)
        assert whole.defaults.priors and not bare.defaults.priors
        assert whole.name == bare.name == "pi3x"
        assert shapes(whole.model) == targets_of(PI3X_TINY)
        assert shapes(bare.model) == targets_of(BARE)
        known = dict.fromkeys(range(2), np.eye(4))
        with pytest.raises(InputError, match=r"pi3x works from images alone; .* priors=True"):
            bare.reconstruct(np.zeros((2, 28, 28, 3), np.uint8), poses=known)


def test_weights_without_the_branch(
    tiny: ModelEntry, upstream: Callable[..., Path], tmp_path: Path
) -> None:
    """They are a model that takes no priors, however it is loaded."""
    file = upstream(priors=False)
    registry.convert_weights(tiny, file, tmp_path / "native")
    for place in (file, tmp_path / "native"):
        for priors in (True, False):
            bare = registry.load(place, priors=priors, stages=QUIET)
            assert shapes(bare.model) == targets_of(BARE)
            assert not bare.defaults.priors


def test_part_of_the_branch_is_refused(
    tiny: ModelEntry, upstream: Callable[..., Path], tmp_path: Path
) -> None:
    state = state_dict(STATEDICTS / "pi3x_tiny.json")
    file = tmp_path / "torn.safetensors"
    save_file({k: v for k, v in state.items() if not k.startswith("pose_inject_blk.")}, file)
    with pytest.raises(WeightsError, match=r"missing conditioning\.pose_blocks"):
        registry.load("pi3x", weights=file, stages=QUIET)
    assert registry.load("pi3x", weights=file, priors=False, stages=QUIET).name == "pi3x"


def test_shapes_without_weights(tiny: ModelEntry) -> None:
    for priors in (True, False):
        pipeline = registry.load_abstract("pi3x", priors=priors)
        assert pipeline.defaults.priors is priors
        assert (checkpoint.flatten(pipeline.model).keys() == targets_of(BARE).keys()) is (
            not priors
        )


def test_models_without_such_a_part_do_not_mind(tiny: ModelEntry) -> None:
    assert not registry.load_abstract("mapanything", priors=False).defaults.priors
    assert registry.load_abstract("mapanything").defaults.priors
