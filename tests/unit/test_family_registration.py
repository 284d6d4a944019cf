"""A family is registered everywhere that users and checkpoints meet it."""

import importlib
import json

import pytest

import jaxrecon.models
from convert.families import guess_family
from golden_data import GOLDEN
from jaxrecon.aot.record import RULES
from jaxrecon.registry.entries import FAMILIES, MODELS, Family
from places import ROOT

UPSTREAM = {
    "pi3": "pi3_full",
    "pi3x": "pi3x_full",
    "vggt": "vggt_full",
    "mapanything": "mapanything_v11_full",
}
"""Which listing of upstream's tensors each family is recognised by."""

EACH = pytest.mark.parametrize("family", FAMILIES.values(), ids=lambda family: family.name)


@EACH
def test_its_folder_holds_model_sizes_and_image_rule(family: Family) -> None:
    folder = importlib.import_module(f"jaxrecon.models.{family.name}")
    for name in (family.build.__name__, family.config_class.__name__, type(family.resize).__name__):
        assert hasattr(folder, name)
        assert hasattr(jaxrecon.models, name)


@EACH
def test_its_conversion_has_a_file(family: Family) -> None:
    names = importlib.import_module(f"convert.{family.name}")
    assert family.rules == names.RULES
    assert family.ignored == names.IGNORED


@EACH
def test_its_checkpoints_are_recognised(family: Family) -> None:
    listing = json.loads((GOLDEN / "statedict" / f"{UPSTREAM[family.name]}.json").read_text())
    assert guess_family(listing["state_dict"]) == family.name


@EACH
def test_a_model_of_it_is_released_and_documented(family: Family) -> None:
    released = [entry.name for entry in MODELS.values() if entry.family is family]
    assert released
    page = (ROOT / "docs" / "models.md").read_text()
    assert all(f"`{name}`" in page for name in released)


@EACH
def test_programs_compiled_ahead_of_time_can_name_its_image_rule(family: Family) -> None:
    assert RULES[type(family.resize).__name__] is type(family.resize)


@EACH
def test_it_has_golden_cases(family: Family) -> None:
    cases = [json.loads(path.read_text()) for path in GOLDEN.glob("*.json")]
    assert [case for case in cases if str(case.get("arch", "")).startswith(f"{family.name}_")]
