"""Whether a program may be used: what it holds, and whether it fits its record and weights."""

import hashlib
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax.export import Exported, deserialize
from jaxtyping import Array

from convert.mismatch import compare_shapes
from jaxrecon import checkpoint
from jaxrecon.aot import program_check
from jaxrecon.aot.program import abstract_arguments, result_shapes
from jaxrecon.aot.record import WEIGHTS_FOLDER, Record
from jaxrecon.errors import InputError, WeightsError, reason_of
from jaxrecon.reading import shown

PATIENCE = 300
"""Seconds after which the check of a program is given up, on a machine that does much else."""

_passed: dict[tuple[str, str], tuple[str, ...]] = {}


def read_checked(data: bytes, platform: str, record: Record, path: Path) -> Exported:
    """The program in a file's bytes, once another process has come to an end with them.

    A program is code: kernels of a GPU or TPU hold machine code, which nothing can check. What is
    refused here is what no program of ours has, and what would end this process or keep it busy.

    Args:
      data: the bytes.
      platform: of this machine.
      record: what `export.json` says.
      path: of the file, for messages.

    Raises:
      WeightsError: the program is damaged, calls or holds something that none of ours does, or
        calls other things than the record says.
      InputError: the other process cannot be started.
    """
    calls = _checked_calls(data, platform, record, path)
    said = record.programs[platform].custom_calls
    if set(calls) != set(said):
        raise WeightsError(
            f"{path} calls {_listed(calls)}, export.json says {_listed(said)}; export the program "
            "again"
        )
    try:
        return deserialize(bytearray(data))
    except Exception as error:
        raise _unreadable(path, record, type(error).__name__) from error


def _checked_calls(data: bytes, platform: str, record: Record, path: Path) -> tuple[str, ...]:
    """What the program calls; a program is checked once in a process."""
    key = hashlib.sha256(data).hexdigest(), platform
    if key not in _passed:
        verdict = _verdict(data, platform, record, path)
        if "refused" in verdict:
            raise WeightsError(
                f"{path} is refused: {verdict['refused']}, which no program of jaxrecon does; take "
                "programs only from people whom you trust, or export it again"
            )
        if "unreadable" in verdict:
            raise _unreadable(path, record, verdict["unreadable"])
        _passed[key] = tuple(verdict["calls"])
    return _passed[key]


def _verdict(data: bytes, platform: str, record: Record, path: Path) -> dict[str, Any]:
    """What another process says of the program; see `program_check`."""
    try:
        done = subprocess.run(
            [sys.executable, "-P", program_check.__file__, platform],
            input=data,
            capture_output=True,
            timeout=PATIENCE,
            env=_environment(),
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise _unreadable(path, record, "reading it does not end") from error
    except (OSError, ValueError) as error:
        raise InputError(
            f"cannot check {path}: Python ({sys.executable!r}) does not start "
            f"({reason_of(error)}); run jaxrecon with an installed Python"
        ) from error
    verdict = program_check.verdict_of(done.stdout.decode("utf-8", "replace"))
    if verdict is not None:
        return verdict
    if done.returncode == 1:
        said = done.stderr.decode("utf-8", "replace").strip().rpartition("\n")[2]
        raise InputError(f"cannot check {path}: the process for it fails ({said[:160]})")
    raise _unreadable(path, record, "reading it crashes or does not end")


def _environment() -> dict[str, str]:
    """That of this process, without what is set for its devices."""
    kept = {name: value for name, value in os.environ.items() if name[:4] not in ("JAX_", "XLA_")}
    modules = os.pathsep.join(path for path in sys.path if path)
    return kept | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": modules}


def _unreadable(path: Path, record: Record, reason: str) -> WeightsError:
    why = told_versions(record) or "it is damaged"
    return WeightsError(f"cannot read {path} ({reason}): {why}; export the program again")


def told_versions(record: Record) -> str:
    """Which JAX wrote a program and which one this is; empty if they are the same."""
    if record.jax_version == jax.__version__:
        return ""
    return f"JAX {record.jax_version} wrote it, this is {jax.__version__}"


def _listed(names: tuple[str, ...]) -> str:
    return ", ".join(map(repr, sorted(names))) or "nothing"


def check_labels(record: Record, folder: Path) -> None:
    """Refuses a record that tells another model, or another size of images, than its weights do.

    Raises:
      WeightsError: naming what differs, or the weights tell nothing.
    """
    told = checkpoint.read_config(folder / WEIGHTS_FOLDER)
    labels = {"model": record.model, "rule_fields": record.rule_fields}
    stated = {"model": told["model"], "rule_fields": told.get("resize", record.rule_fields)}
    for name, label in labels.items():
        if label != stated[name]:
            raise WeightsError(
                f"{folder}: export.json says that {name} is {shown(label)}, its weights say "
                f"{shown(stated[name])}; export the program again"
            )


def check_belongs_together(
    exported: Exported, record: Record, weights: Mapping[str, Array], folder: Path
) -> None:
    """Refuses weights and a record that are not the program's.

    Raises:
      WeightsError: naming what differs.
    """
    expected = abstract_arguments(weights, record.views, (record.width, record.height))
    taken = _arguments(exported)
    if taken is not None:
        shapes = _shapes(weights), _shapes(taken[0])
        compare_shapes(*shapes).raise_if_any(str(folder / WEIGHTS_FOLDER))
        if taken[1].shape != expected[1].shape:
            raise WeightsError(
                f"{folder}: the program takes images of shape {taken[1].shape}, export.json says "
                f"{expected[1].shape}; export the program again"
            )
    same = taken is not None and exported.in_tree == jax.tree.structure((expected, {}))
    if not same or not all(map(_alike, jax.tree.leaves(expected), exported.in_avals)):
        raise WeightsError(
            f"{folder}: the program takes other arguments than weights, images and thresholds of "
            "the record's types; export the program again"
        )
    told = jax.tree.unflatten(exported.out_tree, exported.out_avals)
    _check_results(told, record, folder)


def _arguments(exported: Exported) -> tuple[Any, ...] | None:
    """Shapes of weights, images and thresholds; None if the program takes something else."""
    arguments, _ = jax.tree.unflatten(exported.in_tree, exported.in_avals)
    if len(arguments) != 3 or not isinstance(arguments[0], dict):
        return None
    named = all(hasattr(value, "shape") for value in (*arguments[0].values(), arguments[1]))
    return arguments if named else None


def _alike(expected: Any, found: Any) -> bool:
    return expected.shape == found.shape and expected.dtype == found.dtype


def _check_results(told: Any, record: Record, folder: Path) -> None:
    """Refuses a program that tells something other than geometry of its views."""
    needed, free = result_shapes(record.views, (record.width, record.height))
    names = set(told) if isinstance(told, dict) else set()
    fits = set(needed) <= names <= {*needed, *free}
    if not fits or not all(_tells(told[name], needed.get(name), name) for name in names):
        raise WeightsError(
            f"{folder}: the program tells other things than the geometry of {record.views} views; "
            "export the program again"
        )


def _tells(aval: Any, shape: tuple[int, ...] | None, name: str) -> bool:
    kind = jnp.bool_ if name == "mask" else jnp.float32
    return getattr(aval, "dtype", None) == kind and shape in (None, aval.shape)


def _shapes(arrays: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    return {path: tuple(array.shape) for path, array in arrays.items()}
