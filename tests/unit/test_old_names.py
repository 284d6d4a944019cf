"""Names of the release before work and warn."""

import importlib

import pytest

OLD = {
    ("jaxrecon.evaluation", "EVALUATION_SETS"): "jaxrecon.evaluation.DATASETS",
    ("jaxrecon.evaluation", "EvaluationSet"): "jaxrecon.evaluation.Dataset",
    ("jaxrecon.evaluation", "Pick"): "jaxrecon.evaluation.Subset",
    ("jaxrecon.evaluation", "Truth"): "jaxrecon.evaluation.GroundTruth",
    ("jaxrecon.evaluation", "open_set"): "jaxrecon.evaluation.open_dataset",
    ("jaxrecon.images", "MAPANYTHING_RESIZE"): "jaxrecon.models.MAPANYTHING_RESIZE",
    ("jaxrecon.images", "PI3_RESIZE"): "jaxrecon.models.PI3_RESIZE",
    ("jaxrecon.images", "VGGT_RESIZE"): "jaxrecon.models.VGGT_RESIZE",
    ("jaxrecon.images", "AspectRule"): "jaxrecon.models.AspectRule",
    ("jaxrecon.images", "ResizeRule"): "jaxrecon.models.ResizeRule",
    ("jaxrecon.images", "SideRule"): "jaxrecon.models.SideRule",
    ("jaxrecon.models", "Conditions"): "jaxrecon.priors.PriorArrays",
    ("jaxrecon.models", "KnownOfViews"): "jaxrecon.priors.ViewPriors",
    ("jaxrecon.models", "PerView"): "jaxrecon.priors.PerView",
    ("jaxrecon.models", "abstract_conditions"): "jaxrecon.priors.abstract_priors",
    ("jaxrecon.models", "given_world"): "jaxrecon.priors.prior_world",
    ("jaxrecon.models", "padded_conditions"): "jaxrecon.priors.padded_priors",
    ("jaxrecon.pipeline", "DEFAULT_HABITS"): "jaxrecon.pipeline.MODEL_DEFAULTS",
    ("jaxrecon.pipeline", "Habits"): "jaxrecon.pipeline.ModelDefaults",
    ("jaxrecon.pipeline", "Options"): "jaxrecon.pipeline.ProgramKey",
    ("jaxrecon.pipeline", "Thresholds"): "jaxrecon.pipeline.RuntimeInputs",
    ("jaxrecon.pipeline", "thresholds"): "jaxrecon.pipeline.runtime_inputs",
    ("jaxrecon.priors", "KnownViews"): "jaxrecon.priors.ViewPriors",
    ("jaxrecon.priors", "read_known_views"): "jaxrecon.priors.read_view_priors",
}


@pytest.mark.parametrize(("old", "new"), OLD.items(), ids=lambda x: x if isinstance(x, str) else "")
def test_it_is_the_new_one(old: tuple[str, str], new: str) -> None:
    module, name = old
    home, _, new_name = new.rpartition(".")
    with pytest.warns(DeprecationWarning, match=f"{module}.{name} is {new} now"):
        found = getattr(importlib.import_module(module), name)
    assert found is getattr(importlib.import_module(home), new_name)


def test_other_names_are_absent() -> None:
    with pytest.raises(ImportError, match="cannot import name 'Sheet'"):
        from jaxrecon.images import Sheet  # noqa: F401 # pyright: ignore[reportAttributeAccessIssue]
