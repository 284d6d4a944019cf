"""Names of VGGT (facebook/VGGT-1B; upstream `vggt/models/vggt.py`)."""

from convert.rules import (
    Ignore,
    OptionalPart,
    Rule,
    block_rules,
    conv_rules,
    fusion_rules,
    linear_rules,
    norm_rules,
    patch_embed_rules,
    pointwise_rules,
)

TRACK_HEAD = OptionalPart("tracks", "track", "track_head.", "track head", "follow no points")

TELLTALE = "aggregator."
"""How names begin that checkpoints of no other family have."""

_ENCODER = (
    *patch_embed_rules(r"aggregator\.patch_embed\.patch_embed\.proj", "encoder.patch_embed"),
    Rule(r"aggregator\.patch_embed\.cls_token", "encoder.class_token", "squeeze_leading"),
    Rule(r"aggregator\.patch_embed\.pos_embed", "encoder.position_embedding", "squeeze_leading"),
    Rule(r"aggregator\.patch_embed\.register_tokens", "encoder.register_tokens", "squeeze_leading"),
    *block_rules(r"aggregator\.patch_embed\.blocks\.(?P<layer>\d+)", "encoder.blocks"),
    *norm_rules(r"aggregator\.patch_embed\.norm", "encoder.norm"),
)

_TRUNK = (
    Rule(r"aggregator\.camera_token", "camera_tokens", "squeeze_leading"),
    Rule(r"aggregator\.register_token", "register_tokens", "squeeze_leading"),
    *block_rules(r"aggregator\.frame_blocks\.(?P<layer>\d+)", "trunk.frame_blocks"),
    *block_rules(r"aggregator\.global_blocks\.(?P<layer>\d+)", "trunk.global_blocks"),
)

_CAMERA = (
    Rule(r"camera_head\.empty_pose_tokens", "camera_head.first_pose", "squeeze_leading"),
    *norm_rules(r"camera_head\.token_norm", "camera_head.token_norm"),
    *linear_rules(r"camera_head\.embed_pose", "camera_head.embed_pose"),
    *linear_rules(r"camera_head\.poseLN_modulation\.1", "camera_head.modulation"),
    *block_rules(r"camera_head\.trunk\.(?P<layer>\d+)", "camera_head.blocks"),
    *norm_rules(r"camera_head\.trunk_norm", "camera_head.norm"),
    *linear_rules(
        r"camera_head\.pose_branch\.fc(?P<number>[12])", r"camera_head.pose.fc\g<number>"
    ),
)


def _reassemble_rules(source: str, target: str) -> tuple[Rule, ...]:
    """The four levels; upstream counts two of their layers from 0 and the third from 1."""
    rules: list[Rule] = []
    for index in range(4):
        level = f"{target}.level{index + 1}"
        rules += pointwise_rules(rf"{source}\.projects\.{index}", f"{level}.project")
        kernel = f"{level}.out.kernel"
        rules.append(
            Rule(rf"{source}\.scratch\.layer{index + 1}_rn\.weight", kernel, "convolution")
        )
    for index in (0, 1):
        resize, ours = rf"{source}\.resize_layers\.{index}", f"{target}.level{index + 1}.resize"
        rules.append(Rule(rf"{resize}\.weight", f"{ours}.kernel", "transposed_convolution"))
        rules.append(Rule(rf"{resize}\.bias", f"{ours}.bias"))
    rules += conv_rules(rf"{source}\.resize_layers\.3", f"{target}.level4.resize")
    return tuple(rules)


def _dpt_rules(source: str, target: str) -> tuple[Rule, ...]:
    return (
        *norm_rules(rf"{source}\.norm", f"{target}.norm"),
        *_reassemble_rules(source, target),
        *fusion_rules(source, target),
        *conv_rules(rf"{source}\.scratch\.output_conv1", f"{target}.out"),
    )


