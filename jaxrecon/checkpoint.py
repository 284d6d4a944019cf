"""Native checkpoints: our own parameter paths, strict both ways, one tensor in memory at a time.

A checkpoint is a folder. `config.json` says which model it is and lists every tensor with its file,
shape, dtype and SHA-256. The numbers are in `model.safetensors`, or where one file would be too
large in `model-00001-of-00002.safetensors` and so on, or in a folder of Orbax's. A parameter's path
is the names of the attributes that lead to it, joined by dots.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Sharding, SingleDeviceSharding
from jaxtyping import Array, Shaped

from convert.engine import Plan, plan, stream
from convert.mismatch import compare_shapes
from convert.rules import Ignore, Rule
from convert.safetensors_file import StoredTensor, TensorSpec, deal_out, read_header, write_file
from convert.sources import open_source
from jaxrecon.errors import WeightsError
from jaxrecon.files import check_output_folder, replacing_folder
from jaxrecon.pytree import leaf_path

CONFIG_NAME = "config.json"
FORMAT_VERSION = 1
MAX_SHARD_BYTES = 5_000_000_000

_ORBAX_FOLDER = "arrays"
_HEADER = {"family": str, "model": str, "config": dict, "license": str, "source": dict}
_OPTIONAL = {"resize": dict}
_FIELDS = {"format": str, "format_version": int, **_HEADER, "tensors": dict}
_TENSOR_FIELDS = {"file": str, "shape": list, "dtype": str, "sha256": str | None}


def flatten(module: nnx.Module) -> dict[str, Any]:
    """The leaves of a module by path: arrays, or shapes and dtypes if it is abstract."""
    leaves = jax.tree_util.tree_leaves_with_path(module)
    return {leaf_path(keys): leaf for keys, leaf in leaves}


def unflatten[M: nnx.Module](module: M, leaves: Mapping[str, Any]) -> M:
    """`module` with other leaves; `leaves` has exactly the paths that `flatten` gives."""
    return jax.tree_util.tree_map_with_path(lambda keys, _: leaves[leaf_path(keys)], module)


def shapes(module: nnx.Module) -> dict[str, tuple[int, ...]]:
    """Shape of every parameter by path."""
    return {path: tuple(leaf.shape) for path, leaf in flatten(module).items()}


def convert_checkpoint(
    source_path: str | Path,
    folder: str | Path,
    *,
    rules: Sequence[Rule],
    ignored: Sequence[Ignore],
    targets: Mapping[str, tuple[int, ...]],
    header: Mapping[str, Any],
    overwrite: bool = False,
) -> Plan:
    """Converts an upstream checkpoint into a native one; returns what went where.

    Args:
      source_path: see `convert.sources.open_source`.
      folder: the checkpoint to write.
      rules, ignored: where upstream's tensors go, and which are left out.
      targets: path and shape of every parameter of the model.
      header: see `write`.
      overwrite: replace the folder if it exists.

    Raises:
      WeightsError: the source is damaged, or does not hold exactly this model's parameters.
      OutputError: the folder exists and is not empty, or cannot be written.
    """
    check_output_folder(folder, overwrite=overwrite)
    source = open_source(source_path)
    planned = plan(source.specs, rules, ignored, targets, label=str(source_path))
    write(folder, stream(planned, source), planned.specs, header, overwrite=overwrite)
    return planned


def write(
    folder: str | Path,
    tensors: Iterable[tuple[str, np.ndarray]],
    specs: Mapping[str, TensorSpec],
    header: Mapping[str, Any],
    *,
    overwrite: bool = False,
    max_shard_bytes: int = MAX_SHARD_BYTES,
) -> None:
    """Writes a native checkpoint while its tensors arrive; the folder appears when it is complete.

    Args:
      folder: the checkpoint to write.
      tensors: path and array, in the order of `specs`.
      specs: path, shape and dtype of every tensor.
      header: the keys "family", "model", "config", "license" and "source", and "resize" if the
        images' size is not the family's; plain JSON.
      overwrite: replace the folder if it exists.
      max_shard_bytes: starts another file where one would grow larger than this.

    Raises:
      OutputError: the folder exists and is not empty, or cannot be written.
      ValueError: the header has other keys, or another tensor comes than the one whose turn it is.
    """
    _check_header(header)
    entries: dict[str, Any] = {}
    with replacing_folder(folder, overwrite=overwrite) as place:
        arriving = iter(tensors)
        for name, members in deal_out(specs, max_shard_bytes).items():
            hashes = write_file(place / name, members, arriving)
            entries |= {path: _entry(name, spec, hashes[path]) for path, spec in members.items()}
        for path, _ in arriving:
            raise ValueError(f"{path} comes after the last tensor of the checkpoint")
        _write_config(place, header, entries)


def _entry(file: str, spec: TensorSpec, sha256: str | None) -> dict[str, Any]:
    return {"file": file, "shape": list(spec.shape), "dtype": spec.dtype.name, "sha256": sha256}


def header_of(config: Mapping[str, Any]) -> dict[str, Any]:
    """The header alone, of what `read_config` returns."""
    return {key: config[key] for key in _HEADER | _OPTIONAL if key in config}


def _check_header(header: Mapping[str, Any]) -> None:
    if not _HEADER.keys() <= header.keys() <= (_HEADER | _OPTIONAL).keys():
        raise ValueError(f"header must have the keys {sorted(_HEADER)}, found {sorted(header)}")


def _write_config(place: Path, header: Mapping[str, Any], entries: Mapping[str, Any]) -> None:
    values = {
        "format": "jaxrecon",
        "format_version": FORMAT_VERSION,
        **header_of(header),
        "tensors": entries,
    }
    text = json.dumps(values, indent=1, ensure_ascii=False) + "\n"
    (place / CONFIG_NAME).write_text(text, encoding="utf-8")


def is_native(folder: str | Path) -> bool:
    """Whether a folder claims to be a native checkpoint; `read_config` tells if it is sound."""
    return (Path(folder) / CONFIG_NAME).is_file()


def read_config(folder: str | Path) -> dict[str, Any]:
    """What `config.json` holds: the header, and file, shape, dtype and SHA-256 of each tensor.

    Raises:
      WeightsError: it is absent or damaged, or of a format that this version does not know.
    """
    path = Path(folder) / CONFIG_NAME
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError) as error:
        raise WeightsError(
            f"{folder} is not a native checkpoint: it holds no {CONFIG_NAME}; "
            "convert upstream weights with `jaxrecon convert`"
        ) from error
    except (OSError, ValueError) as error:
        raise WeightsError(f"cannot read {path}: {error}; convert the weights again") from error
    if not isinstance(values, dict) or values.get("format") != "jaxrecon":
        raise WeightsError(
            f"{path} is not the config of a native checkpoint; "
            "convert upstream weights with `jaxrecon convert`"
        )
    if values.get("format_version") != FORMAT_VERSION:
        raise WeightsError(
            f"{path} has format_version {values.get('format_version')}, this version reads "
            f"{FORMAT_VERSION}; install a newer jaxrecon or convert the weights again"
        )
    stated = {key: kind for key, kind in _OPTIONAL.items() if key in values}
    _check_fields(values, _FIELDS | stated, str(path))
    for name, entry in values["tensors"].items():
        _check_fields(entry, _TENSOR_FIELDS, f"{path}: tensor {name}")
    return values


def _check_fields(values: Any, fields: Mapping[str, Any], where: str) -> None:
    if (
        not isinstance(values, dict)
        or values.keys() != fields.keys()
        or not all(isinstance(values[name], kind) for name, kind in fields.items())
    ):
        raise WeightsError(
            f"{where} must have exactly the fields {', '.join(fields)}, each of its type; "
            "convert the weights again with this version"
        )


def read_tensors(
    folder: str | Path, paths: Iterable[str] | None = None, *, verify: bool = True
) -> Iterator[tuple[str, Shaped[np.ndarray, "..."]]]:
    """Yields the tensors of a native checkpoint one at a time, each in memory of its own.

    Args:
      folder: the checkpoint.
      paths: which tensors, in which order; all if not given.
      verify: compare each tensor's bytes with the SHA-256 in `config.json`.

    Raises:
      WeightsError: a tensor is absent, or a file is missing, truncated or damaged.
    """
    folder = Path(folder)
    entries = read_config(folder)["tensors"]
    stored = _stored_tensors(folder, entries)
    for path in entries if paths is None else paths:
        if path not in entries:
            raise WeightsError(f"{folder} holds no tensor {path}; check the name")
        yield path, _read(stored[path], path, entries[path]["sha256"] if verify else None)


def _read(stored: StoredTensor, path: str, sha256: str | None) -> Shaped[np.ndarray, "..."]:
    tensor = stored.read()
    if sha256 and hashlib.sha256(tensor.reshape(-1).view(np.uint8)).hexdigest() != sha256:
        raise WeightsError(
            f"{stored.file} is damaged: the bytes of {path} have changed since it was written; "
            "copy or convert the checkpoint again"
        )
    return tensor


def _stored_tensors(folder: Path, entries: Mapping[str, Any]) -> dict[str, StoredTensor]:
    """Where each tensor lies, after comparing the files' headers with `config.json`."""
    stored: dict[str, StoredTensor] = {}
    for name in dict.fromkeys(entry["file"] for entry in entries.values()):
        if Path(name).name != name or name == _ORBAX_FOLDER:
            raise WeightsError(f"{folder}: {name} is not a safetensors file; use load_orbax")
        if not (folder / name).is_file():
            raise WeightsError(f"{folder / name} is missing; copy or convert the checkpoint again")
        stored |= read_header(folder / name)
    for path in sorted(entries.keys() | stored.keys()):
        found = _entry(stored[path].file.name, stored[path].spec, None) if path in stored else None
        listed = entries[path] | {"sha256": None} if path in entries else None
        if found != listed:
            raise WeightsError(
                f"{folder}: tensor {path} is {found} in the files but {listed} in {CONFIG_NAME}; "
                "copy or convert the checkpoint again"
            )
    return stored


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
    unread: str | None = None,
) -> M:
    """A module with the weights of a checkpoint folder, written by `save` or by `save_orbax`.

    Args:
      folder: the checkpoint.
      abstract, sharding: see `restore`.
      unread: tensors whose paths begin so are left alone.

    Raises:
      WeightsError: the checkpoint is absent or damaged, or does not hold exactly these parameters.
    """
    entries = read_config(folder)["tensors"]
    if any(entry["file"] == _ORBAX_FOLDER for entry in entries.values()):
        return load_orbax(folder, abstract, sharding=sharding, unread=unread)
    wanted = _wanted(entries, unread)
    _check_shapes(folder, wanted, abstract)
    return restore(abstract, read_tensors(folder, wanted), sharding=sharding, label=str(folder))


