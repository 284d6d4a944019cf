"""A model in a few words."""

from collections import Counter

import jax
from jax.sharding import Mesh

from jaxrecon.models import Model
from jaxrecon.nn.attention import AttentionFn, attend_densely


def card_of_model(
    name: str, model: Model, attention: AttentionFn, mesh: Mesh | None, compilations: int
) -> str:
    """Its family, size, dtype, attention and devices, in a few lines."""
    arrays = [leaf for leaf in jax.tree.leaves(model) if hasattr(leaf, "dtype")]
    sizes: Counter[str] = Counter()
    for array in arrays:
        sizes[str(array.dtype)] += array.size
    dtypes = " and ".join(dtype for dtype, _ in sizes.most_common(2))
    count = sum(sizes.values()) / 1e6
    return "\n".join(
        (
            f"Pipeline {name}: {type(model).__name__}, {count:.1f} M parameters, {dtypes}",
            f"  attention: {attention_name(attention)}",
            f"  devices: {_devices(arrays, mesh)}; programs compiled: {compilations}",
            "  reconstruct(images), stream(images, folder)",
        )
    )


def attention_name(attention: AttentionFn) -> str:
    """What an attention is called."""
    if attention is attend_densely:
        return "dense"
    return getattr(attention, "__name__", type(attention).__name__)


def _devices(arrays: list[jax.Array], mesh: Mesh | None) -> str:
    if mesh is not None:
        found = list(mesh.devices.flat)
    else:
        known = [array.devices() for array in arrays if isinstance(array, jax.Array)]
        found = list(known[0]) if known else jax.devices()[:1]
    kinds = Counter(device.device_kind for device in found)
    return ", ".join(f"{count} x {kind}" for kind, count in kinds.items())
