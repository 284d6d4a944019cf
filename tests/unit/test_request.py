"""What a caller may ask, in one form or the other, and the one place that makes a program of it."""

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from jax import ShapeDtypeStruct

import jaxrecon
from jaxrecon import CameraConfig, InputError, MaskConfig, ViewPriors, aot, pipeline
from jaxrecon.aot import program as stored_form
from jaxrecon.aot import running, writing
from jaxrecon.aot.record import STORED_NAMES, StoredOptions
from jaxrecon.pipeline import ModelDefaults, Pipeline, ProgramKey, Request, RuntimeInputs, resolve
from jaxrecon.pipeline import pipeline as pipeline_module
from jaxrecon.pipeline.request import SceneKeywords, StreamKeywords
from jaxrecon.registry import MODELS, load_abstract
from places import ROOT

POSES = np.tile(np.eye(4), (2, 1, 1))
METRIC = ModelDefaults(0.0, priors=True, strict_edges=True, metric=True)
FLAT: dict[str, Any] = {
    "min_confidence": 0.2,
    "confidence_quantile": 0.1,
    "view_confidence_quantile": 0.3,
    "multiview_confidence": True,
    "edge_rtol": None,
    "depth_edge_rtol": 0.04,
    "principal_point": "centre",
    "poses": POSES,
    "depths": None,
    "metric_poses": False,
    "metric_depths": False,
}


def request(**given: Any) -> Request:
    whole: dict[str, Any] = {
        name: given.pop(name, None) for name in ("mask", "camera", "priors", "points")
    }
    return Request.of(**whole, keywords=given)


def same(one: tuple[ProgramKey, RuntimeInputs], other: tuple[ProgramKey, RuntimeInputs]) -> bool:
    leaves = [jax.tree.leaves(inputs) for _, inputs in (one, other)]
    return one[0] == other[0] and leaves[0] == leaves[1]


@pytest.fixture(scope="module")
def tiny() -> Pipeline:
    return load_abstract("pi3-mini")


