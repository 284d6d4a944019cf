"""The table of models: sizes, where the weights are, and under which terms."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from convert import pi3 as pi3_names
from convert.rules import Ignore, Rule
from jaxrecon.errors import InputError
from jaxrecon.images import PI3_RESIZE, ResizeRule
from jaxrecon.models import PI3, PI3_MINI, Pi3, Pi3Config


@dataclass(frozen=True)
class Family:
    """What the models of one architecture share.

    Attributes:
      name: as it stands in checkpoints.
      config_class: the sizes.
      build: makes a module with fresh weights from a config.
      rules, ignored: how upstream's tensor names become our parameter paths.
      resize: the size that images get where a checkpoint states none.
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
    resize: ResizeRule
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
    parameters=17_206_940,
    source=Bundled(Path(__file__).parent.parent / "weights" / "pi3-mini"),
    resize=ResizeRule(pixel_limit=224 * 224),
    weights_licence="Apache-2.0",
    code_licence="Apache-2.0",
    paper="arXiv 2507.13347",
)

MODELS: Mapping[str, ModelEntry] = {entry.name: entry for entry in (_PI3, _PI3_MINI)}
"""Released models by name."""


def available_models() -> tuple[str, ...]:
    """Names that `load` takes."""
    return tuple(MODELS)


def model_entry(name: str) -> ModelEntry:
    """The released model of that name.

    Raises:
      InputError: there is none.
    """
    if name not in MODELS:
        raise InputError(f"unknown model {name!r}; known models: {', '.join(MODELS)}")
    return MODELS[name]
