"""Which family of models a checkpoint's tensor names point to."""

from collections.abc import Iterable

# The first prefix that occurs decides, so what only a variant has comes before what it shares.
_TELLTALES = (
    ("jaxrecon", "trunk.frame_blocks."),
    ("vggt", "aggregator."),
    ("mapanything", "info_sharing."),
    ("pi3x", "metric_decoder."),
    ("pi3x", "pose_inject_blk."),
    ("pi3", "conf_decoder."),
    ("dust3r", "downstream_head1."),
    ("dinov2", "blocks.0.attn."),
)


def guess_family(names: Iterable[str]) -> str | None:
    """Name of the family whose checkpoints have such tensor names, None if none is known.

    "jaxrecon" stands for the native format: such a checkpoint is already converted.
    """
    names = tuple(names)
    for family, prefix in _TELLTALES:
        if any(name.startswith(prefix) for name in names):
            return family
    return None
