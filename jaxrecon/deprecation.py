"""Names of the release before, which work for one release more."""

import warnings


def warn_renamed(old: str, new: str) -> None:
    """Tells the caller of the caller that a name has changed."""
    warnings.warn(
        f"{old} is called {new} now; the old name goes with the next release",
        DeprecationWarning,
        stacklevel=4,
    )
