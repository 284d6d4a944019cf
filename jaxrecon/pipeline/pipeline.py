"""Photos in, reconstruction out."""

import html
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Unpack, cast

import numpy as np
from jax.sharding import Mesh

from jaxrecon.checks import path_of, truth_value, whole_number
from jaxrecon.choices import GroupName, JoinName
from jaxrecon.compiling import on_its_own
from jaxrecon.deprecation import renamed_fields
from jaxrecon.errors import InputError
from jaxrecon.formats import PointTracks, check_stream_folder
from jaxrecon.images import (
    USUAL_FPS,
    ImageRule,
    ImageSource,
    Loading,
    MaskSource,
    PixelTransform,
    Sampling,
    loading_images,
)
from jaxrecon.images.fits import checked_resolution
from jaxrecon.models import Model, TrackingModel
from jaxrecon.nn.attention import AttentionFn, attend_densely
from jaxrecon.pipeline.card import card_of_model
from jaxrecon.pipeline.chunking import checked_sizes, note_many_views
from jaxrecon.pipeline.joins import JoinConfig
from jaxrecon.pipeline.request import (
    Request,
    SceneKeywords,
    StreamKeywords,
    resolve,
    with_keywords,
)
from jaxrecon.pipeline.result import note_oddities, reconstruction_of
from jaxrecon.pipeline.sequence_result import SequenceReconstruction, TemporaryFolder
from jaxrecon.pipeline.warming import PHOTO, transforms_of_photos, view_counts
from jaxrecon.priors import PriorArrays, ViewPriors, prior_arrays
from jaxrecon.priors.doubts import doubts
from jaxrecon.progress import Stages, watched_stages
from jaxrecon.reconstruction import Reconstruction
from jaxrecon.runtime.cameras import CameraConfig, check_one_camera
from jaxrecon.runtime.defaults import MODEL_DEFAULTS, ModelDefaults, PointsChoice
from jaxrecon.runtime.executor import Executor
from jaxrecon.runtime.masks import MaskConfig
from jaxrecon.runtime.query_points import Query, QueryPoints, check_query, queries
from jaxrecon.runtime.sharding import check_one_process
from jaxrecon.runtime.tracking import follow, track_maps
from jaxrecon.runtime.turned_cameras import are_turned, check_turned_sizes, turned_intrinsics
from jaxrecon.sparse import AttentionName, check_budgets, chosen_attention


