"""What every test may use: where the reference data lies."""

from __future__ import annotations

from pathlib import Path

import pytest

DATA = Path(__file__).parent / "data"


@pytest.fixture(scope="session")
def data() -> Path:
    """Folder of the reference data; see PROVENANCE.md there."""
    return DATA
