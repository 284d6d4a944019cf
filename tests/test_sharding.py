"""Where weights lie on several devices (`test_many_devices.py`: results stay the same)."""

from typing import Any, cast

import jax
import jax.numpy as jnp
import pytest
from flax import nnx
from jax.sharding import AbstractMesh, PartitionSpec

import jaxrecon
from jaxrecon.checkpoint import flatten
from jaxrecon.errors import InputError
from jaxrecon.nn.layers import Mlp, layer_norm, stack
from jaxrecon.progress import Stages
from jaxrecon.sharding import MATRICES, WeightRules, weight_shardings

FOUR = AbstractMesh((4,), ("views",))


class Small(nnx.Module):
    def __init__(self, rngs: nnx.Rngs) -> None:
        self.mlps = stack(lambda keys: Mlp(8, 16, dtype=jnp.bfloat16, rngs=keys), 3, rngs)
        self.odd = Mlp(8, 6, 4, dtype=jnp.float32, rngs=rngs)
        self.norm = layer_norm(8, eps=1e-6, dtype=jnp.float32, rngs=rngs)


def specs(rules: WeightRules = MATRICES) -> dict[str, PartitionSpec]:
    shapes = jax.eval_shape(lambda: Small(nnx.Rngs(0)))
    placed = flatten(weight_shardings(shapes, FOUR, rules))
    assert all(leaf.shape == flatten(shapes)[path].shape for path, leaf in placed.items())
    return {path: leaf.sharding.spec for path, leaf in placed.items()}


def test_matrices_are_split_by_what_they_put_out() -> None:
    found = specs()
    assert found["mlps.fc1.kernel"] == PartitionSpec(None, None, "views")
    assert found["odd.fc2.kernel"] == PartitionSpec(None, "views")
    assert found["odd.fc1.kernel"] == PartitionSpec()  # 6 columns for 4 devices
    assert found["mlps.fc1.bias"] == found["norm.scale"] == PartitionSpec()


def test_the_first_rule_that_is_found_counts() -> None:
    found = specs([(r"^mlps\.fc2", 1), (r"fc2\.kernel$", 0), (r"^norm", 0)])
    assert found["mlps.fc2.kernel"] == PartitionSpec(None, "views")
    assert found["odd.fc2.kernel"] == PartitionSpec()  # 6 rows
    assert found["norm.scale"] == PartitionSpec("views")
    assert found["mlps.fc1.kernel"] == PartitionSpec()


def test_rules_that_cannot_be() -> None:
    with pytest.raises(InputError, match=r"rules: '\(' is no regular expression"):
        specs([("(", 0)])
    with pytest.raises(InputError, match=r"rules: norm.scale \(8,\) has no axis 1"):
        specs([("norm.scale", 1)])


def test_loaded_weights_lie_where_the_rules_say() -> None:
    mesh, quiet = jaxrecon.make_mesh(1), Stages(quiet=True)
    model = jaxrecon.load("pi3-mini", mesh=mesh, shard_weights=True, stages=quiet).model
    kernel = flatten(model)["trunk.global_blocks.mlp.fc1.kernel"]
    assert kernel.sharding.spec == PartitionSpec(None, None, "views")
    rules = [("fc2.kernel", -1)]
    model = jaxrecon.load("pi3-mini", mesh=mesh, shard_weights=rules, stages=quiet).model
    assert flatten(model)["trunk.global_blocks.mlp.fc1.kernel"].sharding.spec == PartitionSpec()
    with pytest.raises(InputError, match="shard_weights: there is one device; give a mesh"):
        jaxrecon.load("pi3-mini", shard_weights=True, stages=quiet)


@pytest.mark.usefixtures("without_shape_checks")
def test_devices_are_no_words() -> None:
    with pytest.raises(InputError, match="devices='all': give a number"):
        jaxrecon.make_mesh(cast(Any, "all"))
