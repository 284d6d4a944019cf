"""Which views of which own scenes a step learns from."""

import os
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Int

from jaxrecon.errors import InputError
from jaxrecon.progress import Stages
from jaxrecon.training.config import Bucket, TrainConfig, draw_bucket
from jaxrecon.training.own.folders import check_folders, read_own_scene
from jaxrecon.training.own.known import KnownScenes
from jaxrecon.training.own.resized import ResizedScene, Room, Size, resized_scene

MOST_HELD_OUT = 32
"""The most held-out views of a scene that are evaluated, evenly spaced among them."""

_REACH = 4
"""Views of a draw are chosen of up to so many times as many neighbours."""

_CHOICE, _BUCKET, _VIEWS = 1, 2, 3
"""Streams of random numbers of a step."""


@dataclass(frozen=True, eq=False)
class OwnData:
    """The own scenes of a run.

    Attributes:
      config: the run, with the number of their views.
      scenes: at the sizes of the config's buckets.
      buckets: those of the config for which scenes have enough views to train on.
      files: of each scene, the digest of what it was made of.
    """

    config: TrainConfig
    scenes: tuple[ResizedScene, ...]
    buckets: tuple[Bucket, ...]
    files: tuple[str, ...] = ()

    def takes(self, step: int) -> bool:
        """Whether a step learns from own scenes."""
        return bool(_random(self.config, step, _CHOICE).random() < self.config.data_share)

    def bucket(self, step: int) -> Bucket:
        """The shape of a step's batch, drawn by the shares of the config's buckets."""
        return draw_bucket(self.buckets, _random(self.config, step, _BUCKET))

    def batch(self, step: int) -> KnownScenes:
        """What a step learns from: of random scenes, views that are near to one another."""
        bucket, random = self.bucket(step), _random(self.config, step, _VIEWS)
        able = [s for s in self.scenes if len(_trained(self.config, s)) >= bucket.views]
        drawn = []
        for _ in range(bucket.scenes):
            scene = able[random.integers(len(able))]
            views = _neighbours(random, scene, _trained(self.config, scene), bucket.views)
            gain = _gain(random, bucket.views, self.config.scenes.exposure)
            drawn.append(_known(scene, views, (bucket.height, bucket.width), gain))
        return _stacked(drawn)

    @property
    def held_out_shape(self) -> Bucket | None:
        """Scenes and the most held-out views of one, at the first bucket's size; None for none."""
        if not self.config.data_held_out:
            return None
        views = max(len(_held_out(self.config, scene)) for scene in self.scenes)
        return replace(self.config.buckets[0], scenes=len(self.scenes), views=views)

    def held_out(self, scenes: int) -> tuple[KnownScenes, Int[np.ndarray, " B"]]:
        """The views that are not trained on, filled up to so many scenes, and how many each has."""
        shape = self.held_out_shape
        assert shape is not None
        chosen = [_held_out(self.config, scene) for scene in self.scenes]
        counts = [len(views) for views in chosen] + [1] * (scenes - len(chosen))
        size, gain = (shape.height, shape.width), np.ones((shape.views, 3), np.float32)
        made = []
        for number, count in enumerate(counts):
            real = number < len(chosen)
            views = chosen[number] if real else chosen[0][:1]
            padded = np.pad(views, (0, shape.views - len(views)), mode="edge")
            scene = _known(self.scenes[number if real else 0], padded, size, gain)
            made.append(_forgotten(scene, count if real else 0))
        return _stacked(made), np.array(counts, np.int32)


class Feeder:
    """Batches of own scenes; the next one is made while a step is under way."""

    def __init__(self, data: OwnData) -> None:
        self._data, self._pool = data, ThreadPoolExecutor(1)
        self._waiting: dict[int, Future[KnownScenes]] = {}

    def take(self, step: int) -> KnownScenes:
        """The batch of a step."""
        found = self._waiting.pop(step, None)
        batch = self._data.batch(step) if found is None else found.result()
        if self._data.takes(step + 1):
            self._waiting[step + 1] = self._pool.submit(self._data.batch, step + 1)
        return batch

    def close(self) -> None:
        """Ends the thread."""
        self._pool.shutdown(cancel_futures=True)


