"""From a name, folder or file to a model with its weights on the devices."""

import os
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jax.typing import DTypeLike

from convert.engine import Plan, plan, stream
from convert.families import guess_family
from convert.safetensors_file import Specs
from convert.sources import open_source
from jaxrecon import checkpoint
from jaxrecon.checks import path_of, truth_value
from jaxrecon.checks import shown as shortened
from jaxrecon.choices import meant
from jaxrecon.compiling import background_threads, on_its_own
from jaxrecon.environment import warn_of_doubts
from jaxrecon.errors import InputError, WeightsError, one_line
from jaxrecon.hub import program_folder
from jaxrecon.images import ImageRule
from jaxrecon.models import Model
from jaxrecon.nn.attention import AttentionFn
from jaxrecon.nn.float8_blocks import float8_candidates, float8_shapes, float8_weights
from jaxrecon.pipeline import ModelDefaults, Pipeline
from jaxrecon.pipeline.warming import view_counts
from jaxrecon.program_cache import programs_wanted, use_program_cache
from jaxrecon.progress import Stages, watched_stages
from jaxrecon.reading import is_folder, is_plain_file, obstacle
from jaxrecon.registry.config_json import config_from_json
from jaxrecon.registry.entries import FAMILIES, MODELS, Family, HubFile, ModelEntry, find_entry
from jaxrecon.registry.fetching import native_folder
from jaxrecon.runtime.memory import default_device
from jaxrecon.runtime.sharding import MATRICES, WeightRules, check_mesh, weight_shardings
from jaxrecon.sparse import AttentionName, check_budgets, chosen_attention
from pallas_kernels.platform import computes_float8, target_platform


