"""What the log says of the steps since its last line."""

import math
import time
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from jaxrecon.errors import InputError
from jaxrecon.models import Pi3Config
from jaxrecon.training.config import Bucket, TrainConfig
from jaxrecon.training.flops import step_flops
from jaxrecon.training.log import Log
from jaxrecon.training.state import learning_rate
from jaxrecon.training.step import Metrics

SHOWN = ("abs_rel", "delta125", "rotation_degrees", "direction_degrees", "auc30")
"""Metrics that a line of progress shows."""

OWN = "own_"
"""How the names of metrics on own scenes begin in the log."""


class Window:
    """The metrics of the steps since the last line of the log."""

    def __init__(self, config: TrainConfig, mesh: Mesh, log: Log) -> None:
        self._config, self._log, self._mesh = config, log, mesh
        self._rate = learning_rate(config)
        self._before = log.seconds
        self._begin = self._opened = time.perf_counter()
        self._steps: list[tuple[Bucket, Metrics, bool]] = []

    def add(self, bucket: Bucket, metrics: Metrics, *, own: bool = False) -> None:
        """Takes a step's metrics; waits for the step before the last, so as not to run ahead."""
        self._steps.append((bucket, metrics, own))
        if len(self._steps) > 2:
            jax.block_until_ready(self._steps[-3][1]["loss"])

    def close(self, step: int) -> str:
        """Writes the mean of every metric to the log, and says the same in a line.

        Raises:
          InputError: the loss or the gradient of a step is no finite number, after which the
            weights are none, either.
        """
        buckets, metrics, own = zip(*self._steps, strict=True)
        rows = list(zip(jax.device_get(metrics), own, strict=True))
        means = _means([row for row, is_own in rows if not is_own])
        of_own = _means([row for row, is_own in rows if is_own])
        means |= {OWN + name: value for name, value in of_own.items()}
        now = time.perf_counter()
        took, self._opened, self._steps = now - self._opened, now, []
        speed = {
            "seconds": self._before + now - self._begin,
            "learning_rate": float(np.asarray(self._rate(step))),
            "images_per_second": sum(bucket.images for bucket in buckets) / took,
        }
        model = self._config.model
        if isinstance(model, Pi3Config):
            flops = sum(step_flops(model, bucket) for bucket in buckets)
            speed["tflops_per_device"] = flops / took / self._mesh.size / 1e12
        self._log.add(step, **means, **speed)
        self._check_finite(step, [row for row, _ in rows])
        shown = told(means, ("loss", *SHOWN, *(OWN + name for name in ("loss", *SHOWN))))
        rates = f"{speed['images_per_second']:.0f} images/s"
        if "tflops_per_device" in speed:
            rates += f", {speed['tflops_per_device']:.0f} TFLOP/s"
        total = self._config.steps
        left = _time_left(took / len(buckets) * (total - step))
        return f"step {step}/{total}, {speed['seconds']:.0f} s{left}: {shown}, {rates}"

    def _check_finite(self, step: int, rows: list[dict[str, np.ndarray]]) -> None:
        for name in ("loss", "gradient_norm"):
            values = np.array([row[name] for row in rows])
            if not np.isfinite(values).all():
                at = step - len(rows) + 1 + int(np.argmin(np.isfinite(values)))
                raise InputError(
                    f"learning_rate={self._config.learning_rate:g}: the run has diverged, the "
                    f"{name} of step {at} is {values[at - step - 1]}; what was saved before it "
                    "stays. Start another run with a lower learning_rate or clip_norm"
                )


def _time_left(seconds: float) -> str:
    """What the rest of a run will take, at the pace of its last steps; nothing at its end."""
    if seconds <= 0:
        return ""
    if seconds < 60:
        return ", less than a minute left"
    hours, minutes = divmod(math.ceil(seconds / 60), 60)
    return f", about {hours} h {minutes} min left" if hours else f", about {minutes} min left"


def told(values: Mapping[str, Any], names: tuple[str, ...]) -> str:
    """Those of the values that there are, as a line of progress has them."""
    return ", ".join(f"{name} {values[name]:.4f}" for name in names if name in values)


def _means(rows: list[dict[str, np.ndarray]]) -> dict[str, float]:
    """The mean of each metric over the steps of which it is known."""
    known = {
        name: [row[name] for row in rows if not np.isnan(row[name]) or name == "loss"]
        for name in (rows[0] if rows else ())
    }
    return {name: float(np.mean(values)) for name, values in known.items() if values}
