"""The record of a training run: one JSON object a line."""

import json
from pathlib import Path
from typing import Any

from jaxrecon.errors import InputError
from jaxrecon.files import output_error, replacing_file


class Log:
    """Lines of metrics in a file, each with its step; reopened, it forgets steps not yet taken."""

    def __init__(self, path: Path, *, upto: int) -> None:
        """Keeps the lines of steps up to `upto`, which a resumed run will not take again.

        Raises:
          InputError: the file that is there is damaged.
          OutputError: the file cannot be written.
        """
        self.path = path
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


def read_log(path: str | Path) -> list[dict[str, Any]]:
    """The lines of a log; a last line cut short by a killed process is left out.

    Raises:
      InputError: another line is damaged.
    """
    if not Path(path).is_file():
        return []
    lines = Path(path).read_text().split("\n")[:-1]
    try:
        return [json.loads(line) for line in lines]
    except ValueError as error:
        raise InputError(f"{path}: a line is no JSON ({error}); remove it") from error
