"""Upstream checkpoints, read one tensor at a time."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, final, runtime_checkable

import ml_dtypes
import numpy as np

from convert.families import guess_family
from convert.safetensors_file import Specs, StoredTensor, TensorSpec, read_header
from jaxrecon.errors import WeightsError
from jaxrecon.reading import is_file_name, is_folder, is_plain_file, obstacle, read_json, shown

_INDEX = ".safetensors.index.json"
_TORCH = (".pt", ".pth")
_REOPEN_BYTES = 256 * 2**20


@runtime_checkable
class Source(Protocol):
    """A checkpoint: `specs` gives shape and dtype of every tensor by name, `read` loads one."""

    @property
    def specs(self) -> Specs: ...

    def read(self, name: str) -> np.ndarray:
        """The tensor `name`, in memory of its own.

        Raises:
          WeightsError: the file can't be read any more.
        """
        ...


@final
class SafetensorsSource:
    """Tensors of one safetensors file, or of several."""

    def __init__(self, stored: Mapping[str, StoredTensor]) -> None:
        self._stored = stored
        self.specs = {name: tensor.spec for name, tensor in stored.items()}

    def read(self, name: str) -> np.ndarray:
        return self._stored[name].read()


@final
class TorchSource:
    """A state dict written by `torch.save`; only tensors are unpickled, no code is run.

    The file is mapped into memory. It is mapped anew after a while, because every page that was
    read stays resident until then.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._tensors = _load_torch(path)
        self._bytes_read = 0
        self.specs = {name: _torch_spec(path, name, item) for name, item in self._tensors.items()}

    def read(self, name: str) -> np.ndarray:
        if self._bytes_read > _REOPEN_BYTES:
            self._tensors = {}
            self._tensors = _load_torch(self._path)
            self._bytes_read = 0
        self._bytes_read += self.specs[name].bytes
        return _torch_to_numpy(self._tensors[name])


@final
class UnprefixedSource:
    """A checkpoint without the prefix that a wrapper put before the name of every tensor."""

    def __init__(self, source: Source, prefix: str) -> None:
        self._source, self._prefix = source, prefix
        self.specs = {name.removeprefix(prefix): spec for name, spec in source.specs.items()}

    def read(self, name: str) -> np.ndarray:
        return self._source.read(self._prefix + name)


def open_source(path: str | Path) -> Source:
    """Opens an upstream checkpoint and reads the names, shapes and dtypes of its tensors.

    A prefix that all names share, as `module.` of DistributedDataParallel, `_orig_mod.` of
    `torch.compile` or `model.` of a training framework, is left out if the rest are names of a
    family.

    Args:
      path: a `.safetensors` file, a `.pt` or `.pth` file (needs PyTorch), the
        `.safetensors.index.json` of a checkpoint in several files, or a folder that holds one
        safetensors checkpoint.

    Raises:
      WeightsError: nothing is there, it is damaged or incomplete, or its kind is not known.
    """
    source = _opened(Path(path))
    prefix = _wrappers_prefix(tuple(source.specs))
    return UnprefixedSource(source, prefix) if prefix else source


def _wrappers_prefix(names: Sequence[str]) -> str:
    """What stands before the names of a family; empty if nothing does, or none is known."""
    prefix = ""
    while names and guess_family(names) is None:
        first, dot, _ = names[0].partition(".")
        shared = first + dot
        if not dot or not all(name.startswith(shared) for name in names):
            return ""
        prefix += shared
        names = [name.removeprefix(shared) for name in names]
    return prefix


def _opened(path: Path) -> Source:
    if is_folder(path):
        path = _checkpoint_in(path)
    if not is_plain_file(path):
        raise WeightsError(
            obstacle(path) or f"{path} does not exist; check the path of the checkpoint"
        )
    if path.name.endswith(_INDEX):
        return SafetensorsSource(_read_shards(path))
    if path.suffix == ".safetensors":
        return SafetensorsSource(read_header(path))
    if path.suffix in _TORCH:
        return TorchSource(path)
    raise WeightsError(
        f"{path} is not a checkpoint of a known kind; give a .safetensors, {_INDEX}, "
        f"{' or '.join(_TORCH)} file, or a folder with a safetensors checkpoint"
    )


def check_readable(path: str | Path) -> None:
    """Refuses a file that cannot be read here whatever is in it; it need not be there yet.

    Raises:
      WeightsError: it is a `.pt` or `.pth` file, and PyTorch is not installed.
    """
    if Path(path).suffix in _TORCH:
        _torch_for(path)


