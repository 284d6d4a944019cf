"""π³-X from photos and what is known of them to a reconstruction: streamed, planned, in a file."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

import jaxrecon
from compiled_programs import programs_of, without_programs
from jaxrecon import InputError, geometry, registry
from jaxrecon.cli import main
from jaxrecon.nn.execution import HEAD_VIEWS
from jaxrecon.pipeline import Pipeline
from jaxrecon.progress import Stages
from jaxrecon.reconstruction import Reconstruction
from jaxrecon.runtime.memory import needs_of
from kept_notes import KeptNotes
from tiny_families import FIELDS, saved_tiny

QUIET = Stages(quiet=True)
VIEWS, SIDE = 5, 28
PIXELS = np.random.default_rng(0).integers(0, 256, (VIEWS, SIDE, SIDE, 3), np.uint8)
MATRIX = np.array([[40.0, 0, 13.5], [0, 40, 13.5], [0, 0, 1]])
DEPTH = np.full((SIDE, SIDE), 2.0, np.float32)
POSES = np.stack([np.eye(4)] * VIEWS)
POSES[:, 0, 3], POSES[:, 2, 3] = np.arange(VIEWS) + 3, 7
GIVEN: dict[str, Any] = {"resolution": SIDE, "min_confidence": 0.0, "edge_rtol": None}


@pytest.fixture(scope="module")
def native(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved_tiny("pi3x", tmp_path_factory.mktemp("native") / "tiny")


@pytest.fixture(scope="module")
def pipeline(native: Path) -> Pipeline:
    return jaxrecon.load(native, dtype="float32", stages=QUIET)


def gap(a: Reconstruction, b: Reconstruction) -> float:
    """The largest difference of any field, by the field's largest value."""
    return max(
        float(np.abs(np.asarray(getattr(a, f)) - np.asarray(getattr(b, f))).max())
        / float(np.abs(np.asarray(getattr(a, f))).max())
        for f in FIELDS
    )


class TestPriors:
    @pytest.mark.thorough
    def test_any_of_any_view_in_one_program(self, pipeline: Pipeline) -> None:
        fresh = without_programs(pipeline)
        combinations: list[dict[str, Any]] = [
            {"intrinsics": MATRIX},
            {"depths": {3: DEPTH}},  # without intrinsics
            {"poses": {1: POSES[1], 4: POSES[4]}},  # without rays, and without the first view's
            {"intrinsics": {0: MATRIX}, "poses": POSES, "depths": [DEPTH, None, DEPTH, None, None]},
            {"intrinsics": MATRIX, "poses": POSES, "metric_poses": False},
        ]
        found = [fresh.reconstruct(PIXELS, **GIVEN, **given).numpy() for given in combinations]
        assert fresh.compilations == 1
        without = fresh.reconstruct(PIXELS, **GIVEN).numpy()
        assert fresh.compilations == 2
        everything = [*found, without]
        assert all((recon.metric_scale or 0) > 0 for recon in everything)
        assert len({float(np.sum(recon.points_world)) for recon in everything}) == len(everything)

    def test_the_first_known_camera_lies_where_it_is(self, pipeline: Pipeline) -> None:
        recon = pipeline.reconstruct(PIXELS, resolution=SIDE, poses={1: POSES[1], 4: POSES[4]})
        np.testing.assert_allclose(recon.world_from_camera[1], POSES[1], atol=1e-5)

    def test_what_is_probably_a_mistake_is_noted(self, pipeline: Pipeline) -> None:
        half, stages = np.diag([0.5, 0.5, 1.0]) @ MATRIX, KeptNotes()
        pipeline.reconstruct(PIXELS, resolution=SIDE, intrinsics={1: half}, stages=stages)
        (note,) = (note for note in stages.notes if note.startswith("NOTE: intrinsics: "))
        assert "the principal point of view 1 (1 of 5) lies at 26%" in note

    def test_one_pose_places_the_scene_and_tells_the_network_nothing(
        self, pipeline: Pipeline
    ) -> None:
        """Beside a camera, so that both run the program that takes priors."""
        alone = pipeline.reconstruct(PIXELS, resolution=SIDE, intrinsics={0: MATRIX}).numpy()
        given: dict[str, Any] = {"intrinsics": {0: MATRIX}, "poses": {2: POSES[2]}}
        placed = pipeline.reconstruct(PIXELS, resolution=SIDE, **given).numpy()
        np.testing.assert_array_equal(placed.points_camera, alone.points_camera)
        np.testing.assert_allclose(placed.world_from_camera[2], POSES[2], atol=1e-5)

    @pytest.mark.parametrize(
        ("wrong", "message"),
        [
            ({"poses": np.stack([np.diag([2.0, 2, 2, 1])] * VIEWS)}, "poses: view 0 is not rigid"),
            ({"poses": {9: np.eye(4)}}, "poses: there is no view 9"),
            ({"depths": {1: DEPTH[:5]}}, r"depths: view 1: found an array of shape \(5, 28\)"),
            ({"depths": {1: 0 * DEPTH}}, "depths: view 1: no pixel has a depth"),
            ({"intrinsics": np.eye(3)}, "intrinsics: view 0: found focal lengths"),
            ({"poses": {3: POSES[3] + 1e8 * (POSES[4] - POSES[3])}}, "poses: view 3 is at"),
        ],
    )
    def test_bad_inputs_are_named(
        self, pipeline: Pipeline, wrong: dict[str, Any], message: str
    ) -> None:
        with pytest.raises(InputError, match=message):
            pipeline.reconstruct(PIXELS, **GIVEN, **wrong)


