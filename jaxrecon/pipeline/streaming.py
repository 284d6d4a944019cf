"""Reconstructions of very many views, written view by view while they are made.

The views exchange in one program; what each view becomes then is worked out a few views at a time,
and is on the disk before the next few take its place.
"""

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Float, UInt8

from jaxrecon.files import holding_folder
from jaxrecon.formats import Streamed, write_npz
from jaxrecon.images import ImageBatch
from jaxrecon.models import Encoded, Model
from jaxrecon.nn.attention import AttentionFn
from jaxrecon.priors import PriorArrays, prior_world
from jaxrecon.progress import Stages
from jaxrecon.reconstruction import NO_STATISTICS, Reconstruction, Statistics
from jaxrecon.runtime.executor import Executor
from jaxrecon.runtime.fingerprint import digest, weights_digest
from jaxrecon.runtime.heads import compile_both, compile_heads, has_known_pose, part_size
from jaxrecon.runtime.options import ProgramKey, RuntimeInputs
from jaxrecon.runtime.placement import ONE_DEVICE, Placement
from jaxrecon.runtime.program import Geometry
from jaxrecon.runtime.sharding import view_devices

WRITERS = 4
"""Threads that write files."""


def digest_of(
    executor: Executor,
    name: str,
    batch: ImageBatch,
    inputs: RuntimeInputs,
    key: ProgramKey,
    priors: PriorArrays | None,
    attention: AttentionFn,
) -> str:
    """Tells apart reconstructions that would not come out alike."""
    arguments = [batch.pixels, batch.names, batch.transforms, inputs, key, priors, attention]
    if batch.masks is not None:
        arguments.append(batch.masks.keep)
    return digest(name, weights_digest(executor.model), *arguments).hex()


def stream(
    executor: Executor,
    batch: ImageBatch,
    inputs: RuntimeInputs,
    key: ProgramKey,
    folder: Path,
    stages: Stages,
    *,
    name: str,
    priors: PriorArrays | None,
    attention: AttentionFn,
    views_at_once: int,
    overwrite: bool,
) -> Path:
    """Writes the folder; see `Pipeline.stream`. `name` is the model's in results."""
    reconstruction = digest_of(executor, name, batch, inputs, key, priors, attention)
    streamed = Streamed(folder, reconstruction, batch.names)
    with holding_folder(folder):
        streamed.start({"model": name}, overwrite=overwrite)
        missing = streamed.missing()
        if missing:
            padded = executor.padded(batch, inputs, key)
            with stages.stage("compile"):
                shape, posed = padded[0].shape, has_known_pose(priors)
                program = compile_both(
                    executor, shape, padded[2], attention, views_at_once, posed=posed
                )
            encoded = _encode(executor, program, *padded[:2], priors, stages)
            world = _world(executor, padded, encoded, priors)
            parts = _parts(executor, padded, encoded, views_at_once, world)
            made = (
                (view, recon[row : row + 1])
                for views, geometry in _ahead(parts, set(missing))
                for recon in [_rows(geometry, batch, views, name, encoded)]
                for row, view in enumerate(views)
            )
            with stages.stage("heads", total=len(missing)) as advance:
                write_all(made, streamed, missing, 4 * views_at_once, advance)
    return folder


def write_all(
    made: Iterable[tuple[int, Reconstruction]],
    streamed: Streamed,
    missing: Sequence[int],
    ahead: int,
    advance: Callable[[], None],
) -> None:
    """Writes the missing views; at most so many wait for that while others are made."""
    wanted, pool = set(missing), ThreadPoolExecutor(WRITERS)
    pending: deque[Future[None]] = deque()
    try:
        for view, recon in made:
            if view in wanted:
                wanted.discard(view)
                pending.append(pool.submit(_write, recon, streamed.files[view], advance))
            while len(pending) > ahead:
                pending.popleft().result()
        for written in pending:
            written.result()
    finally:
        pool.shutdown(cancel_futures=True)  # after an error, those that have begun are finished


def _encode(
    executor: Executor,
    program: Any,
    pixels: UInt8[np.ndarray, "V H W 3"],
    inputs: RuntimeInputs,
    priors: PriorArrays | None,
    stages: Stages,
) -> Encoded:
    scene = executor.put_by_view(pixels[None])
    priors = executor.placed(priors, len(pixels))
    with stages.stage("run"):
        return jax.block_until_ready(program(executor.model, scene, inputs, priors))


