"""Libraries that some work needs and a plain installation leaves out."""

from importlib import import_module
from types import TracebackType

from jaxrecon.errors import InputError


class Extra:
    """A block of imports of an optional library.

        with Extra("video", "reading a video needs PyAV"):
            import av

    Attributes:
      name: the extra of the package that installs the library.
      need: what needs which library, for the error.

    Raises:
      InputError: inside the block an import fails; names the extra.
    """

    def __init__(self, name: str, need: str) -> None:
        self.name = name
        self.need = need

    def __enter__(self) -> None:
        pass

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if isinstance(error, ImportError):
            raise InputError(f"{self.need}; pip install jaxrecon[{self.name}]") from error


def check_installed(library: str, name: str, need: str) -> None:
    """Refuses, before work begins, what would end for want of a library.

    Args:
      library: the module.
      name, need: see `Extra`.

    Raises:
      InputError: it cannot be imported; names the extra.
    """
    with Extra(name, need):
        import_module(library)
