import pytest

from tests.standins.installations import playable


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """Package, game and stand-in, for one module of tests."""
    with playable(tmp_path_factory.mktemp("starcraft")) as folder:
        yield folder
