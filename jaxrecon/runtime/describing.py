"""What a view looks like, in a few hundred numbers: views of one place have similar ones."""

from functools import partial
from itertools import pairwise
from typing import Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt8

from jaxrecon.errors import InputError
from jaxrecon.nn.dinov2 import DinoV2, encode_views
from jaxrecon.nn.execution import ExecutionConfig
from jaxrecon.runtime.executor import Executor

WIDTH = 256
"""Numbers of a description."""

CELLS = 3
"""A picture is described in so many rows and columns of cells."""

_SEED = 7


@runtime_checkable
class EncodingModel(Protocol):
    """A model with an image encoder that works on each view alone."""

    encoder: DinoV2


def describe(executor: Executor, pixels: UInt8[np.ndarray, "V H W 3"]) -> Float[np.ndarray, "V D"]:
    """Descriptions of views by the model's own image encoder.

    The encoder's patch tokens are averaged in 3x3 cells, and their deviation over the whole picture
    is put beside them; a fixed random projection takes that to 256 numbers.

    Raises:
      InputError: the model has no image encoder of its own.
    """
    model = executor.model
    if not isinstance(model, EncodingModel):
        raise InputError("loops: the model has no image encoder to find places by; leave it out")
    abstract = jax.ShapeDtypeStruct((1, *pixels.shape), jnp.uint8)
    execution = ExecutionConfig()
    program = executor.once(
        ("describe", pixels.shape),
        lambda: executor.lowered(partial(describing_program, execution), model, abstract),
    )
    return np.asarray(program(model, executor.put_by_view(pixels[None])))


def describing_program(
    execution: ExecutionConfig, model: EncodingModel, pixels: UInt8[Array, "1 V H W 3"]
) -> Float[Array, "V D"]:
    """See `describe`."""
    encoder = model.encoder
    images = pixels.astype(jnp.float32) / 255
    rows, columns = encoder.patch_grid(images.shape[1:])
    tokens = encode_views(encoder, images, execution=execution)[0].astype(jnp.float32)
    maps = tokens.reshape(len(tokens), rows, columns, -1)
    cells = [
        maps[:, row][:, :, column].mean(axis=(1, 2))
        for row in _cells(rows)
        for column in _cells(columns)
    ]
    told = jnp.concatenate([*cells, maps.std(axis=(1, 2))], axis=-1)
    projection = jax.random.normal(jax.random.key(_SEED), (told.shape[-1], WIDTH))
    return jnp.matmul(told, projection, precision="highest") / np.sqrt(told.shape[-1])


def _cells(length: int) -> list[slice]:
    """Where the cells along a side of so many patches are; they overlap where patches are few."""
    ends = np.linspace(0, length, CELLS + 1)
    return [
        slice(int(np.floor(a)), max(int(np.ceil(b)), int(np.floor(a)) + 1))
        for a, b in pairwise(ends.tolist())
    ]
