"""Standard output of a process that answers another one."""

import os
import sys
from typing import TextIO


def answers_alone() -> TextIO:
    """What writes to standard output, line by line, which other prints do not reach any more.

    They go to standard error line by line: kept until the process ends, they would stand behind the
    error that ended it.
    """
    answers = os.fdopen(os.dup(1), "w", buffering=1, encoding="utf-8")
    os.dup2(2, 1)
    sys.stdout = sys.stderr
    return answers
