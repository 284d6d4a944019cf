"""Modules from native checkpoints and to them, in safetensors files or in Orbax's."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Sharding, SingleDeviceSharding
from jaxtyping import Array, Shaped

from convert.mismatch import compare_shapes
from convert.safetensors_file import TensorSpec
from jaxrecon.checkpoint.config import (
    ORBAX_FOLDER,
    check_header,
    entry_of,
    parameter_entries,
    read_config,
    write_config,
)
from jaxrecon.checkpoint.digests import check_digests, digests_of
from jaxrecon.checkpoint.orbax_failures import orbax_failure, orbax_silenced
from jaxrecon.checkpoint.paths import flatten, shapes, unflatten
from jaxrecon.checkpoint.tensors import read_tensors, write
from jaxrecon.errors import WeightsError, reason_of
from jaxrecon.files import replacing_folder, uninterrupted
from jaxrecon.forking import check_not_forked


def restore[M: nnx.Module](
    abstract: M,
    tensors: Iterable[tuple[str, np.ndarray]],
    *,
    sharding: Sharding | None = None,
    label: str = "the checkpoint",
) -> M:
    """A module with weights, put on the device one tensor at a time.

    Args:
      abstract: the module with shapes and dtypes for leaves (`jax.eval_shape`). Each tensor is cast
        to its leaf's dtype on the host, and goes to its leaf's sharding if the leaf has one.
      tensors: path and array, each path once. On the CPU the module may go on using the memory
        of an array: do not change it afterwards.
      sharding: where the other leaves go; the default device if not given.
      label: what the checkpoint is called in an error.

    Raises:
      WeightsError: tensors are missing, unexpected or of another shape; one error lists them all.
    """
    check_not_forked()
    leaves = flatten(abstract)
    found: dict[str, tuple[int, ...]] = {}
    weights: dict[str, Array] = {}
    for path, tensor in tensors:
        found[path] = tensor.shape
        leaf = leaves.get(path)
        if leaf is not None and tensor.shape == leaf.shape:
            cast = np.asarray(tensor).astype(leaf.dtype, copy=False)
            where = leaf.sharding or sharding
            weights[path] = jax.device_put(cast, where, may_alias=True).block_until_ready()
    compare_shapes(found, shapes(abstract)).raise_if_any(label)
    return unflatten(abstract, weights)


def load[M: nnx.Module](
    folder: str | Path,
    abstract: M,
    *,
    sharding: Sharding | None = None,
    unread: str | tuple[str, ...] = (),
) -> M:
    """A module with the weights of a checkpoint folder, written by `save` or by `save_orbax`.

    Args:
      folder: the checkpoint.
      abstract, sharding: see `restore`.
      unread: tensors whose paths begin so are left alone.

    Raises:
      WeightsError: the checkpoint is absent or damaged, or does not hold exactly these parameters.
    """
    entries = parameter_entries(read_config(folder))
    if any(entry["file"] == ORBAX_FOLDER for entry in entries.values()):
        return load_orbax(folder, abstract, sharding=sharding, unread=unread)
    wanted = _wanted(entries, unread)
    _check_shapes(folder, wanted, abstract)
    dtypes = {path: np.dtype(leaf.dtype) for path, leaf in flatten(abstract).items()}
    tensors = read_tensors(folder, wanted, dtypes=dtypes, ahead=True)
    return restore(abstract, tensors, sharding=sharding, label=str(folder))


def _wanted(entries: Mapping[str, Any], unread: str | tuple[str, ...]) -> dict[str, Any]:
    """The tensors that are to be read."""
    return {path: entry for path, entry in entries.items() if not path.startswith(unread)}


def _check_shapes(
    folder: str | Path, entries: Mapping[str, Mapping[str, Any]], abstract: nnx.Module
) -> None:
    """Refuses a checkpoint whose parameters are not the module's, before any of them is read."""
    stored = {path: tuple(entry["shape"]) for path, entry in entries.items()}
    compare_shapes(stored, shapes(abstract)).raise_if_any(str(folder))


def save(
    module: nnx.Module,
    folder: str | Path,
    header: Mapping[str, Any],
    *,
    overwrite: bool = False,
    int8: bool = False,
) -> None:
    """Writes a module's weights as a native checkpoint, in the dtypes that they have.

    With `int8`, large matrices are stored in 8 bits; see `write`.

    Raises:
      OutputError: the folder exists and is not empty, or cannot be written.
    """
    check_not_forked()
    leaves = flatten(module)
    tensors = ((path, _to_host(leaf)) for path, leaf in leaves.items())
    write(folder, tensors, _specs(leaves), header, overwrite=overwrite, int8=int8)


