"""Requests that are not met."""

from http import HTTPStatus

from jaxrecon.errors import InputError


class RefusedError(InputError):
    """A request is not met; its message is the answer.

    Attributes:
      status: of the answer.
    """

    def __init__(self, message: str, status: int = HTTPStatus.BAD_REQUEST) -> None:
        super().__init__(message)
        self.status = int(status)
