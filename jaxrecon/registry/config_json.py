"""Config dataclasses from the JSON in a checkpoint."""

from pathlib import Path
from typing import Any

from jaxrecon.errors import WeightsError
from jaxrecon.structured import structured


def config_from_json[T](config_class: type[T], values: Any, place: Path) -> T:
    """A config dataclass from the JSON in a checkpoint, strict about its fields.

    Raises:
      WeightsError: a field is unknown, missing without a default, or of another type.
    """
    try:
        return structured(config_class, values)
    except ValueError as error:
        raise WeightsError(
            f"{place}: config.json does not fit {config_class.__name__} ({str(error)[:300]}); "
            "convert the weights again with this version"
        ) from error
