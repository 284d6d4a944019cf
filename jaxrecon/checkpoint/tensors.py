"""The numbers of a native checkpoint in safetensors files, written and read one at a time."""

import hashlib
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Shaped

from convert.engine import Plan, plan, stream
from convert.rules import Ignore, Rule
from convert.safetensors_file import StoredTensor, TensorSpec, deal_out, read_header, write_file
from convert.sources import open_source
from jaxrecon.checkpoint.config import (
    CONFIG_NAME,
    ORBAX_FOLDER,
    QUANTIZED_VERSION,
    check_header,
    entry_of,
    header_of,
    parameter_entries,
    read_config,
    write_config,
)
from jaxrecon.checkpoint.quantized import dequantized, quantized, quantized_specs, scale_path
from jaxrecon.errors import WeightsError
from jaxrecon.files import check_output_folder, replacing_folder
from jaxrecon.reading import is_file_name, is_plain_file, shown

MAX_SHARD_BYTES = 5_000_000_000

_READERS = min(8, os.cpu_count() or 1)
"""Threads that read ahead, and tensors that may wait in memory: of a released model 0.4 GB at most,
each. What takes long is their digests, 1.5 GB/s on a core that has an instruction for SHA-256."""


def convert_checkpoint(
    source_path: str | Path,
    folder: str | Path,
    *,
    rules: Sequence[Rule],
    ignored: Sequence[Ignore],
    targets: Mapping[str, tuple[int, ...]],
    header: Mapping[str, Any],
    overwrite: bool = False,
    int8: bool = False,
) -> Plan:
    """Converts an upstream checkpoint into a native one; returns what went where.

    Args:
      source_path: see `convert.sources.open_source`.
      folder: the checkpoint to write.
      rules, ignored: where upstream's tensors go, and which are left out.
      targets: path and shape of every parameter of the model.
      header: see `write`.
      overwrite: replace the folder if it exists.
      int8: see `write`.

    Raises:
      WeightsError: the source is damaged, does not hold exactly this model's parameters, or has
        numbers that are not finite.
      OutputError: the folder exists and is not empty, holds the source, or cannot be written.
    """
    check_output_folder(folder, overwrite=overwrite, inputs=[source_path])
    source = open_source(source_path)
    planned = plan(source.specs, rules, ignored, targets, label=str(source_path))
    write(folder, stream(planned, source), planned.specs, header, overwrite=overwrite, int8=int8)
    return planned


