"""How long a model takes on this machine, and how much memory, by numbers of views and policies."""

import os
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

import jax
import numpy as np
from jax.experimental.compilation_cache import compilation_cache
from jax.sharding import Mesh
from jax.typing import DTypeLike

from jaxrecon.compiling import compiled
from jaxrecon.images import ImageBatch, ImageRule, PixelTransform
from jaxrecon.nn.attention import AttentionFn
from jaxrecon.nn.float8_blocks import float8_weights
from jaxrecon.pipeline import Pipeline, ProgramKey, Request, resolve
from jaxrecon.pipeline.warming import PHOTO
from jaxrecon.progress import Stages, watched_stages
from jaxrecon.registry import MODELS, find_entry, is_here, load, load_abstract
from jaxrecon.runtime.bucketing import check_program_size
from jaxrecon.runtime.executor import Executor
from jaxrecon.runtime.memory import bytes_limit, check_fits, needs_of, readable
from jaxrecon.sparse import check_budgets

_CACHE_SETTINGS = ("jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs")


@dataclass(frozen=True)
class Timing:
    """What one program takes: that of `Pipeline.reconstruct`, from 8-bit pixels to points.

    What is None was not measured, or is not known on this machine.

    Attributes:
      views: images that are reconstructed.
      compiled_views: for how many the program is compiled; those beyond `views` are padding.
      trace: seconds until the compiler has the program.
      compile: seconds to compile it, where nothing of it is on disk.
      cached: seconds to take it from the cache on disk instead.
      run: seconds of a run, the median of several after a warm-up.
      encode: the same of the part in which views exchange, as a program of its own; what is left is
        that of the heads, cameras and mask.
      plan: bytes that the compiler plans on each device.
      peak: the most bytes in use on the first device; None unless the runs raised it, for devices
        tell only the most since the process began.
      note: why it was not run; None if it was.
    """

    views: int
    compiled_views: int
    trace: float | None = None
    compile: float | None = None
    cached: float | None = None
    run: float | None = None
    encode: float | None = None
    plan: int | None = None
    peak: int | None = None
    note: str | None = None

    @property
    def images_per_second(self) -> float | None:
        """Images that are reconstructed in a second of running."""
        return None if self.run is None else self.views / self.run


def measure(
    pipeline: Pipeline,
    attention: AttentionFn,
    *,
    views: int,
    size: tuple[int, int],
    repeats: int,
    encoder: bool = False,
) -> Timing:
    """Compiles the program of so many images, takes it from a cache, and runs it.

    The note tells of a program for which this machine has too little memory.

    Args:
      pipeline: the model; its own attention is not used.
      attention: how the trunk's tokens attend.
      views: how many images, of random pixels.
      size: width and height of the processed images, in pixels; whole patches.
      repeats: runs that are timed.
      encoder: whether the part in which views exchange is timed too.

    Raises:
      InputError: there is no such program, or this machine cannot run it.
    """
    check_program_size(views, size, pipeline.resize.patch)
    check_budgets(attention, pipeline.name, pipeline.config_digest, pipeline.weights_digest)
    key, inputs = resolve(pipeline.defaults, Request(), pipeline.name)
    pixels, inputs, key = pipeline.executor.padded(_random_images(views, size), inputs, key)
    timing = Timing(views, len(pixels))
    try:
        timing, program = _compiled(pipeline, attention, pixels.shape, key, timing)
        if program is None:
            return timing
        arguments = pipeline.executor.put_by_view(pixels[None]), inputs, None
        timing = _ran(pipeline, program, arguments, repeats, timing)
        if encoder:
            program = _encoder(pipeline.executor, attention, pixels.shape, key)
            encode = _median_seconds(pipeline, program, arguments, repeats)
            timing = replace(timing, encode=encode)
        return timing
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        return replace(timing, note="out of memory")


def _encoder(
    executor: Executor, attention: AttentionFn, shape: tuple[int, ...], key: ProgramKey
) -> Any:
    """The executable of the part in which views exchange."""
    with _own_cache():
        return compiled(executor.lower_encoder(shape, key, attention), executor.device)


def _compiled(
    pipeline: Pipeline,
    attention: AttentionFn,
    shape: tuple[int, ...],
    key: ProgramKey,
    timing: Timing,
) -> tuple[Timing, Any]:
    """The executable, and what it took; None if it would not fit."""
    executor = pipeline.executor
    with _own_cache() as folder:
        lowered, trace = _timed(lambda: executor.lower(shape, key, attention))
        program, cold = _timed(lambda: compiled(lowered, executor.device))
        timing = replace(timing, trace=trace, compile=cold)
        needs, limit = needs_of(program), bytes_limit(executor.device)
        if needs is not None:
            timing = replace(timing, plan=needs.total)
            if limit is not None and needs.total > limit:
                note = f"does not fit: it needs {readable(needs.total)} on each device, "
                return replace(timing, note=f"{note}which has {readable(limit)}"), None
        if any(folder.glob("*-cache")):
            lowered = executor.lower(shape, key, attention)
            _, cached = _timed(lambda: compiled(lowered, executor.device))
            timing = replace(timing, cached=cached)
    return timing, program


