"""VGGT and MapAnything by name: weights found and converted, photos in, reconstruction out."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from safetensors.numpy import save_file

import jaxrecon
from compiled_programs import programs_of, without_programs
from golden_data import GOLDEN, state_dict
from jaxrecon import InputError, WeightsError, checkpoint, registry
from jaxrecon.cli import main
from jaxrecon.geometry import depth_consistency, depth_normal_edges, unproject_depth
from jaxrecon.images import load_images
from jaxrecon.models import (
    MAPANYTHING_RESIZE,
    VGGT_RESIZE,
    AspectRule,
    SideRule,
)
from jaxrecon.pipeline import Pipeline
from jaxrecon.progress import Stages
from jaxrecon.registry import ModelEntry, loading
from jaxrecon.runtime.bucketing import bucket_of, serves_fewer
from jaxrecon.runtime.executor import Executor
from jaxrecon.runtime.memory import needs_of
from jaxrecon.runtime.query_points import queries
from jaxrecon.runtime.tracking import follow, padded_count, track_maps
from jaxrecon.sparse import SparseAttention
from mapanything_masks import multiview_confidence, points_to_keep
from mapanything_stages import MAPANYTHING_TINY, MAPANYTHING_V1_TINY, decoded
from one_program import one_program
from vggt_stages import VGGT_TINY

QUIET = Stages(quiet=True)
SIDE = 84
POSES = np.stack([np.eye(4, dtype=np.float32)] * 3)
POSES[:, :3, 3] = [[1, 2, 3], [1, 2, 4], [1, 3, 3]]
FAR = np.zeros((4, 4), np.float32)
FAR[0, 3] = 1
INTRINSICS = np.array([[100, 0, 62], [0, 100, 41], [0, 0, 1]], np.float32)
AGREEING: Any = {"resolution": SIDE, "multiview_confidence": True}
LISTINGS = {
    "vggt": ("vggt_tiny", VGGT_TINY),
    "mapanything": ("mapanything_v11_tiny", MAPANYTHING_TINY),
    "mapanything-v1": ("mapanything_v1_tiny", MAPANYTHING_V1_TINY),
}


def upstream_state(name: str) -> dict[str, np.ndarray]:
    return state_dict(GOLDEN / "statedict" / f"{LISTINGS[name][0]}.json")


def tiny(name: str) -> ModelEntry:
    """A released model in all but its sizes."""
    return replace(registry.MODELS[name], config=LISTINGS[name][1])


@pytest.fixture(autouse=True)
def small_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The names stand for small models, and nothing is cached outside the test."""
    monkeypatch.setenv("JAXRECON_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(loading, "_stated", set())
    chosen = {name: tiny(name) for name in LISTINGS}
    monkeypatch.setattr(loading, "MODELS", chosen)


@pytest.fixture(scope="module")
def upstream(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The file that upstream would publish."""
    folder = tmp_path_factory.mktemp("upstream")

    def path(name: str) -> Path:
        file = folder / f"{name}.safetensors"
        if not file.exists():
            save_file(upstream_state(name), file)
        return file

    return path


@pytest.fixture(scope="module")
def photos() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (3, 84, 126, 3), np.uint8)


@pytest.fixture(scope="module")
def vggt(upstream: Callable[[str], Path]) -> Pipeline:
    """VGGT with its track head."""
    return _loaded(tiny("vggt"), upstream("vggt"), tracks=True)


@pytest.fixture(scope="module")
def mapanything(upstream: Callable[[str], Path]) -> Pipeline:
    return _loaded(tiny("mapanything"), upstream("mapanything"))


class Naming(Stages):
    """Knows the stages that run now."""

    def __init__(self) -> None:
        super().__init__(quiet=True)
        self.open: list[str] = []

    @contextmanager
    def stage(self, name: str, **options: Any) -> Iterator[Callable[[], None]]:
        self.open.append(name)
        with super().stage(name, **options) as done:
            yield done
        self.open.remove(name)


def model_of(pipeline: Pipeline) -> Any:
    return pipeline.model


def _loaded(entry: ModelEntry, file: Path, *, tracks: bool = False) -> Pipeline:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loading, "MODELS", {entry.name: entry})
        return registry.load(entry.name, weights=file, tracks=tracks, stages=QUIET)


class TestLoading:
    @pytest.mark.parametrize(
        "name",
        ["vggt", "mapanything", pytest.param("mapanything-v1", marks=pytest.mark.thorough)],
    )
    def test_upstream_file_and_native_folder_are_the_same_model(
        self, name: str, upstream: Callable[[str], Path], tmp_path: Path
    ) -> None:
        registry.convert_weights(tiny(name), upstream(name), tmp_path / "native")
        native = registry.load(tmp_path / "native", stages=QUIET)
        direct = registry.load(upstream(name), stages=QUIET)
        assert native.name == direct.name == name
        assert native.resize == direct.resize == registry.MODELS[name].resize
        assert native.defaults == direct.defaults == registry.MODELS[name].family.defaults
        ours, theirs = checkpoint.flatten(native.model), checkpoint.flatten(direct.model)
        assert ours.keys() == theirs.keys()
        for path in ours:
            np.testing.assert_array_equal(ours[path], theirs[path])

    def test_the_track_head_is_read_only_where_it_is_asked_for(
        self, upstream: Callable[[str], Path], tmp_path: Path
    ) -> None:
        folder = tmp_path / "native"
        registry.convert_weights(tiny("vggt"), upstream("vggt"), folder)
        for place in (folder, upstream("vggt")):
            without = registry.load(place, stages=QUIET)
            assert model_of(without).track_head is None
            with_head = registry.load(place, tracks=True, stages=QUIET)
            assert model_of(with_head).track_head is not None
            with pytest.raises(InputError, match="without its track head; load it with tracks=Tru"):
                without.track(np.zeros((1, 84, 84, 3), np.uint8), 4)

    def test_weights_without_a_track_head(self, tmp_path: Path) -> None:
        state = upstream_state("vggt")
        file = tmp_path / "small.safetensors"
        save_file({k: v for k, v in state.items() if not k.startswith("track_head.")}, file)
        registry.convert_weights(tiny("vggt"), file, tmp_path / "native")
        for place in (file, tmp_path / "native"):
            assert model_of(registry.load(place, stages=QUIET)).track_head is None
            with pytest.raises(WeightsError, match="holds no track head"):
                registry.load(place, tracks=True, stages=QUIET)

    def test_another_familys_weights(self, upstream: Callable[[str], Path], tmp_path: Path) -> None:
        for tracks in (False, True):
            with pytest.raises(WeightsError, match="names are those of the family 'mapanything'"):
                registry.load("vggt", weights=upstream("mapanything"), tracks=tracks, stages=QUIET)
        registry.convert_weights(tiny("mapanything"), upstream("mapanything"), tmp_path / "native")
        with pytest.raises(WeightsError, match="of the family 'mapanything', but vggt is of"):
            registry.load("vggt", weights=tmp_path / "native", stages=QUIET)
        with pytest.raises(InputError, match="models of the family mapanything follow no points"):
            registry.load("mapanything", weights=upstream("mapanything"), tracks=True, stages=QUIET)

    def test_versions_of_mapanything_are_told_apart(self, upstream: Callable[[str], Path]) -> None:
        loaded = registry.load(upstream("mapanything-v1"), stages=QUIET)
        assert (loaded.name, model_of(loaded).config) == ("mapanything-v1", MAPANYTHING_V1_TINY)

    def test_a_pytorch_state_dict_repeats_tensors(self) -> None:
        family, state = registry.MODELS["mapanything"].family, upstream_state("mapanything")
        names = {rule.pattern for rule in family.ignored_among(state, MAPANYTHING_TINY)}
        assert len(names) > len(family.ignored)


@pytest.fixture(scope="module")
def padded(vggt: Pipeline, photos: np.ndarray) -> jaxrecon.Reconstruction:
    """Photos laid in squares, which one camera took."""
    options: dict[str, Any] = {"confidence_quantile": 0.0, "intrinsics": "shared"}
    return vggt.with_padding().reconstruct(photos, resolution=SIDE, **options).numpy()


class TestVGGT:
    def test_reconstruction(self, vggt: Pipeline, photos: np.ndarray) -> None:
        recon = vggt.reconstruct(photos, resolution=SIDE, confidence_quantile=1e-9, edge_rtol=None)
        assert recon.points_world.shape == (3, 56, 84, 3)
        least = np.asarray(recon.confidence) == np.asarray(recon.confidence).min()
        assert least.sum() == 1 and (recon.mask | least).all()
        rays = one_program(unproject_depth)(np.asarray(recon.depth_z), np.asarray(recon.intrinsics))
        np.testing.assert_allclose(rays, recon.points_camera, rtol=1e-5, atol=1e-6)
        # The camera head's principal point is the middle of the image, from its corner.
        np.testing.assert_array_equal(recon.intrinsics[:, :2, 2], [[42, 28]] * 3)
        assert recon.metric_scale is None

    def test_a_quarter_is_masked_by_default(self, vggt: Pipeline, photos: np.ndarray) -> None:
        recon = vggt.reconstruct(photos, resolution=SIDE, edge_rtol=None)
        assert np.asarray(recon.mask).mean() == pytest.approx(0.75, abs=0.01)

    @pytest.mark.thorough
    def test_both_kinds_of_points(self, vggt: Pipeline, photos: np.ndarray) -> None:
        kinds = [
            vggt.reconstruct(photos, resolution=SIDE, points=kind).numpy()
            for kind in ("depth", "pointmap")
        ]
        assert (kinds[0].points_world != kinds[1].points_world).any()
        np.testing.assert_array_equal(kinds[0].world_from_camera, kinds[1].world_from_camera)

    def test_points_of_another_family(self, mapanything: Pipeline, photos: np.ndarray) -> None:
        with pytest.raises(InputError, match="mapanything has one kind of points"):
            mapanything.reconstruct(photos, points="depth")

    @pytest.mark.thorough
    def test_white_margins_are_masked(self, vggt: Pipeline) -> None:
        """Pictures of two shapes: the narrower one is laid in the middle of white."""
        rng = np.random.default_rng(0)
        views = [rng.integers(0, 256, (h, 84, 3), np.uint8) for h in (84, 56)]
        recon = vggt.reconstruct(
            views, resolution=SIDE, confidence_quantile=0.0, edge_rtol=None
        ).numpy()
        assert recon.mask[0].all()
        np.testing.assert_array_equal(
            recon.mask[1].all(axis=1), [False] * 14 + [True] * 56 + [False] * 14
        )
        half = vggt.reconstruct(views, resolution=SIDE, confidence_quantile=0.5, edge_rtol=None)
        shown = int(np.asarray(recon.mask).sum())
        assert np.asarray(half.mask).sum() == pytest.approx(shown / 2, abs=shown / 100)

    def test_padded_photos(self, vggt: Pipeline, padded: jaxrecon.Reconstruction) -> None:
        assert vggt.with_padding().resize == SideRule(pad=True)
        assert padded.points_world.shape == (3, 84, 84, 3)
        assert not padded.mask[:, :14].any()

    def test_padding_of_another_family(self, mapanything: Pipeline) -> None:
        with pytest.raises(InputError, match="images of mapanything are never padded to squares"):
            mapanything.with_padding()

    def test_shared_intrinsics(self, padded: jaxrecon.Reconstruction) -> None:
        np.testing.assert_array_equal(padded.intrinsics[0], padded.intrinsics[2])


class TestTracks:
    POINTS = np.array([[10.0, 20.0], [100.0, 60.0]], np.float32)

    def test_the_query_view_has_the_points_themselves(
        self, vggt: Pipeline, photos: np.ndarray
    ) -> None:
        tracks = vggt.track(photos, self.POINTS, resolution=SIDE)
        assert tracks.xy.shape == (3, 2, 2)
        np.testing.assert_allclose(tracks.xy[0], self.POINTS, atol=1e-4)
        assert ((tracks.visibility > 0) & (tracks.visibility < 1)).all()

    def test_with_the_reconstruction(self, vggt: Pipeline, photos: np.ndarray) -> None:
        """The same tracks, in pixels of the processed images."""
        alone = vggt.track(photos, self.POINTS, resolution=SIDE)
        recon = vggt.reconstruct(photos, resolution=SIDE, query_points=self.POINTS)
        assert recon.tracks is not None
        found = recon.to_original().tracks_xy
        assert found is not None
        np.testing.assert_allclose(found, alone.xy, atol=1e-2)
        np.testing.assert_allclose(recon.tracks.visibility, alone.visibility, atol=1e-4)

    def test_points_of_another_view(self, vggt: Pipeline, photos: np.ndarray) -> None:
        """As if that view had changed places with the first, whose maps stay as they are."""
        tracks = vggt.track(photos, {1: self.POINTS, 2: self.POINTS[:1]}, resolution=SIDE)
        np.testing.assert_array_equal(tracks.query_view, [1, 1, 2])
        np.testing.assert_allclose(tracks.xy[1, :2], self.POINTS, atol=1e-4)
        np.testing.assert_allclose(tracks.xy[2, 2:], self.POINTS[:1], atol=1e-4)

    def test_a_number_is_spread_over_the_photo(self, vggt: Pipeline, photos: np.ndarray) -> None:
        tracks = vggt.track(photos, 6, resolution=SIDE)
        expected = [(20.5 + 42 * x, 20.5 + 42 * y) for y in range(2) for x in range(3)]
        np.testing.assert_allclose(tracks.xy[0], expected, atol=1e-3)

    def test_groups_of_points(
        self, vggt: Pipeline, photos: np.ndarray, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Each point is in a group, the last of which reaches back."""
        points = np.stack([np.arange(5.0) * 20 + 9, np.full(5, 40.0)], axis=1).astype(np.float32)
        monkeypatch.setattr("jaxrecon.runtime.tracking.POINT_VIEWS_AT_ONCE", 6)
        fresh = without_programs(vggt)
        tracks = fresh.track(photos, points, resolution=SIDE)
        np.testing.assert_allclose(tracks.xy[0], points, atol=1e-4)
        pair = fresh.track(photos, points[:2], resolution=SIDE)
        np.testing.assert_allclose(tracks.xy[:, :2], pair.xy, atol=1e-3)

    def test_padding_points_change_nothing(self, vggt: Pipeline, photos: np.ndarray) -> None:
        """As the model follows them without any."""
        points = np.stack([np.arange(5.0) * 20 + 9, np.full(5, 40.0)], axis=1).astype(np.float32)
        batch = load_images(photos, rule=vggt.resize, resolution=SIDE)
        maps = track_maps(vggt.executor, batch, vggt.attention, QUIET)
        (query,) = queries(points, batch.transforms, smallest=1)
        alone = jax.jit(lambda model, maps, points: model.follow(maps[None], points[None]))(
            model_of(vggt), maps[:3], query.points
        )
        tracks = follow(vggt.executor, maps, [query], 3, QUIET)
        np.testing.assert_allclose(tracks.xy, alone.positions[0], atol=1e-3)
        np.testing.assert_allclose(tracks.visibility, alone.visibility[0], atol=1e-5)
        np.testing.assert_allclose(tracks.confidence, alone.confidence[0], atol=1e-5)

    def test_numbers_of_points_share_a_program(
        self, vggt: Pipeline, photos: np.ndarray, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Which compiles under "compile"."""
        stages, asked = Naming(), []
        once = Executor.once

        def noted(self: Executor, key: Any, lower: Callable[[], Any]) -> Any:
            asked.append((key[0], stages.open[-1]))
            return once(self, key, lower)

        monkeypatch.setattr(Executor, "once", noted)
        fresh = without_programs(vggt)
        for points in (self.POINTS, self.POINTS[:1], {0: self.POINTS, 1: self.POINTS[:1]}):
            fresh.track(photos, points, resolution=SIDE, stages=stages)
        assert fresh.compilations == 2
        assert set(asked) == {("maps", "compile"), ("follow", "compile")}
        assert list(stages.seconds)[-3:] == ["compile", "run", "track"]
        assert [padded_count(count) for count in (1, 16, 17, 33, 512)] == [16, 16, 18, 36, 512]

    @pytest.mark.parametrize(
        ("points", "message"),
        [
            (0, "query_points=0 must be at least 1"),
            (np.zeros((2, 3), np.float32), r"shape \(2, 3\); expected \(Q, 2\)"),
            (np.zeros((0, 2), np.float32), r"shape \(0, 2\); expected"),
            (np.zeros(2, np.float32), r"shape \(2,\); expected \(Q, 2\)"),
            ([[1.0, float("nan")]], r"query_points\[0\] = \(1, nan\) is not finite"),
            ([[1.0, 2.0], [126.0, 2.0]], r"query_points\[1\] = \(126, 2\) is outside the image"),
            ([["a", "b"]], "query_points is not an array of numbers"),
            (np.zeros((1, 2, 2)), r"shape \(1, 2, 2\); expected \(Q, 2\), at least one"),
            (np.array([[1j, 2]]), "query_points is not an array of numbers, found complex128"),
            (np.array([[None, 2]]), "query_points is not an array of numbers, found ndarray"),
            ([[1.0, 2.0], [3.0]], "query_points is not an array of numbers, found list"),
            (True, "query_points is not an array of numbers, found bool"),
            (5.0, r"shape \(\); expected \(Q, 2\)"),
            ([[1e300, 1.0]], r"query_points\[0\] = \(1e\+300, 1\) is outside the image"),
            ({3: 5}, "there is no view 3; the 3 views count from 0 to 2"),
            ({-1: 5}, "there is no view -1; the 3 views count from 0 to 2"),
            ({}, "query_points is empty"),
            ({1.0: [[1.0, 2.0]]}, "query_points has the key 1.0; give points by the number of"),
            ({True: 5}, "query_points has the key True; give points by the number of"),
            ({0: None}, r"query_points\[0\] is not an array of numbers, found NoneType"),
            ({1: [[0.0, -2.0]]}, r"query_points\[1\]\[0\] = \(0, -2\) is outside the image"),
        ],
    )
    @pytest.mark.usefixtures("without_shape_checks")
    def test_bad_points(
        self, vggt: Pipeline, photos: np.ndarray, points: Any, message: str
    ) -> None:
        for call in (
            lambda: vggt.track(photos, points, resolution=SIDE),
            lambda: vggt.reconstruct(photos, resolution=SIDE, query_points=points),
        ):
            with pytest.raises(InputError, match=message) as caught:
                call()
            assert "\n" not in str(caught.value)

    @pytest.mark.usefixtures("without_shape_checks")
    def test_no_points_to_track(self, vggt: Pipeline, mapanything: Pipeline) -> None:
        for model in (vggt, mapanything):
            with pytest.raises(InputError, match="is not an array of numbers, found NoneType"):
                model.track(np.zeros((1, 84, 84, 3), np.uint8), None)  # pyright: ignore

    @pytest.mark.usefixtures("without_shape_checks")
    def test_numbers_of_numpy(self, vggt: Pipeline, photos: np.ndarray) -> None:
        given = {np.int64(1): np.int64(6)}
        tracks = vggt.track(photos, given, resolution=SIDE)  # pyright: ignore[reportArgumentType]
        np.testing.assert_array_equal(tracks.query_view, [1] * 6)

    @pytest.mark.thorough
    def test_memory_is_foreseen(
        self, vggt: Pipeline, upstream: Callable[[str], Path], photos: np.ndarray
    ) -> None:
        """The larger of both programs; the second runs beside what the first returned."""
        fresh = without_programs(vggt)
        for count in (6, 4000):
            fresh.reconstruct(photos, resolution=SIDE, query_points=count)
        scene, few, many = (needs_of(program) for program in programs_of(fresh).values())
        assert scene is not None and few is not None and many is not None
        beside = scene.outputs - 3 * 28 * 42 * 16 * 4  # 16 channels of 28x42 are its argument
        many = replace(many, arguments=many.arguments + beside)
        assert few.total + beside < scene.total < many.total
        for count, needs in ((6, scene), (4000, many)):
            size = (SIDE, 56)
            plan = jaxrecon.memory_plan(upstream("vggt"), views=3, size=size, tracks=count)
            assert (plan.needs, plan.tracks) == (needs, count)

    def test_cropped_points(self, vggt: Pipeline) -> None:
        tall = np.zeros((1, 126, 84, 3), np.uint8)
        with pytest.raises(InputError, match=r"cropped off its photo; give x from 0\.0 to 83"):
            vggt.track(tall, [[5.0, 3.0]], resolution=SIDE)

    def test_small_images(self, vggt: Pipeline, photos: np.ndarray) -> None:
        with pytest.raises(InputError, match="tracks need images of at least"):
            vggt.track(photos, self.POINTS, resolution=14)

    def test_a_model_that_follows_no_points(
        self, mapanything: Pipeline, photos: np.ndarray
    ) -> None:
        with pytest.raises(InputError, match="mapanything follows no points; load vggt"):
            mapanything.track(photos, 5)


class TestMapAnything:
    def test_images_alone(self, mapanything: Pipeline, photos: np.ndarray) -> None:
        recon = mapanything.reconstruct(photos, resolution=SIDE)
        assert recon.metric_scale is not None
        assert recon.metric_scale > 0

        @one_program
        def expected(model: Any, images: jax.Array, points: jax.Array) -> tuple[jax.Array, ...]:
            found = model(images)
            keep = found.mask[0]
            edges = depth_normal_edges(points, mask=keep, strict=True)
            return found.points_world[0], keep & ~edges

        images = recon.colors[None] / np.float32(255)
        points, mask = expected(model_of(mapanything), images, np.asarray(recon.points_camera))
        np.testing.assert_allclose(recon.points_world, points, rtol=1e-4, atol=1e-5)
        np.testing.assert_array_equal(recon.mask, mask)

    @pytest.mark.thorough
    def test_confidence_by_the_agreement_of_views(
        self, mapanything: Pipeline, photos: np.ndarray
    ) -> None:
        """As the functions have it that are checked on upstream's numbers."""
        recon = mapanything.reconstruct(photos, **AGREEING).numpy()

        def expected(model: Any, images: jax.Array) -> tuple[jax.Array, ...]:
            output = decoded(model, model.features(images), model.layout(images.shape))
            confidence = multiview_confidence(output)
            kept = points_to_keep(output, confidence=confidence, percentile=30.0)
            return confidence[0], points_to_keep(output)[0], kept[0]

        images = recon.colors[None] / np.float32(255)
        confidence, mask, kept = jax.jit(expected)(model_of(mapanything), images)
        assert (np.abs(recon.confidence - confidence) > 1e-3).mean() < 1e-3
        assert (recon.mask != mask).mean() < 1e-3
        fewer = mapanything.reconstruct(photos, **AGREEING, view_confidence_quantile=0.3)
        assert (np.asarray(fewer.mask) != kept).mean() < 1e-3

    @pytest.mark.thorough
    def test_views_that_are_padding_agree_with_none(
        self, mapanything: Pipeline, photos: np.ndarray
    ) -> None:
        """17 views run as 18. With a least confidence, what no view confirms is left out."""
        views = np.concatenate([photos] * 6)[:17]
        unambiguous, recon = (
            mapanything.reconstruct(views, **AGREEING, edge_rtol=None, min_confidence=least).numpy()
            for least in (-1.0, 0.0)
        )
        unambiguous = unambiguous.mask
        expected = jax.jit(depth_consistency)(
            recon.depth_z, unambiguous, recon.world_from_camera, recon.intrinsics
        )
        assert 0 < recon.confidence.mean() < 1
        assert np.abs(recon.confidence - expected).mean() < 1e-4
        np.testing.assert_array_equal(recon.mask, unambiguous & (recon.confidence > 0))

    def test_one_program_for_all_that_may_be_known(
        self, mapanything: Pipeline, photos: np.ndarray
    ) -> None:
        fresh = without_programs(mapanything)
        depths = np.ones((3, 84, 126), np.float32)
        combinations: tuple[dict[str, Any], ...] = (
            {"intrinsics": [INTRINSICS, None, None]},
            {"poses": POSES},
            {"intrinsics": {0: INTRINSICS}, "depths": {0: depths[0]}, "poses": POSES},
        )
        for known in combinations:
            recon = fresh.reconstruct(photos, resolution=SIDE, **known)
            assert np.isfinite(recon.points_world).all()
        assert fresh.compilations == 1

    def test_the_result_is_in_the_given_world(
        self, mapanything: Pipeline, photos: np.ndarray
    ) -> None:
        """A rigid motion of all given poses moves the result, and changes nothing else."""
        turn = np.array([[0, -1, 0, 5], [1, 0, 0, 6], [0, 0, 1, 7], [0, 0, 0, 1]], np.float32)
        one = mapanything.reconstruct(photos, resolution=SIDE, poses=POSES).numpy()
        two = mapanything.reconstruct(photos, resolution=SIDE, poses=turn @ POSES).numpy()
        np.testing.assert_allclose(two.world_from_camera, turn @ one.world_from_camera, atol=2e-5)
        moved = one.points_world @ turn[:3, :3].T + turn[:3, 3]
        np.testing.assert_allclose(two.points_world, moved, rtol=1e-5, atol=1e-4)

    def test_poses_far_from_their_origin(self, mapanything: Pipeline, photos: np.ndarray) -> None:
        """16 km away float32 is 1 mm apart: the model sees the differences before that rounding."""
        near, far = POSES.astype(np.float64), POSES.astype(np.float64)
        near[:, :3, 3] *= 0.003
        far[:, :3, 3] = near[:, :3, 3] + [0, 16_000, 0]
        one, two = (
            mapanything.reconstruct(photos, resolution=SIDE, poses=poses).numpy()
            for poses in (near, far)
        )
        np.testing.assert_array_equal(one.points_camera, two.points_camera)
        moved = two.points_world - one.points_world
        assert np.abs(moved - np.array([0, 16_000, 0], np.float32)).max() < 2e-3

    def test_a_view_is_cut_as_upstream_cuts_it(self, mapanything: Pipeline) -> None:
        """Halves of a pixel go to the even one in views with intrinsics, and in no others.

        90x68 covers 84x56 as 84x63: of seven rows cut off, three or four are above.
        """
        rule = AspectRule(sizes=((1.5, 84, 56),))
        views = [np.zeros((68, 90, 3), np.uint8)] * 3
        pipeline = replace(mapanything, resize=rule)
        usual, known = (
            rule_.fit(90, 68).transform((90, 68)).offset
            for rule_ in (rule, rule.for_known_cameras())
        )
        assert usual != known
        given: tuple[tuple[Any, list[tuple[float, float]]], ...] = (
            ({1: INTRINSICS[:3]}, [usual, known, usual]),
            ([None, None, INTRINSICS], [usual, usual, known]),
            (INTRINSICS, [known] * 3),
            ([None] * 3, [usual] * 3),
            ({0: None}, [usual] * 3),
        )
        for intrinsics, offsets in given:
            recon = pipeline.reconstruct(views, intrinsics=intrinsics)
            assert [transform.offset for transform in recon.transforms] == offsets

    def test_nothing_known_of_all_views_is_nothing_given(
        self, mapanything: Pipeline, vggt: Pipeline, photos: np.ndarray
    ) -> None:
        nothing: dict[str, Any] = {"intrinsics": [None] * 3, "poses": {}, "depths": {1: None}}
        one = mapanything.reconstruct(photos, resolution=SIDE).numpy()
        two = mapanything.reconstruct(photos, resolution=SIDE, **nothing).numpy()
        np.testing.assert_array_equal(one.points_world, two.points_world)
        vggt.reconstruct(photos, resolution=SIDE, edge_rtol=None, **nothing)

    def test_poses_of_unknown_unit(self, mapanything: Pipeline, photos: np.ndarray) -> None:
        """Their world is scaled to metres; the same poses in another unit give the same result."""
        scaled = POSES.copy()
        scaled[:, :3, 3] *= 10
        one, ten = (
            mapanything.reconstruct(
                photos, resolution=SIDE, poses=poses, metric_poses=False
            ).numpy()
            for poses in (POSES, scaled)
        )
        np.testing.assert_allclose(one.points_world, ten.points_world, rtol=1e-3, atol=1e-4)
        # The cameras' mean distance from the first one, as the model finds it, sets the scale.
        centred = POSES.copy()
        centred[:, :3, 3] -= POSES[0, :3, 3]
        base = mapanything.reconstruct(
            photos, resolution=SIDE, poses=centred, metric_poses=False
        ).numpy()
        found, given = (
            np.linalg.norm(poses[1:, :3, 3] - poses[:1, :3, 3], axis=1).sum()
            for poses in (base.world_from_camera, POSES)
        )
        shift = one.world_from_camera[:, :3, 3] - base.world_from_camera[:, :3, 3]
        np.testing.assert_allclose(shift, [POSES[0, :3, 3] * found / given] * 3, rtol=1e-3)

    @pytest.mark.parametrize(
        ("known", "message"),
        [
            ({"depths": np.ones((3, 84, 126), np.float32)}, "view 0 has a depth map but no intrin"),
            ({"poses": [None, np.eye(4), None]}, "poses: view 1 has one, but the first view"),
            ({"poses": np.stack([2 * np.eye(4)] * 3)}, "poses: view 0"),
            ({"poses": POSES + 453_211 * FAR}, "subtract an origin near the cameras"),
            ({"poses": POSES, "metric_poses": "no"}, "metric_poses='no' must be True or False"),
            ({"intrinsics": 100.0}, "intrinsics: found 100.0; give an array"),
            ({"poses": {7: np.eye(4)}}, "poses: there is no view 7"),
            ({"intrinsics": [np.diag([-1.0, 1, 1])] * 3}, "intrinsics: view 0.*must be positive"),
            ({"intrinsics": [np.diag([0.8, 0.8, 1])] * 3}, "give them in pixels of that image"),
            ({"intrinsics": np.eye(3)[None]}, "intrinsics: found 1 for 3 views"),
        ],
    )
    @pytest.mark.usefixtures("without_shape_checks")
    def test_bad_conditions(
        self, mapanything: Pipeline, photos: np.ndarray, known: Any, message: str
    ) -> None:
        with pytest.raises(InputError, match=message) as caught:
            mapanything.reconstruct(photos, resolution=SIDE, **known)
        assert "\n" not in str(caught.value)

    def test_conditions_for_a_model_that_takes_none(
        self, vggt: Pipeline, photos: np.ndarray
    ) -> None:
        with pytest.raises(InputError, match="poses: vggt works from images alone"):
            vggt.reconstruct(photos, poses=POSES)


class TestNumbersOfViews:
    def test_buckets(self) -> None:
        views = (1, 2, 7, 16, 17, 33, 37, 38, 40, 41, 65, 129, 1000)
        expected = [1, 2, 7, 16, 18, 36, 40, 40, 40, 44, 72, 144, 1024]
        assert [bucket_of(count) for count in views] == expected
        assert bucket_of(6, 4) == 8
        assert [serves_fewer(count) for count in (1, 16, 18, 40)] == [False, False, True, True]
        assert serves_fewer(8, 8) and not serves_fewer(1, 8)
        assert all(count <= bucket_of(count) <= 1.125 * count + 1 for count in range(1, 3000))

    @pytest.mark.parametrize(
        ("name", "skipping"),
        [pytest.param("vggt", True, marks=pytest.mark.thorough), ("mapanything", False)],
    )
    def test_padding_views_change_nothing(
        self, name: str, skipping: bool, photos: np.ndarray, request: pytest.FixtureRequest
    ) -> None:
        """One view less than the program takes, with and without skipped blocks."""
        pipeline: Pipeline = request.getfixturevalue(name)
        full = np.random.default_rng(1).integers(0, 256, (20, 28, 28, 3), np.uint8)
        given: dict[str, Any] = {"resolution": 28}
        if name == "mapanything":  # as above, so that one program does for both
            full = np.concatenate([photos] * 6)
            given = {**AGREEING, "edge_rtol": None, "min_confidence": 0.0}
        views = full[:-1]
        shared = without_programs(pipeline)
        sparse = SparseAttention(0.5, None, block_q=16, block_kv=8)
        attention = sparse if skipping else pipeline.attention
        given["attention"] = attention
        padded = shared.reconstruct(views, **given).numpy()
        exact = replace(pipeline, exact_views=True)
        alone = exact.reconstruct(views, **given).numpy()
        assert len(padded) == len(views)
        scale = np.abs(alone.points_world).max()
        np.testing.assert_allclose(padded.points_world, alone.points_world, atol=1e-5 * scale)
        np.testing.assert_allclose(padded.world_from_camera, alone.world_from_camera, atol=1e-4)
        # Random weights give focal lengths near zero: compare in pixels.
        np.testing.assert_allclose(padded.intrinsics, alone.intrinsics, rtol=1e-3, atol=1e-4)
        if skipping:
            shares = (padded.stats.sparsity, alone.stats.sparsity)
            np.testing.assert_allclose(*shares, rtol=1e-6)  # pyright: ignore
        assert len(shared.reconstruct(full, **given)) == len(full)
        assert shared.compilations == 1

    @pytest.mark.thorough
    def test_what_attention_skipped(self, vggt: Pipeline, photos: np.ndarray) -> None:
        assert vggt.reconstruct(photos, resolution=SIDE).stats.sparsity is None
        sparse = SparseAttention(0.5, None, block_q=16, block_kv=8)
        found = vggt.reconstruct(photos, resolution=SIDE, attention=sparse).stats.sparsity
        assert found is not None
        assert found.shape == (VGGT_TINY.pairs, VGGT_TINY.heads)
        assert ((found > 0.3) & (found < 0.5)).all()


class TestCommandLine:
    @pytest.fixture
    def folder(self, tmp_path: Path, photos: np.ndarray) -> Path:
        from PIL import Image

        place = tmp_path / "photos"
        place.mkdir()
        for number, photo in enumerate(photos):
            Image.fromarray(photo).save(place / f"{number}.png")
        return place

    @pytest.mark.thorough
    def test_vggt(self, folder: Path, upstream: Callable[[str], Path], tmp_path: Path) -> None:
        command = ["reconstruct", str(folder), "-m", "vggt", "--weights", str(upstream("vggt"))]
        options = ["--resolution", str(SIDE), "--points", "pointmap", "--pad", "--tracks", "8"]
        code = main([*command, *options, "--formats", "npz", "-o", str(tmp_path / "out"), "-q"])
        assert code == 0
        recon = jaxrecon.Reconstruction.load(tmp_path / "out" / "scene.npz")
        assert recon.points_world.shape == (3, SIDE, SIDE, 3)
        assert recon.tracks is not None
        assert len(recon.tracks) == 9

    def test_mapanything_with_a_colmap_folder(
        self,
        upstream: Callable[[str], Path],
        tmp_path: Path,
        mapanything: Pipeline,
        photos: np.ndarray,
    ) -> None:
        """Our own export comes back as conditions."""
        first = mapanything.reconstruct(photos, resolution=SIDE)
        cameras = np.tile(INTRINSICS * [[1], [1], [1]], (3, 1, 1)).astype(np.float32)
        replace(first, intrinsics=cameras, world_from_camera=POSES).save(f"{tmp_path}/model/")
        command = ["reconstruct", "--colmap", str(tmp_path / "model"), "-m", "mapanything"]
        options = ["--weights", str(upstream("mapanything")), "--resolution", str(SIDE)]
        code = main([*command, *options, "--formats", "npz", "-o", str(tmp_path / "out"), "-q"])
        assert code == 0
        recon = jaxrecon.Reconstruction.load(tmp_path / "out" / "scene.npz")
        assert recon.names == ("view_0000.png", "view_0001.png", "view_0002.png")
        known = mapanything.reconstruct(
            recon.colors, resolution=SIDE, poses=POSES, intrinsics=cameras, metric_poses=False
        ).numpy()
        np.testing.assert_allclose(recon.points_world, known.points_world, rtol=1e-3, atol=1e-3)

    @pytest.fixture
    def known_files(
        self, folder: Path, tmp_path: Path, mapanything: Pipeline, photos: np.ndarray
    ) -> dict[str, list[str]]:
        """Options that tell of the same cameras in three ways."""
        cameras = np.tile(INTRINSICS, (3, 1, 1))
        np.savez(tmp_path / "known.npz", poses=POSES, intrinsics=cameras)
        first = mapanything.reconstruct(photos, resolution=SIDE)
        told = replace(first, intrinsics=np.asarray(first.intrinsics) * 0 + INTRINSICS)
        replace(told, world_from_camera=POSES).save(f"{tmp_path}/model/")
        axes = np.diag([1.0, -1, -1, 1])
        frames = [
            {"file_path": f"{view}.png", "transform_matrix": (pose @ axes).tolist()}
            for view, pose in enumerate(POSES)
        ]
        nerf = tmp_path / "transforms.json"
        nerf.write_text(json.dumps({"fl_x": 100, "cx": 62.5, "cy": 41.5, "frames": frames}))
        photographed = [str(folder)]
        return {
            "npz": [*photographed, "--poses", f"{tmp_path}/known.npz"],
            "colmap": ["--colmap", f"{tmp_path}/model"],
            "nerf": [*photographed, "--poses", str(nerf), "--intrinsics", str(nerf)],
        }

    @pytest.mark.parametrize(
        "kind", ["colmap", *(pytest.param(x, marks=pytest.mark.thorough) for x in ("npz", "nerf"))]
    )
    def test_streamed_with_known_cameras(
        self,
        kind: str,
        known_files: dict[str, list[str]],
        upstream: Callable[[str], Path],
        tmp_path: Path,
    ) -> None:
        """As without --stream: in metres and in the given world, whatever the poses' unit."""
        command = ["reconstruct", *known_files[kind], "-m", "mapanything", "-q"]
        command += ["--weights", str(upstream("mapanything")), "--resolution", str(SIDE)]
        whole, streamed = tmp_path / "whole", tmp_path / "streamed"
        assert main([*command, "--formats", "npz", "-o", str(whole)]) == 0
        assert main([*command, "--stream", "-o", str(streamed)]) == 0
        one = jaxrecon.Reconstruction.load(whole / "scene.npz")
        other = jaxrecon.Reconstruction.load(streamed)
        assert np.abs(one.world_from_camera[:, :3, 3]).max() > 0.1
        for name in ("world_from_camera", "points_world", "intrinsics"):
            np.testing.assert_allclose(getattr(other, name), getattr(one, name), 1e-4, 1e-4)

    @pytest.mark.parametrize(
        ("kind", "options", "metric"),
        [
            ("npz", [], True),
            ("npz", ["--no-metric-poses"], False),
            ("colmap", [], False),
            ("colmap", ["--metric-poses"], True),
            ("nerf", [], False),
            ("nerf", ["--metric-poses"], True),
        ],
    )
    def test_units(
        self,
        kind: str,
        options: list[str],
        metric: bool,
        known_files: dict[str, list[str]],
        upstream: Callable[[str], Path],
        tmp_path: Path,
        mapanything: Pipeline,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        given: dict[str, Any] = {}

        def reconstruct(self: Pipeline, images: Any, **arguments: Any) -> None:
            given.update(arguments)
            raise KeyboardInterrupt

        monkeypatch.setattr(Pipeline, "reconstruct", reconstruct)
        monkeypatch.setattr(registry, "load", lambda *_, **options: mapanything)
        command = ["reconstruct", *known_files[kind], *options, "-m", "mapanything"]
        main([*command, "--weights", str(upstream("mapanything")), "-o", str(tmp_path / "out")])
        assert given["metric_poses"] is metric
        np.testing.assert_allclose(given["poses"][1], POSES[1], atol=1e-6)

    @pytest.mark.parametrize(
        ("arrays", "options", "message"),
        [
            ({"poses": -POSES}, [], "poses: view 0: found the last row"),
            (
                {"intrinsics": INTRINSICS * [[3], [3], [1]]},
                [],
                "intrinsics: view 0: found the prin",
            ),
            (
                {"poses": POSES},
                ["--intrinsics", "k.npz"],
                "--intrinsics: k.npz tells no intrinsics",
            ),
            ({"poses": POSES}, ["-m", "vggt"], "--poses: vggt works from images alone; leave it"),
            ({"poses": POSES}, ["--metric-depths"], "--metric-depths: no depths are given; leave"),
            ({}, ["--no-metric-poses"], "--no-metric-poses: no poses are given; leave it out"),
        ],
    )
    def test_refused_before_weights_are_looked_for(
        self,
        arrays: dict[str, np.ndarray],
        options: list[str],
        message: str,
        folder: Path,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        def load(*arguments: Any, **options: Any) -> None:
            raise AssertionError("weights were looked for")

        monkeypatch.setattr(registry, "load", load)
        monkeypatch.chdir(tmp_path)
        np.savez("k.npz", **arrays)  # pyright: ignore[reportArgumentType]
        files = [part for kind in arrays for part in (f"--{kind}", "k.npz")]
        command = ["reconstruct", str(folder), "-m", "mapanything", *files, *options]
        assert main([*command, "-o", str(tmp_path / "out")]) == 2
        assert f"jaxrecon: {message}" in capsys.readouterr().err

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ([], "images: none given"),
            (["a.png", "--colmap", "b"], "--colmap b brings its own images; leave out a.png"),
            (["--colmap", "nowhere"], "nowhere"),
        ],
    )
    def test_no_images(
        self, options: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert main(["reconstruct", *options, "-o", str(tmp_path / "out")]) == 2
        assert message in capsys.readouterr().err


def test_released_sizes_of_images() -> None:
    assert registry.MODELS["vggt"].resize is VGGT_RESIZE
    assert tiny("mapanything").resize is MAPANYTHING_RESIZE
