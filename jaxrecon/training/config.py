"""What a training run is: model, data, losses, schedule."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from math import gcd
from pathlib import Path
from typing import Any, Literal

import numpy as np

from jaxrecon.checks import shown
from jaxrecon.choices import meant
from jaxrecon.errors import InputError
from jaxrecon.files import replacing_file
from jaxrecon.models import MAPANYTHING_MINI, PI3_MINI, MapAnythingConfig, Pi3Config
from jaxrecon.reading import is_plain_file, parse_json, read_json
from jaxrecon.scenes import SceneConfig
from jaxrecon.sizes import check_real, check_whole
from jaxrecon.structured import structured

CHECKPOINTS_NAME = "checkpoints"


_MOST_STEPS = 2**31 - 1
"""A step's number is 32 bits wide on the device."""

_MOST_SEED = 2**32 - 1
_MOST_PIXELS = 2**31 - 1
"""The most pixels of a batch, which programs number with 32 bits."""

_MOST_FACTOR = 1e6


@dataclass(frozen=True)
class Bucket:
    """One shape of batch: `scenes` scenes of `views` images of `height` x `width` pixels.

    Of every `sum(share)` steps a bucket takes `share`. Each bucket is compiled once. Its scenes are
    drawn as `TrainConfig.scenes` says, or with a `kind` above 0 as `more_scenes[kind - 1]` does.

    Raises:
      InputError: a number is out of range.
    """

    scenes: int
    views: int
    height: int
    width: int
    share: int = 1
    kind: int = 0

    def __post_init__(self) -> None:
        check_whole(self, "scenes", "views", most=2**20)
        check_whole(self, "kind", least=0, most=2**20)
        check_whole(self, "height", "width", most=2**14)
        check_whole(self, "share", least=0, most=1_000_000)
        if self.images * self.height * self.width > _MOST_PIXELS:
            raise InputError(f"{self} has more than {_MOST_PIXELS} pixels; give it fewer scenes")

    @property
    def images(self) -> int:
        return self.scenes * self.views


@dataclass(frozen=True)
class LossWeights:
    """Factors of the terms of the loss, see `jaxrecon.training.losses`.

    `rays` counts on one's own scenes alone, for pixels of known intrinsics and unknown depth.
    `edges` is the relative error of depths beside depth edges, on rendered scenes alone.
    `mask` and `scale` count where the model says which pixels have geometry, and how long a metre
    is; both on rendered scenes alone.

    Raises:
      InputError: a factor is negative, not finite, or above a million.
    """

    points: float = 1.0
    normals: float = 0.1
    confidence: float = 0.05
    rotation: float = 2.0
    translation: float = 0.75
    rays: float = 1.0
    edges: float = 0.0
    mask: float = 0.1
    scale: float = 0.1

    def __post_init__(self) -> None:
        for name in asdict(self):
            check_real(self, name, least=0, most=_MOST_FACTOR)


@dataclass(frozen=True)
class PriorShares:
    """How often a model that takes priors is told what is known of the scenes it learns from.

    Attributes:
      scenes: share of the scenes of which anything is told.
      kinds: of those, the share of which intrinsics are told; depths and poses likewise.
      all_views: how often a kind is told of all views.
      views: else, of which share of them.
      metric: how often it is told that depths and poses are in metres.

    Raises:
      InputError: a share is no number from 0 to 1.
    """

    scenes: float = 0.75
    kinds: float = 0.5
    all_views: float = 0.5
    views: float = 0.5
    metric: float = 0.5

    def __post_init__(self) -> None:
        for name in asdict(self):
            check_real(self, name, least=0, most=1)


_UNFILTERED = replace(PI3_MINI, filter_width=0)
"""The filter takes about as long as all else of a step: it learns last, see `MINI_EDGES`."""


