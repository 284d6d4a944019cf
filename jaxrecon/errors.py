"""The errors that jaxrecon raises on purpose.

Each message is one line that names the thing at fault, what was found, and the way out, so that
the command line can print it as it is and leave with exit code 2.
"""


class JaxreconError(Exception):
    """Base class: catch it to catch everything that jaxrecon raises on purpose."""


class InputError(JaxreconError, ValueError):
    """An argument, image or array is not usable; the caller can mend it."""


class WeightsError(JaxreconError):
    """Weights are absent, damaged, or belong to another model."""


class OutputError(JaxreconError, OSError):
    """A result could not be written; nothing half-written was left behind."""

    def __str__(self) -> str:
        return str(self.args[0]) if self.args else ""
