"""Standard error for work that must not end because nobody can be told of it."""

from typing import Any


class Forgiving:
    """Standard error, or what takes its place, where what cannot be written is dropped.

    It may be closed (None, to Python) or lead to a full disk, and no work must end for that.

    Attributes:
      failed: whether something was dropped that Python may try to write again at exit.
    """

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self.failed = False

    def write(self, text: str) -> int:
        """Writes, or drops."""
        if self._stream is not None:
            try:
                return self._stream.write(text)
            except (OSError, ValueError):
                self.failed = True
        return len(text)

    def flush(self) -> None:
        """Empties the buffer, if that can be."""
        if self._stream is not None:
            try:
                self._stream.flush()
            except (OSError, ValueError):
                self.failed = True

    def isatty(self) -> bool:
        """Whether it is a terminal."""
        try:
            return self._stream is not None and self._stream.isatty()
        except (OSError, ValueError):
            return False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)
