"""The `config.json` of a native checkpoint: which model it is, and a list of its tensors."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from convert.safetensors_file import TensorSpec
from jaxrecon.errors import WeightsError

CONFIG_NAME = "config.json"
FORMAT_VERSION = 1
ORBAX_FOLDER = "arrays"
"""What stands for a file where Orbax has the numbers, and where in the checkpoint's folder."""

_HEADER = {"family": str, "model": str, "config": dict, "license": str, "source": dict}
_OPTIONAL = {"resize": dict}
_FIELDS = {"format": str, "format_version": int, **_HEADER, "tensors": dict}
_TENSOR_FIELDS = {"file": str, "shape": list, "dtype": str, "sha256": str | None}


def entry_of(file: str, spec: TensorSpec, sha256: str | None) -> dict[str, Any]:
    """What the config tells of a tensor."""
    return {"file": file, "shape": list(spec.shape), "dtype": spec.dtype.name, "sha256": sha256}


def header_of(config: Mapping[str, Any]) -> dict[str, Any]:
    """The header alone, of what `read_config` returns."""
    return {key: config[key] for key in _HEADER | _OPTIONAL if key in config}


def check_header(header: Mapping[str, Any]) -> None:
    """Raises ValueError if the header has other keys than `write` asks for."""
    if not _HEADER.keys() <= header.keys() <= (_HEADER | _OPTIONAL).keys():
        raise ValueError(f"header must have the keys {sorted(_HEADER)}, found {sorted(header)}")


def write_config(place: Path, header: Mapping[str, Any], entries: Mapping[str, Any]) -> None:
    """Writes the config of a checkpoint into its folder."""
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
