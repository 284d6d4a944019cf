"""The whole program of released sizes lowered, on a CPU, for the eight GPUs of a host."""

import re
from collections import Counter
from functools import partial

import jax
import jax.numpy as jnp
import pytest

from abstract_devices import mesh_of
from jaxrecon import SparseAttention, registry
from jaxrecon.nn.attention import AttentionFn
from jaxrecon.nn.execution import INFERENCE
from jaxrecon.pipeline import Request, resolve
from jaxrecon.runtime.placement import Placement
from jaxrecon.runtime.program import scene_program
from triton_marks import lowers_triton, needs_triton

VIEWS = 400
SPARSE = SparseAttention(0.75, None)
COLLECTIVE = r"stablehlo\.(all_to_all|all_gather|all_reduce|collective_permute)"


@needs_triton
@lowers_triton
@pytest.mark.parametrize(
    ("family", "attention", "devices"),
    [
        ("pi3", SPARSE, {"views": 8}),
        *(
            pytest.param(*case, marks=pytest.mark.thorough)
            for case in (
                ("pi3", None, {"views": 8}),
                ("pi3", SPARSE, {"replicas": 2, "views": 4}),
                ("vggt", SPARSE, {"views": 8}),
                ("mapanything", SPARSE, {"views": 8}),
            )
        ),
    ],
)
def test_heads_are_exchanged_for_views_in_the_kernel_for_hopper(
    family: str, attention: AttentionFn | None, devices: dict[str, int]
) -> None:
    pipeline = registry.load_abstract(family, dtype="bfloat16", attention=attention)
    key, _ = resolve(registry.model_entry(family).family.defaults, Request(), family)
    mesh = mesh_of(devices)
    program = partial(scene_program, pipeline.attention, key, placement=Placement(INFERENCE, mesh))
    pixels = jax.ShapeDtypeStruct((1, VIEWS, 392, 518, 3), jnp.uint8)
    with jax.sharding.use_abstract_mesh(mesh):
        traced = jax.jit(program).trace(pipeline.model, pixels, key.abstract_inputs(VIEWS), None)
        text = traced.lower(lowering_platforms=("cuda",)).as_text()
    # Queries, keys, values and what is attended, once in the loop over the layers; VGGT's camera
    # tokens attend across views in a loop of their own.
    loops = 2 if family == "vggt" else 1
    exchanged = Counter(re.findall(COLLECTIVE, text))
    assert exchanged["all_to_all"] == 4 * loops, exchanged
    assert exchanged["collective_permute"] == 0, exchanged
    assert text.count("@mosaic_gpu") == 1
