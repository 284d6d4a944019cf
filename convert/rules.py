"""What a rule is, and the rules of the layers that every family has."""

import re
from collections.abc import Iterable
from dataclasses import dataclass

from convert.transforms import TRANSFORMS
from jaxrecon.errors import WeightsError


@dataclass(frozen=True)
class Rule:
    """Where the tensors go whose whole name matches a pattern.

    Attributes:
      pattern: regular expression. A group named `layer` makes the tensor one entry, on the leading
        axis, of a parameter that stacks all layers.
      target: dotted path of the parameter; may refer to groups of the pattern, as in `re.sub`.
      transform: name of the change of layout, a key of `convert.transforms.TRANSFORMS`.
      every: the layer goes to entry `layer // every`, for stacks that share one numbering.
    """

    pattern: str
    target: str
    transform: str = "identity"
    every: int = 1

    def __post_init__(self) -> None:
        if self.transform not in TRANSFORMS:
            raise ValueError(f"{self.transform=} is not one of {', '.join(TRANSFORMS)}")
        if self.every < 1:
            raise ValueError(f"{self.every=} must be at least 1")
        re.compile(self.pattern)


@dataclass(frozen=True)
class Ignore:
    """Tensors that are left out on purpose: those whose whole name matches, and why."""

    pattern: str
    reason: str


@dataclass(frozen=True)
class OptionalPart:
    """A part of a network that models of one family have or are built without.

    Attributes:
      name: the argument of `jaxrecon.load` that asks for it.
      config_field: which field of the family's config says whether there is one.
      prefix: how the names of its tensors begin, ours and upstream's.
      words: what it is called in messages.
      without: what models without it do, as in "models of the family pi3 follow no points".
      upstream: how upstream's begin, if otherwise.
      usual: whether models have it unless the caller says no; else it is read only where it is
        asked for.
    """

    name: str
    config_field: str
    prefix: str
    words: str
    without: str
    upstream: tuple[str, ...] = ()
    usual: bool = False

    @property
    def ignored(self) -> Ignore:
        """Its tensors, for models that are built without it."""
        begin = "|".join(map(re.escape, self._begin))
        return Ignore(rf"(?:{begin}).*", f"the model is built without a {self.words}")

    def is_among(self, names: Iterable[str]) -> bool:
        """Whether a checkpoint with tensors of these names has it."""
        return any(name.startswith(self._begin) for name in names)

    @property
    def _begin(self) -> tuple[str, ...]:
        return self.upstream or (self.prefix,)

    def check(self, names: Iterable[str], *, label: str = "the checkpoint") -> None:
        """Refuses a checkpoint without it.

        Raises:
          WeightsError: none of its tensors is there.
        """
        if not self.is_among(names):
            raise WeightsError(
                f"{label} holds no {self.words} (no tensor {self._begin[0]}*); use weights that "
                f"hold one, or load the model without {self.name}"
            )


def norm_rules(source: str, target: str, *, every: int = 1) -> tuple[Rule, ...]:
    """Rules of one LayerNorm; `source` is a pattern, `target` a path."""
    return (
        Rule(rf"{source}\.weight", f"{target}.scale", every=every),
        Rule(rf"{source}\.bias", f"{target}.bias", every=every),
    )


def linear_rules(source: str, target: str, *, every: int = 1) -> tuple[Rule, ...]:
    """Rules of one linear layer; `source` is a pattern, `target` a path."""
    return (
        Rule(rf"{source}\.weight", f"{target}.kernel", "linear", every),
        Rule(rf"{source}\.bias", f"{target}.bias", every=every),
    )


def patch_embed_rules(source: str, target: str) -> tuple[Rule, ...]:
    """Rules of the convolution that embeds patches."""
    return (
        Rule(rf"{source}\.weight", f"{target}.kernel", "patch_kernel"),
        Rule(rf"{source}\.bias", f"{target}.bias"),
    )


def conv_rules(source: str, target: str) -> tuple[Rule, ...]:
    """Rules of one convolution with a bias; `source` is a pattern, `target` a path."""
    return (
        Rule(rf"{source}\.weight", f"{target}.kernel", "convolution"),
        Rule(rf"{source}\.bias", f"{target}.bias"),
    )


def pointwise_rules(source: str, target: str) -> tuple[Rule, ...]:
    """Rules of one convolution of size one, which is a linear layer of ours."""
    return (
        Rule(rf"{source}\.weight", f"{target}.kernel", "pointwise"),
        Rule(rf"{source}\.bias", f"{target}.bias"),
    )


def fusion_rules(source: str, target: str) -> tuple[Rule, ...]:
    """Rules of the four fusion steps of a DPT; `source` is a pattern, `target` a path."""
    step = rf"{source}\.scratch\.refinenet(?P<n>\d)"
    return (
        *conv_rules(
            rf"{step}\.resConfUnit1\.conv(?P<m>[12])", rf"{target}.fusion\g<n>.skip.conv\g<m>"
        ),
        *conv_rules(
            rf"{step}\.resConfUnit2\.conv(?P<m>[12])", rf"{target}.fusion\g<n>.refine.conv\g<m>"
        ),
        *pointwise_rules(rf"{step}\.out_conv", rf"{target}.fusion\g<n>.out"),
    )


def pixel_shuffle_rules(source: str, target: str) -> tuple[Rule, ...]:
    """Rules of a linear layer whose output is spread over the pixels of a patch."""
    return (
        Rule(rf"{source}\.weight", f"{target}.kernel", "pixel_shuffle_kernel"),
        Rule(rf"{source}\.bias", f"{target}.bias", "pixel_shuffle_bias"),
    )


def block_rules(source: str, target: str, *, every: int = 1) -> tuple[Rule, ...]:
    """Rules of a stack of transformer blocks, named as DINOv2 names them.

    Covers LayerScale, the norms of queries and keys and both kinds of MLP: in blocks without them
    these rules match nothing.

    Args:
      source: pattern of a block's prefix, with the group `layer`.
      target: path of our stacked block.
      every: see `Rule`.
    """
    norms = ("norm1", "norm1"), ("norm2", "norm2")
    head_norms = ("attn.q_norm", "attention.q_norm"), ("attn.k_norm", "attention.k_norm")
    matrices = (
        ("attn.qkv", "attention.qkv"),
        ("attn.proj", "attention.out"),
        ("mlp.fc1", "mlp.fc1"),
        ("mlp.fc2", "mlp.fc2"),
        ("mlp.w12", "mlp.fc1"),
        ("mlp.w3", "mlp.fc2"),
    )
    scales = ("ls1", "scale1"), ("ls2", "scale2")
    rules: list[Rule] = []
    for theirs, ours in norms + head_norms:
        rules += norm_rules(rf"{source}\.{re.escape(theirs)}", f"{target}.{ours}", every=every)
    for theirs, ours in matrices:
        rules += linear_rules(rf"{source}\.{re.escape(theirs)}", f"{target}.{ours}", every=every)
    for theirs, ours in scales:
        rules.append(Rule(rf"{source}\.{theirs}\.gamma", f"{target}.{ours}.gamma", every=every))
    return tuple(rules)
