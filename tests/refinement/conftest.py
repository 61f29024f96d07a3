"""Made-up exposures, rendered once a session."""

from dataclasses import replace

import pytest
import torch

from nanobrag_torch.refinement.synthetic import counted, rendered, rotation_truth, still_truth


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    """Small arrays: threads would only wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def still():
    """A mosaic crystal: truth and counted exposure."""
    truth = still_truth(size=1500, domains=150, mosaic_sampling="quadrature", oversample=5)
    return truth, counted(rendered(truth), truth, 1)


@pytest.fixture(scope="session")
def frame():
    """A 0.1-degree frame of a triclinic crystal without mosaicity."""
    truth = rotation_truth(size=(1400, 1400))
    truth = replace(truth, most_spots=60)
    return truth, counted(rendered(truth), truth, 1)
