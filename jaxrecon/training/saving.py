"""Checkpoints of a training run, in small files, each complete or absent."""

import json
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any

import orbax.checkpoint as ocp

from jaxrecon.checkpoint import (
    check_digests,
    digests_of,
    orbax_failure,
    orbax_silenced,
    remove_unfinished,
)
from jaxrecon.errors import OutputError, WeightsError
from jaxrecon.files import replacing_file, uninterrupted
from jaxrecon.reading import read_json
from jaxrecon.training.state import TrainState

SHARD_BYTES = 8 * 2**20
"""Size that a file of a checkpoint aims at."""

DIGESTS_NAME = "digests.json"
"""What the files of each checkpoint were when they had been written, beside the checkpoints."""

_UNFINISHED = "*.orbax-checkpoint-tmp"
"""Names under which Orbax writes."""


class Checkpoints:
    """The last checkpoints in a folder; written in the background while training goes on.

    Orbax writes under a temporary name and renames when all is there, so a killed process leaves
    the checkpoint before it whole. What is left of one that could not be written is removed at the
    end: the disk may be full of it. An exception that a signal raises inside its calls would leave
    threads that wait for one another for ever, and so is put off until they return.

    Raises:
      OutputError: the folder cannot be written.
    """

    def __init__(self, folder: Path, *, keep: int = 2) -> None:
        options = ocp.CheckpointManagerOptions(
            max_to_keep=keep, create=True, enable_async_checkpointing=True
        )
        self.folder = folder.absolute()
        self._silenced, self._failed = ExitStack(), False
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
          WeightsError: the checkpoint is damaged or of another model. (One that was not yet
            digested when its process was killed is read without comparing its files.)
        """
        place, files = self.folder / str(step), self._digests().get(str(step))
        arguments = ocp.args.PyTreeRestore(
            like, restore_args=ocp.checkpoint_utils.construct_restore_args(like)
        )
        try:
            if files is not None:
                check_digests(place, files)
            restored: Any = self._manager.restore(step, args=arguments)
        except Exception as error:  # Orbax wraps what goes wrong in a plain Exception
            reason = str(error).strip().split("\n")[0][:240]
            raise WeightsError(
                f"{place} cannot be read ({reason}); delete it to go on from the "
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
        self._digest()

    def _digest(self) -> None:
        """Notes size and SHA-256 of the files of every complete checkpoint."""
        known, steps = self._digests(), [str(step) for step in self._manager.all_steps()]
        if sorted(known) == sorted(steps):
            return
        found = {step: known.get(step) or digests_of(self.folder / step) for step in steps}
        with replacing_file(self.folder / DIGESTS_NAME) as temporary:
            temporary.write_text(json.dumps(found, indent=1))

    def _digests(self) -> dict[str, Any]:
        path = self.folder / DIGESTS_NAME
        if not path.exists():
            return {}
        advice = "delete it to go on without comparing the checkpoints' files"
        found = read_json(path, advice=advice, kind=WeightsError)
        if not _is_digests(found):
            raise WeightsError(f"{path} is damaged; {advice}")
        return found

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
            self._digest()
        except Exception as broken:
            failure = self._unwritable(broken)
            if error is None:
                raise failure from broken
        finally:
            if self._failed:
                with uninterrupted():
                    remove_unfinished(self.folder, _UNFINISHED)

    def _unwritable(self, error: Exception) -> OutputError:
        self._failed = True
        reason = str(orbax_failure(self.folder, error)).partition(": ")[2]
        left = self.latest()
        going_on = "no checkpoint is left" if left is None else f"the one of step {left} is whole"
        return OutputError(
            f"cannot write a checkpoint to {self.folder} ({reason}); {going_on}: free space or "
            "choose another disk, then run the same command (--resume) to go on"
        )


def _is_digests(found: Any) -> bool:
    """Whether a value of JSON is a table of what `digests_of` says, by the checkpoint's step."""
    return isinstance(found, dict) and all(
        isinstance(files, dict)
        and all(
            isinstance(entry, dict) and entry.keys() == {"bytes", "sha256"}
            for entry in files.values()
        )
        for files in found.values()
    )
