"""Reads TensorBoard's event files, by the layout of TFRecord files."""

import struct
from pathlib import Path
from typing import Any


def read_events(folder: Path) -> list[Any]:
    """The events of all files of a folder, in the order of the files' names."""
    from tensorboardX.proto import event_pb2

    made: Any = event_pb2
    events = []
    for path in sorted(folder.iterdir()):
        assert "tfevents" in path.name  # TensorBoard looks for no other files
        data = path.read_bytes()
        while data:
            (size,) = struct.unpack("<Q", data[:8])
            events.append(made.Event.FromString(data[12 : 12 + size]))
            data = data[16 + size :]
    return events


def read_scalars(folder: Path) -> list[tuple[int, dict[str, float]]]:
    """The step and the scalars of each event that has any."""
    return [
        (event.step, {value.tag: value.simple_value for value in event.summary.value})
        for event in read_events(folder)
        if event.summary.value
    ]
