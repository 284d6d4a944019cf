"""Attention by name."""

from dataclasses import dataclass, field

from jaxtyping import Array, Float

from jaxrecon.checks import real_number, shown
from jaxrecon.choices import ATTENTIONS, AttentionName, meant
from jaxrecon.errors import InputError
from jaxrecon.nn.attention import (
    AttentionFn,
    AttentionStats,
    TokenLayout,
    attend_densely,
    named_attention,
    takes_scale,
)
from jaxrecon.nn.execution import Chunks
from jaxrecon.sparse.attention import SparseAttention

DENSE_UP_TO = 16_384
"""Scenes of so many tokens, about 16 views of 518x392 pixels, attend densely in `FastAttention`."""


@dataclass(frozen=True)
class FastAttention:
    """An `AttentionFn` that is block-sparse where a scene is large enough for that to pay.

    Attributes:
      sparse: how larger scenes attend.
      dense_up_to: scenes of up to so many tokens attend densely.

    Raises:
      InputError: `sparse` is no attention function, or `dense_up_to` no number.
    """

    sparse: SparseAttention = field(default_factory=SparseAttention)
    dense_up_to: int = DENSE_UP_TO

    def __post_init__(self) -> None:
        given: object = self.sparse
        if given is None or isinstance(given, str):
            raise InputError(f"sparse: found {shown(given)}; give SparseAttention(...)")
        chosen_attention(self.sparse)
        real_number("dense_up_to", self.dense_up_to)

    def __call__(
        self,
        q: Float[Array, "G T N K"],
        k: Float[Array, "G S N K"],
        v: Float[Array, "G S N K"],
        layout: TokenLayout,
    ) -> tuple[Float[Array, "G T N K"], AttentionStats | None]:
        """Dense up to the limit, sparse beyond it."""
        attend = attend_densely if layout.tokens <= self.dense_up_to else self.sparse
        return attend(q, k, v, layout)

    @property
    def parts(self) -> tuple[AttentionFn, ...]:
        """What it is made of, beside dense attention."""
        return (self.sparse,)

    @property
    def takes_scale(self) -> bool:
        """Whether sparse attention heeds the layout's `scale`, as dense attention does."""
        return takes_scale(self.sparse)

    def chunks(self, layout: TokenLayout, heads: int) -> Chunks:
        """What is worked on at a time, see `SparseAttention.chunks`."""
        return {} if layout.tokens <= self.dense_up_to else self.sparse.chunks(layout, heads)


def chosen_attention(
    attention: AttentionFn | AttentionName | None, otherwise: AttentionFn = attend_densely
) -> AttentionFn:
    """The attention of this name, this one itself, or `otherwise` if none is given.

    Raises:
      InputError: the name is unknown, it is neither a name nor a function, but a class, say, or it
        cannot be hashed.
    """
    if attention is None:
        return otherwise
    if isinstance(attention, str):
        return attention_named(attention)
    if not callable(attention):
        raise InputError(
            f"attention: found {type(attention).__name__}; give a name or a function such as "
            "SparseAttention()"
        )
    try:
        hash(attention)
    except TypeError as error:
        raise InputError(
            f"attention: found a {type(attention).__name__} that cannot be hashed, but programs "
            "are kept by it; make its class, and what its fields hold, frozen dataclasses"
        ) from error
    if isinstance(attention, type):
        raise InputError(
            f"attention: found the class {attention.__name__}; give one of its objects, such as "
            f"{attention.__name__}()"
        )
    return attention


def attention_named(name: str) -> AttentionFn:
    """Attention by name.

    "auto" and "dense" are exact, with the fastest backend there is; "mosaic_gpu", "cudnn" and
    "xla" are exact, with that one. "sparse" is `SparseAttention()`, and "fast" is
    `FastAttention()`: approximate, and asked for by name alone.

    Raises:
      InputError: the name is unknown.
    """
    if name == "auto":
        return attend_densely
    if name == "fast":
        return FastAttention()
    if name == "sparse":
        return SparseAttention()
    try:
        return named_attention(name)
    except InputError as error:
        raise InputError(
            f"attention={name!r} is unknown; choose one of {', '.join(ATTENTIONS)}, or a function"
            f"{meant(name, ATTENTIONS)}"
        ) from error
