"""Which family of models a checkpoint's tensor names point to."""

import importlib
import pkgutil
from collections.abc import Iterable, Iterator
from pathlib import Path

# The first prefix that occurs decides, so what only a variant has comes before what it shares.
_VARIANTS = (
    ("jaxrecon", "trunk.frame_blocks."),
    ("pi3x", "metric_decoder."),
    ("pi3x", "pose_inject_blk."),
)
_OTHERS = (
    ("dust3r", "downstream_head1."),
    ("dinov2", "blocks.0.attn."),
)


def guess_family(names: Iterable[str]) -> str | None:
    """Name of the family whose checkpoints have such tensor names, None if none is known.

    A family is known by `TELLTALE` in its file here: how names begin that no other family has.
    "jaxrecon" stands for the native format: such a checkpoint is already converted.
    """
    names = tuple(names)
    for family, prefix in (*_VARIANTS, *_telltales(), *_OTHERS):
        if any(name.startswith(prefix) for name in names):
            return family
    return None


def _telltales() -> Iterator[tuple[str, str]]:
    for found in pkgutil.iter_modules([str(Path(__file__).parent)]):
        if found.name != "__main__":
            module = importlib.import_module(f"{__package__}.{found.name}")
            if hasattr(module, "TELLTALE"):
                yield found.name, module.TELLTALE
