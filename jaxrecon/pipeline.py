"""Photos in, reconstruction out: the only place where inference is compiled.

The whole way from 8-bit pixels to points, cameras, intrinsics and mask is one XLA executable,
compiled ahead of time for each image size and number of views.
"""

from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float, UInt8

from jaxrecon.errors import InputError
from jaxrecon.geometry import depth_normal_edges, intrinsics_from_points
from jaxrecon.images import ImageBatch, ImageSource, ResizeRule, load_images
from jaxrecon.models import Model
from jaxrecon.nn.attention import AttentionFn, attend_densely
from jaxrecon.progress import Stages
from jaxrecon.pytree import pytree_dataclass
from jaxrecon.reconstruction import Reconstruction
from jaxrecon.sharding import by_view, check_views, spread_attention


@pytree_dataclass
class Geometry:
    """What the compiled program returns for one scene: see `Reconstruction` for the fields."""

    points_world: Float[Array, "V H W 3"]
    points_camera: Float[Array, "V H W 3"]
    confidence: Float[Array, "V H W"]
    mask: Bool[Array, "V H W"]
    world_from_camera: Float[Array, "V 4 4"]
    intrinsics: Float[Array, "V 3 3"]


@dataclass(frozen=True)
class Options:
    """Choices that are compiled into the program."""

    intrinsics: Literal["per_view", "shared"] = "per_view"
    principal_point: Literal["free", "centre"] = "free"
    use_quantile: bool = False
    use_edges: bool = True

    def __post_init__(self) -> None:
        _check_choice("intrinsics", self.intrinsics, ("per_view", "shared"))
        _check_choice("principal_point", self.principal_point, ("free", "centre"))


@pytree_dataclass
class Thresholds:
    """Numbers that can change from call to call without compiling again."""

    min_confidence: Float[Array | np.ndarray, ""]
    confidence_quantile: Float[Array | np.ndarray, ""]
    edge_rtol: Float[Array | np.ndarray, ""]


@dataclass(frozen=True)
class Pipeline:
    """A model with its weights on the devices, ready to reconstruct.

    Attributes:
      model: the network with its weights.
      name: what the model is called in results.
      resize: the size that the model's upstream gives its images.
      attention: how the trunk's tokens attend.
      mesh: devices over which the views are spread; None for one device.
    """

    model: Model
    name: str
    resize: ResizeRule
    attention: AttentionFn = attend_densely
    mesh: Mesh | None = None
    _compiled: dict[Any, Any] = field(default_factory=dict, repr=False, compare=False)

    def reconstruct(
        self,
        images: ImageSource,
        *,
        resolution: int | None = None,
        stride: int = 1,
        min_confidence: float = 0.1,
        confidence_quantile: float = 0.0,
        edge_rtol: float | None = 0.03,
        intrinsics: Literal["per_view", "shared"] = "per_view",
        principal_point: Literal["free", "centre"] = "free",
        stages: Stages | None = None,
    ) -> Reconstruction:
        """Reconstructs the scene that the images show.

        Args:
          images: a folder, a glob pattern, paths, a video, an array (V, H, W, 3) of uint8 or of
            floats in [0, 1], or PIL images. One image is enough.
          resolution: longest side of the processed images in pixels; if not given, the size that
            the model's upstream uses (π³: about 255,000 pixels an image).
          stride: take every `stride`-th image or video frame.
          min_confidence: points below it leave the mask.
          confidence_quantile: this share of the scene's points, the least confident, leaves the
            mask.
          edge_rtol: relative depth jump that makes a pixel an edge, which leaves the mask if the
            normals jump there too; None keeps edges.
          intrinsics: fitted for each view, or one camera shared by all views.
          principal_point: fitted, or held at the image's centre.
          stages: collects and shows the time of each stage; silent if not given.

        Returns:
          The reconstruction, its arrays on the device; `seconds` tells the stages' times.

        Raises:
          InputError: the images or an argument cannot be used.
        """
        stages = Stages(quiet=True) if stages is None else stages
        options = Options(
            intrinsics, principal_point, confidence_quantile > 0, edge_rtol is not None
        )
        limits = thresholds(min_confidence, confidence_quantile, edge_rtol)
        batch = load_images(
            images, rule=self.resize, resolution=resolution, stride=stride, stages=stages
        )
        geometry = self.run(batch.pixels, limits, options, stages)
        _note_odd_cameras(geometry.intrinsics, stages)
        return _reconstruction(geometry, batch, self.name, stages)

    def run(
        self,
        pixels: UInt8[np.ndarray, "V H W 3"],
        limits: Thresholds,
        options: Options,
        stages: Stages,
    ) -> Geometry:
        """Compiles the program for these shapes unless it is compiled already, and runs it."""
        if self.mesh is not None:
            check_views(pixels.shape[0], self.mesh)
        with stages.stage("compile"):
            program = self.compile(pixels.shape, options)
        with stages.stage("run"):
            scene = jax.device_put(pixels[None], by_view(self.mesh) if self.mesh else None)
            return jax.block_until_ready(program(self.model, scene, limits))

    def compile(self, shape: tuple[int, ...], options: Options | None = None) -> Any:
        """The executable for images of `shape` (V, H, W, 3), compiled on first use."""
        key = (shape, options or Options())
        if key not in self._compiled:
            self._compiled[key] = self.lower(*key).compile()
        return self._compiled[key]

    def lower(self, shape: tuple[int, ...], options: Options | None = None) -> Any:
        """The program for images of `shape` (V, H, W, 3), lowered and not yet compiled."""
        sharding = by_view(self.mesh) if self.mesh else None
        attention = spread_attention(self.attention, self.mesh) if self.mesh else self.attention
        pixels = jax.ShapeDtypeStruct((1, *shape), jnp.uint8, sharding=sharding)
        program = jax.jit(partial(_program, attention, options or Options()))
        return program.lower(self.model, pixels, thresholds(0.0, 0.0, 0.0))


