"""The errors that jaxrecon raises on purpose.

Each message is one line that names the thing at fault, what was found, and the way out, so that
the command line can print it as it is and leave with exit code 2.
"""

MAX_MESSAGE = 500
"""The most characters of a message; the middle of a longer one is left out."""

_TAIL = 160


class JaxreconError(Exception):
    """Base class: catch it to catch everything that jaxrecon raises on purpose.

    A message may quote names and values of files that nobody checked: control characters are
    escaped, and its length is limited to `MAX_MESSAGE`.
    """

    def __init__(self, message: object = "") -> None:
        super().__init__(one_line(str(message)))


class InputError(JaxreconError, ValueError):
    """An argument, image or array is not usable; the caller can mend it."""


class WeightsError(JaxreconError):
    """Weights are absent, damaged, or belong to another model."""


class OutputError(JaxreconError, OSError):
    """A result could not be written; nothing half-written was left behind."""

    def __str__(self) -> str:
        return str(self.args[0]) if self.args else ""


def one_line(text: str, limit: int = MAX_MESSAGE) -> str:
    r"""`text` for a terminal: control characters as `\n`, `\x1b`, ..., and at most `limit` long.

    Whatever is not printable is escaped: line breaks, escape codes, marks that turn the direction
    of writing, and lone surrogates, which stand for bytes of file names that are no UTF-8.
    """
    plain = "".join(c if c.isprintable() else _escaped(c) for c in text[: 2 * limit])
    if len(text) > 2 * limit:
        plain += "".join(c if c.isprintable() else _escaped(c) for c in text[-limit:])
    if len(plain) <= limit and len(text) <= 2 * limit:
        return plain
    tail = min(_TAIL, limit // 3)
    return f"{plain[: limit - tail - 5]} ... {plain[-tail:]}"


def encodable(text: str, encoding: str = "utf-8") -> str:
    r"""`text` with what an encoding lacks escaped, as standard error does it.

    UTF-8 lacks lone surrogates, which stand for bytes of file names that are no UTF-8.
    """
    return text.encode(encoding, "backslashreplace").decode(encoding)


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")


def reason_of(error: BaseException) -> str:
    """What an error of another library says, on one line; its kind if it says nothing."""
    said = getattr(error, "strerror", None) or " ".join(str(error).split())
    return said or type(error).__name__