def _ran(
    pipeline: Pipeline, program: Any, arguments: tuple[Any, ...], repeats: int, timing: Timing
) -> Timing:
    """With seconds and peak of some runs."""
    device = pipeline.executor.device
    before = _peak(device)
    seconds = _median_seconds(pipeline, program, arguments, repeats)
    peak = _peak(device)
    raised = before is not None and peak is not None and peak > before
    return replace(timing, run=seconds, peak=peak if raised else None)


def _median_seconds(
    pipeline: Pipeline, program: Any, arguments: tuple[Any, ...], repeats: int
) -> float:
    """Of some runs after a warm-up."""
    times = [
        _timed(lambda: jax.block_until_ready(program(pipeline.model, *arguments)))[1]
        for _ in range(1 + repeats)
    ]
    return median(times[1:])


def _timed[X](work: Callable[[], X]) -> tuple[X, float]:
    """What some work returns, and its seconds."""
    start = time.perf_counter()
    found = work()
    return found, time.perf_counter() - start


def _peak(device: Any) -> int | None:
    """The most bytes ever in use on a device; None if it does not tell."""
    return (device.memory_stats() or {}).get("peak_bytes_in_use")


@contextmanager
def _own_cache() -> Iterator[Path]:
    """Inside, JAX keeps programs in an empty folder of its own, however fast they compile."""
    before = {name: getattr(jax.config, name) for name in _CACHE_SETTINGS}
    with tempfile.TemporaryDirectory() as folder:
        try:
            _set_cache(dict(zip(_CACHE_SETTINGS, (folder, 0), strict=True)))
            yield Path(folder)
        finally:
            _set_cache(before)


def _set_cache(settings: dict[str, Any]) -> None:
    for name, value in settings.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()


def _random_images(views: int, size: tuple[int, int]) -> ImageBatch:
    pixels = np.random.default_rng(0).integers(0, 256, (views, size[1], size[0], 3), np.uint8)
    names = tuple(f"view_{number:04}" for number in range(views))
    transforms = (PixelTransform.stretch(size, size),) * views
    return ImageBatch(pixels, transforms, names, (None,) * views)


def size_of_photos(rule: ImageRule, resolution: int | None = None) -> tuple[int, int]:
    """Width and height to which a model's rule brings photos of 4:3, in pixels.

    Args:
      rule: the model's.
      resolution: the wanted longest side, in place of the rule's own.

    Raises:
      InputError: `resolution` is less than one patch.
    """
    fit = rule.fit_all([PHOTO], resolution=resolution)
    return fit.transform(PHOTO).size


def load_for_timing(
    model: str | Path,
    *,
    dtype: DTypeLike | None = None,
    mesh: Mesh | None = None,
    float8: bool = False,
    stages: Stages | None = None,
) -> tuple[Pipeline, bool]:
    """A model with its weights if they are on this machine, else with random ones of its sizes.

    Nothing is downloaded. Priors are left out, as in `reconstruct` where nothing is known.

    Args:
      model, dtype, mesh, float8, stages: see `load`.

    Returns:
      The model, and whether its weights are its own.

    Raises:
      InputError: the name is unknown, an argument cannot be used, or a device has no room for
        random weights.
      WeightsError: the weights are damaged or another model's.
    """
    name = str(model)
    entry = MODELS.get(name) or (None if os.path.exists(model) else find_entry(name))
    if entry is None or is_here(entry):
        given = {"dtype": dtype, "mesh": mesh, "float8": float8, "priors": False}
        return load(model, **given, stages=stages), True
    pipeline = load_abstract(model, dtype=dtype, mesh=mesh, priors=False)
    device = pipeline.executor.device
    check_fits(
        sum(like.size * like.dtype.itemsize for like in jax.tree.leaves(pipeline.model)),
        bytes_limit(device),
        what=f"model: {name}",
        advice="choose a smaller one, or bfloat16",
    )
    with watched_stages(stages).stage("draw random weights"):
        drawn = jax.tree.map(
            lambda like: jax.device_put(random_weight(like), like.sharding), pipeline.model
        )
    if float8:
        narrow = load_abstract(model, dtype=dtype, mesh=mesh, float8=True, priors=False).model
        drawn = float8_weights(drawn, narrow)
    return replace(pipeline, model=drawn), False


def random_weight(like: Any) -> np.ndarray:
    """Small random numbers of a weight's shape and dtype.

    They are made on the host, which takes no program and no memory of the device.
    """
    numbers = 0.02 * np.random.default_rng(0).normal(size=1_000_003)
    return np.resize(numbers.astype(like.dtype), like.shape)


def dtype_of(pipeline: Pipeline) -> str:
    """The dtype of most of the weights."""
    sizes: Counter[str] = Counter()
    for array in jax.tree.leaves(pipeline.model):
        sizes[str(array.dtype)] += array.size
    return sizes.most_common(1)[0][0]