@dataclass(frozen=True)
class TrainConfig:
    """A training run; two runs of one config see the same scenes and take the same steps.

    Attributes:
      model: sizes of the network, of π³ or MapAnything.
      scenes: how scenes are drawn and rendered.
      more_scenes: further kinds of scenes, for the buckets that name one.
      buckets: shapes of the batches, mixed in random order.
      losses: factors of the terms of the loss.
      priors: how often MapAnything is told what is known; π³ takes no priors.
      steps: length of the whole run.
      learning_rate: at its highest, after `warmup_steps`.
      decay_share: share of the run, at its end, in which the rate falls linearly to zero.
      weight_decay: decoupled, on matrices only.
      clip_norm: largest norm of the gradient.
      ema_decay: of the average of the weights, which is what a run yields.
      layer_scale: initial value of every LayerScale.
      dtype: of the matrices in the forward and backward pass; the weights are kept in float32.
      trained: how the names of the weights begin that learn, such as "depth_filter."; all others
        stay as they are, and cost neither gradients nor moments. Empty for all weights. Points
        and cameras have one unit, which no term of the loss holds where one of them learns alone.
      accumulate: in so many parts the scenes of a step are learnt from, one part after another: the
        same step with less memory.
      pictures: how many pictures lie on surfaces of the scenes; set from the folder that is given.
      data_share: share of the steps that learn from one's own scenes, where there are any.
      data_held_out: every n-th view of each own scene is evaluated and not trained on; 0 for
        none.
      data_views: how many views the own scenes have; set from the folders that are given.
      sharding: whether each device holds a part of weights, average and moments ("sharded") or all
        of them ("whole"); "auto" shards them over several devices where they and the gradients
        would fill more than half of each.
      seed: of the weights and of the stream of scenes.
      log_every, save_every, validate_every: in steps; runs are saved where a line of the log ends.
      validation_scenes: of the first bucket's shape, held out.

    Raises:
      InputError: a number is out of range, or two do not go together.
    """

    model: Pi3Config | MapAnythingConfig = field(default=_UNFILTERED)
    scenes: SceneConfig = field(default_factory=lambda: SceneConfig(samples=1))
    more_scenes: tuple[SceneConfig, ...] = ()
    buckets: tuple[Bucket, ...] = (
        Bucket(scenes=128, views=8, height=224, width=224, share=6),
        Bucket(scenes=64, views=16, height=224, width=224, share=2),
        Bucket(scenes=64, views=16, height=168, width=224, share=2),
        Bucket(scenes=160, views=24, height=112, width=140, share=1),
        Bucket(scenes=320, views=2, height=280, width=224, share=1),
    )
    losses: LossWeights = field(default_factory=LossWeights)
    priors: PriorShares = field(default_factory=PriorShares)
    steps: int = 8000
    learning_rate: float = 1.2e-3
    warmup_steps: int = 500
    decay_share: float = 0.5
    weight_decay: float = 0.05
    clip_norm: float = 1.0
    ema_decay: float = 0.999
    layer_scale: float = 0.1
    optimizer: Literal["adamw", "muon"] = "adamw"
    dtype: Literal["bfloat16", "float32"] = "bfloat16"
    trained: tuple[str, ...] = ()
    accumulate: int = 1
    pictures: int = 0
    data_share: float = 0.5
    data_held_out: int = 0
    data_views: int = 0
    sharding: Literal["auto", "whole", "sharded"] = "auto"
    seed: int = 0
    log_every: int = 50
    save_every: int = 2000
    validate_every: int = 500
    validation_scenes: int = 32

    def __post_init__(self) -> None:
        if not any(bucket.share for bucket in self.buckets):
            raise InputError(f"buckets={shown(self.buckets)} must hold one of a share above 0")
        self._check_numbers()
        self._check_batches()
        if self.save_every % self.log_every:
            raise InputError(
                f"save_every={self.save_every} must be a multiple of log_every={self.log_every}"
            )
        if self.warmup_steps + self.decay_share * self.steps > self.steps:
            raise InputError(
                f"warmup_steps={self.warmup_steps} and decay_share={self.decay_share} do not fit "
                f"into steps={self.steps}: warm-up and decay follow one another; take more steps, "
                "or a smaller warmup_steps (such as --set warmup_steps=0) or decay_share"
            )

    def _check_numbers(self) -> None:
        check_whole(self, "steps", "log_every", "save_every", "validate_every", most=_MOST_STEPS)
        check_whole(self, "validation_scenes", "accumulate", most=2**20)
        check_whole(self, "warmup_steps", least=0, most=_MOST_STEPS)
        check_whole(self, "pictures", "data_held_out", "data_views", least=0, most=2**20)
        if self.data_held_out == 1:
            raise InputError(
                "data_held_out=1 leaves no view to train on; give 2 for every other one, or more"
            )
        check_whole(self, "seed", least=0, most=_MOST_SEED)
        check_real(self, "learning_rate", "weight_decay", least=0, most=_MOST_FACTOR)
        check_real(self, "clip_norm", least=1e-12, most=1e12)
        check_real(self, "decay_share", "ema_decay", "data_share", least=0, most=1)
        check_real(self, "layer_scale", least=-_MOST_FACTOR, most=_MOST_FACTOR)

    def _check_batches(self) -> None:
        patch = self.model.encoder.patch
        for bucket in self.buckets:
            if bucket.height % patch or bucket.width % patch:
                raise InputError(f"{bucket} must have sides that are multiples of {patch}")
            if bucket.kind > len(self.more_scenes):
                raise InputError(
                    f"{bucket} names a kind that is not there: more_scenes has "
                    f"{len(self.more_scenes)}; give it one for each kind from 1 on"
                )
        for bucket in self.buckets:
            self._check_scenes(str(bucket), bucket.scenes, bucket.kind)
        held_out = self.validation_scenes
        self._check_scenes(f"validation_scenes={held_out}", held_out, self.buckets[0].kind)

    def _check_scenes(self, what: str, count: int, kind: int) -> None:
        every = self._kinds[kind].outdoor_every
        if every and count % every:
            drawn = f"more_scenes[{kind - 1}]" if kind else "scenes"
            raise InputError(
                f"{what} must be of a multiple of {every} scenes, of which one is a landscape "
                f"({drawn}.outdoor_every)"
            )

    @property
    def _kinds(self) -> tuple[SceneConfig, ...]:
        return (self.scenes, *self.more_scenes)

    def scenes_of(self, bucket: Bucket) -> SceneConfig:
        """How the scenes of a bucket are drawn."""
        return self._kinds[bucket.kind]

    def group(self, bucket: Bucket) -> int:
        """How many scenes are drawn from one key: batches are made of whole groups."""
        return gcd(bucket.scenes, self.scenes_of(bucket).outdoor_every or 1)

    @classmethod
    def from_json(cls, path: str | Path) -> "TrainConfig":
        """Reads a config; fields that the file lacks have their defaults.

        Raises:
          InputError: the file is absent or not JSON, or a field is unknown or of another type.
        """
        return _checked(read_json(path, advice="check the config"), str(path))

    def with_overrides(self, overrides: Sequence[str]) -> "TrainConfig":
        """The config with some fields set by `name=value`.

        A name leads into nested configs by dots (`losses.points=2`); values are JSON, or plain text
        for a field that holds text.

        Raises:
          InputError: a field is unknown, set twice to different values, or a value is of another
            type.
        """
        values, given = asdict(self), dict[str, str]()
        for override in overrides:
            name, equals, text = override.partition("=")
            if given.setdefault(name, text) != text:
                raise InputError(
                    f"{name}={shown(given[name])} and {name}={shown(text)}: a field is set twice; "
                    "leave one of them out"
                )
            *path, last = name.split(".")
            place: Any = values
            for part in path:
                place = place.get(part) if isinstance(place, dict) else None
            if not equals or not isinstance(place, dict) or last not in place:
                raise _unknown(override, values)
            place[last] = _value(text)
        return _checked(values, "--set")

    def to_json(self) -> str:
        """The config as text that `from_json` reads."""
        return json.dumps(asdict(self), indent=1) + "\n"


