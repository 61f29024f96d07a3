"""One browser for all pages; without one, what needs it is skipped."""

import pytest
from browser import PROGRAM, Browser


@pytest.fixture(scope="session")
def browser():
    """A tab of Chromium, which has nothing to complain of in the end."""
    if PROGRAM is None:
        pytest.skip("no browser: apt-get install chromium")
    with Browser() as one:
        yield one
        assert one.complaints == []
