"""The table of models: sizes, where the weights are, and under which terms."""

import hashlib
import json
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from convert import mapanything as mapanything_names
from convert import pi3 as pi3_names
from convert import pi3x as pi3x_names
from convert import vggt as vggt_names
from convert.rules import Ignore, OptionalPart, Rule
from jaxrecon.choices import meant
from jaxrecon.deprecation import renamed_fields
from jaxrecon.errors import InputError
from jaxrecon.images import ImageRule
from jaxrecon.models import (
    MAPANYTHING,
    MAPANYTHING_RESIZE,
    MAPANYTHING_V1,
    PI3,
    PI3_MINI,
    PI3_RESIZE,
    PI3X,
    VGGT,
    VGGT_1B,
    VGGT_RESIZE,
    MapAnything,
    MapAnythingConfig,
    Pi3,
    Pi3Config,
    Pi3X,
    Pi3XConfig,
    ResizeRule,
    VGGTConfig,
)
from jaxrecon.pipeline import MODEL_DEFAULTS, ModelDefaults

type FindIgnored = Callable[[Iterable[str]], tuple[Ignore, ...]]


@renamed_fields(habits="defaults")
@dataclass(frozen=True)
class Family:
    """What the models of one architecture share.

    Attributes:
      name: as it stands in checkpoints.
      config_class: the sizes.
      build: makes a module with fresh weights from a config.
      rules, ignored: how upstream's tensor names become our parameter paths.
      resize: the size that images get where a checkpoint states none.
      defaults: how its models are used where the caller does not say.
      find_ignored: what else to leave out, from the names in a checkpoint.
      optional_parts: what its models may have or be built without.
    """

    name: str
    config_class: type
    build: Callable[..., Any]
    rules: tuple[Rule, ...]
    ignored: tuple[Ignore, ...]
    resize: ImageRule
    defaults: ModelDefaults = MODEL_DEFAULTS
    find_ignored: FindIgnored | None = None
    optional_parts: tuple[OptionalPart, ...] = ()

    def ignored_among(self, names: Iterable[str], config: Any) -> tuple[Ignore, ...]:
        """What is left out of an upstream checkpoint with tensors of these names."""
        found = () if self.find_ignored is None else self.find_ignored(names)
        absent = set(self.optional_parts) - set(self.parts_of(config))
        return (*self.ignored, *found, *(part.ignored for part in absent))

    def configured(self, config: Any, parts: Collection[str]) -> Any:
        """The config of a model with the optional parts of these names, and no others.

        Raises:
          InputError: the family has no such part, and it is none that models usually have.
        """
        usual = {part.name for f in FAMILIES.values() for part in f.optional_parts if part.usual}
        for name in parts:
            if name not in self.part_names and name not in usual:
                raise InputError(_without(name, self))
        chosen = {part.config_field: part.name in parts for part in self.optional_parts}
        return replace(config, **chosen)

    def present(
        self, parts: Collection[str], has: Callable[[OptionalPart], bool], label: str
    ) -> frozenset[str]:
        """Which of the wanted parts weights hold; those that models usually have may be absent.

        Args:
          parts: the names of what is wanted.
          has: whether the weights hold a part.
          label: what they are called in an error.

        Raises:
          WeightsError: another wanted part is absent.
        """
        absent = [x for x in self.optional_parts if x.name in parts and not has(x)]
        for part in absent:
            if not part.usual:
                part.check((), label=label)
        return frozenset(parts) - {part.name for part in absent}

    def defaults_of(self, config: Any) -> ModelDefaults:
        """How a model of this config is used."""
        absent = set(self.part_names) - {part.name for part in self.parts_of(config)}
        return replace(self.defaults, priors=False) if "priors" in absent else self.defaults

    def config_digest(self, config: Mapping[str, Any]) -> str:
        """Tells configs apart, whichever optional parts a model is built with."""
        without = {part.config_field for part in self.optional_parts}
        kept = {name: value for name, value in config.items() if name not in without}
        return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()[:16]

    @property
    def part_names(self) -> tuple[str, ...]:
        """Names of the optional parts."""
        return tuple(part.name for part in self.optional_parts)

    def parts_of(self, config: Any) -> tuple[OptionalPart, ...]:
        """The optional parts that a model of this config has."""
        return tuple(x for x in self.optional_parts if getattr(config, x.config_field))

    def abstract(self, config: Any, dtype: DTypeLike = jnp.float32) -> Any:
        """The module with shapes and dtypes in place of weights; takes no memory.

        Of each config and dtype it is traced once; every call returns a module of its own.
        """
        return _built.eval_shape(self.build, config, dtype)