def draw_bucket(buckets: Sequence[Bucket], random: np.random.Generator) -> Bucket:
    """One of the buckets, by their shares."""
    shares = np.array([bucket.share for bucket in buckets], float)
    return buckets[random.choice(len(shares), p=shares / shares.sum())]


def _unknown(override: str, values: dict[str, Any]) -> InputError:
    """The refusal of what names no field, with the fields of the config up to which it leads."""
    name, place, inside = override.partition("=")[0], values, ""
    for part in name.split(".")[:-1]:
        if not isinstance(place.get(part), dict):
            break
        place, inside = place[part], f"{inside}{part}."
    names = [inside + field for field in place]
    near = "" if name in names else meant(name, names)
    return InputError(
        f"--set: found {override!r}; give name=value, with a name out of {', '.join(names)}{near}"
    )


def _value(text: str) -> Any:
    try:
        return parse_json(text)
    except ValueError:
        return text


def _checked(values: Any, where: str) -> TrainConfig:
    try:
        return structured(TrainConfig, values)
    except ValueError as error:
        raise InputError(f"{where}: {error}") from error


def claim_folder(path: Path, config: TrainConfig) -> None:
    """Writes the config of a new run, or checks that a run that has begun has the same.

    Raises:
      InputError: the run that is there has another config.
      OutputError: the file cannot be written.
    """
    if is_plain_file(path) and has_begun(path.parent):
        found = asdict(TrainConfig.from_json(path))
        differ = [name for name, value in asdict(config).items() if found[name] != value]
        if differ:
            raise InputError(
                f"{path.parent} holds a run of another config (differs in {', '.join(differ)}); "
                "choose another folder, or go on with the config that is there"
            )
        return
    with replacing_file(path) as temporary:
        temporary.write_text(config.to_json(), encoding="utf-8")


