"""The record of a training run as TensorBoard's event files."""

import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from jaxrecon.extras import Extra
from jaxrecon.files import output_error

_GROUPS = {"validation_": "validation", "held_out_": "held out"}


class Board:
    """Writes scalars for TensorBoard, under `train/`, `validation/` and `held out/`.

    An event is in the file when `add` returns. Of events of steps that a resumed run takes again,
    TensorBoard shows the later ones.
    """

    def __init__(self, folder: Path, *, upto: int) -> None:
        """Begins a file of events in a folder.

        Args:
          folder: of the event files; made if it is not there.
          upto: the last step whose events of earlier files count.

        Raises:
          InputError: tensorboardX is not installed.
          OutputError: the file cannot be written.
        """
        with Extra("tensorboard", "logs for TensorBoard need tensorboardX"):
            from tensorboardX.event_file_writer import EventsWriter
            from tensorboardX.proto import event_pb2, summary_pb2
        self._events: Any = event_pb2
        self._summaries: Any = summary_pb2
        self._folder = folder
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._writer = EventsWriter(str(folder / "events"), f".{upto + 1}")
        except OSError as error:
            raise output_error(folder, error) from error
        start = self._events.SessionLog(status=self._events.SessionLog.START)
        self._write(self._events.Event(step=upto + 1, wall_time=time.time(), session_log=start))

    def add(self, step: int, values: Mapping[str, float]) -> None:
        """Writes the scalars of one step.

        Raises:
          OutputError: the file cannot be written.
        """
        scalar = self._summaries.Summary.Value
        found = [scalar(tag=_tag(name), simple_value=value) for name, value in values.items()]
        summary = self._summaries.Summary(value=found)
        self._write(self._events.Event(step=step, wall_time=time.time(), summary=summary))

    def __enter__(self) -> "Board":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            self._writer.close()  # writes what it could not write before, once more
        except OSError as broken:
            if error is None:
                raise output_error(self._folder, broken) from broken

    def _write(self, event: Any) -> None:
        try:
            self._writer.write_event(event)
            self._writer.flush()
        except OSError as error:
            raise output_error(self._folder, error) from error


def _tag(name: str) -> str:
    for prefix, group in _GROUPS.items():
        if name.startswith(prefix):
            return f"{group}/{name.removeprefix(prefix)}"
    return f"train/{name}"