@on_its_own
def load(
    name: str | Path,
    *,
    weights: str | Path | None = None,
    dtype: DTypeLike | None = None,
    attention: AttentionFn | AttentionName | None = None,
    mesh: Mesh | None = None,
    shard_weights: bool | WeightRules = False,
    offload: bool = False,
    float8: bool = False,
    tracks: bool = False,
    priors: bool = True,
    revision: str | None = None,
    warm: int | Sequence[int] | None = None,
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
      attention: an `AttentionFn` such as `SparseAttention`, or a name. "auto" (the default) and
        "dense": exact, with the fastest backend; "mosaic_gpu", "cudnn" or "xla": exact, with that
        one; "fast": block-sparse in scenes large enough for that to pay; "sparse": block-sparse
        always.
      mesh: devices to shard the views over; see `make_mesh`.
      shard_weights: whether each device holds but a part of the weights, for models that one device
        cannot hold beside its views; or which weights and how, see `sharding.weight_shardings`.
      offload: whether what the trunk finds waits in the host's memory until the heads read it, for
        more views than fit otherwise. π³ keeps too little for it to gain; a CPU has one memory.
      float8: whether transformer blocks multiply 8-bit numbers (e4m3), which is faster on NVIDIA
        GPUs with units for it (Ada, Hopper and later) and a little less precise. A CPU computes the
        same, slowly: to see how precise it is.
      tracks: whether points are to be followed (VGGT); else its track head is not even read.
      priors: whether the model may be told what is known of the views, if it can (MapAnything,
        π³-X); else what only that needs is not even read: a quarter of π³-X.
      revision: branch, tag or commit of the upstream repository.
      warm: compiles programs while the weights are read, and returns once both are there: a whole
        number of at least 2, for 2 to as many views, or numbers in a tuple, such as (10,). They are
        for photos of 4:3; `Pipeline.warm` has others.
      stages: shows progress and the licence of the weights. If not given, progress is shown on a
        terminal and in a notebook, and the licence everywhere.

    Raises:
      InputError: the name is unknown or an argument cannot be used, `float8` on devices without
        units for it among them.
      WeightsError: the weights are absent, damaged or another model's.
    """
    warn_of_doubts()
    check_mesh(mesh)
    counts = () if warm is None else view_counts("warm", warm)
    attend = chosen_attention(attention)
    dtype = _default_dtype(mesh) if dtype is None else _checked_dtype(dtype)
    timed = watched_stages(stages)
    shown = Stages() if stages is None else stages
    offload = truth_value("offload", offload)
    narrow = _checked_float8(float8, mesh)
    name = _named(name)
    keep_programs()
    parts = _parts(tracks=tracks, priors=priors)
    place, entry = _locate(name, weights, revision, shown, parts)
    cached = entry is not None and isinstance(entry.source, HubFile) and weights is None
    with timed.stage("load"), _advised(place if cached else None):
        header, family, config, restore = _open(place, entry, parts)
        digest = family.config_digest(asdict(config))
        # An upstream weight file lists no digests.
        weights_digest = checkpoint.digest_of_tensors(header) if "tensors" in header else None
        check_budgets(attend, header["model"], digest, weights_digest)
        abstract = _placed(family.abstract(config, dtype), mesh, shard_weights)
        if narrow:
            restore = partial(_restored_in_float8, restore, abstract)
            abstract = _placed(_in_float8(abstract, family, config), mesh, shard_weights)
        shapes = Pipeline(
            abstract,
            header["model"],
            _resize_rule(header, family, abstract, place),
            attend,
            mesh,
            _defaults(family, config, priors=priors),
            offload=offload,
            header=checkpoint.header_of(header) | {"config": asdict(config)},
            config_digest=digest,
        )
        origin = {"weights_digest": weights_digest, "weights_path": place.absolute()}
        pipeline = replace(_with_weights(shapes, restore, counts, timed), **origin)
    _state_licence(header["model"], header["license"], shown)
    return pipeline


@contextmanager
def _advised(cached: Path | None) -> Iterator[None]:
    """Errors of weights that we cached ourselves tell how they are made again."""
    try:
        yield
    except WeightsError as error:
        if cached is not None:
            error.args = (f"{error}; to have them fetched and converted again, delete {cached}",)
        raise


def _in_float8[M: Model](abstract: M, family: Family, config: Any) -> M:
    """Shapes of the model with float8 products."""
    return float8_shapes(abstract, float8_candidates(family.abstract(config, jnp.bfloat16)))


def _restored_in_float8[M: Model](restore: Callable[..., M], plain: M, abstract: M) -> M:
    """The weights that a checkpoint has as `plain`, in the form of `abstract`."""
    return float8_weights(restore(plain), abstract)


def _with_weights(
    shapes: Pipeline, restore: Callable[..., Any], counts: Sequence[int], stages: Stages
) -> Pipeline:
    """The pipeline with its weights; programs are compiled while they are read."""
    if not counts:
        return shapes.with_weights(restore(shapes.model))
    device = jax.config.jax_default_device  # which each thread sets for itself

    def read() -> Any:
        with jax.default_device(device):
            return restore(shapes.model)

    with background_threads(1) as pool:
        model = pool.submit(read)
        shapes.warm(counts, stages=stages)
        return shapes.with_weights(model.result())


def keep_programs() -> None:
    """Has JAX keep compiled programs between processes, unless it is told where to or not to."""
    if not programs_wanted() or jax.config.jax_compilation_cache_dir is not None:
        return
    with suppress(WeightsError):  # no home, and so no place for them
        use_program_cache(program_folder())


@on_its_own
def load_abstract(
    name: str | Path,
    *,
    dtype: DTypeLike | None = None,
    attention: AttentionFn | AttentionName | None = None,
    mesh: Mesh | None = None,
    shard_weights: bool | WeightRules = False,
    offload: bool = False,
    float8: bool = False,
    tracks: bool = False,
    priors: bool = True,
) -> Pipeline:
    """A model with shapes in place of its weights, which can be compiled but not run.

    Nothing is downloaded, and of a checkpoint only what it says of itself is read.

    Args:
      name, dtype, attention, mesh, shard_weights, offload, float8, tracks, priors: see `load`.

    Raises:
      InputError: the name is unknown or an argument cannot be used.
      WeightsError: the checkpoint is damaged or another model's.
    """
    check_mesh(mesh)
    attend = chosen_attention(attention)
    dtype = _default_dtype(mesh) if dtype is None else _checked_dtype(dtype)
    narrow = _checked_float8(float8, mesh)
    name = _named(name)
    entry, parts = _released(name), _parts(tracks=tracks, priors=priors)
    if entry is None:
        place, _ = _locate(name, None, None, Stages(quiet=True))
        header, family, config, _ = _open(place, None, parts)
    else:
        header, family = entry.header, entry.family
        config = family.configured(entry.config, parts)
    digest = family.config_digest(asdict(config))
    check_budgets(attend, header["model"], digest)
    model = family.abstract(config, dtype)
    model = _placed(_in_float8(model, family, config) if narrow else model, mesh, shard_weights)
    resize = entry.resize if entry else _resize_rule(header, family, model, Path(name))
    defaults = _defaults(family, config, priors=priors)
    return Pipeline(
        model,
        header["model"],
        resize,
        attend,
        mesh,
        defaults,
        offload=offload,
        config_digest=digest,
    )


def _named(name: object) -> str:
    """A model's name or path, as text; "~" is the home of the user.

    Raises:
      InputError: it is of another type.
    """
    text = os.fspath(name) if isinstance(name, str | os.PathLike) else None
    if not isinstance(text, str):
        raise InputError(
            f"name: found {shortened(name)}; give a model's name, a checkpoint folder or a weight "
            "file"
        )
    return os.path.expanduser(text)


def _parts(*, tracks: bool, priors: bool) -> tuple[str, ...]:
    """The names of the optional parts that are wanted."""
    wanted = {"tracks": truth_value("tracks", tracks), "priors": truth_value("priors", priors)}
    return tuple(name for name, yes in wanted.items() if yes)


def _defaults(family: Family, config: Any, *, priors: bool) -> ModelDefaults:
    """How a model is used that was loaded so."""
    defaults = family.defaults_of(config)
    return defaults if priors else replace(defaults, priors=False)


def _placed[M](model: M, mesh: Mesh | None, shard_weights: bool | WeightRules) -> M:
    """Shapes of weights, with where they are to lie if there is a mesh.

    Raises:
      InputError: weights are to be sharded, but over nothing.
    """
    if mesh is None:
        if shard_weights:
            raise InputError("shard_weights: there is one device; give a mesh (`make_mesh()`)")
        return model
    if isinstance(shard_weights, bool):
        return weight_shardings(model, mesh, MATRICES if shard_weights else ())
    return weight_shardings(model, mesh, shard_weights)


RECORD_NAME = "export.json"
"""What tells a program in a folder, see `aot/record.py`, from a checkpoint."""

_stated: set[str] = set()


def _state_licence(model: str, licence: str, stages: Stages) -> None:
    """Says once for each model under which terms its weights come."""
    line = one_line(f"weights of {model}: {licence}")
    if line not in _stated and not stages.quiet:
        _stated.add(line)
        stages.note(line)


def _locate(
    name: str | Path,
    weights: str | Path | None,
    revision: str | None,
    stages: Stages,
    parts: Collection[str] = (),
) -> tuple[Path, ModelEntry | None]:
    """Where the weights lie, and the released model that they must be, if one was named."""
    entry = _released(name)
    downloaded = entry is not None and isinstance(entry.source, HubFile) and weights is None
    if revision is not None and not downloaded:
        raise InputError(f"{revision=} goes with a model's name alone, for what is downloaded")
    if entry is None:
        if weights is not None:
            raise InputError(
                f"weights={str(weights)!r} goes with a model's name ({', '.join(MODELS)}), "
                f"found {str(name)!r}"
            )
        if not _is_there(name):
            _refuse_other_kinds(name)
            raise InputError(
                f"unknown model {str(name)!r}: not one of {', '.join(MODELS)}, "
                f"nor a checkpoint folder or weight file{meant(str(name), MODELS)}"
            )
        return Path(name), None
    entry.family.configured(entry.config, parts)  # refuses before anything is fetched
    if weights is None:
        return native_folder(entry, revision=revision, stages=stages), entry
    place = path_of("weights", weights)
    if not _is_there(place):
        _refuse_other_kinds(place, "weights: ")
        raise InputError(f"weights={str(weights)!r}: there is no such file or folder")
    return place, entry


def _released(name: str | Path) -> ModelEntry | None:
    """The released model of a name; what is called like a repository here comes first."""
    return MODELS.get(str(name)) or (None if os.path.lexists(name) else find_entry(str(name)))


def _is_there(path: str | Path) -> bool:
    """Whether weights may lie there.

    Raises:
      InputError: it is an exported program.
    """
    if is_folder(path) and is_plain_file(Path(path) / RECORD_NAME):
        raise InputError(
            f"{path} is an exported program, no checkpoint; run it in Python with "
            "jaxrecon.load_exported, or give the model that it was made of"
        )
    return is_plain_file(path) or is_folder(path)


def _refuse_other_kinds(path: str | Path, argument: str = "") -> None:
    """Refuses a link to nothing, a pipe or a device by what it is.

    Raises:
      InputError: it is one of them.
    """
    reason = obstacle(path)
    if reason is not None:
        raise InputError(f"{argument}{reason}")


def _open(
    place: Path, entry: ModelEntry | None, parts: Collection[str]
) -> tuple[Mapping[str, Any], Family, Any, Callable[..., Any]]:
    """Header, family, sizes and reader of a native checkpoint or an upstream weight file.

    The reader turns the abstract module into one with weights.
    """
    if checkpoint.is_native(place):
        header = checkpoint.read_config(place)
        family = _family_of(header, entry, place)
        stored = config_from_json(family.config_class, header["config"], place)
        stored_parts = family.parts_of(stored)
        present = family.present(parts, lambda part: part in stored_parts, str(place))
        config = family.configured(stored, present)
        unread = tuple(part.prefix for part in stored_parts if part not in family.parts_of(config))
        return header, family, config, partial(checkpoint.load, place, unread=unread)
    source = open_source(place)
    if entry is None:
        entry, (config, planned) = _released_as(source.specs, place, parts)
        header = entry.header_of_file(place.name, MODELS.values())
    else:
        config, planned = _planned(source.specs, place, entry, parts)
        header = entry.header

    def restore[M: Model](abstract: M) -> M:
        tensors = stream(planned, source)
        return checkpoint.restore(abstract, tensors, label=str(place))

    return header, entry.family, config, restore


def _planned(
    specs: Specs, place: Path, entry: ModelEntry, parts: Collection[str]
) -> tuple[Any, Plan]:
    """The sizes of the model in an upstream weight file, and where its tensors go."""
    family = entry.family
    if guess_family(specs) == family.name:
        parts = family.present(parts, lambda part: part.is_among(specs), str(place))
    config = family.configured(entry.config, parts)
    targets = checkpoint.shapes(family.abstract(config))
    ignored = family.ignored_among(specs, config)
    return config, plan(specs, family.rules, ignored, targets, label=str(place))


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


def _resize_rule(header: Mapping[str, Any], family: Family, model: Model, place: Path) -> ImageRule:
    """The rule that a checkpoint states, else its family's.

    Raises:
      WeightsError: it is damaged, or its patches are not the model's.
    """
    rule = family.resize
    if "resize" in header:
        rule = config_from_json(type(rule), header["resize"], place)
    try:
        grid = model.layout((1, 1, rule.patch, rule.patch, 3)).grid
    except ValueError:
        grid = None
    if grid != (1, 1):
        raise WeightsError(
            f"{place}: images are brought to whole patches of {rule.patch} pixels, but the "
            "model's patches have another size (resize.patch, config); convert the weights again "
            "with this version"
        )
    return rule


def _released_as(
    specs: Specs, place: Path, parts: Collection[str]
) -> tuple[ModelEntry, tuple[Any, Plan]]:
    """The first released model that an upstream weight file may hold; see `_planned`."""
    guess, refusal = guess_family(specs), None
    for entry in MODELS.values():
        if entry.family.name == guess and isinstance(entry.source, HubFile):
            try:
                return entry, _planned(specs, place, entry, parts)
            except WeightsError as error:
                refusal = refusal or error
    if refusal is not None:
        raise refusal
    if guess == "jaxrecon":
        raise WeightsError(
            f"{place}: it has the tensors of a native checkpoint, but no config.json that lists "
            "them; give a checkpoint's whole folder, or copy or convert it again"
        )
    looks = f"it looks like {guess}" if guess else "its tensors belong to no known family"
    raise WeightsError(f"{place}: {looks}; this version knows {', '.join(FAMILIES)}")


def _default_dtype(mesh: Mesh | None) -> DTypeLike:
    platform = mesh.devices.flat[0].platform if mesh is not None else target_platform()
    return jnp.float32 if platform == "cpu" else jnp.bfloat16


def _checked_float8(float8: bool, mesh: Mesh | None) -> bool:
    """Whether products are to be float8's.

    Raises:
      InputError: it is neither true nor false, or the devices have no units for it.
    """
    if not truth_value("float8", float8):
        return False
    device = mesh.devices.flat[0] if mesh is not None else default_device()
    if not computes_float8(device):
        raise InputError(
            "float8: it needs an NVIDIA GPU of compute capability 8.9 or higher (Ada, Hopper and "
            f"later), found {device.device_kind}; leave it out, or use the CPU to see how precise "
            "it is"
        )
    return True


def _checked_dtype(dtype: DTypeLike) -> DTypeLike:
    for known in (jnp.float32, jnp.bfloat16):
        try:
            if jnp.dtype(dtype) == known:
                return known
        except TypeError:
            break
    raise InputError(f"{dtype=} is not usable; choose float32 or bfloat16")
