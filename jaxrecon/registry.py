"""The models that have names, and how each comes to be a `Pipeline`."""

import shlex
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, is_dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, get_type_hints

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import Mesh, Sharding
from jax.typing import DTypeLike

from convert import pi3 as pi3_names
from convert.engine import plan, stream
from convert.families import guess_family
from convert.rules import Ignore, Rule
from convert.sources import open_source
from jaxrecon import checkpoint
from jaxrecon.errors import InputError, WeightsError
from jaxrecon.hub import cache_folder, fetch
from jaxrecon.images import PI3_RESIZE, ResizeRule
from jaxrecon.models import PI3, Model, Pi3, Pi3Config
from jaxrecon.nn.attention import AttentionFn, named_attention
from jaxrecon.pipeline import Pipeline
from jaxrecon.progress import Stages
from jaxrecon.sharding import replicated
from pallas_kernels.platform import target_platform


@dataclass(frozen=True)
class Family:
    """What the models of one architecture share.

    Attributes:
      name: as it stands in checkpoints.
      config_class: the sizes.
      build: makes a module with fresh weights from a config.
      rules, ignored: how upstream's tensor names become our parameter paths.
      resize: the size that upstream gives its images.
    """

    name: str
    config_class: type
    build: Callable[..., Any]
    rules: tuple[Rule, ...]
    ignored: tuple[Ignore, ...]
    resize: ResizeRule

    def abstract(self, config: Any, dtype: DTypeLike = jnp.float32) -> Any:
        """The module with shapes and dtypes in place of weights; takes no memory."""
        return jax.eval_shape(lambda: self.build(config, dtype=dtype, rngs=nnx.Rngs(0)))


PI3_FAMILY = Family(
    name="pi3",
    config_class=Pi3Config,
    build=Pi3,
    rules=pi3_names.RULES,
    ignored=pi3_names.IGNORED,
    resize=PI3_RESIZE,
)

FAMILIES: Mapping[str, Family] = {family.name: family for family in (PI3_FAMILY,)}


@dataclass(frozen=True)
class ModelEntry:
    """A released model: where its weights are and under which terms."""

    name: str
    family: Family
    config: Any
    parameters: int
    repo: str
    filename: str
    weights_licence: str
    code_licence: str
    paper: str

    @property
    def header(self) -> dict[str, Any]:
        """What a native checkpoint says of itself."""
        return {
            "family": self.family.name,
            "model": self.name,
            "config": asdict(self.config),
            "license": self.weights_licence,
            "source": {"repo": self.repo, "file": self.filename},
        }


MODELS: Mapping[str, ModelEntry] = {
    entry.name: entry
    for entry in (
        ModelEntry(
            name="pi3",
            family=PI3_FAMILY,
            config=PI3,
            parameters=958_696_732,
            repo="yyfz233/Pi3",
            filename="model.safetensors",
            weights_licence="CC BY-NC 4.0 (no commercial use)",
            code_licence="BSD 3-Clause",
            paper="arXiv 2507.13347",
        ),
    )
}
"""Released models by name."""


def available_models() -> tuple[str, ...]:
    """Names that `load` takes."""
    return tuple(MODELS)


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

    A released model's weights come from jaxrecon's own cache if they were converted before; else
    they are fetched from upstream's Hugging Face repository, converted and cached.

    Args:
      name: a released model ("pi3"), a native checkpoint folder, or an upstream weight file.
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
    _state_licence(header["model"], header["license"], shown)
    return Pipeline(model, header["model"], family.resize, attend, mesh)


def native_folder(
    entry: ModelEntry, *, revision: str | None = None, stages: Stages | None = None
) -> Path:
    """The folder of a released model's converted weights; fetched and converted if need be.

    Raises:
      WeightsError: the weights are not here and cannot be fetched.
    """
    stages = Stages(quiet=True) if stages is None else stages
    folder = cached_folder(entry, revision=revision)
    if not checkpoint.is_native(folder):
        way_out = (
            f"on a connected machine download {entry.filename} of the Hugging Face repository "
            f"{entry.repo}, then run: "
            f"jaxrecon convert {entry.name} {entry.filename} -o {shlex.quote(str(folder))}"
        )
        with stages.stage("fetch", bar=False):
            source = fetch(
                entry.repo,
                entry.filename,
                revision=revision,
                way_out=way_out,
                quiet=stages.quiet,
            )
        with stages.stage("convert"):
            convert_weights(entry, source, folder, overwrite=True)
    return folder


def cached_folder(entry: ModelEntry, *, revision: str | None = None) -> Path:
    """Where a released model's converted weights are kept, whether they are there or not."""
    name = entry.name if revision is None else f"{entry.name}@{revision.replace('/', '_')}"
    return cache_folder() / name


def convert_weights(
    entry: ModelEntry, source: str | Path, folder: str | Path, *, overwrite: bool = False
) -> None:
    """Converts an upstream weight file into a native checkpoint folder.

    Raises:
      WeightsError: a tensor is missing, unexpected or of another shape, or the file is damaged.
      OutputError: the folder exists and is not empty, or cannot be written.
    """
    checkpoint.convert_checkpoint(
        Path(source),
        Path(folder),
        rules=entry.family.rules,
        ignored=entry.family.ignored,
        targets=checkpoint.shapes(entry.family.abstract(entry.config)),
        header=entry.header,
        overwrite=overwrite,
    )


def model_entry(name: str) -> ModelEntry:
    """The released model of that name.

    Raises:
      InputError: there is none.
    """
    if name not in MODELS:
        raise InputError(f"unknown model {name!r}; known models: {', '.join(MODELS)}")
    return MODELS[name]


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
    if revision is not None and (entry is None or weights is not None):
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


def _released_as(names: Iterable[str], place: Path) -> ModelEntry:
    """The released model that an upstream weight file seems to hold."""
    guess = guess_family(names)
    for entry in MODELS.values():
        if entry.family.name == guess:
            return entry
    looks = f"it looks like {guess}" if guess else "its tensors belong to no known family"
    raise WeightsError(f"{place}: {looks}; this version knows {', '.join(MODELS)}")


def config_from_json(config_class: type, values: Any, place: Path) -> Any:
    """A config dataclass from the JSON in a checkpoint, strict about its fields.

    Raises:
      WeightsError: a field is missing, unknown or of another type.
    """
    known = get_type_hints(config_class)
    found = values if isinstance(values, Mapping) else {}
    nested = {
        name: kind for name, kind in known.items() if isinstance(kind, type) and is_dataclass(kind)
    }
    faults = {
        "missing": known.keys() - found.keys(),
        "unknown": found.keys() - known.keys(),
        "of another type": {
            name for name in known.keys() & found.keys() if not _fits(found[name], known[name])
        },
    }
    if any(faults.values()):
        told = ", ".join(f"{fault}: {', '.join(sorted(n))}" for fault, n in faults.items() if n)
        raise WeightsError(
            f"{place}: config.json does not fit {config_class.__name__} ({told}); "
            "convert the weights again with this version"
        )
    inner = {name: config_from_json(kind, found[name], place) for name, kind in nested.items()}
    return config_class(**{**found, **inner})


def _fits(value: Any, kind: Any) -> bool:
    """Whether a value from JSON is of a field's type, where that is a number."""
    kinds = {int: (int,), float: (int, float)}.get(kind)
    return kinds is None or type(value) in kinds


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
