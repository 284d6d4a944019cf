"""Where weights lie on several devices (`test_many_devices.py`: results stay the same)."""

from types import SimpleNamespace
from typing import Any, cast

import jax
import jax.numpy as jnp
import pytest
from flax import nnx
from jax.sharding import AbstractMesh, AxisType, Mesh, PartitionSpec

import jaxrecon
from jaxrecon.checkpoint import flatten
from jaxrecon.errors import InputError
from jaxrecon.models import PI3_RESIZE
from jaxrecon.nn.layers import Mlp, layer_norm, stack
from jaxrecon.pipeline import Pipeline
from jaxrecon.progress import Stages
from jaxrecon.registry import load_abstract
from jaxrecon.runtime.sharding import MATRICES, WeightRules, weight_shardings

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


def a_device(kind: str, number: int) -> Any:
    return SimpleNamespace(device_kind=kind, id=number)


def test_devices_that_cannot_work_together(monkeypatch: pytest.MonkeyPatch) -> None:
    (device, *_) = jax.devices()
    with pytest.raises(InputError, match="devices: there are no devices"):
        jaxrecon.make_mesh([])
    with pytest.raises(InputError, match=r"devices: .* is given twice; give each device once"):
        jaxrecon.make_mesh([device, device])
    two = [a_device("NVIDIA H100", 0), a_device("NVIDIA A100", 1)]
    monkeypatch.setattr(jax, "devices", lambda: two)
    with pytest.raises(InputError, match=r"of different kinds \(NVIDIA A100, NVIDIA H100\)"):
        jaxrecon.make_mesh()


def test_more_devices_than_there_are() -> None:
    count = len(jax.devices())
    with pytest.raises(InputError, match=f"devices={count + 1}: there are {count}") as caught:
        jaxrecon.make_mesh(count + 1)
    if jax.default_backend() == "cpu":
        assert f"JAX_NUM_CPU_DEVICES={count + 1}" in str(caught.value)


(ONE, *_) = jax.devices()
MESHES: list[tuple[Any, str]] = [
    (jax.make_mesh((1,), ("data",), (AxisType.Auto,), devices=[ONE]), "mesh: its axes are 'data'"),
    (
        jax.make_mesh((1, 1), ("views", "x"), (AxisType.Auto, AxisType.Explicit), devices=[ONE]),
        "mesh: the axis 'x' is Explicit; give jax.make_mesh the axis_types",
    ),
    (Mesh([ONE, ONE], ("views",)), "mesh: .* is given twice"),
    (1, "mesh: found int; make one with `make_mesh`"),
]


@pytest.mark.usefixtures("without_shape_checks")
@pytest.mark.parametrize(("mesh", "message"), MESHES)
def test_meshes_that_cannot_shard_views(mesh: Any, message: str) -> None:
    """Refused before weights are looked for."""
    for load in (jaxrecon.load, load_abstract):
        with pytest.raises(InputError, match=message):
            load("pi3-mini", mesh=mesh, attention=cast(Any, 0))
    with pytest.raises(InputError, match=message):
        Pipeline(cast(Any, None), "small", PI3_RESIZE, mesh=mesh)
