"""Names of the release before work and warn."""

import importlib
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

from jaxrecon.nn.attention import TokenLayout
from jaxrecon.sparse.layout import BlockLayout
from jaxrecon.sparse.orders import RasterOrder
from pallas_kernels.block_selection import NumValid, select_blocks
from pallas_kernels.block_sparse_attention import full_mask
from pallas_kernels.dense_attention import dense_attention

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
    ("pallas_kernels.block_selection", "Real"): "pallas_kernels.block_selection.NumValid",
}


@pytest.mark.parametrize(("old", "new"), OLD.items(), ids=lambda x: x if isinstance(x, str) else "")
def test_it_is_the_new_one(old: tuple[str, str], new: str) -> None:
    module, name = old
    home, _, new_name = new.rpartition(".")
    with pytest.warns(DeprecationWarning, match=f"{module}.{name} is {new} now"):
        found = getattr(importlib.import_module(module), name)
    assert found is getattr(importlib.import_module(home), new_name)


def test_arguments_and_fields_of_kernels() -> None:
    """Keys and queries that count were called real."""
    x, count = jnp.ones((1, 8, 2, 4)), jnp.int32(6)
    earlier: dict[str, Any] = {"real_keys": count}
    with pytest.warns(DeprecationWarning, match="num_valid_keys="):
        out = dense_attention(x, x, x, **earlier)
    np.testing.assert_array_equal(out, dense_attention(x, x, x, num_valid_keys=count))
    sizes = {"block_q": 4, "block_kv": 4, "q_length": 8, "kv_length": 8}
    with pytest.warns(DeprecationWarning, match="num_valid_keys="):
        mask: Any = full_mask(1, 2, **sizes, **earlier)
    with pytest.warns(DeprecationWarning, match="BlockMask.real_keys is called num_valid_keys"):
        assert mask.real_keys is mask.num_valid_keys is count
    earlier = {"real": NumValid(count, count)}
    with pytest.warns(DeprecationWarning, match="num_valid="):
        chosen = select_blocks(x, x, top_k=1, block_q=4, block_kv=4, **earlier)
    assert chosen.num_valid_keys is not None
    tokens = TokenLayout(2, (1, 4), num_valid_views=1)
    layout = BlockLayout(tokens, RasterOrder(), "aligned", 4, 4)
    with pytest.warns(DeprecationWarning, match="BlockLayout.real is called num_valid"):
        assert layout.real == layout.num_valid


def test_other_names_are_absent() -> None:
    with pytest.raises(ImportError, match="cannot import name 'Sheet'"):
        from jaxrecon.images import Sheet  # noqa: F401 # pyright: ignore[reportAttributeAccessIssue]
