"""Checkpoints with matrices in 8 bits."""

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from flax import nnx
from safetensors.numpy import load_file, save_file

from convert.safetensors_file import TensorSpec
from drawn_weights import drawn
from jaxrecon import checkpoint
from jaxrecon.cli import main
from jaxrecon.errors import WeightsError
from jaxrecon.models import Pi3
from tiny_models import PI3_TINY

RANDOM = np.random.default_rng(0)
HEADER = {"family": "f", "model": "m", "config": {}, "license": "", "source": {}}
TENSORS: dict[str, np.ndarray] = {
    "plain.kernel": RANDOM.normal(size=(64, 96)).astype(np.float32),
    "half.kernel": RANDOM.normal(size=(80, 64)).astype(ml_dtypes.bfloat16),
    "blocks.kernel": RANDOM.normal(size=(3, 64, 40)).astype(np.float32) * [[[1]], [[1e-3]], [[9]]],
    "small.kernel": RANDOM.normal(size=(4, 4)).astype(np.float32),
    "conv.kernel": RANDOM.normal(size=(3, 3, 32, 32)).astype(np.float32),
    "plain.bias": RANDOM.normal(size=(5000,)).astype(np.float32),
    "norm.scale": RANDOM.normal(size=(64, 96)).astype(np.float32),
}
TENSORS["blocks.kernel"] = TENSORS["blocks.kernel"].astype(np.float32)
TENSORS["plain.kernel"][:, 7] = 0
WHOLE = ("plain.kernel", "half.kernel", "blocks.kernel")


def write(folder: Path, *, int8: bool = True, **options: Any) -> Path:
    specs = {path: TensorSpec(x.shape, x.dtype) for path, x in TENSORS.items()}
    checkpoint.write(folder, TENSORS.items(), specs, HEADER, int8=int8, **options)
    return folder


@pytest.mark.parametrize("shard", [5_000_000_000, 20_000], ids=["one file", "several"])
def test_large_matrices_are_rounded_and_nothing_else(tmp_path: Path, shard: int) -> None:
    folder = write(tmp_path / "it", max_shard_bytes=shard)
    read = dict(checkpoint.read_tensors(folder))
    assert list(read) == list(TENSORS)
    for path, tensor in TENSORS.items():
        if path not in WHOLE:
            assert read[path].dtype == tensor.dtype
            np.testing.assert_array_equal(read[path], tensor)
            continue
        exact, found = tensor.astype(np.float32), read[path]
        step = np.abs(exact).max(axis=-2, keepdims=True) / 127
        assert found.dtype == np.float32
        assert (np.abs(found - exact) <= step / 2 * (1 + 1e-5)).all()
        np.testing.assert_allclose(
            np.abs(found).max(axis=-2), np.abs(exact).max(axis=-2), rtol=1e-6
        )
    assert (read["plain.kernel"][:, 7] == 0).all()


def test_the_file_is_a_quarter(tmp_path: Path) -> None:
    stored = load_file(write(tmp_path / "it") / "model.safetensors")
    for path in WHOLE:
        assert stored[path].dtype == np.int8
        assert stored[f"{path}.scale"].shape == (
            *stored[path].shape[:-2],
            1,
            stored[path].shape[-1],
        )


def test_some_tensors_alone(tmp_path: Path) -> None:
    folder = write(tmp_path / "it")
    ((path, tensor),) = checkpoint.read_tensors(folder, ["half.kernel"])
    assert (path, tensor.shape) == ("half.kernel", (80, 64))
    with pytest.raises(WeightsError, match=r"holds no tensor plain\.kernel\.scale"):
        list(checkpoint.read_tensors(folder, ["plain.kernel.scale"]))


def test_whole_numbers_of_earlier_checkpoints_stay_whole(tmp_path: Path) -> None:
    tensors = {"a.kernel": np.arange(-8, 8, dtype=np.int8).reshape(4, 4)}
    specs = {path: TensorSpec(x.shape, x.dtype) for path, x in tensors.items()}
    checkpoint.write(tmp_path / "it", tensors.items(), specs, HEADER)
    assert json.loads((tmp_path / "it" / "config.json").read_text())["format_version"] == 1
    np.testing.assert_array_equal(
        dict(checkpoint.read_tensors(tmp_path / "it"))["a.kernel"], tensors["a.kernel"]
    )


