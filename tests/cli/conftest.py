"""What the tests of several commands share."""

import pytest

from tiny_models import write_native


@pytest.fixture(scope="session")
def native(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A checkpoint folder of a tiny model."""
    return str(write_native(tmp_path_factory.mktemp("native") / "tiny"))