def _to_host(leaf: Array | np.ndarray) -> Shaped[np.ndarray, "..."]:
    # A jax.Array keeps the host copy that NumPy asks of it, so the copy is asked of a passing one.
    return np.asarray(jnp.copy(leaf))


def _specs(leaves: Mapping[str, Any]) -> dict[str, TensorSpec]:
    return {path: TensorSpec(tuple(leaf.shape), leaf.dtype) for path, leaf in leaves.items()}


def save_orbax(
    module: nnx.Module, folder: str | Path, header: Mapping[str, Any], *, overwrite: bool = False
) -> None:
    """Writes a module's weights with Orbax, shard by shard where they are sharded.

    Raises:
      OutputError: the folder exists and is not empty, or cannot be written.
    """
    check_not_forked()
    check_header(header)
    leaves = flatten(module)
    with replacing_folder(folder, overwrite=overwrite) as place:
        _write_orbax(place.absolute() / ORBAX_FOLDER, leaves)
        entries = {
            path: entry_of(ORBAX_FOLDER, spec, None) for path, spec in _specs(leaves).items()
        }
        write_config(place, header, entries, digests_of(place / ORBAX_FOLDER))


def _write_orbax(folder: Path, leaves: Mapping[str, Any]) -> None:
    """Writes arrays with Orbax, whose threads must not be left in the middle of it."""
    import orbax.checkpoint as ocp

    with uninterrupted(), orbax_silenced():
        try:
            with ocp.StandardCheckpointer() as checkpointer:
                checkpointer.save(folder, leaves)
        except Exception as error:
            raise orbax_failure(folder.parent, error, folder) from error


def load_orbax[M: nnx.Module](
    folder: str | Path,
    abstract: M,
    *,
    sharding: Sharding | None = None,
    unread: str | tuple[str, ...] = (),
) -> M:
    """A module with the weights that `save_orbax` wrote, read straight into its shardings.

    The files are compared with their SHA-256 in `config.json` before Orbax reads any of them.
    Checkpoints of versions that wrote none are read without.

    Args:
      folder: the checkpoint.
      abstract, sharding: see `restore`.
      unread: see `load`.

    Raises:
      WeightsError: the checkpoint is absent or damaged, or does not hold exactly these parameters.
    """
    check_not_forked()
    folder = Path(folder).absolute()
    config = read_config(folder)
    entries = config["tensors"]
    if any(entry["file"] != ORBAX_FOLDER for entry in entries.values()):
        raise WeightsError(f"{folder} was not written by Orbax; use read_tensors and restore")
    wanted = _wanted(entries, unread)
    _check_shapes(folder, wanted, abstract)
    if "files" in config:
        check_digests(folder / ORBAX_FOLDER, config["files"])
    sharding = sharding or SingleDeviceSharding(jax.devices()[0])
    targets = {
        path: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding or sharding)
        for path, leaf in flatten(abstract).items()
    }
    # Where reads fail side by side Orbax lets all but one go, and each then prints a page, at exit
    # or before: what was not compared with digests is read one by one.
    groups = [targets] if "files" in config else [{path: targets[path]} for path in targets]
    weights: dict[str, Array] = {}
    for group in groups:
        weights |= _restored(folder / ORBAX_FOLDER, group)
    return unflatten(abstract, weights)


def _restored(folder: Path, targets: Mapping[str, jax.ShapeDtypeStruct]) -> dict[str, Array]:
    """What Orbax reads of a folder: these tensors and no others."""
    import orbax.checkpoint as ocp

    like = dict(targets)
    arguments = ocp.args.PyTreeRestore(
        item=like,
        restore_args=ocp.checkpoint_utils.construct_restore_args(like),
        partial_restore=True,
    )
    try:
        with ocp.PyTreeCheckpointer() as checkpointer:
            return checkpointer.restore(folder, args=arguments)
    except Exception as error:  # Orbax wraps what goes wrong in a plain Exception
        raise WeightsError(
            f"{folder} is damaged ({reason_of(error)[:120]}); copy or write the checkpoint again"
        ) from error