def test_a_number_that_is_not_finite_is_refused_and_nothing_stays(tmp_path: Path) -> None:
    tensor = np.full((64, 64), np.nan, np.float32)
    spec = {"a.kernel": TensorSpec(tensor.shape, tensor.dtype)}
    with pytest.raises(WeightsError, match=r"a\.kernel holds numbers that are not finite"):
        checkpoint.write(tmp_path / "it", [("a.kernel", tensor)], spec, HEADER, int8=True)
    assert not list(tmp_path.iterdir())


def _without_scale(config: dict[str, Any]) -> None:
    del config["tensors"]["plain.kernel.scale"]


def _other_shape(config: dict[str, Any]) -> None:
    config["tensors"]["plain.kernel.scale"]["shape"] = [96]


def _other_dtype(config: dict[str, Any]) -> None:
    config["tensors"]["plain.kernel.scale"]["dtype"] = "float16"


def _a_vector(config: dict[str, Any]) -> None:
    config["tensors"]["plain.bias"]["dtype"] = "int8"


@pytest.mark.parametrize("damage", [_without_scale, _other_shape, _other_dtype, _a_vector])
def test_matrices_without_their_scales_are_refused(
    tmp_path: Path, damage: Callable[[dict[str, Any]], None]
) -> None:
    path = write(tmp_path / "it") / "config.json"
    config = json.loads(path.read_text())
    damage(config)
    path.write_text(json.dumps(config))
    with pytest.raises(WeightsError, match="8 bits, but float32 scales of shape") as caught:
        list(checkpoint.read_tensors(tmp_path / "it"))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("value", [0.0, -1.0, np.nan, np.inf])
def test_scales_that_are_not_positive_are_refused(tmp_path: Path, value: float) -> None:
    path = write(tmp_path / "it") / "model.safetensors"
    tensors = load_file(path)
    tensors["plain.kernel.scale"][0, 3] = value
    save_file(tensors, path)
    with pytest.raises(WeightsError, match="the scales of its columns must be positive"):
        list(checkpoint.read_tensors(tmp_path / "it", verify=False))
    with pytest.raises(WeightsError, match=r"the bytes of plain\.kernel\.scale have changed"):
        list(checkpoint.read_tensors(tmp_path / "it"))


def test_a_model_is_rewritten_and_read_back(tmp_path: Path) -> None:
    """From the command line: half to 8 bits, whose predictions are close, and back to float32."""
    model = drawn(lambda: Pi3(PI3_TINY, rngs=nnx.Rngs(0)))
    header = HEADER | {"family": "pi3", "model": "pi3-mini", "config": asdict(PI3_TINY)}
    first, second, third = (str(tmp_path / name) for name in ("first", "second", "third"))
    checkpoint.save(model, first, header)
    assert main(["convert", "pi3-mini", first, "-o", second, "--int8", "-q"]) == 0
    assert main(["convert", "pi3-mini", second, "-o", third, "-q"]) == 0
    sizes = [(Path(path) / "model.safetensors").stat().st_size for path in (first, second, third)]
    assert sizes[1] < 0.3 * sizes[0] and sizes[2] == sizes[0]
    abstract = jax.eval_shape(lambda: Pi3(PI3_TINY, rngs=nnx.Rngs(0)))
    rounded, again = (checkpoint.load(path, abstract) for path in (second, third))
    for a, b in zip(jax.tree.leaves(rounded), jax.tree.leaves(again), strict=True):
        np.testing.assert_array_equal(a, b)
    images = jax.random.uniform(jax.random.key(0), (1, 2, 28, 28, 3))
    exact, found = (jax.jit(lambda m: m(images).points_camera)(m) for m in (model, rounded))
    error = jnp.abs(found - exact).max() / jnp.abs(exact).max()
    assert 0 < float(error) < 0.1


def test_another_model_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write(tmp_path / "it")
    assert main(["convert", "pi3", str(folder), "-o", str(tmp_path / "out")]) != 0
    assert "holds m, not pi3; name that model" in capsys.readouterr().err
