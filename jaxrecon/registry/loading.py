"""From a name, folder or file to a model with its weights on the devices."""

import shlex
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Literal

import jax.numpy as jnp
from jax.sharding import Mesh, Sharding
from jax.typing import DTypeLike

from convert.engine import plan, stream
from convert.families import guess_family
from convert.sources import open_source
from jaxrecon import checkpoint
from jaxrecon.errors import InputError, WeightsError
from jaxrecon.hub import cache_folder, fetch
from jaxrecon.images import ResizeRule
from jaxrecon.models import Model
from jaxrecon.nn.attention import AttentionFn, named_attention
from jaxrecon.pipeline import Pipeline
from jaxrecon.progress import Stages
from jaxrecon.registry.config_json import config_from_json
from jaxrecon.registry.entries import FAMILIES, MODELS, Bundled, Family, HubFile, ModelEntry
from jaxrecon.sharding import replicated
from pallas_kernels.platform import target_platform


def load(
    name: str | Path,
    *,
    weights: str | Path | None = None,
    dtype: DTypeLike | None = None,
    attention: AttentionFn | Literal["dense", "cudnn", "xla"] | None = None,
    mesh: Mesh | None = None,
    revision: str | None = None,
    stages: Stages | None = None,
) -> Pipeline:
    """Loads a model, ready to `reconstruct`.

    A released model's weights come with the package ("pi3-mini"), or from jaxrecon's own cache if
    they were converted before; else they are fetched from upstream's Hugging Face repository,
    converted and cached.

    Args:
      name: a released model ("pi3", "pi3-mini"), a native checkpoint folder, or an upstream weight
        file.
      weights: for a released model, a checkpoint folder or upstream weight file to use instead of
        downloading.
      dtype: of the matrices: bfloat16 on GPU and TPU, float32 on the CPU if not given.
      attention: an `AttentionFn`; "dense" (the default) for the fastest exact backend, "cudnn" or
        "xla" for that one alone.
      mesh: devices to spread the views over; see `make_mesh`.
      revision: branch, tag or commit of the upstream repository.
      stages: shows progress and the licence of the weights; the licence alone if not given.

    Raises:
      InputError: the name is unknown or an argument cannot be used.
      WeightsError: the weights are absent, damaged or another model's.
    """
    attend = named_attention(attention) if isinstance(attention, str | None) else attention
    dtype = _default_dtype(mesh) if dtype is None else _checked_dtype(dtype)
    shown = Stages() if stages is None else stages
    timed = Stages(quiet=True) if stages is None else stages
    place, entry = _locate(name, weights, revision, shown)
    with timed.stage("load"):
        header, family, config, restore = _open(place, entry)
        sharding = replicated(mesh) if mesh else None
        model = restore(family.abstract(config, dtype), sharding=sharding)
        resize = _resize_rule(header, family, place)
    _state_licence(header["model"], header["license"], shown)
    return Pipeline(model, header["model"], resize, attend, mesh)


def native_folder(
    entry: ModelEntry, *, revision: str | None = None, stages: Stages | None = None
) -> Path:
    """The folder of a released model's native weights; fetched and converted if need be.

    Raises:
      WeightsError: the weights are not here and cannot be fetched.
    """
    folder = local_folder(entry, revision=revision)
    if checkpoint.is_native(folder):
        return folder
    if isinstance(entry.source, Bundled):
        raise WeightsError(
            f"the weights of {entry.name} are not in {folder}: this installation has none; "
            "train them with `jaxrecon train` and give their folder as `weights`"
        )
    _fetch_and_convert(entry, entry.source, folder, revision, stages or Stages(quiet=True))
    return folder


def local_folder(entry: ModelEntry, *, revision: str | None = None) -> Path:
    """Where a released model's native weights are kept, whether they are there or not."""
    if isinstance(entry.source, Bundled):
        return entry.source.folder
    name = entry.name if revision is None else f"{entry.name}@{revision.replace('/', '_')}"
    return cache_folder() / name


def _fetch_and_convert(
    entry: ModelEntry, source: HubFile, folder: Path, revision: str | None, stages: Stages
) -> None:
    way_out = (
        f"on a connected machine download {source.filename} of the Hugging Face repository "
        f"{source.repo}, then run: "
        f"jaxrecon convert {entry.name} {source.filename} -o {shlex.quote(str(folder))}"
    )
    with stages.stage("fetch", bar=False):
        fetched = fetch(
            source.repo, source.filename, revision=revision, way_out=way_out, quiet=stages.quiet
        )
    with stages.stage("convert"):
        convert_weights(entry, fetched, folder, overwrite=True)


