import pytest


@pytest.fixture(autouse=True)
def _own_cache(own_cache):
    """No test reads or fills the user's cache, or uses the user's credentials."""
