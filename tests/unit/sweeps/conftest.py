import pytest


@pytest.fixture(autouse=True)
def pages_without_figures(undrawn):
    """Every sweep ends with a page; what it shows is tested with the reports."""