@partial(jax.jit, static_argnums=(0, 1, 2))
def _built(build: Callable[..., Any], config: Any, dtype: DTypeLike) -> Any:
    return build(config, dtype=dtype, rngs=nnx.Rngs(0))


PI3_FAMILY = Family(
    name="pi3",
    config_class=Pi3Config,
    build=Pi3,
    rules=pi3_names.RULES,
    ignored=pi3_names.IGNORED,
    resize=PI3_RESIZE,
    defaults=ModelDefaults(most_confidence=1.0),
)

PI3X_FAMILY = Family(
    name="pi3x",
    config_class=Pi3XConfig,
    build=Pi3X,
    rules=pi3x_names.RULES,
    ignored=pi3x_names.IGNORED,
    resize=PI3_RESIZE,
    defaults=ModelDefaults(priors=True, independent_priors=True, metric=True, most_confidence=1.0),
    optional_parts=(pi3x_names.PRIORS,),
)

# Upstream's viewer hides the least confident quarter of the points (`demo_viser.py`).
VGGT_FAMILY = Family(
    name="vggt",
    config_class=VGGTConfig,
    build=VGGT,
    rules=vggt_names.RULES,
    ignored=vggt_names.IGNORED,
    resize=VGGT_RESIZE,
    defaults=ModelDefaults(0.0, 0.25, points=("depth", "pointmap")),
    optional_parts=(vggt_names.TRACK_HEAD,),
)

MAPANYTHING_FAMILY = Family(
    name="mapanything",
    config_class=MapAnythingConfig,
    build=MapAnything,
    rules=mapanything_names.RULES,
    ignored=mapanything_names.IGNORED,
    resize=MAPANYTHING_RESIZE,
    defaults=ModelDefaults(0.0, priors=True, strict_edges=True, metric=True),
    find_ignored=mapanything_names.repeated,
)

FAMILIES: Mapping[str, Family] = {
    family.name: family for family in (PI3_FAMILY, PI3X_FAMILY, VGGT_FAMILY, MAPANYTHING_FAMILY)
}


def _without(part: str, family: Family) -> str:
    """Why a family cannot have an optional part, and which models can."""
    able = [name for name, entry in MODELS.items() if part in entry.family.part_names]
    found = next((x for f in FAMILIES.values() for x in f.optional_parts if x.name == part), None)
    what = "have no such part" if found is None else found.without
    advice = f"load {able[0]} for that" if able else "leave it out"
    return f"{part}: models of the family {family.name} {what}; {advice}"


@dataclass(frozen=True)
class HubFile:
    """Weights that upstream publishes as one file of a Hugging Face repository."""

    repo: str
    filename: str

    @property
    def origin(self) -> dict[str, str]:
        """What a native checkpoint says of where its weights came from."""
        return {"repo": self.repo, "file": self.filename}


@dataclass(frozen=True)
class Bundled:
    """Weights that this project trained and ships, as a native checkpoint folder."""

    folder: Path

    @property
    def origin(self) -> dict[str, str]:
        """What a native checkpoint says of where its weights came from."""
        return {"trained_by": "jaxrecon"}


@dataclass(frozen=True)
class ModelEntry:
    """A released model.

    Attributes:
      name: what `load` calls it.
      family: its architecture.
      config: its sizes.
      parameters: how many numbers its weights are.
      source: where its weights are.
      resize: the size that its images get.
      weights_licence, code_licence: terms of the weights, and of the code that they come from.
      paper: where it is described.
    """

    name: str
    family: Family
    config: Any
    parameters: int
    source: HubFile | Bundled
    resize: ImageRule
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
            "source": self.source.origin,
            "resize": asdict(self.resize),
        }

    def header_of_file(self, filename: str, models: Iterable["ModelEntry"]) -> dict[str, Any]:
        """What is known of a weight file that has this model's tensors, and nobody named.

        If others of the `models` have the same tensors, the terms of the file are not known.
        """
        alike = [
            other.name
            for other in models
            if (other.family.name, other.config) == (self.family.name, self.config)
        ]
        if len(alike) == 1:
            return self.header
        licence = (
            f"licence not known, for {' and '.join(alike)} have the same tensors; name one of "
            "them and give the file as its weights (--weights, weights=)"
        )
        return self.header | {"license": licence, "source": {"file": filename}}


