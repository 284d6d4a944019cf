"""The compiled programs of a run."""

from concurrent.futures import Future
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from jaxrecon.compiling import background_threads, compiled
from jaxrecon.progress import Stages
from jaxrecon.runtime.memory import bytes_limit, check_fits, needs_of
from jaxrecon.scenes import RenderedScenes
from jaxrecon.scenes.photographs import Pictures
from jaxrecon.training.config import Bucket, TrainConfig
from jaxrecon.training.own import KnownScenes, OwnData
from jaxrecon.training.own.known import abstract_known
from jaxrecon.training.plan import ADVICE, is_sharded
from jaxrecon.training.sharding import abstract_placed
from jaxrecon.training.state import TrainState, Weights
from jaxrecon.training.step import (
    Metrics,
    each_scene,
    everywhere,
    make_held_out,
    make_render,
    make_step,
    make_validate,
    training_key,
    validation_bucket,
    validation_key,
)


class Programs:
    """All compiled programs of a run."""

    def __init__(
        self,
        config: TrainConfig,
        mesh: Mesh,
        state: TrainState,
        stages: Stages,
        pictures: Pictures | None = None,
        own: OwnData | None = None,
    ) -> None:
        """Traces one program after another, and compiles those behind it meanwhile.

        Of the state and the own data the shapes alone count.

        Raises:
          InputError: a step needs more memory than each device has.
        """
        self.mesh, self.place = mesh, everywhere(mesh)
        self._pictures = () if pictures is None else (jax.device_put(pictures, self.place),)
        device, sharded = mesh.devices.flat[0], is_sharded(config, mesh)
        like = abstract_placed(state, mesh, sharded=sharded)
        train_step = make_step(config, mesh, sharded=sharded)
        with stages.stage("compile"), background_threads() as pool:
            made: dict[Any, Future[Any]] = {}

            def add(name: Any, lowered: Any) -> Any:
                made[name] = pool.submit(compiled, lowered, device)
                return lowered

            if own is None or config.data_share < 1:
                self._add_rendered(add, config, train_step, like, sharded)
            if own is not None:
                self._add_own(add, config, train_step, like, sharded, own)
            self._compiled = {name: program.result() for name, program in made.items()}
        for (kind, *which), program in self._compiled.items():
            if kind in ("step", "own step"):
                _check_memory(which[0], program, device)

    def _add_rendered(
        self, add: Any, config: TrainConfig, train_step: Any, like: TrainState, sharded: bool
    ) -> None:
        """What renders, learns from rendered scenes, and measures on held-out ones."""
        mesh, shape = self.mesh, validation_bucket(config)
        number = jax.ShapeDtypeStruct((), jnp.int32, sharding=self.place)
        # Renderers take longest to compile: they come first.
        drawn: dict[Any, Any] = {}
        for bucket in config.buckets:
            render = make_render(config, bucket, mesh, training_key(config))
            drawn[bucket] = add(("render", bucket), render.lower(number, *self._pictures))
        render = make_render(config, shape, mesh, validation_key())
        held_out = add(("held out",), render.lower(number, *self._pictures))
        for bucket in config.buckets:
            add(("step", bucket), _lowered(train_step.trace(like, _outputs(drawn[bucket], mesh))))
        validate = make_validate(config, mesh, sharded=sharded)
        add(("validate",), validate.lower(like.average, _outputs(held_out, mesh)))

    def _add_own(
        self,
        add: Any,
        config: TrainConfig,
        train_step: Any,
        like: TrainState,
        sharded: bool,
        own: OwnData,
    ) -> None:
        """What learns from own scenes, and measures on their held-out views."""
        place = each_scene(self.mesh)
        for bucket in own.buckets if config.data_share else ():
            add(
                ("own step", bucket),
                _lowered(train_step.trace(like, abstract_known(bucket, place))),
            )
        shape = own.held_out_shape
        if shape is not None:
            scenes = self._shareable(shape.scenes)
            batch = abstract_known(replace(shape, scenes=scenes), place)
            counts = jax.ShapeDtypeStruct((scenes,), jnp.int32, sharding=place)
            measure = make_held_out(config, self.mesh, sharded=sharded)
            add(("own held out",), measure.lower(like.average, batch, counts))

    @property
    def renders(self) -> bool:
        """Whether there are rendered scenes."""
        return ("validate",) in self._compiled

    def step(self, bucket: Bucket, state: TrainState, step: int) -> tuple[TrainState, Metrics]:
        """Renders the scenes of a step and learns from them; returns before the device is done."""
        return self._compiled["step", bucket](state, self.render(bucket, step))

    def own_step(
        self, bucket: Bucket, state: TrainState, scenes: KnownScenes
    ) -> tuple[TrainState, Metrics]:
        """Learns from own scenes; returns before the device is done."""
        there = jax.device_put(scenes, each_scene(self.mesh))
        return self._compiled["own step", bucket](state, there)

    def render(self, bucket: Bucket, step: int) -> RenderedScenes:
        """The scenes of a training step."""
        return self._compiled["render", bucket](self._number(step), *self._pictures)

    def held_out(self) -> RenderedScenes:
        """The scenes for `validate`."""
        return self._compiled[("held out",)](self._number(0), *self._pictures)

    def validate(self, weights: Weights, scenes: RenderedScenes) -> Metrics:
        """Metrics of weights on held-out scenes."""
        return self._compiled[("validate",)](weights, scenes)

    def own_held_out(self, weights: Weights, own: OwnData) -> dict[str, np.ndarray]:
        """Metrics of weights on the held-out views of each own scene; NaN where unknown."""
        there = len(own.scenes)
        batch = own.held_out(self._shareable(there))
        batch = jax.device_put(batch, each_scene(self.mesh))
        found = jax.device_get(self._compiled[("own held out",)](weights, *batch))
        return {name: values[:there] for name, values in found.items()}

    def _shareable(self, scenes: int) -> int:
        """The least number from `scenes` on that the devices can share evenly."""
        return -(-scenes // self.mesh.size) * self.mesh.size

    def _number(self, step: int) -> jax.Array:
        return jax.device_put(np.int32(step), self.place)


def _check_memory(bucket: Bucket, program: Any, device: Any) -> None:
    """Refuses a step that needs more memory than each device has.

    Raises:
      InputError: see `check_fits`.
    """
    needs = needs_of(program)
    if needs is not None:
        what = f"buckets: a step of {bucket}"
        check_fits(needs.total, bytes_limit(device), what=what, advice=ADVICE)


def _lowered(traced: Any) -> Any:
    """The program of a step, where promotion may be strict.

    JAX (0.12) then refuses to lower the products of bfloat16 and float32 in its own gradient of
    `jax.nn.dot_product_attention`; what is ours has been traced before.
    """
    with jax.numpy_dtype_promotion("standard"):
        return traced.lower()


def _outputs(lowered: Any, mesh: Mesh) -> RenderedScenes:
    """What a renderer will return, as shapes that are sharded over the devices."""
    return jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=each_scene(mesh)),
        lowered.out_info,
    )