def has_begun(folder: Path) -> bool:
    """Whether the run of a folder has a checkpoint."""
    return newest_step(folder) is not None


def newest_step(folder: Path) -> int | None:
    """The step of the newest checkpoint of a run's folder, None if there is none."""
    names = (child.name for child in folder.glob(f"{CHECKPOINTS_NAME}/*"))
    return max((int(name) for name in names if name.isdecimal()), default=None)


MINI = TrainConfig()
"""The first stretch of the training of `pi3-mini`, from random weights."""

MINI_SECOND = TrainConfig(
    buckets=MINI.buckets[:-1],
    steps=5800,
    learning_rate=6e-4,
    warmup_steps=100,
    decay_share=0.9,
    seed=1,
)
"""The second stretch, from the weights of the first: a lower rate, and no pairs."""

MINI_REAL = TrainConfig(
    scenes=SceneConfig(
        samples=1,
        outdoor_every=2,
        boxes=5,
        cylinders=2,
        spheres=1,
        pictures=3,
        fov=(35.0, 100.0),
        room=(3.0, 11.0),
        reach=80.0,
        noise=0.01,
        exposure=0.35,
        clutter=18,
        close_ups=0.4,
        buildings=3,
        relief=0.45,
        handheld=True,
        contrast=0.8,
        lens=0.08,
        phone=1.0,
    ),
    buckets=(
        Bucket(scenes=64, views=16, height=168, width=224, share=3),
        Bucket(scenes=96, views=8, height=196, width=252, share=3),
        Bucket(scenes=128, views=8, height=224, width=168, share=2),
    ),
    losses=LossWeights(translation=1.25),
    steps=6300,
    learning_rate=8e-4,
    warmup_steps=100,
    decay_share=0.8,
    seed=2,
    save_every=500,
    validate_every=1500,
)
"""Towards photographs: fuller scenes seen as phones see them, with `textures` on most surfaces."""

MINI_FINE = replace(
    MINI_REAL,
    buckets=(
        Bucket(scenes=32, views=16, height=168, width=224, share=3),
        Bucket(scenes=48, views=8, height=196, width=252, share=3),
        Bucket(scenes=64, views=8, height=224, width=168, share=2),
        Bucket(scenes=48, views=8, height=168, width=294, share=2),
    ),
    steps=5600,
    learning_rate=5e-4,
    decay_share=0.9,
    seed=4,
)
"""From the weights of `MINI_REAL`: convolutions behind the heads, and 16:9 among the shapes."""