_PI3 = ModelEntry(
    name="pi3",
    family=PI3_FAMILY,
    config=PI3,
    parameters=958_696_732,
    source=HubFile("yyfz233/Pi3", "model.safetensors"),
    resize=PI3_RESIZE,
    weights_licence="CC BY-NC 4.0 (no commercial use)",
    code_licence="BSD 3-Clause",
    paper="arXiv 2507.13347",
)

# Trained at 112 to 280 pixels a side, so images get the area of 224x224.
_PI3_MINI = ModelEntry(
    name="pi3-mini",
    family=PI3_FAMILY,
    config=PI3_MINI,
    parameters=25_800_176,
    source=Bundled(Path(__file__).parent.parent / "weights" / "pi3-mini"),
    resize=ResizeRule(pixel_limit=224 * 224),
    weights_licence="Apache-2.0",
    code_licence="Apache-2.0",
    paper="arXiv 2507.13347",
)

_PI3X = ModelEntry(
    name="pi3x",
    family=PI3X_FAMILY,
    config=PI3X,
    parameters=1_360_032_433,
    source=HubFile("yyfz233/Pi3X", "model.safetensors"),
    resize=PI3_RESIZE,
    weights_licence="CC BY-NC 4.0 (no commercial use)",
    code_licence="BSD 3-Clause",
    paper="arXiv 2507.13347",
)

_VGGT = ModelEntry(
    name="vggt",
    family=VGGT_FAMILY,
    config=VGGT_1B,
    parameters=1_256_536_492,
    source=HubFile("facebook/VGGT-1B", "model.safetensors"),
    resize=VGGT_RESIZE,
    weights_licence="CC BY-NC 4.0 (no commercial use)",
    code_licence="VGGT License",
    paper="arXiv 2503.11651",
)

_VGGT_COMMERCIAL = replace(
    _VGGT,
    name="vggt-commercial",
    source=HubFile("facebook/VGGT-1B-Commercial", "vggt_1B_commercial.pt"),
    weights_licence="VGGT-1B-Commercial licence (commercial use allowed; access on request)",
)

_MAPANYTHING = ModelEntry(
    name="mapanything",
    family=MAPANYTHING_FAMILY,
    config=MAPANYTHING,
    parameters=1_228_491_222,
    source=HubFile("facebook/map-anything", "model.safetensors"),
    resize=MAPANYTHING_RESIZE,
    weights_licence="CC BY-NC 4.0 (no commercial use)",
    code_licence="Apache-2.0",
    paper="arXiv 2509.13414",
)

_MAPANYTHING_APACHE = replace(
    _MAPANYTHING,
    name="mapanything-apache",
    source=HubFile("facebook/map-anything-apache", "model.safetensors"),
    weights_licence="Apache-2.0",
)

_MAPANYTHING_V1 = replace(
    _MAPANYTHING,
    name="mapanything-v1",
    config=MAPANYTHING_V1,
    parameters=563_335_382,
    source=HubFile("facebook/map-anything-v1", "model.safetensors"),
)

_MAPANYTHING_APACHE_V1 = replace(
    _MAPANYTHING_V1,
    name="mapanything-apache-v1",
    source=HubFile("facebook/map-anything-apache-v1", "model.safetensors"),
    weights_licence="Apache-2.0",
)

MODELS: Mapping[str, ModelEntry] = {
    entry.name: entry
    for entry in (
        _PI3,
        _PI3_MINI,
        _PI3X,
        _VGGT,
        _VGGT_COMMERCIAL,
        _MAPANYTHING,
        _MAPANYTHING_APACHE,
        _MAPANYTHING_V1,
        _MAPANYTHING_APACHE_V1,
    )
}
"""Released models by name."""

BUNDLED = _PI3_MINI.name
"""The model that needs no download."""


def available_models() -> tuple[str, ...]:
    """Names that `load` takes."""
    return tuple(MODELS)


def find_entry(name: str) -> ModelEntry | None:
    """The released model of a name, ours or that of the repository of its weights; None if none is.

    Repositories are told apart by case as little as the hub does.
    """
    if name in MODELS:
        return MODELS[name]
    repositories = {x.source.repo: x for x in MODELS.values() if isinstance(x.source, HubFile)}
    return {repo.casefold(): x for repo, x in repositories.items()}.get(name.casefold())


def model_entry(name: str) -> ModelEntry:
    """The released model of that name, ours or that of the repository of its weights.

    Raises:
      InputError: there is none.
    """
    entry = find_entry(name)
    if entry is None:
        near = meant(name, MODELS)
        raise InputError(f"unknown model {name!r}; known models: {', '.join(MODELS)}{near}")
    return entry
