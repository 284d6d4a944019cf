"""Names of MapAnything (facebook/map-anything and its variants, versions 1 and 1.1).

Upstream `mapanything/models/mapanything/model.py`. It registers its dense head under two names, and
some layers of that under three: a checkpoint may hold one of them or all.
"""

import re
from collections.abc import Iterable

from convert.rules import (
    Ignore,
    Rule,
    block_rules,
    conv_rules,
    fusion_rules,
    linear_rules,
    norm_rules,
    patch_embed_rules,
    pointwise_rules,
)

TELLTALE = "info_sharing."
"""How names begin that checkpoints of no other family have."""

_ENCODER = (
    *patch_embed_rules(r"encoder\.model\.patch_embed\.proj", "encoder.patch_embed"),
    Rule(r"encoder\.model\.cls_token", "encoder.class_token", "squeeze_leading"),
    Rule(r"encoder\.model\.pos_embed", "encoder.position_embedding", "squeeze_leading"),
    *block_rules(r"encoder\.model\.blocks\.(?P<layer>\d+)", "encoder.blocks"),
    *norm_rules(r"encoder\.model\.norm", "encoder.norm"),
)


def _dense_encoder_rules(source: str, target: str) -> tuple[Rule, ...]:
    rules: list[Rule] = []
    for index in (0, 1):
        block, ours = rf"{source}\.encoder\.{index}", f"{target}.block{index + 1}"
        rules += conv_rules(rf"{block}\.conv(?P<n>[12])", rf"{ours}.conv\g<n>")
        rules += pointwise_rules(rf"{block}\.shortcut", f"{ours}.shortcut")
    return (
        *conv_rules(rf"{source}\.conv_in", f"{target}.conv"),
        *rules,
        *pointwise_rules(rf"{source}\.encoder\.2", f"{target}.out"),
        *norm_rules(rf"{source}\.norm_layer", f"{target}.norm"),
    )


def _vector_encoder_rules(source: str, target: str) -> tuple[Rule, ...]:
    """Upstream wraps each layer and all before it in one more sequence."""
    return (
        *linear_rules(rf"{source}\.encoder\.0\.0\.0\.0", f"{target}.fc1"),
        *linear_rules(rf"{source}\.encoder\.0\.0\.1", f"{target}.fc2"),
        *linear_rules(rf"{source}\.encoder\.0\.1", f"{target}.fc3"),
        *linear_rules(rf"{source}\.encoder\.1", f"{target}.out"),
        *norm_rules(rf"{source}\.norm_layer", f"{target}.norm"),
    )


_GEOMETRY = (
    *_dense_encoder_rules("ray_dirs_encoder", "geometry.rays"),
    *_dense_encoder_rules("depth_encoder", "geometry.depth"),
    *_vector_encoder_rules("depth_scale_encoder", "geometry.depth_scale"),
    *_vector_encoder_rules("cam_rot_encoder", "geometry.rotation"),
    *_vector_encoder_rules("cam_trans_encoder", "geometry.translation"),
    *_vector_encoder_rules("cam_trans_scale_encoder", "geometry.translation_scale"),
    *norm_rules("fusion_norm_layer", "fusion_norm"),
)

# Upstream numbers both kinds of block through: even ones attend globally, odd ones within a view.
_BLOCKS = r"info_sharing\.self_attention_blocks"
_TRUNK = (
    Rule("scale_token", "scale_token"),
    *linear_rules(r"info_sharing\.proj_embed", "project"),
    *block_rules(rf"{_BLOCKS}\.(?P<layer>\d*[02468])", "trunk.global_blocks", every=2),
    *block_rules(rf"{_BLOCKS}\.(?P<layer>\d*[13579])", "trunk.frame_blocks", every=2),
    *norm_rules(r"info_sharing\.norm", "norm"),
)

_FEATURES = r"(?:dpt_feature_head|dense_head\.0)"
_NUMBERS = r"(?:dpt_regressor_head|dense_head\.1)"