def _parts(
    executor: Executor,
    padded: tuple[UInt8[np.ndarray, "V H W 3"], RuntimeInputs, ProgramKey],
    encoded: Encoded,
    views_at_once: int,
    world: Float[np.ndarray, "4 4"] | None,
) -> list[tuple[list[int], Callable[[], Geometry]]]:
    """Which views each part of the work makes, and the work."""
    pixels, inputs, key = padded
    encoded = replace(encoded, skipped=None)  # else sparse attention would need its own program
    devices = view_devices(executor.mesh)
    each, count = len(pixels) // devices, part_size(executor, len(pixels), views_at_once)
    starts = np.minimum(np.arange(0, each, count), each - count)
    parts = []
    for start in starts.tolist():
        views = [device * each + start + i for device in range(devices) for i in range(count)]
        own = inputs
        if inputs.valid_region is not None:
            own = replace(inputs, valid_region=np.asarray(inputs.valid_region)[views])
        place = np.asarray(start, np.int32)
        arguments = (executor.model, encoded, place, own, world)
        work = partial(_decode, executor, count, pixels.shape, key, arguments)
        parts.append((views, work))
    return parts


def _decode(
    executor: Executor, count: int, shape: tuple[int, ...], key: ProgramKey, arguments: Any
) -> Geometry:
    posed = arguments[-1] is not None
    program = compile_heads(executor, arguments[1], count, shape, key, posed=posed)
    return program(*arguments)


def _ahead(parts: Sequence[tuple[list[int], Callable[[], Geometry]]], wanted: set[int]) -> Any:
    """Starts each part before the one before it is fetched; skips what is not wanted."""
    started: deque[tuple[list[int], Geometry]] = deque()
    for views, work in parts:
        if wanted.isdisjoint(views):
            continue
        geometry = work()
        for leaf in jax.tree.leaves(geometry):
            leaf.copy_to_host_async()
        started.append((views, geometry))
        if len(started) > 1:
            yield started.popleft()
    yield from started


def _rows(
    geometry: Geometry, batch: ImageBatch, views: list[int], name: str, encoded: Encoded
) -> Reconstruction:
    """The views of one part; padding views come last and are cut off by the caller's numbers."""
    rows = [view if view < len(batch.names) else 0 for view in views]
    skipped, scale, mask = encoded.skipped, encoded.metric_scale, np.asarray(geometry.mask)
    return Reconstruction(
        points_world=np.asarray(geometry.points_world),
        points_camera=np.asarray(geometry.points_camera),
        confidence=np.asarray(geometry.confidence),
        mask=mask if batch.masks is None else mask & batch.masks.keep[rows],
        colors=batch.pixels[rows],
        world_from_camera=np.asarray(geometry.world_from_camera),
        intrinsics=np.asarray(geometry.intrinsics),
        names=tuple(batch.names[view] for view in rows),
        transforms=tuple(batch.transforms[view] for view in rows),
        files=tuple(batch.files[view] for view in rows),
        photo_masks=() if batch.masks is None else batch.masks.photos_of(rows),
        model=name,
        metric_scale=None if scale is None else float(scale[0]),
        stats=NO_STATISTICS if skipped is None else Statistics(np.asarray(skipped[0])),
    )


def _write(recon: Reconstruction, path: Path, advance: Callable[[], None]) -> None:
    write_npz(recon.scene(), path, compressed=False)
    advance()


def _world(
    executor: Executor,
    padded: tuple[UInt8[np.ndarray, "V H W 3"], RuntimeInputs, ProgramKey],
    encoded: Encoded,
    priors: PriorArrays | None,
) -> Float[np.ndarray, "4 4"] | None:
    """Where the model's world is in that of the given poses, if there are any.

    Poses of an unknown unit are compared with those of all views, which are worked out for that.
    """
    if priors is None or not has_known_pose(priors):
        return None
    pixels, _, key = padded
    shape = (1, *pixels.shape)
    arguments = (
        executor.model,
        replace(encoded, skipped=None),
        executor.placed(priors, len(pixels)),
    )
    program = executor.once(
        ("world", shape, key),
        lambda: executor.lowered(
            partial(world_program, shape, key, placement=executor.placement), *arguments
        ),
    )
    return np.asarray(program(*arguments))


def world_program(
    shape: tuple[int, ...],
    key: ProgramKey,
    model: Model,
    encoded: Encoded,
    priors: PriorArrays,
    *,
    placement: Placement = ONE_DEVICE,
) -> Float[Array, "4 4"]:
    """See `prior_world`; of all that the model tells, the poses alone are worked out."""
    layout = model.layout(shape)
    chosen = {} if key.points is None else {"points": key.points}
    found = placement.predict(model, placement.waiting(encoded), layout, **chosen)
    poses, first = found.world_from_camera, model.first_view_is_world
    return prior_world(poses, priors, first_view_is_world=first)[0]
