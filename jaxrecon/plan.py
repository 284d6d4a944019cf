"""How much memory a reconstruction will need, before any weights or images are there."""

from dataclasses import dataclass
from pathlib import Path

from jax.typing import DTypeLike

from jaxrecon.compiling import compiled
from jaxrecon.errors import InputError
from jaxrecon.memory import MemoryNeeds, bytes_limit, needs_of
from jaxrecon.nn.attention import AttentionFn
from jaxrecon.pipeline import Options
from jaxrecon.pipeline.framing import bucket_of, check_program_size, serves_fewer
from jaxrecon.registry import load_abstract
from jaxrecon.sharding import WeightRules, make_mesh
from jaxrecon.sparse import AttentionName


@dataclass(frozen=True)
class MemoryPlan:
    """What a reconstruction needs on each device.

    Attributes:
      model: its name.
      views: the images to reconstruct.
      compiled_views: for how many the program is compiled; the views beyond `views` are padding.
      size: width and height of the processed images, in pixels.
      devices: over how many the views are spread.
      device_kind: what these are.
      needs: bytes on each of them, as the compiler plans them.
      limit: bytes that JAX may use on each of them; None if the device does not tell.
    """

    model: str
    views: int
    compiled_views: int
    size: tuple[int, int]
    devices: int
    device_kind: str
    needs: MemoryNeeds
    limit: int | None

    @property
    def fits(self) -> bool | None:
        """Whether the memory is enough; None if the device does not tell what it has."""
        return None if self.limit is None else self.needs.total <= self.limit


def memory_plan(
    model: str | Path,
    *,
    views: int,
    size: tuple[int, int],
    devices: int = 1,
    shard_weights: bool | WeightRules = False,
    attention: AttentionFn | AttentionName | None = None,
    dtype: DTypeLike | None = None,
) -> MemoryPlan:
    """Compiles the program of `Pipeline.reconstruct` and reads what it needs.

    The arguments of `reconstruct` that shape the program are left at their usual values.

    The program is compiled for the devices of this machine. Weights are neither fetched nor read.

    Args:
      model: a released model's name, a checkpoint folder or an upstream weight file.
      views: how many images.
      size: width and height of the processed images, in pixels; whole patches.
      devices: over how many of this machine's the views are spread.
      shard_weights, attention, dtype: see `load`.

    Raises:
      InputError: an argument cannot be used.
    """
    mesh = make_mesh(devices) if devices != 1 else None
    pipeline = load_abstract(
        model, dtype=dtype, attention=attention, mesh=mesh, shard_weights=shard_weights
    )
    check_program_size(views, size, pipeline.resize.patch)
    habits, count = pipeline.habits, bucket_of(views, devices)
    options = Options(
        use_quantile=habits.confidence_quantile > 0,
        strict_edges=habits.strict_edges,
        points=habits.chosen_points(None, pipeline.name),
        framed=serves_fewer(count, devices),
        padded=serves_fewer(count, devices),
    )
    lowered = pipeline.lower((count, size[1], size[0], 3), options)
    needs = needs_of(compiled(lowered, pipeline.device))
    if needs is None:
        raise InputError(
            f"devices: the compiler for {pipeline.device.device_kind} does not tell what a program "
            "needs; plan on another machine"
        )
    return MemoryPlan(
        model=pipeline.name,
        views=views,
        compiled_views=count,
        size=size,
        devices=devices,
        device_kind=pipeline.device.device_kind,
        needs=needs,
        limit=bytes_limit(pipeline.device),
    )
