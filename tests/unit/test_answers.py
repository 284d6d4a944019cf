"""Standard output of a process that answers another."""

import subprocess
import sys

import pytest

PROGRAM = """
import os
from jaxrecon.answers import answers_alone
answers = answers_alone()
print("a library prints")
os.write(1, b"its native code, too\\n")
answers.write("an answer\\n")
raise SystemExit("what ended it")
"""


def test_prints_stand_before_the_error_that_ends_the_process(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("PYTHONUNBUFFERED", raising=False)
    command = [sys.executable, "-P", "-c", PROGRAM]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stdout == "an answer\n"
    assert done.stderr.splitlines() == ["a library prints", "its native code, too", "what ended it"]
    assert done.returncode == 1
