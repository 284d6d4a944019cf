"""The result of a reconstruction: cameras, depth and points of every view."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Unpack

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, UInt8

from jaxrecon import browsing, formats
from jaxrecon.checks import path_of, real_number
from jaxrecon.deprecation import warn_renamed
from jaxrecon.errors import InputError
from jaxrecon.formats import card
from jaxrecon.geometry import depth_edges
from jaxrecon.images import PixelTransform
from jaxrecon.images.masks import PhotoMask
from jaxrecon.images.original import OriginalPixels, Views, photo_pixels, shown_pixels, view_numbers

AnyArray = Array | np.ndarray


@dataclass(frozen=True, eq=False)
class Statistics:
    """What a reconstruction's attention did.

    Attributes:
      sparsity: share of the key blocks that each head of each global layer skipped; None if
        attention was dense.
    """

    sparsity: Float[np.ndarray, "layers N"] | None = None


NO_STATISTICS = Statistics()

_CAMERA_ARRAYS = ("world_from_camera", "intrinsics")
_GLANCED_PIXELS = 1_000_000


@dataclass(frozen=True, eq=False, repr=False)
class Reconstruction:
    """Cameras, depth and points of V views, as JAX or numpy arrays.

    `recon[2]`, `recon[1:4]` and `recon[[0, 3]]` pick views and keep the view axis. The unit of
    length is the model's own; axes and pixels are OpenCV's.

    Attributes:
      points_world: the 3D point of each pixel, in world coordinates.
      points_camera: the same points, each view's in its own camera's coordinates.
      confidence: on the scale of the model family; in [0, 1] for pi3.
      mask: pixels worth keeping: confident and not on a depth edge.
      colors: the processed pictures.
      world_from_camera: poses; each maps camera coordinates to world coordinates.
      intrinsics: pinhole cameras, in pixels of the processed pictures.
      names: one a view, such as the photo's file name.
      transforms: how each processed picture came from its original.
      model: name of the model that made it.
      seconds: wall-clock time of each stage.
      metric_scale: metres a unit of the model, by which all lengths are multiplied already, if the
        model tells it: lengths are then in metres.
      stats: what attention skipped.
      tracks: where points that were given in some view are in all of them, if any were followed.
      files: one a view, the absolute path of its photo; None for arrays and frames of videos.
      photo_masks: one a view, if `masks` were given: the path of the photo's mask, or its pixels.
        Archives hold the paths alone.

    Raises:
      InputError: the fields' shapes do not agree, or the mask or colours have another dtype.
    """

    points_world: Float[AnyArray, "V H W 3"]
    points_camera: Float[AnyArray, "V H W 3"]
    confidence: Float[AnyArray, "V H W"]
    mask: Bool[AnyArray, "V H W"]
    colors: UInt8[AnyArray, "V H W 3"]
    world_from_camera: Float[AnyArray, "V 4 4"]
    intrinsics: Float[AnyArray, "V 3 3"]
    names: tuple[str, ...]
    transforms: tuple[PixelTransform, ...]
    model: str = ""
    seconds: Mapping[str, float] = field(default_factory=dict)
    metric_scale: float | None = None
    stats: Statistics = NO_STATISTICS
    tracks: formats.PointTracks | None = None
    files: tuple[str | None, ...] = ()
    photo_masks: tuple[PhotoMask, ...] = ()

    def __post_init__(self) -> None:
        if not self.files:
            object.__setattr__(self, "files", (None,) * len(self.names))
        shape = self.points_world.shape
        if len(shape) != 4 or shape[3] != 3 or 0 in shape:
            raise InputError(
                f"points_world has shape {shape}; expected (V, H, W, 3) with at least one view"
            )
        _check_shapes(self, *shape[:3])

    @property
    def depth_z(self) -> Float[AnyArray, "V H W"]:
        """Depth of each pixel along the optical axis."""
        return self.points_camera[..., 2]

    def __len__(self) -> int:
        return len(self.names)

    def __repr__(self) -> str:
        try:
            return card.words(*self._glance())
        except Exception:  # its arrays may be gone, and a debugger asks all the same
            return f"Reconstruction by {self.model}: {len(self)} views"

    def _repr_html_(self) -> str:
        """What notebooks show: some photos with their depth, and what there is of points."""
        return card.card(*self._glance())

    def _glance(self) -> tuple[formats.Scene, card.Counts]:
        """Every n-th row and column of large scenes, and what that leaves out."""
        views, height, width = self.mask.shape
        step = max(round((self.mask.size / _GLANCED_PIXELS) ** 0.5), 1)
        arrays: dict[str, Any] = {
            name: np.asarray(getattr(self, name)[:, ::step, ::step])
            for name in formats.VIEW_ARRAYS
            if name not in _CAMERA_ARRAYS
        }
        arrays |= {name: np.asarray(getattr(self, name)) for name in _CAMERA_ARRAYS}
        scene = formats.Scene(
            **arrays,
            names=self.names,
            original_sizes=np.empty((views, 2), np.int64),
            scales=np.empty((views, 2)),
            offsets=np.empty((views, 2)),
            model=self.model,
            metric_scale=self.metric_scale,
            tracks=self.tracks,
        )
        pixels = int(shown_pixels(self.transforms).sum())
        return scene, card.Counts(views, height, width, pixels, int(self.mask.sum()))

    def __getitem__(self, views: Views) -> "Reconstruction":
        chosen = view_numbers(views, len(self))
        arrays = {
            name: getattr(self, name)[np.array(chosen, np.int64)] for name in formats.VIEW_ARRAYS
        }
        return replace(
            self,
            **arrays,
            names=tuple(self.names[view] for view in chosen),
            transforms=tuple(self.transforms[view] for view in chosen),
            files=tuple(self.files[view] for view in chosen),
            photo_masks=tuple(self.photo_masks[view] for view in chosen if self.photo_masks),
            tracks=None if self.tracks is None else self.tracks.of_views(chosen),
        )

    def numpy(self) -> "Reconstruction":
        """The same reconstruction with every array in host memory."""
        return replace(self, **self._host_arrays(), tracks=self._host_tracks())

    def to_original(self) -> OriginalPixels:
        """Cameras, depth and tracks in pixels of the photos, before resizing and cropping."""
        intrinsics = np.asarray(self.intrinsics)
        return OriginalPixels(
            sizes=np.array([transform.original_size for transform in self.transforms]),
            intrinsics=np.stack(
                [
                    np.asarray(transform.intrinsics_to_original(matrix))
                    for transform, matrix in zip(self.transforms, intrinsics, strict=True)
                ]
            ),
            transforms=self.transforms,
            processed_depth_z=np.asarray(self.depth_z),
            tracks_xy=self._original_tracks(),
        )

    def save(
        self,
        path: str | Path,
        format: str | None = None,
        **options: Unpack[formats.ExportKeywords],
    ) -> Path:
        """Writes the reconstruction in one format.

        Without a format the path tells it: `.ply` points, `.glb` points and cameras for viewers,
        `.npz` everything, and a folder (no suffix, a trailing slash, or one that exists) COLMAP. A
        file is replaced at once and whole; a folder with something in it is replaced only if
        `overwrite` is true.

        Args:
          path: where to. A file's format that is asked for by name gets its own name in a folder.
          format: one of `jaxrecon.formats.FORMATS`.
          options: fields of `ExportOptions`, such as `overwrite=True`, `max_points=50_000`,
            `voxel=0.01`, `size="original"` or `images="link"`.

        Returns:
          The path of what was written.

        Raises:
          InputError: an option does not fit the format, its library is missing, or the mask keeps
            no point.
          OutputError: the path is in use or cannot be written; nothing was left half-written.
        """
        return formats.save(self.scene(), path, format, **options)

    def save_pictures(self, folder: str | Path, *, overwrite: bool = False) -> Path:
        """Writes depth as 16-bit PNG and normals as RGB PNG, one of each a view.

        `depth/`, `normal/` and `depth_scale.json` are made in the folder; depth is the stored
        value times its `depth_per_unit`, and 0 means none. Normals come from the pixels under the
        mask.

        Returns:
          The folder.

        Raises:
          OutputError: the folder is in use or cannot be written; nothing was left half-written.
        """
        return self.save(folder, "pictures", overwrite=overwrite)

    def save_summary(
        self,
        path: str | Path,
        *,
        true_depth_z: Float[AnyArray, "V H2 W2"] | None = None,
        true_world_from_camera: Float[AnyArray, "V 4 4"] | None = None,
    ) -> Path:
        """Writes one PNG of the views, their depth and confidence, and the scene from above.

        Where the truth is known it is shown beside the prediction: see `formats.write_summary`.

        Returns:
          The path.

        Raises:
          InputError: the truth is of another number of views, or there is no point to show.
          OutputError: the file cannot be written; nothing was left half-written.
        """
        truth = {
            "true_depth_z": true_depth_z,
            "true_world_from_camera": true_world_from_camera,
        }
        known = {name: np.asarray(array) for name, array in truth.items() if array is not None}
        place = path_of("path", path)
        formats.write_summary(self.scene(), place, **known)
        return place

    def save_sheet(self, path: str | Path, **truth: Any) -> Path:
        """The old name of `save_summary`."""
        warn_renamed("save_sheet", "save_summary", stacklevel=3)
        return self.save_summary(path, **truth)

    def view(
        self,
        *,
        host: str = "localhost",
        port: int = 8080,
        max_points: int = 1_000_000,
        share: bool = False,
    ) -> Any:
        """Serves points and cameras to the browser, at http://localhost:port.

        Needs viser: `pip install jaxrecon[view]`. It opens with what the first camera sees. Pages
        of other servers are refused, whatever name they reach this one by.

        Args:
          host: the address of this machine to serve at, such as 0.0.0.0 for all of them: other
            machines see the scene then, if they can reach this one.
          port: where to serve; the next free one if it is taken.
          max_points: the most points to show at once, drawn evenly and repeatably, more of them
            where a page looks.
          share: give the scene a public address as well, through viser's own relay on the internet:
            whoever knows it sees the scene.

        Returns:
          The running `viser.ViserServer`; it serves until its `stop` or the end of the process.

        Raises:
          InputError: viser is not installed or cannot be kept from other web sites, there is no
            point or camera to show, or the address or a public one cannot be had.
        """
        return formats.serve(self.scene(), host=host, port=port, max_points=max_points, share=share)

    def show(self, **options: Any) -> Any:
        """Shows points and cameras where you are: below the cell of a notebook, or in a browser.

        Args:
          options: of `view`.

        Returns:
          The running server, as `view` does.

        Raises:
          InputError: see `view`.
        """
        server = self.view(**options)
        url = browsing.local_url(server.get_host(), server.get_port())
        if browsing.in_notebook():
            browsing.show_in_notebook(url)
        else:
            browsing.open_page(url)
        return server

    def narrowed(
        self,
        *,
        min_confidence: float | None = None,
        confidence_quantile: float | None = None,
        edge_rtol: float | None = None,
    ) -> "Reconstruction":
        """The same with fewer points in the mask; what it left out already does not come back.

        Args:
          min_confidence: points must be more confident than this.
          confidence_quantile: the share of the mask's points, the least confident, that leave it.
          edge_rtol: relative jump of depth, in a window of 3 x 3 pixels of the photo, at which
            points leave it.

        Raises:
          InputError: a number is out of range.
        """
        mask, confidence = np.asarray(self.mask), np.asarray(self.confidence)
        if min_confidence is not None:
            mask = mask & (confidence > real_number("min_confidence", min_confidence))
        if confidence_quantile is not None:
            share = real_number("confidence_quantile", confidence_quantile)
            if not 0 <= share < 1:
                raise InputError(f"confidence_quantile={share:g} is no share from 0 to below 1")
            if mask.any():
                mask = mask & (confidence >= np.quantile(confidence[mask], share))
        if edge_rtol is not None:
            jump = real_number("edge_rtol", edge_rtol)
            if jump < 0:
                raise InputError(f"edge_rtol={jump:g} is below 0; give 0 or more")
            depth = jnp.asarray(self.points_camera)[..., 2]
            photo = jnp.asarray(photo_pixels(self.transforms))
            mask = mask & ~np.asarray(depth_edges(depth, rtol=jump, mask=photo))
        return replace(self, mask=mask)

    @classmethod
    def load(cls, path: str | Path) -> "Reconstruction":
        """Reads a reconstruction back: the `.npz` file that `save` wrote, or a streamed folder.

        Raises:
          InputError: it is absent, damaged, unfinished, or not a reconstruction.
        """
        path = path_of("path", path)
        streamed = formats.is_streamed(path)
        return cls.of_scene(formats.read_streamed(path) if streamed else formats.read_npz(path))

    @classmethod
    def of_scene(cls, scene: formats.Scene) -> "Reconstruction":
        """From what a file holds."""
        arrays = {name: getattr(scene, name) for name in formats.VIEW_ARRAYS}
        return cls(
            **arrays,
            names=scene.names,
            transforms=scene.transforms,
            model=scene.model,
            seconds=scene.seconds,
            metric_scale=scene.metric_scale,
            tracks=scene.tracks,
            files=scene.files,
            photo_masks=scene.photo_masks,
        )

    def _host_arrays(self) -> dict[str, np.ndarray]:
        return {name: np.asarray(getattr(self, name)) for name in formats.VIEW_ARRAYS}

    def _host_tracks(self) -> formats.PointTracks | None:
        return None if self.tracks is None else self.tracks.numpy()

    def _original_tracks(self) -> Float[np.ndarray, "V Q 2"] | None:
        if self.tracks is None:
            return None
        views = zip(self.transforms, np.asarray(self.tracks.xy), strict=True)
        return np.stack([np.asarray(transform.to_original(xy)) for transform, xy in views])

    def scene(self) -> formats.Scene:
        """The reconstruction as the writers take it, in host memory."""
        return formats.Scene(
            **self._host_arrays(),
            names=self.names,
            original_sizes=np.array([t.original_size for t in self.transforms], np.int64),
            scales=np.array([t.scale for t in self.transforms], np.float64),
            offsets=np.array([t.offset for t in self.transforms], np.float64),
            model=self.model,
            seconds=self.seconds,
            metric_scale=self.metric_scale,
            tracks=self._host_tracks(),
            files=self.files,
            photo_masks=self.photo_masks,
            sparsity=None if self.stats.sparsity is None else np.asarray(self.stats.sparsity),
        )


def _check_shapes(recon: Reconstruction, views: int, height: int, width: int) -> None:
    image = (views, height, width)
    expected = {
        "points_camera": (*image, 3),
        "confidence": image,
        "mask": image,
        "colors": (*image, 3),
        "world_from_camera": (views, 4, 4),
        "intrinsics": (views, 3, 3),
    }
    for name, shape in expected.items():
        _check_shape(name, getattr(recon, name).shape, shape, (*image, 3))
    for name, dtype in (("mask", bool), ("colors", np.uint8)):
        if getattr(recon, name).dtype != dtype:
            raise InputError(
                f"{name} has dtype {getattr(recon, name).dtype}; expected {np.dtype(dtype)}"
            )
    for name in ("names", "transforms", "files"):
        _check_shape(name, (len(getattr(recon, name)),), (views,), (*image, 3))
    if recon.tracks is not None:
        found = recon.tracks.xy.shape
        _check_shape("tracks.xy", found, (views, *found[1:]), (*image, 3))
    for view, transform in enumerate(recon.transforms):
        if transform.size != (width, height):
            raise InputError(
                f"transforms[{view}] has size {'x'.join(map(str, transform.size))}; expected "
                f"{width}x{height}, the size of the processed images"
            )


def _check_shape(name: str, found: tuple, expected: tuple, points_world: tuple) -> None:
    if found != expected:
        raise InputError(
            f"{name} has shape {found}; expected {expected}, to go with points_world of shape "
            f"{points_world}"
        )
