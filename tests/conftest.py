"""What every test may use: where the reference data lies."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

if "PYTEST_XDIST_WORKER" in os.environ:
    torch.set_num_threads(1)  # the workers share the cores already

DATA = Path(__file__).parent / "data"


@pytest.fixture(scope="session")
def data() -> Path:
    """Folder of the reference data; see PROVENANCE.md there."""
    return DATA


@pytest.fixture
def kept_or_not(monkeypatch) -> list[bool]:
    """Losses keep what they can however few the lattices; whether they did, a word a tile that was tried."""
    from nanobrag_torch.kernels import operation
    from nanobrag_torch.refinement import losses

    tried: list[bool] = []
    keep = operation.keep

    def noted(*given: object, **more: object) -> object:
        tried.append((found := keep(*given, **more)) is not None)
        return found

    monkeypatch.setattr(operation, "keep", noted)
    monkeypatch.setattr(losses, "FEWEST_LATTICES", 1)
    return tried