def convert_weights(
    entry: ModelEntry, source: str | Path, folder: str | Path, *, overwrite: bool = False
) -> None:
    """Converts an upstream weight file into a native checkpoint folder.

    Raises:
      InputError: the model has no upstream.
      WeightsError: a tensor is missing, unexpected or of another shape, or the file is damaged.
      OutputError: the folder exists and is not empty, or cannot be written.
    """
    if isinstance(entry.source, Bundled):
        raise InputError(
            f"{entry.name} has no upstream weights to convert: its own ship with the package; "
            "load it by its name"
        )
    checkpoint.convert_checkpoint(
        Path(source),
        Path(folder),
        rules=entry.family.rules,
        ignored=entry.family.ignored,
        targets=checkpoint.shapes(entry.family.abstract(entry.config)),
        header=entry.header,
        overwrite=overwrite,
    )


_stated: set[str] = set()


def _state_licence(model: str, licence: str, stages: Stages) -> None:
    """Says once for each model under which terms its weights come."""
    if model not in _stated and not stages.quiet:
        _stated.add(model)
        stages.note(f"weights of {model}: {licence}")


def _locate(
    name: str | Path, weights: str | Path | None, revision: str | None, stages: Stages
) -> tuple[Path, ModelEntry | None]:
    """Where the weights lie, and the released model that they must be, if one was named."""
    entry = MODELS.get(str(name))
    downloaded = entry is not None and isinstance(entry.source, HubFile) and weights is None
    if revision is not None and not downloaded:
        raise InputError(f"{revision=} goes with a model's name alone, for what is downloaded")
    if entry is None:
        if weights is not None:
            raise InputError(
                f"weights={str(weights)!r} goes with a model's name ({', '.join(MODELS)}), "
                f"found {str(name)!r}"
            )
        if not Path(name).exists():
            raise InputError(
                f"unknown model {str(name)!r}: not one of {', '.join(MODELS)}, "
                "nor a checkpoint folder or weight file"
            )
        return Path(name), None
    if weights is None:
        return native_folder(entry, revision=revision, stages=stages), entry
    if not Path(weights).exists():
        raise InputError(f"weights={str(weights)!r}: there is no such file or folder")
    return Path(weights), entry


def _open(
    place: Path, entry: ModelEntry | None
) -> tuple[Mapping[str, Any], Family, Any, Callable[..., Any]]:
    """Header, family, sizes and reader of a native checkpoint or an upstream weight file.

    The reader turns the abstract module into one with weights.
    """
    if checkpoint.is_native(place):
        header = checkpoint.read_config(place)
        family = _family_of(header, entry, place)
        config = config_from_json(family.config_class, header["config"], place)
        return header, family, config, partial(checkpoint.load, place)
    source = open_source(place)
    entry = _released_as(source.specs, place) if entry is None else entry
    targets = checkpoint.shapes(entry.family.abstract(entry.config))
    planned = plan(
        source.specs, entry.family.rules, entry.family.ignored, targets, label=str(place)
    )

    def restore[M: Model](abstract: M, *, sharding: Sharding | None) -> M:
        tensors = stream(planned, source)
        return checkpoint.restore(abstract, tensors, sharding=sharding, label=str(place))

    return entry.header, entry.family, entry.config, restore


def _family_of(header: Mapping[str, Any], entry: ModelEntry | None, place: Path) -> Family:
    family = FAMILIES.get(header["family"])
    if family is None:
        raise WeightsError(
            f"{place}: the checkpoint is of the family {header['family']!r}; "
            f"this version knows {', '.join(FAMILIES)}"
        )
    if entry is not None and header["family"] != entry.family.name:
        raise WeightsError(
            f"{place}: the checkpoint is of the family {header['family']!r}, "
            f"but {entry.name} is of {entry.family.name!r}; load it by its folder instead"
        )
    return family


def _resize_rule(header: Mapping[str, Any], family: Family, place: Path) -> ResizeRule:
    """The rule that a checkpoint states, else its family's."""
    if "resize" not in header:
        return family.resize
    return config_from_json(ResizeRule, header["resize"], place)


def _released_as(names: Iterable[str], place: Path) -> ModelEntry:
    """The released model that an upstream weight file seems to hold."""
    guess = guess_family(names)
    for entry in MODELS.values():
        if entry.family.name == guess and isinstance(entry.source, HubFile):
            return entry
    looks = f"it looks like {guess}" if guess else "its tensors belong to no known family"
    raise WeightsError(f"{place}: {looks}; this version knows {', '.join(FAMILIES)}")


def _default_dtype(mesh: Mesh | None) -> DTypeLike:
    platform = mesh.devices.flat[0].platform if mesh is not None else target_platform()
    return jnp.float32 if platform == "cpu" else jnp.bfloat16


def _checked_dtype(dtype: DTypeLike) -> DTypeLike:
    for known in (jnp.float32, jnp.bfloat16):
        try:
            if jnp.dtype(dtype) == known:
                return known
        except TypeError:
            break
    raise InputError(f"{dtype=} is not usable; choose float32 or bfloat16")
