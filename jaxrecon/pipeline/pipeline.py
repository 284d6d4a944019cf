"""Photos in, reconstruction out."""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, cast

import numpy as np

from jaxrecon.checks import path_given, shown, truth_value, whole_number
from jaxrecon.compiling import without_x64
from jaxrecon.errors import InputError
from jaxrecon.formats import PointTracks, check_stream_folder
from jaxrecon.images import ImageSource, Loading, PixelTransform, load_images, loading_images
from jaxrecon.models import PerView, TrackingModel
from jaxrecon.nn.attention import AttentionFn
from jaxrecon.pipeline.known import Known
from jaxrecon.pipeline.result import note_odd_cameras, reconstruction_of
from jaxrecon.progress import Stages
from jaxrecon.reconstruction import Reconstruction
from jaxrecon.runtime.executor import Engine
from jaxrecon.runtime.options import (
    FittedIntrinsics,
    PointsChoice,
    PrincipalPoint,
    choices,
    stages_of,
)
from jaxrecon.runtime.sharding import check_one_process
from jaxrecon.runtime.tracking import Query, QueryPoints, check_query, queries
from jaxrecon.sparse import AttentionName, chosen_attention


@dataclass(frozen=True)
class Pipeline(Engine):
    """A model with its weights on the devices, ready to reconstruct; its fields are `Engine`'s."""

    def with_padding(self) -> "Pipeline":
        """The same pipeline, which pads photos to squares where it would crop them (VGGT).

        Raises:
          InputError: the model's images are brought to size in another way.
        """
        padded = self.resize.with_padding()
        if padded is None:
            raise InputError(
                f"padding (--pad): images of {self.name} are never padded to squares; leave it out"
            )
        return replace(self, resize=padded)

    @without_x64
    def reconstruct(
        self,
        images: ImageSource,
        *,
        resolution: int | None = None,
        stride: int = 1,
        min_confidence: float | None = None,
        confidence_quantile: float | None = None,
        view_confidence_quantile: float | None = None,
        multiview_confidence: bool = False,
        edge_rtol: float | None = 0.03,
        intrinsics: FittedIntrinsics | PerView = "per_view",
        principal_point: PrincipalPoint = "free",
        poses: PerView | None = None,
        depths: PerView | None = None,
        metric_poses: bool = True,
        metric_depths: bool = True,
        points: PointsChoice | None = None,
        query_points: QueryPoints | None = None,
        attention: AttentionFn | AttentionName | None = None,
        stages: Stages | None = None,
    ) -> Reconstruction:
        """Reconstructs the scene that the images show.

        Args:
          images: a folder, a glob pattern, paths, a video, an array (V, H, W, 3) of uint8 or of
            floats in [0, 1], or PIL images. One image is enough.
          resolution: longest side of the processed images in pixels; if not given, the size that
            the model's upstream uses (π³: about 255,000 pixels an image).
          stride: take every `stride`-th image or video frame.
          min_confidence: points below it leave the mask. If not given: 0.1 for π³, none for VGGT
            and MapAnything, whose confidences are above 1.
          confidence_quantile: this share of the scene's points, the least confident, leaves the
            mask. If not given: 0.25 for VGGT, 0 for the others.
          view_confidence_quantile: this share of each view's pixels, the least confident and those
            equal to the last of them, leaves the mask.
          multiview_confidence: the confidence is the share of the other views in sight whose depth
            agrees, in [0, 1], in place of the model's own (MapAnything). No point leaves the mask
            for it unless one of the numbers above is given; `min_confidence=0` drops those that no
            other view confirms.
          edge_rtol: relative depth jump that makes a pixel an edge, which leaves the mask if the
            normals jump there too; None keeps edges.
          intrinsics: how cameras are fitted: for each view ("per_view"), or one shared by all views
            ("shared"). Or, for MapAnything, known camera matrices, in pixels of the original
            images, where the centre of the top-left pixel is (0, 0); or one (3, 3) for all.
          principal_point: fitted, or held at the image's centre.
          poses: known poses (MapAnything): world-from-camera, rigid; x right, y down, z forward.
            The result is in their world, whose origin must be near enough for float32.
          depths: known depth (MapAnything) along the optical axis, of the size of the original
            images; 0 or NaN where unknown.
          metric_poses, metric_depths: whether they are in metres. Poses in another unit leave the
            result in metres, in their world scaled to metres.
          points: VGGT's points from depth and cameras ("depth", the default) or from its point head
            ("pointmap").
          query_points: points to follow through all views (a model loaded with its track head):
            see `track`. They become the result's `tracks`.
          attention: in place of the pipeline's own: a function or a name, as `load` takes them.
          stages: collects and shows the time of each stage; silent if not given.

        Known values are given for each view: an array whose first axis counts the views, or a list
        or a mapping by the number of the view, with None where nothing is known.

        Returns:
          The reconstruction, its arrays on the device; `seconds` tells the stages' times.

        Raises:
          InputError: the images or an argument cannot be used.
        """
        stages = stages_of(stages)
        known = Known.of(
            intrinsics=intrinsics,
            poses=poses,
            depths=depths,
            metric_poses=metric_poses,
            metric_depths=metric_depths,
        )
        options, limits = choices(
            self.habits,
            self.name,
            known.first,
            min_confidence,
            confidence_quantile,
            edge_rtol,
            view_confidence_quantile=view_confidence_quantile,
            multiview=multiview_confidence,
            intrinsics=intrinsics if isinstance(intrinsics, str) else "per_view",
            principal_point=principal_point,
            points=points,
            maps=self._tracks(query_points),
        )
        attention = chosen_attention(attention, self.attention)
        with self._loading(images, known, resolution, stride, stages) as loading:
            transforms = loading.transforms()
            conditions = known.conditions(transforms)
            asked = self._queries(query_points, transforms)
            self.check_alike(transforms, attention, limits, options, conditions)
            with stages.stage("compile"):
                self.compile(*self.foreseen(transforms, limits, options), attention)
            batch = loading.batch()
        geometry = self.run(batch, limits, options, stages, known=conditions, attention=attention)
        note_odd_cameras(geometry.intrinsics, stages)
        tracks = None
        if geometry.track_maps is not None:
            tracks = self.follow(geometry.track_maps, asked, len(batch.names), stages)
        return reconstruction_of(geometry, batch, self.name, tracks, stages)

    @without_x64
    def stream(
        self,
        images: ImageSource,
        folder: str | Path,
        *,
        views_at_once: int = 16,
        overwrite: bool = False,
        resolution: int | None = None,
        stride: int = 1,
        min_confidence: float | None = None,
        view_confidence_quantile: float | None = None,
        edge_rtol: float | None = 0.03,
        intrinsics: Literal["per_view"] | PerView = "per_view",
        principal_point: PrincipalPoint = "free",
        poses: PerView | None = None,
        depths: PerView | None = None,
        metric_poses: bool = True,
        metric_depths: bool = True,
        points: PointsChoice | None = None,
        attention: AttentionFn | AttentionName | None = None,
        stages: Stages | None = None,
    ) -> Path:
        """Reconstructs a scene of very many views into a folder, a file a view.

        What each view becomes is worked out a few views at a time and written while the next few
        are worked on, so that the results never lie in memory together. Each file is complete or
        not there. If the folder holds part of the same reconstruction, only what is missing is
        made. `Reconstruction.load` reads the folder, or one of its files.

        Args:
          folder: where to.
          views_at_once: so many views are worked out together.
          overwrite: whether another reconstruction in the folder may be replaced.

        The other arguments are those of `reconstruct`. What looks at all views at once is left out:
        a share of the scene's least confident points, agreement of the views, one camera for all,
        tracks.

        Returns:
          The folder.

        Raises:
          InputError: the images or an argument cannot be used.
          OutputError: the folder holds something else, or cannot be written; the views written so
            far stay.
        """
        from jaxrecon.pipeline.streaming import stream
        from jaxrecon.runtime.heads import compile_both, has_given_pose

        check_one_process(self.mesh, "stream")
        views_at_once = whole_number("views_at_once", views_at_once, least=1)
        folder = Path(path_given("folder", folder))
        check_stream_folder(folder, overwrite=truth_value("overwrite", overwrite))
        if isinstance(intrinsics, str) and intrinsics != "per_view":
            raise InputError(
                f"intrinsics={shown(intrinsics)}: one camera for all views is fitted by "
                "reconstruct, not by stream"
            )
        stages = stages_of(stages)
        known = Known.of(
            intrinsics=intrinsics,
            poses=poses,
            depths=depths,
            metric_poses=metric_poses,
            metric_depths=metric_depths,
        )
        options, limits = choices(
            self.habits,
            self.name,
            known.first,
            min_confidence,
            0.0,
            edge_rtol,
            view_confidence_quantile=view_confidence_quantile,
            principal_point=principal_point,
            points=points,
        )
        attention = chosen_attention(attention, self.attention)
        with self._loading(images, known, resolution, stride, stages) as loading:
            transforms = loading.transforms()
            conditions = known.conditions(transforms)
            if not folder.exists():  # else nothing may be left to do
                with stages.stage("compile"):
                    foreseen = self.foreseen(transforms, limits, options)
                    posed = has_given_pose(conditions)
                    compile_both(self, *foreseen, attention, views_at_once, posed=posed)
            batch = loading.batch()
        return stream(
            self,
            batch,
            limits,
            options,
            folder,
            stages,
            known=conditions,
            attention=attention,
            views_at_once=views_at_once,
            overwrite=overwrite,
        )

    @without_x64
    def track(
        self,
        images: ImageSource,
        query_points: QueryPoints,
        *,
        resolution: int | None = None,
        stride: int = 1,
        stages: Stages | None = None,
    ) -> PointTracks:
        """Follows points through all views, without reconstructing the rest.

        Args:
          images, resolution, stride, stages: see `reconstruct`.
          query_points: (x, y) in pixels of the first photo as it was given, shape (Q, 2); or such
            points by the number of their photo, from 0; or how many to spread over every eighth.

        Returns:
          The tracks, in pixels of the photos as they were given.

        Raises:
          InputError: there are no points, or a point is no number, not finite, outside its photo or
            of another shape; the photo does not exist; or the model has no track head.
        """
        stages = stages_of(stages)
        check_query(query_points)
        self._tracks(query_points)
        batch = load_images(
            images, rule=self.resize, resolution=resolution, stride=stride, stages=stages
        )
        asked = self._queries(query_points, batch.transforms)
        maps = self.maps(batch, stages)
        tracks = self.follow(maps, asked, len(batch.names), stages)
        xy = np.stack(
            [
                transform.to_original(xy)
                for transform, xy in zip(batch.transforms, np.asarray(tracks.xy), strict=True)
            ]
        )
        return replace(tracks, xy=xy)

    def _loading(
        self,
        images: ImageSource,
        known: Known,
        resolution: int | None,
        stride: int,
        stages: Stages,
    ) -> AbstractContextManager[Loading]:
        return loading_images(
            images,
            rule=self.resize,
            resolution=resolution,
            stride=stride,
            known_cameras=known.intrinsics or (),
            stages=stages,
        )

    def _tracks(self, query_points: QueryPoints | None) -> bool:
        """Whether points are to be followed.

        Raises:
          InputError: they are, and the model cannot do it, or they are no points.
        """
        if query_points is None:
            return False
        check_one_process(self.mesh, "following points")
        check_query(query_points)
        model = self.model
        if not isinstance(model, TrackingModel):
            raise InputError(f"query_points: {self.name} follows no points; load vggt for that")
        if model.smallest_tracked is None:
            raise InputError(
                "query_points: the model was loaded without its track head; load it with "
                "tracks=True"
            )
        return True

    def _queries(
        self, query_points: QueryPoints | None, transforms: Sequence[PixelTransform]
    ) -> list[Query]:
        if query_points is None:
            return []
        smallest = cast(TrackingModel, self.model).smallest_tracked
        return queries(query_points, transforms, smallest=smallest or 1)