def _wanted(entries: Mapping[str, Any], unread: str | None) -> dict[str, Any]:
    """The tensors that are to be read."""
    return {
        path: entry
        for path, entry in entries.items()
        if unread is None or not path.startswith(unread)
    }


def _check_shapes(
    folder: str | Path, entries: Mapping[str, Mapping[str, Any]], abstract: nnx.Module
) -> None:
    """Refuses a checkpoint whose parameters are not the module's, before any of them is read."""
    stored = {path: tuple(entry["shape"]) for path, entry in entries.items()}
    compare_shapes(stored, shapes(abstract)).raise_if_any(str(folder))


def save(
    module: nnx.Module, folder: str | Path, header: Mapping[str, Any], *, overwrite: bool = False
) -> None:
    """Writes a module's weights as a native checkpoint, in the dtypes that they have.

    Raises:
      OutputError: the folder exists and is not empty, or cannot be written.
    """
    leaves = flatten(module)
    tensors = ((path, _to_host(leaf)) for path, leaf in leaves.items())
    write(folder, tensors, _specs(leaves), header, overwrite=overwrite)


def _to_host(leaf: Array) -> Shaped[np.ndarray, "..."]:
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
    import orbax.checkpoint as ocp

    _check_header(header)
    leaves = flatten(module)
    with replacing_folder(folder, overwrite=overwrite) as place:
        with ocp.StandardCheckpointer() as checkpointer:
            checkpointer.save(place.absolute() / _ORBAX_FOLDER, leaves)
        entries = {path: _entry(_ORBAX_FOLDER, spec, None) for path, spec in _specs(leaves).items()}
        _write_config(place, header, entries)