def _checkpoint_in(folder: Path) -> Path:
    indices = sorted(folder.glob(f"*{_INDEX}"))
    files = indices or sorted(folder.glob("*.safetensors"))
    if len(files) == 1:
        return files[0]
    if not files:
        raise WeightsError(f"{folder} holds no safetensors file; give the path of the checkpoint")
    names = ", ".join(file.name for file in files[:3])
    raise WeightsError(
        f"{folder} holds {len(files)} safetensors checkpoints ({names}); give the path of one file"
        + ("" if indices else f", or of its {_INDEX} if these are parts of one checkpoint")
    )


def _read_shards(index: Path) -> dict[str, StoredTensor]:
    """The tensors of the files that an index names, which lie beside it, perhaps as links.

    (The hub's cache keeps every file as a link to a place outside of the folder.)
    """
    weight_map = _weight_map(index)
    stored: dict[str, StoredTensor] = {}
    for name in sorted(set(weight_map.values())):
        shard = index.parent / name
        if not is_file_name(name):
            raise WeightsError(
                f"{index} names the file {name[:100]}, which is not one beside it; download the "
                "index again"
            )
        if not is_plain_file(shard):
            raise WeightsError(
                f"{index} names the file {name[:100]}, which is missing; download it too"
            )
        stored |= {
            tensor: place
            for tensor, place in read_header(shard).items()
            if weight_map.get(tensor) == name
        }
    absent = [tensor for tensor in weight_map if tensor not in stored]
    if absent:
        raise WeightsError(
            f"{index} names {len(absent)} tensors that its files lack, such as "
            f"{absent[0][:100]} in {weight_map[absent[0]][:100]}; download the files again"
        )
    return stored


def _weight_map(index: Path) -> dict[str, str]:
    """The file of each tensor, as an index tells it.

    Raises:
      WeightsError: it is damaged, or a value is no text.
    """
    advice = "it is not a safetensors index; download it again"
    values = read_json(index, advice=advice, kind=WeightsError)
    weight_map = values.get("weight_map") if isinstance(values, dict) else None
    if not isinstance(weight_map, dict):
        raise WeightsError(f"{index} is not a safetensors index; download it again")
    for tensor, name in weight_map.items():
        if not isinstance(name, str):
            raise WeightsError(
                f"{index} is not a safetensors index; download it again (weight_map says that the "
                f"file of {tensor[:100]} is {shown(name)})"
            )
    return weight_map


def _torch() -> Any:
    import torch  # pyright: ignore[reportMissingImports]

    return torch


def _torch_for(path: str | Path) -> Any:
    try:
        return _torch()
    except ImportError as error:
        raise WeightsError(
            f"reading {path} needs PyTorch; install it (pip install 'jaxrecon[torch]'), "
            "or convert the checkpoint's .safetensors file if it has one"
        ) from error


def _load_torch(path: Path) -> dict[str, Any]:
    torch = _torch_for(path)
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:  # torch raises many kinds, some of them its own
        reason = re.split(r"\n|\. ", str(error).strip())[0][:100]
        raise WeightsError(
            f"{path} is damaged or not a plain PyTorch state dict ({reason}); download it again, "
            "or save its state dict anew with a current PyTorch or as .safetensors"
        ) from error
    return _state_dict(path, loaded)


def _state_dict(path: Path, loaded: Any) -> dict[str, Any]:
    state = loaded
    for key in ("model", "state_dict"):
        if isinstance(loaded, dict) and isinstance(loaded.get(key), dict):
            state = loaded[key]
            break
    if not isinstance(state, dict) or not state:
        raise WeightsError(f"{path} holds no state dict; give a file that has names and tensors")
    for name, value in state.items():
        if not isinstance(value, _torch().Tensor):
            raise WeightsError(
                f"{path}: entry {name} is a {type(value).__name__}, not a tensor; "
                "give a file that holds only a state dict"
            )
    return state


def _torch_spec(path: Path, name: str, tensor: Any) -> TensorSpec:
    try:
        dtype = _torch_to_numpy(tensor.new_empty(0)).dtype
    except (TypeError, RuntimeError) as error:
        raise WeightsError(
            f"{path}: tensor {name} has the number format {tensor.dtype}, which is not supported; "
            "save it as float32, float16 or bfloat16"
        ) from error
    return TensorSpec(tuple(tensor.shape), dtype)


def _torch_to_numpy(tensor: Any) -> np.ndarray:
    torch = _torch()
    tensor = tensor.detach().contiguous()
    if tensor.dtype == torch.bfloat16:
        return tensor.view(torch.int16).numpy().view(ml_dtypes.bfloat16).copy()
    return tensor.numpy().copy()