def _level_rules(index: int) -> tuple[Rule, ...]:
    """One depth of the DPT: a projection, a change of size (not of the third), a convolution."""
    level, resize = (
        f"dense_head.dpt.level{index + 1}",
        rf"{_FEATURES}\.input_process\.{index}\.0\.1",
    )
    names = (
        rf"input_process\.{index}\.1",
        rf"scratch\.layer{index + 1}_rn",
        rf"scratch\.layer_rn\.{index}",
    )
    return (
        *pointwise_rules(rf"{_FEATURES}\.input_process\.{index}\.0\.0", f"{level}.project"),
        Rule(
            rf"{resize}\.weight",
            f"{level}.resize.kernel",
            "convolution" if index == 3 else "transposed_convolution",
        ),
        Rule(rf"{resize}\.bias", f"{level}.resize.bias"),
        Rule(rf"{_FEATURES}\.(?:{'|'.join(names)})\.weight", f"{level}.out.kernel", "convolution"),
    )


_DENSE = (
    *(rule for index in range(4) for rule in _level_rules(index)),
    *fusion_rules(_FEATURES, "dense_head.dpt"),
    *conv_rules(rf"{_NUMBERS}\.conv1", "dense_head.dpt.out"),
    *conv_rules(rf"{_NUMBERS}\.conv2\.0", "dense_head.conv"),
    *pointwise_rules(rf"{_NUMBERS}\.conv2\.2", "dense_head.out"),
)

_HEADS = (
    *pointwise_rules(r"pose_head\.proj", "pose_head.project"),
    *(
        Rule(
            rf"pose_head\.res_conv\.(?P<layer>\d+)\.res_conv(?P<n>[123])\.{theirs}",
            rf"pose_head.residual.fc\g<n>.{ours}",
            transform,
        )
        for theirs, ours, transform in (
            ("weight", "kernel", "pointwise"),
            ("bias", "bias", "identity"),
        )
    ),
    *linear_rules(r"pose_head\.more_mlps\.0", "pose_head.mlp1"),
    *linear_rules(r"pose_head\.more_mlps\.2", "pose_head.mlp2"),
    *linear_rules(r"pose_head\.fc_t", "pose_head.translation"),
    *linear_rules(r"pose_head\.fc_rot", "pose_head.rotation"),
    *linear_rules(r"scale_head\.proj", "scale_head.project"),
    *linear_rules(r"scale_head\.mlp\.0\.0", "scale_head.fc1"),
    *linear_rules(r"scale_head\.mlp\.1\.0", "scale_head.fc2"),
    *linear_rules(r"scale_head\.output_proj", "scale_head.out"),
)

RULES: tuple[Rule, ...] = (*_ENCODER, *_GEOMETRY, *_TRUNK, *_DENSE, *_HEADS)

IGNORED: tuple[Ignore, ...] = (
    Ignore(r"encoder\.model\.mask_token", "used only while DINOv2 is pre-trained"),
    Ignore(r"info_sharing\.view_pos_table", "the mark of the first view is part of the code"),
)


def repeated(names: Iterable[str]) -> tuple[Ignore, ...]:
    """What else to ignore: all names but one of each tensor that has several.

    Files in the safetensors format hold one name of each; a PyTorch state dict holds them all.
    """
    kept: dict[str, str] = {}
    extra: list[Ignore] = []
    for name in names:
        other = kept.setdefault(_first_name(name), name)
        if other != name:
            extra.append(Ignore(re.escape(name), f"the same tensor as {other}"))
    return tuple(extra)


def _first_name(name: str) -> str:
    """The name under which upstream registers a tensor first."""
    name = re.sub(r"^dense_head\.0\.", "dpt_feature_head.", name)
    name = re.sub(r"^dense_head\.1\.", "dpt_regressor_head.", name)
    repeat = re.fullmatch(
        r"dpt_feature_head\.(?:scratch\.layer_rn\.(\d)|input_process\.(\d)\.1)\.weight", name
    )
    if repeat is None:
        return name
    return f"dpt_feature_head.scratch.layer{int(repeat[1] or repeat[2]) + 1}_rn.weight"