def load_orbax[M: nnx.Module](
    folder: str | Path,
    abstract: M,
    *,
    sharding: Sharding | None = None,
    unread: str | None = None,
) -> M:
    """A module with the weights that `save_orbax` wrote, read straight into its shardings.

    Args:
      folder: the checkpoint.
      abstract, sharding: see `restore`.
      unread: see `load`; Orbax reads these tensors too, and they are dropped.

    Raises:
      WeightsError: the checkpoint is absent or damaged, or does not hold exactly these parameters.
    """
    import orbax.checkpoint as ocp

    folder = Path(folder).absolute()
    entries = read_config(folder)["tensors"]
    if any(entry["file"] != _ORBAX_FOLDER for entry in entries.values()):
        raise WeightsError(f"{folder} was not written by Orbax; use read_tensors and restore")
    wanted = _wanted(entries, unread)
    _check_shapes(folder, wanted, abstract)
    sharding = sharding or SingleDeviceSharding(jax.devices()[0])
    targets = {
        path: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding or sharding)
        for path, leaf in flatten(abstract).items()
    }
    unwanted = {
        path: jax.ShapeDtypeStruct(entry["shape"], entry["dtype"], sharding=sharding)
        for path, entry in entries.items()
        if path not in wanted
    }
    try:
        with ocp.StandardCheckpointer() as checkpointer:
            weights = checkpointer.restore(folder / _ORBAX_FOLDER, targets | unwanted)
    except (ValueError, OSError, KeyError) as error:
        reason = str(error).strip().split("\n")[0][:120]
        raise WeightsError(
            f"{folder / _ORBAX_FOLDER} is damaged ({reason}); copy or write the checkpoint again"
        ) from error
    return unflatten(abstract, {path: weights[path] for path in targets})