class TestForms:
    def test_keywords_and_configs_ask_the_same(self) -> None:
        flat = request(**FLAT, intrinsics="shared")
        whole = request(
            mask=MaskConfig(0.2, 0.1, 0.3, True, None, 0.04),
            camera=CameraConfig("shared", "centre"),
            priors=ViewPriors(poses=POSES, metric_poses=False, metric_depths=False),
        )
        assert flat.mask == whole.mask and flat.camera == whole.camera
        assert flat.priors.kinds == whole.priors.kinds == ("poses",)
        assert not flat.priors.metric_poses and not flat.priors.metric_depths
        assert same(resolve(METRIC, flat, "m"), resolve(METRIC, whole, "m"))

    def test_intrinsics_are_fitted_or_known(self) -> None:
        known = request(intrinsics=np.eye(3))
        assert known.priors.kinds == ("intrinsics",) and known.camera == CameraConfig()
        fitted = request(intrinsics="shared")
        assert not fitted.priors.kinds and fitted.camera.intrinsics == "shared"

    def test_known_cameras_go_with_a_camera_config(self) -> None:
        both = request(intrinsics=np.eye(3), camera=CameraConfig(principal_point="centre"))
        assert both.priors.kinds == ("intrinsics",)
        assert both.camera.principal_point == "centre"

    @pytest.mark.parametrize(
        ("name", "whole"),
        [
            *((name, {"mask": MaskConfig()}) for name in list(FLAT)[:6]),
            ("principal_point", {"camera": CameraConfig()}),
            *((name, {"priors": ViewPriors()}) for name in list(FLAT)[7:]),
        ],
    )
    def test_a_field_is_given_once(self, tiny: Pipeline, name: str, whole: Any) -> None:
        (config,) = whole
        with pytest.raises(InputError, match=f"{name}: {config}= is given, which has a field"):
            tiny.reconstruct(np.zeros((1, 28, 28, 3), np.uint8), **whole, **{name: FLAT[name]})

    def test_intrinsics_are_given_once(self) -> None:
        for whole, value in (
            ({"camera": CameraConfig()}, "shared"),
            (
                {"priors": ViewPriors()},
                np.eye(3),
            ),
        ):
            with pytest.raises(InputError, match="intrinsics: "):
                request(intrinsics=value, **whole)

    @pytest.mark.usefixtures("without_shape_checks")
    @pytest.mark.parametrize("name", ["mask", "camera", "priors"])
    def test_a_config_of_another_type(self, name: str) -> None:
        with pytest.raises(InputError, match=f"{name}: found 3; give a "):
            request(**{name: 3})

    def test_keywords_are_shown_and_others_refused(self, tiny: Pipeline, tmp_path: Path) -> None:
        pixels: Any = np.zeros((1, 28, 28, 3), np.uint8)
        for method, keywords in (
            (Pipeline.reconstruct, SceneKeywords),
            (Pipeline.stream, StreamKeywords),
        ):
            parameters = inspect.signature(method).parameters
            assert keywords.__optional_keys__ <= parameters.keys()
            assert parameters["edge_rtol"].default == MaskConfig().edge_rtol
        calls: dict[str, Callable[..., Any]] = {
            "reconstruct": lambda **given: tiny.reconstruct(pixels, **given),
            "stream": lambda **given: tiny.stream(pixels, tmp_path / "out", **given),
        }
        for name, call in calls.items():
            with pytest.raises(TypeError, match=rf"{name}\(\) got an unexpected .* 'edges'"):
                call(edges=3)
        with pytest.raises(TypeError, match="'confidence_quantile'"):
            calls["stream"](confidence_quantile=0.1)

    @pytest.mark.parametrize(
        ("whole", "message"),
        [
            ({"mask": MaskConfig(confidence_quantile=0.1)}, "confidence_quantile looks at all"),
            ({"mask": MaskConfig(multiview_confidence=True)}, "multiview_confidence looks at all"),
            ({"camera": CameraConfig("shared")}, "intrinsics='shared': one camera for all views"),
        ],
    )
    def test_what_streams_cannot_do(
        self, tiny: Pipeline, whole: Any, message: str, tmp_path: Path
    ) -> None:
        with pytest.raises(InputError, match=message):
            tiny.stream(np.zeros((1, 28, 28, 3), np.uint8), tmp_path / "out", **whole)