def write(
    folder: str | Path,
    tensors: Iterable[tuple[str, np.ndarray]],
    specs: Mapping[str, TensorSpec],
    header: Mapping[str, Any],
    *,
    overwrite: bool = False,
    max_shard_bytes: int = MAX_SHARD_BYTES,
    int8: bool = False,
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
      int8: store large matrices in 8 bits, with a scale for each column. They are read as float32.

    Raises:
      OutputError: the folder exists and is not empty, or cannot be written.
      ValueError: the header has other keys, or another tensor comes than the one whose turn it is.
      WeightsError: a tensor that is to be stored in 8 bits is not finite.
    """
    check_header(header)
    if int8:
        tensors, specs = quantized(tensors), quantized_specs(specs)
    entries: dict[str, Any] = {}
    with replacing_folder(folder, overwrite=overwrite) as place:
        arriving = iter(tensors)
        for name, members in deal_out(specs, max_shard_bytes).items():
            hashes = write_file(place / name, members, arriving)
            entries |= {path: entry_of(name, spec, hashes[path]) for path, spec in members.items()}
        for path, _ in arriving:
            raise ValueError(f"{path} comes after the last tensor of the checkpoint")
        write_config(place, header, entries, int8=int8)


def rewrite(
    source: str | Path, folder: str | Path, *, overwrite: bool = False, int8: bool = False
) -> None:
    """Writes the parameters of a native checkpoint into another, see `write`.

    Raises:
      WeightsError: the source is absent or damaged, or was written by Orbax.
      OutputError: the folder exists and is not empty, holds the source, or cannot be written.
    """
    check_output_folder(folder, overwrite=overwrite, inputs=[source])
    config = read_config(source)
    specs = {
        path: TensorSpec(tuple(entry["shape"]), _read_dtype(entry["dtype"], config))
        for path, entry in parameter_entries(config).items()
    }
    tensors = read_tensors(source)
    write(folder, tensors, specs, header_of(config), overwrite=overwrite, int8=int8)


def _read_dtype(name: str, config: Mapping[str, Any]) -> np.dtype:
    """The number format in which `read_tensors` yields what is stored in another."""
    quantized = name == "int8" and config["format_version"] == QUANTIZED_VERSION
    return np.dtype(np.float32) if quantized else jnp.dtype(name)


def read_tensors(
    folder: str | Path,
    paths: Iterable[str] | None = None,
    *,
    verify: bool = True,
    dtypes: Mapping[str, np.dtype] | None = None,
    ahead: bool = False,
) -> Iterator[tuple[str, Shaped[np.ndarray, "..."]]]:
    """Yields the parameters in a native checkpoint one at a time, each in memory of its own.

    Matrices that are stored in 8 bits come as float32.

    Args:
      folder: the checkpoint.
      paths: which tensors, in which order; all if not given.
      verify: compare each tensor's bytes with the SHA-256 in `config.json`.
      dtypes: what tensors of these paths are cast to while they are read, unless they are stored
        in 8 bits.
      ahead: whether threads read, verify and cast the next few tensors meanwhile, which then are in
        memory too.

    Raises:
      WeightsError: a tensor is absent, or a file is missing, truncated or damaged.
    """
    folder = Path(folder)
    config = read_config(folder)
    entries, wanted = config["tensors"], parameter_entries(config)
    stored = _stored_tensors(folder, entries)
    casts = {} if dtypes is None else dtypes

    def read(path: str, dtype: np.dtype | None = None) -> Shaped[np.ndarray, "..."]:
        return _read(stored[path], path, entries[path]["sha256"] if verify else None, dtype)

    def parameter(path: str) -> Shaped[np.ndarray, "..."]:
        if path not in wanted:
            raise WeightsError(f"{folder} holds no tensor {path[:100]}; check the name")
        scale = scale_path(path)
        if scale in entries and scale not in wanted:
            return dequantized(f"{folder}: {path[:100]}", read(path), read(scale))
        return read(path, casts.get(path))

    chosen = list(wanted if paths is None else paths)
    return _ahead(parameter, chosen) if ahead else ((path, parameter(path)) for path in chosen)


def _ahead[X](read: Callable[[str], X], paths: Iterable[str]) -> Iterator[tuple[str, X]]:
    """What is read of each path, in order, while threads read the next few."""
    waiting: deque[tuple[str, Future[X]]] = deque()
    with ThreadPoolExecutor(_READERS) as pool:
        try:
            for path in paths:
                waiting.append((path, pool.submit(read, path)))
                if len(waiting) > _READERS:
                    yield _first(waiting)
            while waiting:
                yield _first(waiting)
        finally:
            for _, future in waiting:
                future.cancel()


def _first[X](waiting: "deque[tuple[str, Future[X]]]") -> tuple[str, X]:
    path, future = waiting.popleft()
    return path, future.result()


def _read(
    stored: StoredTensor, path: str, sha256: str | None, dtype: np.dtype | None
) -> Shaped[np.ndarray, "..."]:
    digest = hashlib.sha256()
    tensor = stored.read(dtype, seen=None if sha256 is None else digest.update)
    if sha256 is not None and digest.hexdigest() != sha256:
        raise WeightsError(
            f"{stored.file} is damaged: the bytes of {path[:100]} have changed since it was "
            "written; copy or convert the checkpoint again"
        )
    return tensor


def _stored_tensors(folder: Path, entries: Mapping[str, Any]) -> dict[str, StoredTensor]:
    """Where each tensor lies, after comparing the files' headers with `config.json`."""
    stored: dict[str, StoredTensor] = {}
    for name in dict.fromkeys(entry["file"] for entry in entries.values()):
        if name == ORBAX_FOLDER:
            raise WeightsError(f"{folder}: {name} is not a safetensors file; use load_orbax")
        if not is_file_name(name):
            raise WeightsError(
                f"{folder}: {CONFIG_NAME} names the file {name[:100]}, which is not one in the "
                "folder; copy or convert the checkpoint again"
            )
        if not is_plain_file(folder / name):
            raise WeightsError(f"{folder / name} is missing; copy or convert the checkpoint again")
        found = read_header(folder / name)
        for path in found.keys() & stored.keys():
            raise WeightsError(
                f"{folder / name} holds the tensor {path[:100]}, and so does "
                f"{stored[path].file.name}; copy or convert the checkpoint again"
            )
        stored |= found
    for path in sorted(entries.keys() | stored.keys()):
        listed = entries[path] | {"sha256": None} if path in entries else None
        place = stored.get(path)
        found_entry = None if place is None else entry_of(place.file.name, place.spec, None)
        if found_entry != listed:
            raise WeightsError(
                f"{folder}: tensor {path[:100]} is {shown(found_entry, 120)} in the files but "
                f"{shown(listed, 120)} in {CONFIG_NAME}; copy or convert the checkpoint again"
            )
    return stored
