"""The `config.json` of a native checkpoint: which model it is, and a list of its tensors."""

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from convert.safetensors_file import TensorSpec, is_dtype_name, is_possible
from jaxrecon.checkpoint.quantized import check_scale, parameters, scale_path
from jaxrecon.errors import InputError, WeightsError
from jaxrecon.reading import is_plain_file, read_json, shown

CONFIG_NAME = "config.json"
FORMAT_VERSION, QUANTIZED_VERSION = 1, 2
"""Of checkpoints with all tensors in their own number format, and of those with some in 8 bits."""

ORBAX_FOLDER = "arrays"
"""What stands for a file where Orbax has the numbers, and where in the checkpoint's folder."""

_HEADER = {"family": str, "model": str, "config": dict, "license": str, "source": dict}
_OPTIONAL = {"resize": dict}
_FIELDS = {"format": str, "format_version": int, **_HEADER, "tensors": dict}
_DIGESTS = {"files": dict}
_TENSOR_FIELDS = {"file": str, "shape": list, "dtype": str, "sha256": str | None}
_FILE_FIELDS = {"bytes": int, "sha256": str}
_SHA256 = re.compile("[0-9a-f]{64}")
_ADVICE = "convert the weights again with this version"


def entry_of(file: str, spec: TensorSpec, sha256: str | None) -> dict[str, Any]:
    """What the config tells of a tensor."""
    return {"file": file, "shape": list(spec.shape), "dtype": spec.dtype.name, "sha256": sha256}


def header_of(config: Mapping[str, Any]) -> dict[str, Any]:
    """The header alone, of what `read_config` returns."""
    return {key: config[key] for key in _HEADER | _OPTIONAL if key in config}


def digest_of_tensors(config: Mapping[str, Any]) -> str | None:
    """Tells weights of one config apart, of what `read_config` returns, in however many files.

    None for Orbax's checkpoints of versions that kept no digests.
    """
    told = {name: entry["sha256"] for name, entry in config["tensors"].items()}
    if None in told.values():
        if "files" not in config:
            return None
        told = {name: entry["sha256"] for name, entry in config["files"].items()}
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:16]


def check_header(header: Mapping[str, Any]) -> None:
    """Raises ValueError if the header has other keys than `write` asks for."""
    if not _HEADER.keys() <= header.keys() <= (_HEADER | _OPTIONAL).keys():
        raise ValueError(f"header must have the keys {sorted(_HEADER)}, found {sorted(header)}")


def write_config(
    place: Path,
    header: Mapping[str, Any],
    entries: Mapping[str, Any],
    files: Mapping[str, Any] | None = None,
    *,
    int8: bool = False,
) -> None:
    """Writes the config of a checkpoint into its folder.

    Args:
      place: the folder.
      header: see `checkpoint.write`.
      entries: what `entry_of` tells of each tensor.
      files: size and SHA-256 of each file of Orbax's, where it has the numbers.
      int8: whether matrices are stored in 8 bits; see `checkpoint/quantized.py`.
    """
    values = {
        "format": "jaxrecon",
        "format_version": QUANTIZED_VERSION if int8 else FORMAT_VERSION,
        **header_of(header),
        **({} if files is None else {"files": files}),
        "tensors": entries,
    }
    text = json.dumps(values, indent=1, ensure_ascii=False) + "\n"
    (place / CONFIG_NAME).write_text(text, encoding="utf-8")


def parameter_entries(config: Mapping[str, Any]) -> dict[str, Any]:
    """The entries of the model's parameters, of what `read_config` returns."""
    quantized = config["format_version"] == QUANTIZED_VERSION
    return parameters(config["tensors"]) if quantized else config["tensors"]


def is_native(folder: str | Path) -> bool:
    """Whether a folder claims to be a native checkpoint; `read_config` tells if it is sound.

    Upstream's folders have a config.json too, which names no format.
    """
    path = Path(folder) / CONFIG_NAME
    if not is_plain_file(path):
        return False
    try:
        values = read_json(path)
    except InputError:  # damaged
        return True
    return not isinstance(values, dict) or "format" in values


