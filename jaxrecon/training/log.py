"""The record of a training run: one JSON object a line."""

import json
import os
from math import inf
from pathlib import Path
from typing import Any

from jaxrecon.errors import InputError, reason_of
from jaxrecon.files import output_error, replacing_file
from jaxrecon.reading import parse_json, read_bytes, shown
from jaxrecon.training.board import Board


class Log:
    """Lines of metrics in a file, each with its step; reopened, it forgets steps not yet taken."""

    def __init__(self, path: Path, *, upto: int, board: Board | None = None) -> None:
        """Keeps the lines of steps up to `upto`, which a resumed run will not take again.

        Lines that are added go to `board`, too.

        Raises:
          InputError: the file that is there is damaged.
          OutputError: the file cannot be written.
        """
        self.path, self._board = path, board
        kept = [line for line in read_log(path) if line["step"] <= upto]
        self.seconds = max((line.get("seconds", 0.0) for line in kept), default=0.0)
        with replacing_file(path) as temporary:
            temporary.write_text("".join(f"{json.dumps(line)}\n" for line in kept))

    def add(self, step: int, **values: Any) -> None:
        """Appends one line.

        Raises:
          OutputError: the file cannot be written.
        """
        rounded = {
            name: float(f"{value:.6g}") if isinstance(value, float) else value
            for name, value in values.items()
        }
        try:
            with open(self.path, "a") as file:
                file.write(json.dumps({"step": step, **rounded}) + "\n")
        except OSError as error:
            raise output_error(self.path, error) from error
        if self._board is not None:
            self._board.add(step, rounded)


def read_log(path: str | Path) -> list[dict[str, Any]]:
    """The lines of a log; a last line cut short by a killed process is left out.

    Every line has a "step" and other numbers by name.

    Raises:
      InputError: another line is damaged, naming the file and the line.
    """
    if not os.path.exists(path):
        return []
    *lines, _cut = read_bytes(path, advice="move it away").split(b"\n")
    return [_record(line, f"{path}:{number}") for number, line in enumerate(lines, 1)]


def _record(line: bytes, where: str) -> dict[str, Any]:
    """One line of a log: a step and numbers by name; but for the seconds, any may be NaN.

    Raises:
      InputError: it is something else.
    """
    try:
        values = parse_json(line.decode())
        if not isinstance(values, dict):
            raise ValueError(f"{shown(values)} is no object")
        step = values.get("step")
        if type(step) is not int or not 0 <= step < 2**31:
            raise ValueError(f"its step is {shown(step)}")
        for name, value in values.items():
            if type(value) not in (int, float):
                raise ValueError(f"{name[:60]} is {shown(value)}, no number")
            float(value)  # a whole number of hundreds of digits is none
        if not 0 <= values.get("seconds", 0) < inf:
            raise ValueError(f"its seconds are {shown(values['seconds'])}")
    except (ValueError, OverflowError) as error:
        raise InputError(
            f"{where}: the line is no record of a step ({reason_of(error)[:200]}); remove it"
        ) from error
    return values
