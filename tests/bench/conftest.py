"""What all tests of comparisons share."""

import pytest


@pytest.fixture(scope="module", autouse=True)
def for_runs(small_heap):
    """Use the small heap in all modules here."""
