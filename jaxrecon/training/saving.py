"""Checkpoints of a training run, in small files, each complete or absent."""

from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any

import jax
import orbax.checkpoint as ocp

from jaxrecon.checkpoint import orbax_failure, orbax_silenced
from jaxrecon.errors import OutputError, WeightsError
from jaxrecon.files import uninterrupted
from jaxrecon.training.state import TrainState

SHARD_BYTES = 8 * 2**20
"""Size that a file of a checkpoint aims at."""


class Checkpoints:
    """The last checkpoints in a folder; written in the background while training goes on.

    Orbax writes under a temporary name and renames when all is there, so a killed process leaves
    the checkpoint before it whole. An exception that a signal raises inside its calls would leave
    threads that wait for one another for ever, and so is put off until they return.

    Raises:
      OutputError: the folder cannot be written.
    """

    def __init__(self, folder: Path, *, keep: int = 2) -> None:
        options = ocp.CheckpointManagerOptions(
            max_to_keep=keep, create=True, enable_async_checkpointing=True
        )
        self.folder = folder.absolute()
        self._silenced = ExitStack()
        try:
            with uninterrupted():
                self._manager = ocp.CheckpointManager(self.folder, options=options)
        except Exception as error:
            raise orbax_failure(self.folder, error) from error

    def latest(self) -> int | None:
        """The step of the newest complete checkpoint, None if there is none."""
        return self._manager.latest_step()

    def save(self, state: TrainState, step: int) -> None:
        """Starts to write `state`; waits for the checkpoint before, should it still be written.

        Raises:
          OutputError: this checkpoint, or the one before it, cannot be written.
        """
        arguments = ocp.args.PyTreeSave(state, ocdbt_target_data_file_size=SHARD_BYTES)
        self.wait()
        try:
            with uninterrupted():
                self._manager.save(step, args=arguments, force=True)
        except Exception as error:
            raise self._unwritable(error) from error

    def restore(self, like: TrainState, step: int) -> TrainState:
        """The state of a checkpoint, with the shapes, dtypes and shardings of `like`.

        Raises:
          WeightsError: the checkpoint is damaged or of another model.
        """
        arguments = ocp.args.PyTreeRestore(
            like, restore_args=ocp.checkpoint_utils.construct_restore_args(like)
        )
        try:
            restored: Any = self._manager.restore(step, args=arguments)
        except Exception as error:  # Orbax wraps what goes wrong in a plain Exception
            reason = str(error).strip().split("\n")[0][:120]
            raise WeightsError(
                f"{self.folder / str(step)} cannot be read ({reason}); delete it to go on from the "
                "checkpoint before it"
            ) from error
        return restored

    def wait(self) -> None:
        """Returns when everything is written.

        Raises:
          OutputError: the last checkpoint cannot be written.
        """
        try:
            with uninterrupted():
                self._manager.wait_until_finished()
        except Exception as error:
            raise self._unwritable(error) from error

    def __enter__(self) -> "Checkpoints":
        self._silenced.enter_context(orbax_silenced())
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            with uninterrupted(), self._silenced:
                self._manager.close()
        except Exception as broken:
            if error is None:
                raise self._unwritable(broken) from broken

    def _unwritable(self, error: Exception) -> OutputError:
        reason = str(orbax_failure(self.folder, error)).partition(": ")[2]
        left = self.latest()
        going_on = "no checkpoint is left" if left is None else f"the one of step {left} is whole"
        return OutputError(
            f"cannot write a checkpoint to {self.folder} ({reason}); {going_on}: free space or "
            "choose another disk, then run the same command (--resume) to go on"
        )


def abstract_like(state: TrainState, sharding: Any) -> TrainState:
    """Shapes and dtypes of a state, each to be put where `sharding` says."""
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), state)
