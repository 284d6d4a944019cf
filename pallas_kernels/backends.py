"""Runs a backend by name, or the first that can do the job."""

from collections.abc import Callable, Mapping
from typing import Any


def by_direction[F, B](
    implementations: Mapping[str, tuple[F, B]],
) -> tuple[dict[str, F], dict[str, B]]:
    """Backends by name: what they compute, and its gradient."""
    forwards = {name: forwards for name, (forwards, _) in implementations.items()}
    return forwards, {name: backwards for name, (_, backwards) in implementations.items()}


def check_backend(implementations: Mapping[str, Any], implementation: str | None) -> None:
    """Refuses a name that no backend has; None stands for any of them.

    Raises:
      ValueError: the name is unknown.
    """
    if implementation is not None and implementation not in implementations:
        raise ValueError(
            f"{implementation=} is unknown; choose one of {', '.join(implementations)}"
        )


def run_backend[X](
    implementations: Mapping[str, Callable[..., X]],
    implementation: str | None,
    job: str,
    *arguments: Any,
    **options: Any,
) -> X:
    """What the backend of that name makes of the arguments, or else the first that takes them.

    Args:
      implementations: backends by name, the best first.
      job: what they do, as in "no backend can JOB".

    Raises:
      ValueError: the name is unknown, or the backend's own.
      NotImplementedError: the backend asked for by name cannot do this job here.
      ExceptionGroup: none was asked for, and none can.
    """
    check_backend(implementations, implementation)
    if implementation is not None:
        return implementations[implementation](*arguments, **options)
    refusals = []
    for run in implementations.values():
        try:
            return run(*arguments, **options)
        except NotImplementedError as refusal:
            refusals.append(refusal)
    raise ExceptionGroup(f"no backend can {job}", refusals)
