"""What a model that takes priors is told of the scenes from which it learns: a random part.

Source of the scheme: MapAnything (arXiv 2509.13414, section 4), which draws for each scene whether
anything is known, then which kinds, then of which views.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int

from jaxrecon.priors import PriorArrays
from jaxrecon.pytree import pytree_dataclass
from jaxrecon.scenes import RenderedScenes
from jaxrecon.training.config import TrainConfig
from jaxrecon.training.own.known import KnownScenes
from jaxrecon.training.state import family_of

_STREAM = 0x7E11
"""Sets these draws apart from those of the scenes, which come from the same key."""


@pytree_dataclass
class Told:
    """Of which of `V` views of `B` scenes the model is told what, if it is known.

    Attributes:
      intrinsics, depth, pose: the kinds. Depth counts only beside intrinsics, and poses only in a
        scene whose first view has one.
      metric: whether it is also told that depths and poses are in metres.
    """

    intrinsics: Bool[Any, "B V"]
    depth: Bool[Any, "B V"]
    pose: Bool[Any, "B V"]
    metric: Bool[Any, "B V"]


def draw_told(
    config: TrainConfig, key: Array, step: Int[Array, ""], scenes: int, views: int
) -> Told | None:
    """What the model is told in a step, the same however many devices there are.

    None for a model that takes no priors.
    """
    if not family_of(config).defaults.priors:
        return None
    shares = config.priors
    drawn = jax.random.fold_in(jax.random.fold_in(key, _STREAM), step)
    keys = iter(jax.random.split(drawn, 2 + 3 * 3))

    def chance(share: float, *shape: int) -> Bool[Array, "..."]:
        return jax.random.bernoulli(next(keys), share, (scenes, *shape))

    anything = chance(shares.scenes, 1)

    def kind() -> Bool[Array, "B V"]:
        known, all_views = chance(shares.kinds, 1), chance(shares.all_views, 1)
        return anything & known & (all_views | chance(shares.views, views))

    intrinsics, depth, pose = kind(), kind(), kind()
    first = (jnp.arange(views) == 0)[None]
    return Told(
        intrinsics=intrinsics | depth,
        depth=depth,
        pose=pose | first & pose.any(axis=1, keepdims=True),
        metric=jnp.broadcast_to(chance(shares.metric, 1), pose.shape),
    )


def told_nothing(config: TrainConfig, scenes: int, views: int) -> Told | None:
    """What held-out scenes are measured with; None for a model that takes no priors."""
    if not family_of(config).defaults.priors:
        return None
    none = jnp.zeros((scenes, views), bool)
    return Told(none, none, none, none)


def priors_of(scenes: RenderedScenes | KnownScenes, told: Told) -> PriorArrays:
    """The priors that a model is given: what it is told, as far as it is known."""
    if isinstance(scenes, KnownScenes):
        depth, rays, posed = scenes.depth_z, scenes.has_rays, scenes.has_pose
    else:
        depth = jnp.where(scenes.mask, scenes.depth_z, 0)
        rays = posed = jnp.ones(told.pose.shape, bool)
    has_depth = told.depth & rays & (depth > 0).any(axis=(-1, -2))
    return PriorArrays(
        intrinsics=scenes.intrinsics,
        has_intrinsics=told.intrinsics & rays,
        depth_z=depth,
        has_depth=has_depth,
        world_from_camera=scenes.world_from_camera,
        has_pose=told.pose & posed,
        metric_depth=told.metric,
        metric_poses=told.metric,
        origin=jnp.zeros((*told.pose.shape, 3), jnp.float32),
    )