MINI_ALL_ROUND = replace(
    MINI_FINE,
    scenes=replace(MINI_FINE.scenes, roofs=0.6, wings=0.4, trees=0.5, all_round=0.25),
    buckets=(
        Bucket(scenes=48, views=16, height=168, width=224, share=3),
        Bucket(scenes=32, views=16, height=196, width=252, share=3),
        Bucket(scenes=64, views=8, height=224, width=168, share=2),
        Bucket(scenes=160, views=2, height=196, width=252, share=1),
    ),
    steps=10500,
    learning_rate=4e-4,
    warmup_steps=200,
    save_every=1000,
    validate_every=3500,
    seed=53,
)
"""For two GPUs: houses with wings and roofs, walks all round a thing, and pairs of views."""

MINI_PICTURES = replace(
    MINI_ALL_ROUND,
    scenes=replace(MINI_ALL_ROUND.scenes, plain=0.5),
    buckets=(
        Bucket(scenes=32, views=16, height=168, width=224, share=3),
        Bucket(scenes=24, views=16, height=196, width=252, share=3),
        Bucket(scenes=64, views=8, height=224, width=168, share=2),
        Bucket(scenes=96, views=2, height=196, width=252, share=1),
    ),
    steps=7000,
    learning_rate=1.5e-4,
    warmup_steps=100,
    validate_every=3500,
    seed=1111,
)
"""For one GPU: half of the scenes are plain paint with isolated pictures, doors and windows."""

MINI_HORIZONS = replace(
    MINI_ALL_ROUND,
    scenes=replace(MINI_PICTURES.scenes, nearest_reach=25.0, vistas=0.3),
    more_scenes=(replace(MINI.scenes, picture_share=0.25),),
    buckets=(
        Bucket(scenes=48, views=16, height=168, width=224, share=3),
        Bucket(scenes=32, views=16, height=196, width=252, share=3),
        Bucket(scenes=64, views=8, height=224, width=168, share=2),
        Bucket(scenes=96, views=8, height=224, width=224, share=3, kind=1),
        Bucket(scenes=160, views=2, height=196, width=252, share=2),
    ),
    losses=replace(MINI_PICTURES.losses, edges=0.3),
    steps=7000,
    learning_rate=2.5e-4,
    save_every=1500,
    seed=1717,
)
"""For two GPUs: horizons near and far, vistas, and three steps in thirteen on scenes of the first
kind."""

MINI_EDGES = replace(
    MINI_PICTURES,
    model=PI3_MINI,
    scenes=MINI_HORIZONS.scenes,
    buckets=(
        Bucket(scenes=32, views=8, height=224, width=224, share=1),
        Bucket(scenes=32, views=8, height=196, width=252, share=2),
    ),
    losses=replace(MINI_PICTURES.losses, edges=1.0),
    trained=("depth_filter.",),
    steps=5000,
    learning_rate=2e-3,
    save_every=500,
    seed=1313,
)
"""For one GPU: the filter of depths alone, with horizons near and far."""

FINE_TUNING = TrainConfig(
    buckets=(
        Bucket(scenes=32, views=8, height=168, width=224, share=2),
        Bucket(scenes=64, views=4, height=196, width=224, share=1),
    ),
    steps=600,
    learning_rate=1e-4,
    warmup_steps=50,
    decay_share=0.8,
    seed=3,
    save_every=200,
    validate_every=200,
)
"""One's own scenes beside rendered ones, from weights that are given."""

MAPANYTHING = TrainConfig(
    model=MAPANYTHING_MINI,
    buckets=(
        Bucket(scenes=64, views=8, height=224, width=224, share=2),
        Bucket(scenes=64, views=8, height=168, width=224, share=2),
        Bucket(scenes=128, views=4, height=168, width=224, share=1),
    ),
    steps=4000,
    learning_rate=1e-3,
    warmup_steps=300,
    decay_share=0.6,
    save_every=500,
    validate_every=1000,
)
"""A small MapAnything from random weights, told a random part of what is known of each scene."""

CONFIGS = {
    "mini": MINI,
    "mini-second": MINI_SECOND,
    "mini-real": MINI_REAL,
    "mini-fine": MINI_FINE,
    "mini-all-round": MINI_ALL_ROUND,
    "mini-pictures": MINI_PICTURES,
    "mini-horizons": MINI_HORIZONS,
    "mini-edges": MINI_EDGES,
    "mapanything-mini": MAPANYTHING,
    "fine-tune": FINE_TUNING,
}
"""Runs that have a name."""