def read_config(folder: str | Path) -> dict[str, Any]:
    """What `config.json` holds: the header, and file, shape, dtype and SHA-256 of each tensor.

    The tensors of Orbax have no SHA-256 of their own; "files" has one of each file instead, if the
    checkpoint was written by a version that took them.

    Raises:
      WeightsError: it is absent or damaged, or of a format that this version does not know.
    """
    path = Path(folder) / CONFIG_NAME
    if not is_plain_file(path):
        raise WeightsError(
            f"{folder} is not a native checkpoint: it holds no {CONFIG_NAME}; "
            "convert upstream weights with `jaxrecon convert`"
        )
    values = read_json(path, advice="convert the weights again", kind=WeightsError)
    if not isinstance(values, dict) or values.get("format") != "jaxrecon":
        raise WeightsError(
            f"{path} is not the config of a native checkpoint; "
            "convert upstream weights with `jaxrecon convert`"
        )
    version = values.get("format_version")
    if type(version) is not int or version not in (FORMAT_VERSION, QUANTIZED_VERSION):
        raise WeightsError(
            f"{path} has format_version {shown(version)}, this version reads {FORMAT_VERSION} and "
            f"{QUANTIZED_VERSION}; install a newer jaxrecon or convert the weights again"
        )
    optional = _OPTIONAL | _DIGESTS
    stated = {key: kind for key, kind in optional.items() if key in values}
    _check_fields(values, _FIELDS | stated, str(path))
    for name, entry in values["tensors"].items():
        _check_tensor(entry, f"{path}: tensor {name[:100]}")
    _check_files(values, path)
    if version == QUANTIZED_VERSION:
        _check_scales(values["tensors"], path)
    return values


def _check_fields(values: Any, fields: Mapping[str, Any], where: str) -> None:
    if (
        not isinstance(values, dict)
        or values.keys() != fields.keys()
        or not all(isinstance(values[name], kind) for name, kind in fields.items())
    ):
        raise WeightsError(
            f"{where} must have exactly the fields {', '.join(fields)}, each of its type; {_ADVICE}"
        )


def _check_tensor(entry: Any, where: str) -> None:
    """Refuses what `entry_of` never says of a tensor."""
    _check_fields(entry, _TENSOR_FIELDS, where)
    if not is_dtype_name(entry["dtype"]):
        raise WeightsError(f"{where} has the dtype {shown(entry['dtype'])}; {_ADVICE}")
    if not is_possible(entry["shape"]):
        raise WeightsError(f"{where} has the shape {shown(entry['shape'])}; {_ADVICE}")
    hashed = entry["sha256"] is not None
    if hashed == (entry["file"] == ORBAX_FOLDER) or (hashed and not _is_sha256(entry["sha256"])):
        raise WeightsError(f"{where} has the sha256 {shown(entry['sha256'])}; {_ADVICE}")


def _check_scales(tensors: Mapping[str, Any], path: Path) -> None:
    for name, entry in tensors.items():
        if entry["dtype"] == "int8":
            check_scale(f"{path}: tensor {name[:100]}", entry, tensors.get(scale_path(name)))


def _check_files(values: Mapping[str, Any], path: Path) -> None:
    """Refuses files of another library beside our own, and digests that are none."""
    orbax = {entry["file"] == ORBAX_FOLDER for entry in values["tensors"].values()}
    if len(orbax) > 1 or ("files" in values and False in orbax):
        raise WeightsError(f"{path} mixes files of Orbax with others; {_ADVICE}")
    for name, entry in values.get("files", {}).items():
        where = f"{path}: file {name[:100]}"
        _check_fields(entry, _FILE_FIELDS, where)
        if not _is_sha256(entry["sha256"]):
            raise WeightsError(f"{where} has the sha256 {shown(entry['sha256'])}; {_ADVICE}")


def _is_sha256(text: str) -> bool:
    return _SHA256.fullmatch(text) is not None