def _program(
    attention: AttentionFn,
    options: Options,
    model: Model,
    pixels: UInt8[Array, "1 V H W 3"],
    limits: Thresholds,
) -> Geometry:
    """Everything between 8-bit pixels and geometry."""
    images = pixels.astype(jnp.float32) / 255
    scene = jax.tree.map(lambda x: x[0], model(images, attention=attention))
    return Geometry(
        points_world=scene.points_world,
        points_camera=scene.points_camera,
        confidence=scene.confidence,
        mask=_mask(scene.points_camera, scene.confidence, limits, options),
        world_from_camera=scene.world_from_camera,
        intrinsics=intrinsics_from_points(
            scene.points_camera,
            sharing=options.intrinsics,
            principal_point=options.principal_point,
        ),
    )


def _mask(
    points_camera: Float[Array, "V H W 3"],
    confidence: Float[Array, "V H W"],
    limits: Thresholds,
    options: Options,
) -> Bool[Array, "V H W"]:
    """Confident pixels that are not on an edge, as upstream's example keeps them."""
    mask = confidence > limits.min_confidence
    if options.use_quantile:
        mask &= confidence >= jnp.quantile(confidence, limits.confidence_quantile)
    if options.use_edges:
        mask &= ~depth_normal_edges(points_camera, rtol=limits.edge_rtol, mask=mask)
    return mask


def thresholds(
    min_confidence: float, confidence_quantile: float, edge_rtol: float | None
) -> Thresholds:
    """The numbers of `Pipeline.reconstruct` as the program takes them.

    Raises:
      InputError: one of them is out of range.
    """
    if not 0 <= confidence_quantile < 1:
        raise InputError(f"{confidence_quantile=} must be at least 0 and below 1")
    if edge_rtol is not None and not edge_rtol >= 0:
        raise InputError(f"{edge_rtol=} must be at least 0, or None to keep edges")
    numbers = (min_confidence, confidence_quantile, 0.0 if edge_rtol is None else edge_rtol)
    return Thresholds(*(np.asarray(number, np.float32) for number in numbers))


def _check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise InputError(f"{name}={value!r} is unknown; choose one of {', '.join(choices)}")


def _note_odd_cameras(intrinsics: Float[Array, "V 3 3"], stages: Stages) -> None:
    focal = np.asarray(intrinsics)[:, [0, 1], [0, 1]]
    odd = int((~(focal > 0)).any(axis=1).sum())
    if odd:
        stages.note(
            f"NOTE: the rays of {odd} of {len(focal)} views do not form a camera "
            "(the fitted focal length is not positive): do not trust their intrinsics"
        )


def _reconstruction(
    geometry: Geometry, batch: ImageBatch, name: str, stages: Stages
) -> Reconstruction:
    return Reconstruction(
        **vars(geometry),
        colors=batch.pixels,
        names=batch.names,
        transforms=batch.transforms,
        model=name,
        seconds=dict(stages.seconds),
    )