class TestResolve:
    @pytest.mark.parametrize(
        ("asked", "more", "fewer"),
        [
            ({}, set(), set()),
            ({"edge_rtol": None}, set(), {"edge_rtol"}),
            ({"edge_rtol": 0.0}, set(), set()),
            ({"confidence_quantile": 0.1}, {"confidence_quantile"}, set()),
            ({"confidence_quantile": 0.0}, set(), set()),
            ({"view_confidence_quantile": 0.0}, {"view_confidence_quantile"}, set()),
            ({"depth_edge_rtol": 0.03}, {"depth_edge_rtol"}, set()),
        ],
    )
    def test_what_is_none_is_not_compiled_in(
        self, asked: dict[str, Any], more: set[str], fewer: set[str]
    ) -> None:
        key, inputs = resolve(ModelDefaults(), request(**asked), "m")
        assert key == ProgramKey(inputs=(ProgramKey().inputs | more) - fewer)
        assert inputs.given == key.inputs
        abstract = key.abstract_inputs(3)
        for one, other in zip(jax.tree.leaves(inputs), jax.tree.leaves(abstract), strict=True):
            assert (one.shape, one.dtype) == (other.shape, other.dtype)

    def test_the_family_decides_where_the_caller_does_not(self) -> None:
        vggt = MODELS["vggt"].family.defaults
        key, inputs = resolve(vggt, Request(), "vggt")
        assert key.points == "depth" and "confidence_quantile" in key.inputs
        assert inputs.confidence_quantile == np.float32(0.25)
        assert resolve(vggt, request(points="pointmap"), "vggt")[0].points == "pointmap"
        assert "confidence_quantile" not in resolve(vggt, Request().streamed(), "v")[0].inputs
        key, inputs = resolve(METRIC, request(multiview_confidence=True), "m")
        assert key.multiview and key.strict_edges and inputs.min_confidence == -np.inf

    @pytest.mark.usefixtures("without_shape_checks")
    def test_all_that_makes_programs_goes_through_it(
        self, tiny: Pipeline, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        import jaxrecon.plan as plan_module

        class Resolved(Exception):
            pass

        def spy(*_: Any) -> None:
            raise Resolved

        for module in (pipeline_module, plan_module, writing, running):
            monkeypatch.setattr(module, "resolve", spy)
        pixels = np.zeros((1, 28, 28, 3), np.uint8)
        fields: Any = {name: None for name in aot.ExportedPipeline.__dataclass_fields__}
        fields["record"] = type("Record", (), {"defaults": None, "model": "m"})
        headed = Pipeline(tiny.model, "m", tiny.resize, header={})
        programs: dict[str, Callable[[], Any]] = {
            "reconstruct": lambda: tiny.reconstruct(pixels),
            "stream": lambda: tiny.stream(pixels, tmp_path / "out"),
            "plan": lambda: jaxrecon.memory_plan("pi3-mini", views=2, size=(28, 28)),
            "export": lambda: aot.export_program(headed, tmp_path / "x", views=2, size=(28, 28)),
            "exported": lambda: aot.ExportedPipeline(**fields).reconstruct(pixels),
        }
        for make in programs.values():
            with pytest.raises(Resolved):
                make()


class TestFiles:
    def test_stored_programs_keep_their_names(self) -> None:
        key = ProgramKey(CameraConfig("shared"), inputs=frozenset(STORED_NAMES))
        stored = StoredOptions.of(key)
        assert stored.intrinsics == "shared"
        assert stored.use_quantile and stored.use_edges and stored.framed and stored.padded
        assert not stored.use_view_quantile
        shapes = stored_form.abstract_arguments(
            {"w": ShapeDtypeStruct((2,), np.float32)}, 3, (8, 8)
        )
        assert {name: leaf.shape for name, leaf in shapes[2].items()} == {
            "min_confidence": (),
            "confidence_quantile": (),
            "edge_rtol": (),
            "frames": (3, 4),
            "views": (),
        }

    def test_what_a_program_does_not_look_at_is_stored_all_the_same(self) -> None:
        _, inputs = resolve(ModelDefaults(), request(edge_rtol=None), "m")
        full = RuntimeInputs(
            **vars(inputs)
            | {"valid_region": np.zeros((1, 4), np.int32), "num_valid_views": np.int32(1)}
        )
        stored = stored_form.stored_inputs(full)
        assert stored["edge_rtol"] == np.inf and stored["confidence_quantile"] == 0
        assert list(stored) == list(STORED_NAMES.values())


def test_an_option_of_the_mask_stands_in_two_files() -> None:
    """Where it is checked and works, and where the command line reads it; old files name it too."""
    files = sorted((ROOT / "jaxrecon").rglob("*.py"))
    found = [file for file in files if "view_confidence_quantile" in file.read_text()]
    names = [str(file.relative_to(ROOT / "jaxrecon")) for file in found]
    assert names == ["aot/record.py", "cli/reconstruct.py", "runtime/masks.py"]


class TestOldNames:
    def test_fields_by_their_old_names(self, tiny: Pipeline) -> None:
        inputs: Any = pipeline.runtime_inputs(0.1, 0.0, 0.03)
        assert inputs.given == ProgramKey().inputs
        old: Any = RuntimeInputs
        with pytest.warns(DeprecationWarning, match=r"\(views=\) is called num_valid_views= now"):
            made = old(np.float32(0), views=np.int32(3))
        with pytest.warns(DeprecationWarning, match=r"RuntimeInputs\.views is called"):
            assert made.views == made.num_valid_views == 3
        model: Any = Pipeline
        with pytest.warns(DeprecationWarning, match=r"\(habits=\) is called defaults= now"):
            made = model(tiny.model, "m", tiny.resize, habits=METRIC)
        with pytest.warns(DeprecationWarning, match=r"Pipeline\.habits is called defaults now"):
            assert made.habits is METRIC
