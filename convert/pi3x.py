"""Names of π³-X (yyfz233/Pi3X; upstream `pi3/models/pi3x.py`), which has most of π³'s."""

from convert.pi3 import CAMERA_HEAD, DECODERS, ENCODER, IGNORED, TRUNK
from convert.rules import (
    OptionalPart,
    Rule,
    block_rules,
    conv_rules,
    linear_rules,
    norm_rules,
    patch_embed_rules,
    pointwise_rules,
)

__all__ = ["IGNORED", "PRIORS", "RULES", "TELLTALE"]

TELLTALE = "metric_decoder."
"""How names begin that checkpoints of no other family have."""

PRIORS = OptionalPart(
    "priors",
    "priors",
    "conditioning.",
    "branch for priors",
    "take no known cameras, poses or depths",
    upstream=("depth_encoder.", "depth_emb", "ray_embed.", "pose_inject_blk."),
    usual=True,
)

_CONDITIONING = (
    *patch_embed_rules(
        r"depth_encoder\.patch_embed\.proj", "conditioning.depth_encoder.patch_embed"
    ),
    *(
        Rule(rf"depth_encoder\.{theirs}", f"conditioning.depth_encoder.{ours}", "squeeze_leading")
        for theirs, ours in (
            ("cls_token", "class_token"),
            ("pos_embed", "position_embedding"),
            ("register_tokens", "register_tokens"),
        )
    ),
    *block_rules(r"depth_encoder\.blocks\.(?P<layer>\d+)", "conditioning.depth_encoder.blocks"),
    *norm_rules(r"depth_encoder\.norm", "conditioning.depth_encoder.norm"),
    Rule(r"depth_emb", "conditioning.depth_token", "squeeze_leading"),
    *patch_embed_rules(r"ray_embed\.proj", "conditioning.ray_embed"),
    *block_rules(r"pose_inject_blk\.(?P<layer>\d+)", "conditioning.pose_blocks"),
)


def _head_rules(source: str, target: str, outputs: int) -> tuple[Rule, ...]:
    """A convolutional head: three steps up with two residual blocks each, and its outputs."""
    rules: list[Rule] = []
    for index in range(3):
        step, ours = rf"{source}\.upsample_blocks\.{index}", f"{target}.upsample_blocks.{index}"
        rules += (
            Rule(rf"{step}\.0\.0\.weight", f"{ours}.expand.kernel", "transposed_convolution"),
            Rule(rf"{step}\.0\.0\.bias", f"{ours}.expand.bias"),
            *conv_rules(rf"{step}\.0\.1", f"{ours}.conv"),
        )
        for residual in range(2):
            layers, block = rf"{step}\.{residual + 1}\.layers", f"{ours}.residuals.{residual}"
            rules += (
                *norm_rules(rf"{layers}\.0", f"{block}.norm1"),
                *conv_rules(rf"{layers}\.2", f"{block}.conv1"),
                *norm_rules(rf"{layers}\.3", f"{block}.norm2"),
                *conv_rules(rf"{layers}\.5", f"{block}.conv2"),
            )
    for index in range(outputs):
        output, ours = rf"{source}\.output_block\.{index}", f"{target}.outputs.{index}"
        rules += conv_rules(rf"{output}\.0", f"{ours}.conv")
        rules += pointwise_rules(rf"{output}\.2", f"{ours}.out")
    return tuple(rules)


_BLOCK = r"metric_decoder\.blocks\.(?P<layer>\d+)"
_METRIC = (
    Rule(r"metric_token", "metric.token", "squeeze_leading"),
    *linear_rules(r"metric_decoder\.projects_x", "metric.project_token"),
    *linear_rules(r"metric_decoder\.projects_y", "metric.project_views"),
    *norm_rules(rf"{_BLOCK}\.norm2", "metric.blocks.norm1"),
    *norm_rules(rf"{_BLOCK}\.norm_y", "metric.blocks.norm_views"),
    *linear_rules(rf"{_BLOCK}\.cross_attn\.q_proj", "metric.blocks.query"),
    *linear_rules(rf"{_BLOCK}\.cross_attn\.k_proj", "metric.blocks.key"),
    *linear_rules(rf"{_BLOCK}\.cross_attn\.v_proj", "metric.blocks.value"),
    *linear_rules(rf"{_BLOCK}\.cross_attn\.proj", "metric.blocks.out"),
    *norm_rules(rf"{_BLOCK}\.norm3", "metric.blocks.norm2"),
    *linear_rules(rf"{_BLOCK}\.mlp\.fc(?P<number>[12])", r"metric.blocks.mlp.fc\g<number>"),
    *linear_rules(r"metric_decoder\.linear_out", "metric.out"),
    *linear_rules(r"metric_head", "metric.log_scale"),
)

RULES: tuple[Rule, ...] = (
    *ENCODER,
    *_CONDITIONING,
    *TRUNK,
    *DECODERS,
    *_head_rules("point_head", "point_head", 2),
    *_head_rules("conf_head", "confidence_head", 1),
    *CAMERA_HEAD,
    *_METRIC,
)
