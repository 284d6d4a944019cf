"""How a program does its work, apart from what it computes."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

from jaxtyping import Array, Int, Shaped


@dataclass(frozen=True)
class Collectives:
    """What the devices that share a scene exchange, as code on one of them calls it.

    Each has as many neighbouring views, and runs the same code. This class stands for one device
    that has them all: it exchanges nothing. `runtime/collectives.py` has that for several.

    Attributes:
      devices: how many share a scene.
    """

    devices: int = 1

    def first_view(self, views: int) -> int | Int[Array, ""]:
        """The number in the scene of this device's first view, if each has so many."""
        return 0

    def own_views(self, x: Shaped[Array, "B _V *rest"], views: int) -> Shaped[Array, "B v *rest"]:
        """This device's `views` of an array of all views."""
        return x

    def all_gather(
        self, x: Shaped[Array, "..."], *, axis: int, replicas: int = 1
    ) -> Shaped[Array, "..."]:
        """The parts that all devices hold, one after the other along an axis.

        Args:
          replicas: so many neighbours hold the same; one of them is asked.
        """
        return x

    def gather_replicas(
        self, x: Shaped[Array, "..."], *, axis: int, replicas: int
    ) -> Shaped[Array, "..."]:
        """The parts that so many neighbours hold, one after the other along an axis."""
        return x

    def across_views(self, attention: Callable[..., Any]) -> Callable[..., Any]:
        """An `AttentionFn` over the tokens of all devices, for inputs of which each has a share."""
        return attention

    def all_gather_weights[W](self, weights: W) -> W:
        """The weights as they are, of which each device may hold a part, as a whole."""
        return weights


ALONE = Collectives()
"""One device."""


@dataclass(frozen=True)
class ExecutionConfig:
    """How a program does its work; its results stay the same within rounding.

    Callers hand it down to all that is traced. It is hashable: where a function that is compiled
    takes it, it is a static argument, and so part of what compiled programs are kept by.

    Attributes:
      training: the program is differentiated. Layers then follow one another in place of a loop,
        whose every turn would copy what the backward pass needs, and all views go through the
        encoder and the heads together: what the backward pass needs is kept in any case.
      offload: the features that only the heads read wait in the host's memory.
      chunk_tokens: the most tokens that a device works on together, about 250 views of 518x392
        pixels; in attention across views, all of them.
      encoder_patches: the most patches that the image encoder works on together.
      head_views: the most views that a dense head works on together.
      cublas_gelu: GELU of 16-bit numbers is written so that XLA has cuBLAS compute it with the
        matrix product before it: in its tanh form, but of sums that are not rounded to 16 bits
        first. For programs that `compiling.compiled` compiles for such a device; others would
        compute it in 16 bits.
      kernels: fused functions may run as kernels. They may not where the compiler parts a program
        over devices by itself, which it cannot do to a kernel.
      collectives: what this device exchanges with others that share the scene.
    """

    training: bool = False
    offload: bool = False
    chunk_tokens: int = 2**18
    encoder_patches: int = 2**17
    head_views: int = 8
    cublas_gelu: bool = False
    kernels: bool = True
    collectives: Collectives = ALONE

    @property
    def backend(self) -> str | None:
        """The backend that fused functions are asked for; None for the best one there is."""
        return None if self.kernels else "xla"

    def at_once(self, unit: int) -> int:
        """How many units of so many tokens are worked on together; at least one."""
        return max(1, self.chunk_tokens // unit)


INFERENCE = ExecutionConfig()
"""On one device, without gradients."""

TRAINING = ExecutionConfig(training=True)
"""For programs that are differentiated."""


class Chunk(NamedTuple):
    """Work on `of` items, `size` of them at a time."""

    size: int
    of: int


type Chunks = dict[str, Chunk]
"""What a program works on at a time, by the name of what it is."""

HEAD_VIEWS = "head views"
"""The name of views whose geometry is made together."""


def chunk_size(count: int, most: int) -> int:
    """How many of `count` items are worked on together, if they may be `most`.

    Chunks are of one size. They are as few as can be, or up to twice as many if that makes them
    cover all items evenly; else the last one reaches back over items that were done before.
    """
    if count <= most:
        return count
    chunks = -(-count // most)
    even = (number for number in range(chunks, 2 * chunks) if count % number == 0)
    return -(-count // next(even, chunks))


def view_chunk(views: int, most: int, execution: ExecutionConfig) -> Chunk:
    """How many views are worked on together, if they may be `most`; all where a network learns."""
    return Chunk(chunk_size(views, views if execution.training else most), views)
