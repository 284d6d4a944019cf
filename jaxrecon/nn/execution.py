"""How a program does its work, apart from what it computes."""

from dataclasses import dataclass
from typing import NamedTuple


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
      sharded_weights: every device has a part of the trunk's matrices.
    """

    training: bool = False
    offload: bool = False
    chunk_tokens: int = 2**18
    encoder_patches: int = 2**17
    head_views: int = 8
    sharded_weights: bool = False

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
