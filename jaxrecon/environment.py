"""The variables of the environment that the project reads, and doubts about those that are set."""

import difflib
import os
import warnings
from collections.abc import Iterator, Mapping

_PREFIX = "JAXRECON_"

HOME = "JAXRECON_HOME"
"""Where weights and compiled programs are kept."""

DETAILS = "JAXRECON_DETAILS"
"""A switch: the command line shows more than one line of an error."""

KEEP_PROGRAMS = "JAXRECON_KEEP_PROGRAMS"
"""A switch: off, compiled programs are not kept between processes."""

TOKEN = "JAXRECON_TOKEN"
"""What visitors of `jaxrecon serve` need; one is made up where it is needed."""

WITHOUT_TRITON = "JAXRECON_WITHOUT_TRITON"
"""A switch: Pallas Triton is taken to be absent."""

VARIABLES = (HOME, DETAILS, KEEP_PROGRAMS, TOKEN, WITHOUT_TRITON)
SWITCHES = (DETAILS, KEEP_PROGRAMS, WITHOUT_TRITON)

_ON, _OFF = ("1", "true", "yes", "on"), ("0", "false", "no", "off")

_told: set[str] = set()


def is_on(switch: str, *, usually: bool = False) -> bool:
    """Whether a switch is on: `usually` where it is unset or empty, else unless it says no."""
    value = os.environ.get(switch, "").strip().casefold()
    return value not in _OFF if value else usually


def untold_doubts() -> Iterator[str]:
    """What is doubtful of the environment, each line once a process."""
    for doubt in doubts(os.environ):
        if doubt not in _told:
            _told.add(doubt)
            yield doubt


def warn_of_doubts() -> None:
    """Warns whoever called what calls this of what is doubtful, once a process."""
    for doubt in untold_doubts():
        warnings.warn(doubt, skip_file_prefixes=(os.path.dirname(__file__),))


def doubts(environment: Mapping[str, str]) -> Iterator[str]:
    """Variables that look like ours and are not read, and switches that are neither on nor off."""
    for name, value in environment.items():
        if name not in VARIABLES and _plain(name).startswith(_plain(_PREFIX)):
            yield f"the variable {name} of the environment is not read; {_nearest(name)}"
        if name in SWITCHES and value and value.strip().casefold() not in (*_ON, *_OFF):
            yield f"{name}={value!r} in the environment counts as on; give 1 or 0"


def _nearest(name: str) -> str:
    """The variable that is meant, by what is behind the prefix; all of them if none is near."""
    known = {_plain(each.removeprefix(_PREFIX)): each for each in VARIABLES}
    found = difflib.get_close_matches(_plain(name).removeprefix(_plain(_PREFIX)), known, n=1)
    return f"did you mean {known[found[0]]}?" if found else f"known are {', '.join(VARIABLES)}"


def _plain(name: str) -> str:
    return name.replace("_", "").casefold()