class TestUpstreamsRules:
    """What its examples make of points, in both of their ways."""

    def test_edges_of_depth_and_normals_within_what_is_confident(self, pipeline: Pipeline) -> None:
        """The default: since May 2026. With a camera, so that it runs the program from above."""
        recon = pipeline.reconstruct(PIXELS, resolution=SIDE, intrinsics={0: MATRIX})
        confident = np.asarray(recon.confidence) > 0.1
        points, keep = jnp.asarray(recon.points_camera), jnp.asarray(confident)
        edges = np.asarray(jax.jit(geometry.depth_normal_edges)(points, mask=keep))
        np.testing.assert_array_equal(recon.mask, confident & ~edges)
        assert edges.any()

    @pytest.mark.thorough
    def test_edges_of_depth_alone_and_a_camera_around_the_middle(self, pipeline: Pipeline) -> None:
        """The edges of before, and intrinsics as it has them since March 2026."""
        recon = pipeline.reconstruct(
            PIXELS,
            resolution=SIDE,
            edge_rtol=None,
            depth_edge_rtol=0.03,
            principal_point="centre",
        )
        depth = jnp.asarray(recon.points_camera)[..., 2]
        edges = np.asarray(jax.jit(lambda x: geometry.depth_edges(x, rtol=0.03))(depth))
        np.testing.assert_array_equal(recon.mask, (np.asarray(recon.confidence) > 0.1) & ~edges)
        intrinsics = np.asarray(recon.intrinsics)
        np.testing.assert_array_equal(intrinsics[:, :2, 2], [[(SIDE - 1) / 2] * 2] * VIEWS)
        points = np.asarray(recon.points_camera, np.float64)
        slope = points[..., :2] / points[..., 2:]
        pixels = np.stack(np.meshgrid(np.arange(SIDE), np.arange(SIDE)), -1) - (SIDE - 1) / 2
        focal = (slope * pixels).sum((1, 2)) / (slope * slope).sum((1, 2))
        np.testing.assert_allclose(intrinsics[:, [0, 1], [0, 1]], focal, rtol=1e-4)


@pytest.mark.thorough
def test_streamed_is_whole(pipeline: Pipeline, tmp_path: Path) -> None:
    """Poses of which the unit is unknown: the world is found from those of all views."""
    given: dict[str, Any] = {"poses": {1: POSES[1], 4: POSES[4]}, "metric_poses": False} | GIVEN
    whole = pipeline.reconstruct(PIXELS, **given).numpy()
    folder = pipeline.stream(PIXELS, tmp_path / "out", views_at_once=2, **given)
    streamed = Reconstruction.load(folder)
    assert gap(whole, streamed) <= 1e-5
    assert streamed.metric_scale == pytest.approx(whole.metric_scale)


@pytest.mark.thorough
def test_its_memory_is_planned(native: Path, full_optimization: None) -> None:
    """Without the branch for priors, which is a part of the weights."""
    bare = jaxrecon.load(native, dtype="float32", priors=False, stages=QUIET)
    options: dict[str, Any] = {"views": 4, "size": (SIDE, SIDE), "dtype": "float32"}
    plan = jaxrecon.memory_plan(native, priors=False, **options)
    bare.reconstruct(PIXELS[:4], resolution=SIDE)
    (ran,) = programs_of(bare).values()
    assert plan.needs == needs_of(ran)
    assert {HEAD_VIEWS, "encoder views", "attention tokens"} <= plan.chunks.keys()


@pytest.mark.thorough
def test_a_program_in_a_file(pipeline: Pipeline, tmp_path: Path) -> None:
    folder = jaxrecon.export_program(pipeline, tmp_path / "out", views=VIEWS, size=(SIDE, SIDE))
    found = jaxrecon.load_exported(folder).reconstruct(PIXELS)
    expected = pipeline.reconstruct(PIXELS, resolution=SIDE).numpy()
    assert gap(expected, found.numpy()) <= 1e-5
    assert found.metric_scale == pytest.approx(expected.metric_scale)


@pytest.mark.thorough
def test_on_the_command_line(native: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Depth without cameras is taken; where nothing is known the branch for it is left out."""
    photos, load, asked = tmp_path / "photos", registry.load, []
    photos.mkdir()
    for number, pixels in enumerate(PIXELS[:2]):
        Image.fromarray(pixels).save(photos / f"{number}.png")
    np.savez(tmp_path / "known.npz", depths=np.stack([DEPTH] * 2))

    def recorded(*args: Any, priors: bool, **options: Any) -> Pipeline:
        asked.append(priors)
        if not priors:
            raise InputError("enough")
        return load(*args, priors=priors, **options)

    monkeypatch.setattr(registry, "load", recorded)
    command = ["reconstruct", str(photos), "-m", str(native), "--resolution", str(SIDE), "-q"]
    command += ["--formats", "npz", "-o", str(tmp_path / "out")]
    assert main([*command, "--depths", str(tmp_path / "known.npz")]) == 0
    assert Reconstruction.load(tmp_path / "out" / "scene.npz").metric_scale is not None
    assert main([*command, "--overwrite"]) != 0
    assert asked == [True, False]