def _dense_rules(source: str) -> tuple[Rule, ...]:
    return (
        *_dpt_rules(source, f"{source}.dpt"),
        *conv_rules(rf"{source}\.scratch\.output_conv2\.0", f"{source}.conv"),
        *pointwise_rules(rf"{source}\.scratch\.output_conv2\.2", f"{source}.out"),
    )


def tracker_block_rules(source: str, target: str) -> tuple[Rule, ...]:
    """A stack of blocks around PyTorch's `nn.MultiheadAttention`."""
    block = rf"{source}\.(?P<layer>\d+)"
    attention = rf"{block}\.(cross_)?attn"
    return (
        *norm_rules(rf"{block}\.(?P<norm>norm1|norm2|norm_context)", rf"{target}.\g<norm>"),
        Rule(rf"{attention}\.in_proj_weight", f"{target}.attention.qkv.kernel", "linear"),
        Rule(rf"{attention}\.in_proj_bias", f"{target}.attention.qkv.bias"),
        *linear_rules(rf"{attention}\.out_proj", f"{target}.attention.out"),
        *linear_rules(rf"{block}\.mlp\.fc(?P<number>[12])", rf"{target}.mlp.fc\g<number>"),
    )


_FORMER = r"track_head\.tracker\.updateformer"
_OUR_FORMER = "track_head.tracker.transformer"
_TRACKER = (
    *_dpt_rules(r"track_head\.feature_extractor", "track_head.dpt"),
    Rule(
        r"track_head\.tracker\.query_ref_token", "track_head.tracker.view_tokens", "squeeze_leading"
    ),
    *linear_rules(
        r"track_head\.tracker\.corr_mlp\.fc(?P<number>[12])",
        r"track_head.tracker.window_mlp.fc\g<number>",
    ),
    *norm_rules(r"track_head\.tracker\.fmap_norm", "track_head.tracker.map_norm"),
    *norm_rules(r"track_head\.tracker\.ffeat_norm", "track_head.tracker.update_norm"),
    *linear_rules(r"track_head\.tracker\.ffeat_updater\.0", "track_head.tracker.update"),
    *linear_rules(r"track_head\.tracker\.vis_predictor\.0", "track_head.tracker.visibility"),
    *linear_rules(r"track_head\.tracker\.conf_predictor\.0", "track_head.tracker.confidence"),
    Rule(rf"{_FORMER}\.virual_tracks", f"{_OUR_FORMER}.virtual_tracks", "virtual_tracks"),
    *norm_rules(rf"{_FORMER}\.input_norm", f"{_OUR_FORMER}.norm_in"),
    *linear_rules(rf"{_FORMER}\.input_transform", f"{_OUR_FORMER}.project"),
    *tracker_block_rules(rf"{_FORMER}\.time_blocks", f"{_OUR_FORMER}.along"),
    *tracker_block_rules(rf"{_FORMER}\.space_virtual2point_blocks", f"{_OUR_FORMER}.gather"),
    *tracker_block_rules(rf"{_FORMER}\.space_virtual_blocks", f"{_OUR_FORMER}.between"),
    *tracker_block_rules(rf"{_FORMER}\.space_point2virtual_blocks", f"{_OUR_FORMER}.spread"),
    *norm_rules(rf"{_FORMER}\.output_norm", f"{_OUR_FORMER}.norm_out"),
    *linear_rules(rf"{_FORMER}\.flow_head", f"{_OUR_FORMER}.out"),
)

RULES: tuple[Rule, ...] = (
    *_ENCODER,
    *_TRUNK,
    *_CAMERA,
    *_dense_rules("depth_head"),
    *_dense_rules("point_head"),
    *_TRACKER,
)

IGNORED: tuple[Ignore, ...] = (
    Ignore(r"aggregator\.patch_embed\.mask_token", "used only while DINOv2 is pre-trained"),
    Ignore(r"aggregator\._resnet_(mean|std)", "normalisation constants are part of the code"),
)
