"""Names of π³ (yyfz233/Pi3; upstream `pi3/models/pi3.py`)."""

from convert.rules import (
    Ignore,
    Rule,
    block_rules,
    linear_rules,
    norm_rules,
    patch_embed_rules,
    pixel_shuffle_rules,
)

TELLTALE = "conf_decoder."
"""How names begin that checkpoints of no other family have."""

ENCODER = (
    *patch_embed_rules(r"encoder\.patch_embed\.proj", "encoder.patch_embed"),
    Rule(r"encoder\.cls_token", "encoder.class_token", "squeeze_leading"),
    Rule(r"encoder\.pos_embed", "encoder.position_embedding", "squeeze_leading"),
    Rule(r"encoder\.register_tokens", "encoder.register_tokens", "squeeze_leading"),
    *block_rules(r"encoder\.blocks\.(?P<layer>\d+)", "encoder.blocks"),
    *norm_rules(r"encoder\.norm", "encoder.norm"),
)

# Upstream numbers both kinds of block through: even ones attend within a view, odd ones globally.
TRUNK = (
    Rule(r"register_token", "register_tokens", "squeeze_leading"),
    *block_rules(r"decoder\.(?P<layer>\d*[02468])", "trunk.frame_blocks", every=2),
    *block_rules(r"decoder\.(?P<layer>\d*[13579])", "trunk.global_blocks", every=2),
)


def _decoder_rules(source: str, target: str) -> tuple[Rule, ...]:
    return (
        *linear_rules(rf"{source}\.projects", f"{target}.project"),
        *block_rules(rf"{source}\.blocks\.(?P<layer>\d+)", f"{target}.blocks"),
        *linear_rules(rf"{source}\.linear_out", f"{target}.out"),
    )


DECODERS = (
    *_decoder_rules("point_decoder", "point_decoder"),
    *_decoder_rules("conf_decoder", "confidence_decoder"),
    *_decoder_rules("camera_decoder", "camera_decoder"),
)

CAMERA_HEAD = (
    *linear_rules(
        r"camera_head\.res_conv\.(?P<layer>\d+)\.res_conv(?P<number>[123])",
        r"camera_head.residual.fc\g<number>",
    ),
    *linear_rules(r"camera_head\.more_mlps\.0", "camera_head.mlp1"),
    *linear_rules(r"camera_head\.more_mlps\.2", "camera_head.mlp2"),
    *linear_rules(r"camera_head\.fc_t", "camera_head.translation"),
    *linear_rules(r"camera_head\.fc_rot", "camera_head.rotation"),
)

_HEADS = (
    *pixel_shuffle_rules(r"point_head\.proj", "point_head"),
    *pixel_shuffle_rules(r"conf_head\.proj", "confidence_head"),
)

RULES: tuple[Rule, ...] = (*ENCODER, *TRUNK, *DECODERS, *_HEADS, *CAMERA_HEAD)

IGNORED: tuple[Ignore, ...] = (
    Ignore(r"image_(mean|std)", "normalisation constants are part of the model's code"),
    Ignore(r"encoder\.mask_token", "used only while DINOv2 is pre-trained"),
)