@renamed_fields(habits="defaults")
@dataclass(frozen=True, repr=False)
class Pipeline:
    """A model with its weights on the devices, ready to reconstruct.

    `dataclasses.replace` makes another one; it uses the programs that this one has compiled if the
    model and how it is run stay the same.

    Attributes:
      model: the network with its weights.
      name: what the model is called in results.
      resize: the size that the model's upstream gives its images.
      attention: how the trunk's tokens attend.
      mesh: devices over which the views are sharded; None for one device.
      defaults: what the model's family does where the caller does not say.
      exact_views: compiles for each number of views, in place of padding it up to the next of a
        few numbers that share a program (see `bucket_of`).
      offload: whether the features that the heads read wait in the host's memory.
      header: what the checkpoint of the weights says of itself; see `checkpoint.write`.
      config_digest: tells configs of the model's name apart, by which budgets of sparse attention
        know theirs; None where it is not known.
      weights_digest: tells weights of that config apart in the same way.
      weights_path: the folder or file that the weights were read from; None where there is none.

    Raises:
      InputError: the attention cannot be used, or views cannot be sharded over the mesh; see
        `sharding.check_mesh`.
    """

    model: Model
    name: str
    resize: ImageRule
    attention: AttentionFn = attend_densely
    mesh: Mesh | None = None
    defaults: ModelDefaults = MODEL_DEFAULTS
    exact_views: bool = False
    offload: bool = False
    header: Mapping[str, Any] | None = field(default=None, repr=False, compare=False)
    config_digest: str | None = field(default=None, repr=False, compare=False)
    weights_digest: str | None = field(default=None, repr=False, compare=False)
    weights_path: Path | None = field(default=None, repr=False, compare=False)
    _executor: Executor | None = field(default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "attention", chosen_attention(self.attention))
        executor = Executor(self.model, self.mesh, self.exact_views, self.offload)
        if self._executor != executor:
            object.__setattr__(self, "_executor", executor)

    def __repr__(self) -> str:
        return card_of_model(self.name, self.model, self.attention, self.mesh, self.compilations)

    def _repr_html_(self) -> str:
        """What notebooks show of it."""
        return f"<pre>{html.escape(repr(self))}</pre>"

    @property
    def executor(self) -> Executor:
        """What compiles the model's programs and runs them."""
        return cast(Executor, self._executor)

    @property
    def compilations(self) -> int:
        """How many programs this pipeline has compiled, or taken from the cache on disk."""
        return self.executor.compilations

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

    def with_weights(self, model: Model) -> "Pipeline":
        """The same with a model of the same shapes and places; it runs what this one has compiled.

        Where the weights are from (`weights_digest`, `weights_path`) is not known of it.

        Args:
          model: as this pipeline's, which may have shapes in place of weights (`load_abstract`).

        Raises:
          InputError: its shapes or dtypes are others.
        """
        known = {"weights_digest": None, "weights_path": None}
        return replace(self, model=model, _executor=self.executor.with_weights(model), **known)

    @on_its_own
    def warm(
        self,
        views: int | Sequence[int] = 8,
        *,
        photo: tuple[int, int] = PHOTO,
        resolution: int | None = None,
        stages: Stages | None = None,
    ) -> None:
        """Compiles the programs of `reconstruct` for some numbers of views, before there are any.

        They are what `reconstruct` runs where only images, resolution and thresholds are given, and
        are kept on disk too. A program that is there already costs nothing.

        Args:
          views: a whole number of at least 2, for 2 to as many views; or numbers, in a tuple.
          photo: width and height of the photos in pixels, once upright; those of other shapes are
            processed at another size, by another program.
          resolution: see `reconstruct`.
          stages: see `reconstruct`.

        Raises:
          InputError: an argument cannot be used, or a program needs more memory than there is.
        """
        stages, rule = watched_stages(stages), self.resize.unstretched()
        key, inputs = resolve(self.defaults, Request(), self.name)
        shapes = (
            self.executor.expected_program(
                transforms_of_photos(rule, photo, resolution, count), inputs, key
            )
            for count in sorted(view_counts("views", views), reverse=True)
        )
        self.executor.compile_all([(*shape, self.attention) for shape in shapes], stages)

    @on_its_own
    @with_keywords(SceneKeywords)
    def reconstruct(
        self,
        images: ImageSource,
        *,
        resolution: int | None = None,
        stride: int | None = None,
        fps: int | float | None = None,
        max_views: int | None = None,
        motion: int | float | None = None,
        masks: MaskSource | None = None,
        mask: MaskConfig | None = None,
        camera: CameraConfig | None = None,
        priors: ViewPriors | None = None,
        points: PointsChoice | None = None,
        query_points: QueryPoints | None = None,
        attention: AttentionFn | AttentionName | None = None,
        stages: Stages | None = None,
        **keywords: Unpack[SceneKeywords],
    ) -> Reconstruction:
        """Reconstructs the scene that the images show.

        Args:
          images: a folder, a glob pattern, paths, a video, PIL images, or an array of uint8 or of
            floats in [0, 1]: (V, H, W, 3), with alpha (V, H, W, 4), or with channels first, of
            NumPy, JAX or a framework that speaks DLPack. One image is enough.
          resolution: longest side of the processed images in pixels; if not given, the size that
            the model's upstream uses (π³: about 255,000 pixels an image).
          stride: take every `stride`-th image or video frame.
          fps: of a video, take so many frames a second; two, with a note, if neither `stride` nor
            `fps` is given.
          max_views: take at most so many images or frames, spread evenly.
          motion: of those, take the first, and each in which the picture has moved so far since
            the last one taken, as a share of its width: 0.05 is a good start, 0.2 the most. It is
            the median shift of the picture's parts, by phase correlation, measured while they are
            read. A still camera gives one view, and a note. Views are numbered as they are taken.
          masks: which pixels of the photos may become points, as COLMAP and nerfstudio have it: a
            folder with `photo.jpg.png` or `photo.png` for each photo, or a path or an array (H, W)
            for each view, of the upright photo's size; 0 (black) is dropped, and what an array
            masks (`numpy.ma`).
          mask: which points stay in the mask; see `MaskConfig`.
          camera: how cameras are fitted; see `CameraConfig`.
          priors: what is known of the views (MapAnything, π³-X); see `ViewPriors`. The result is
            in the world of known poses, whose origin must be near enough for float32. Poses in
            another unit than metres leave the result in metres, in their world scaled to metres.
          points: VGGT's points from depth and cameras ("depth", the default) or from its point head
            ("pointmap").
          query_points: points to follow through all views (a model loaded with its track head):
            see `track`. They become the result's `tracks`.
          attention: in place of the pipeline's own: a function or a name, as `load` takes them.
          stages: collects and shows the time of each stage. If not given, they are shown on a
            terminal and in a notebook; `Stages(quiet=True)` is silent.

        Each field of `mask`, `camera` and `priors` can be given as a keyword instead, such as
        `min_confidence=0.2`. The keyword `intrinsics` is a way to fit cameras if it is a text, else
        known camera matrices.

        Returns:
          The reconstruction, its arrays on the device; `seconds` tells the stages' times.

        Raises:
          InputError: the images or an argument cannot be used.
        """
        stages = watched_stages(stages)
        request = Request.of(
            mask=mask,
            camera=camera,
            priors=priors,
            keywords=keywords,
            points=points,
            query_points=query_points,
        )
        sampling = Sampling(stride, fps, max_views, USUAL_FPS, motion=motion)
        key, inputs = resolve(self.defaults, request, self.name)
        self._check_tracks(query_points)
        executor, attention = self.executor, self._attention(attention)
        with self._loading(images, request.priors, resolution, sampling, stages) as loading:
            note_many_views(images, loading, stages)
            transforms = loading.transforms()
            turned = request.camera.intrinsics == "shared" and are_turned(transforms)
            if turned:  # then the camera is fitted behind the program
                key = replace(key, camera=replace(key.camera, intrinsics="per_view"))
                check_turned_sizes(transforms, lambda: loading.batch().names)
            check_one_camera(key.camera, transforms, lambda: loading.batch().names)
            arrays = self._prior_arrays(request.priors, transforms, stages)
            asked = self._queries(query_points, transforms)
            masked = None if masks is None else loading.batch().masked(masks)
            executor.check_alike(transforms, attention, inputs, key, arrays)
            with stages.stage("compile"):
                executor.compile(*executor.expected_program(transforms, inputs, key), attention)
            batch = masked or loading.batch()
        geometry = executor.run(batch, inputs, key, attention, stages, priors=arrays)
        if turned:
            fitted = turned_intrinsics(
                geometry.points_camera, transforms, request.camera.principal_point
            )
            geometry = replace(geometry, intrinsics=fitted)
        note_oddities(geometry, stages)
        tracks = None
        if geometry.track_maps is not None:
            tracks = follow(executor, geometry.track_maps, asked, len(batch.names), stages)
        return reconstruction_of(geometry, batch, self.name, tracks, stages)

    @on_its_own
    @with_keywords(StreamKeywords)
    def stream(
        self,
        images: ImageSource,
        folder: str | Path,
        *,
        views_at_once: int = 16,
        overwrite: bool = False,
        resolution: int | None = None,
        stride: int | None = None,
        fps: int | float | None = None,
        max_views: int | None = None,
        motion: int | float | None = None,
        masks: MaskSource | None = None,
        mask: MaskConfig | None = None,
        camera: CameraConfig | None = None,
        priors: ViewPriors | None = None,
        points: PointsChoice | None = None,
        attention: AttentionFn | AttentionName | None = None,
        stages: Stages | None = None,
        **keywords: Unpack[StreamKeywords],
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
        from jaxrecon.runtime.heads import compile_both, has_known_pose

        check_one_process(self.mesh, "stream")
        views_at_once = whole_number("views_at_once", views_at_once, least=1)
        folder = path_of("folder", folder)
        check_stream_folder(folder, overwrite=truth_value("overwrite", overwrite))
        stages = watched_stages(stages)
        request = Request.of(
            mask=mask, camera=camera, priors=priors, keywords=keywords, points=points
        ).streamed()
        sampling = Sampling(stride, fps, max_views, USUAL_FPS, motion=motion)
        key, inputs = resolve(self.defaults, request, self.name)
        attention = self._attention(attention)
        with self._loading(images, request.priors, resolution, sampling, stages) as loading:
            transforms = loading.transforms()
            arrays = self._prior_arrays(request.priors, transforms, stages)
            if not folder.exists():  # else nothing may be left to do
                with stages.stage("compile"):
                    expected = self.executor.expected_program(transforms, inputs, key)
                    posed = has_known_pose(arrays)
                    compile_both(self.executor, *expected, attention, views_at_once, posed=posed)
            batch = loading.batch().masked(masks)
        return stream(
            self.executor,
            batch,
            inputs,
            key,
            folder,
            stages,
            name=self.name,
            priors=arrays,
            attention=attention,
            views_at_once=views_at_once,
            overwrite=overwrite,
        )

    @on_its_own
    @with_keywords(StreamKeywords)
    def reconstruct_sequence(
        self,
        images: ImageSource,
        folder: str | Path | None = None,
        *,
        chunk: int = 60,
        overlap: int | None = None,
        join: JoinName = "poses",
        group: GroupName | None = None,
        allow_gaps: bool = False,
        loops: bool = False,
        overwrite: bool = False,
        resolution: int | None = None,
        stride: int | None = None,
        fps: int | float | None = None,
        max_views: int | None = None,
        motion: int | float | None = None,
        masks: MaskSource | None = None,
        mask: MaskConfig | None = None,
        camera: CameraConfig | None = None,
        priors: ViewPriors | None = None,
        points: PointsChoice | None = None,
        attention: AttentionFn | AttentionName | None = None,
        stages: Stages | None = None,
        **keywords: Unpack[StreamKeywords],
    ) -> SequenceReconstruction:
        """Reconstructs a sequence of any length, such as a long video, in memory of one chunk.

        Views are read as they are needed, and worked on in chunks that overlap, with one compiled
        program: the last chunk begins earlier, so that it has as many. Each chunk is joined to the
        one before by the views that both have, and its views are written, one file each, into the
        folder: one estimate a view, in the middle of the overlap from the one chunk to the other. A
        run that was ended is taken up by the next with the same arguments.

        Args:
          images: in order; neighbours see the same things.
          folder: where to; a temporary one, deleted at the end of its use, if not given.
          chunk: views that are worked on together.
          overlap: how many of them the next chunk has too; half of them if not given.
          join: "poses" takes rotation and shift from the poses of the shared views; "points" lays
            their points over each other, robustly. The scale is that of how far the same views see.
          group: "sim3" fits the scale of a join, "se3" leaves it at 1; if not given, "se3" for
            models whose lengths are in metres.
          allow_gaps: whether to go on where a join cannot be trusted, with a world of its own.
          loops: whether places that the sequence comes back to are looked for at the end, by what
            the model's image encoder tells of the views, confirmed by reconstructing both visits
            together, and made to agree.
          overwrite: whether another reconstruction in the folder may be replaced.

        The other arguments are those of `reconstruct`, but for what looks at all views at once; see
        `stream`. Known intrinsics, poses and depths are numbered as the sequence's views are.

        Returns:
          The reconstruction, which lies in the folder.

        Raises:
          InputError: the images or an argument cannot be used; or a join cannot be trusted: names
            its views. What is written until then stays.
          OutputError: the folder holds something else, or cannot be written.
        """
        from jaxrecon.pipeline.sequence import run_sequence
        from jaxrecon.pipeline.sequence_job import SequenceJob

        check_one_process(self.mesh, "reconstruct_sequence")
        chunk, overlap = checked_sizes(chunk, overlap)
        resolution = checked_resolution(resolution, self.resize)
        stages = watched_stages(stages)
        joins = JoinConfig(join, group, allow_gaps)
        overwrite = truth_value("overwrite", overwrite)
        request = Request.of(
            mask=mask, camera=camera, priors=priors, keywords=keywords, points=points
        ).streamed()
        key, inputs = resolve(self.defaults, request, self.name)
        kept = None
        if folder is None:
            kept = TemporaryFolder()
            folder = kept.path / "views"
        place = path_of("folder", folder)
        check_stream_folder(place, overwrite=overwrite)
        job = SequenceJob(
            executor=self.executor,
            inputs=inputs,
            key=key,
            attention=self._attention(attention),
            name=self.name,
            rule=self.resize,
            defaults=self.defaults,
            chunk=chunk,
            overlap=overlap,
            joins=joins,
            loops=truth_value("loops", loops),
            sampling=Sampling(stride, fps, max_views, USUAL_FPS, motion=motion),
            resolution=resolution,
            masks=masks,
            priors=request.priors,
        )
        run_sequence(job, images, place, stages, overwrite=overwrite)
        return replace(SequenceReconstruction.load(place), _kept=kept)

    @on_its_own
    def track(
        self,
        images: ImageSource,
        query_points: QueryPoints,
        *,
        resolution: int | None = None,
        stride: int | None = None,
        fps: int | float | None = None,
        max_views: int | None = None,
        motion: int | float | None = None,
        stages: Stages | None = None,
    ) -> PointTracks:
        """Follows points through all views, without reconstructing the rest.

        Args:
          images, resolution, stride, fps, max_views, motion, stages: see `reconstruct`.
          query_points: (x, y) in pixels of the first photo, once upright, shape (Q, 2); or such
            points by the number of their photo, from 0; or how many to spread over every eighth.

        Returns:
          The tracks, in pixels of the photos, once upright.

        Raises:
          InputError: there are no points, or a point is no number, not finite, outside its photo or
            of another shape; the photo does not exist; or the model has no track head.
        """
        stages = watched_stages(stages)
        check_query(query_points)
        self._check_tracks(query_points)
        attention = self._attention(None)
        sampling = Sampling(stride, fps, max_views, USUAL_FPS, motion=motion)
        with self._loading(images, ViewPriors(), resolution, sampling, stages) as loading:
            batch = loading.batch()
        asked = self._queries(query_points, batch.transforms)
        maps = track_maps(self.executor, batch, attention, stages)
        tracks = follow(self.executor, maps, asked, len(batch.names), stages)
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
        priors: ViewPriors,
        resolution: int | None,
        sampling: Sampling,
        stages: Stages,
    ) -> AbstractContextManager[Loading]:
        return loading_images(
            images,
            rule=self.resize.unstretched(),
            resolution=resolution,
            sampling=sampling,
            known_cameras=priors.views_with_intrinsics,
            stages=stages,
        )

    def _prior_arrays(
        self, priors: ViewPriors, transforms: Sequence[PixelTransform], stages: Stages
    ) -> PriorArrays | None:
        """What the model takes beside images of these transforms; None if nothing is known.

        What is probably a mistake is noted.

        Raises:
          InputError: it cannot be used; see `prior_arrays`.
        """
        if not priors.kinds:
            return None
        arrays = prior_arrays(
            priors,
            transforms,
            self.resize.resized_intrinsics,
            independent=self.defaults.independent_priors,
        )
        for note in doubts(priors, [transform.original_size for transform in transforms]):
            stages.note(f"NOTE: {note}")
        return arrays

    def _attention(self, attention: AttentionFn | AttentionName | None) -> AttentionFn:
        """This attention, or the pipeline's own if none is given.

        Raises:
          InputError: there is none of that name, or its budgets were measured on another model
            or config.
        """
        chosen = chosen_attention(attention, self.attention)
        check_budgets(chosen, self.name, self.config_digest, self.weights_digest)
        return chosen

    def _check_tracks(self, query_points: QueryPoints | None) -> None:
        """Refuses to follow points where that cannot be done.

        Raises:
          InputError: the model cannot do it, or they are no points.
        """
        if query_points is None:
            return
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

    def _queries(
        self, query_points: QueryPoints | None, transforms: Sequence[PixelTransform]
    ) -> list[Query]:
        if query_points is None:
            return []
        smallest = cast(TrackingModel, self.model).smallest_tracked
        return queries(query_points, transforms, smallest=smallest or 1)