def read_own_data(
    config: TrainConfig, folders: Sequence[str | os.PathLike[str]], stages: Stages
) -> OwnData:
    """Reads the folders of one's own scenes; see `read_own_scene`.

    Raises:
      InputError: a folder or what is in it cannot be used, or a scene has too few views.
      OutputError: the resized views find no room.
    """
    paths, room = check_folders(folders), Room()
    buckets = tuple(bucket for bucket in config.buckets if bucket.share)
    sizes: list[Size] = sorted({(bucket.height, bucket.width) for bucket in config.buckets})
    scenes, files = [], []
    with stages.stage("read", total=len(paths)) as advance:
        for path in paths:
            scene = read_own_scene(path, stages)
            _check_views(config, buckets, scene.name, len(scene.files))
            scenes.append(resized_scene(scene, sizes, room))
            files.append(scene.digest())
            advance()
    most = max(len(_trained(config, scene)) for scene in scenes)
    fitting = tuple(bucket for bucket in buckets if bucket.views <= most)
    for bucket in set(buckets) - set(fitting):
        stages.note(f"NOTE: {bucket} is for rendered scenes alone: no own one has so many views")
    count = sum(map(len, scenes))
    return OwnData(replace(config, data_views=count), tuple(scenes), fitting, tuple(files))


def _check_views(config: TrainConfig, buckets: Sequence[Bucket], name: str, views: int) -> None:
    """Refuses a scene with too few views to be trained on or to be evaluated."""
    numbers = np.arange(views)
    held = _is_held_out(config, numbers)
    fewest = min(bucket.views for bucket in buckets)
    if config.data_held_out and held.sum() < 2:
        raise InputError(
            f"data_held_out={config.data_held_out} holds out {held.sum()} of the {views} views of "
            f"{name}; give a lower number, so that at least two can be evaluated"
        )
    if (~held).sum() < fewest:
        raise InputError(
            f"data: {name} has {(~held).sum()} views to train on, and the smallest of the buckets "
            f"has {fewest}; give more images or a bucket of fewer views"
        )


def _is_held_out(config: TrainConfig, views: Int[np.ndarray, " V"]) -> np.ndarray:
    every = config.data_held_out
    return views % every == every - 1 if every else np.zeros(len(views), bool)


def _trained(config: TrainConfig, scene: ResizedScene) -> Int[np.ndarray, " T"]:
    numbers = np.arange(len(scene))
    return numbers[~_is_held_out(config, numbers)]


def _held_out(config: TrainConfig, scene: ResizedScene) -> Int[np.ndarray, " E"]:
    numbers = np.arange(len(scene))
    held = numbers[_is_held_out(config, numbers)]
    if len(held) <= MOST_HELD_OUT:
        return held
    return held[np.linspace(0, len(held) - 1, MOST_HELD_OUT).round().astype(int)]


def _neighbours(
    random: np.random.Generator, scene: ResizedScene, allowed: np.ndarray, count: int
) -> Int[np.ndarray, " count"]:
    """A random view and random ones out of its nearest, in random order."""
    nearest = scene.nearest[allowed[random.integers(len(allowed))]]
    nearest = nearest[np.isin(nearest, allowed)]
    reach = random.integers(count, min(len(nearest), _REACH * count) + 1)
    others = random.choice(nearest[1:reach], count - 1, replace=False)
    return random.permutation(np.concatenate([nearest[:1], others]))


def _gain(random: np.random.Generator, views: int, exposure: float) -> np.ndarray:
    """Errors of exposure and white balance, drawn as those of rendered scenes are."""
    stops = exposure * random.standard_normal((views, 1))
    tint = 0.06 * random.standard_normal((1, 3)) + 0.02 * random.standard_normal((views, 3))
    light = np.exp2(stops) * np.exp(tint)
    return (light ** (1 / 2.2)).astype(np.float32)


def _known(scene: ResizedScene, views: np.ndarray, size: Size, gain: np.ndarray) -> KnownScenes:
    """A batch of one scene."""
    sized = scene.sized[size]
    return KnownScenes(
        images=sized.images[views][None],
        gain=gain[None],
        depth_z=sized.depth_z[views][None],
        is_dense=scene.is_dense[views][None],
        world_from_camera=scene.poses[views][None],
        has_pose=scene.has_pose[views][None],
        intrinsics=sized.intrinsics[views][None],
        has_rays=scene.has_rays[views][None],
    )


def _forgotten(scene: KnownScenes, count: int) -> KnownScenes:
    """The scene, of which only the first views are known."""
    kept = np.arange(scene.has_pose.shape[1]) < count
    return replace(
        scene,
        depth_z=np.where(kept[:, None, None], scene.depth_z, 0),
        has_pose=scene.has_pose & kept,
        has_rays=scene.has_rays & kept,
    )


def _stacked(scenes: Sequence[KnownScenes]) -> KnownScenes:
    names = KnownScenes.__dataclass_fields__
    return KnownScenes(
        **{name: np.concatenate([getattr(scene, name) for scene in scenes]) for name in names}
    )


def _random(config: TrainConfig, step: int, stream: int) -> np.random.Generator:
    return np.random.default_rng((config.seed, step, stream))
