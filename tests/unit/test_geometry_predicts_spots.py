"""Spots predicted from a header and a matrix alone lie where the C program drew them.

Nothing of the simulator is used: the crystal comes from a MOSFLM matrix, the panel and the angles from the header that
the C program wrote, the spot from s1 = s0 + A hkl. This holds every sign, frame and half pixel of `conventions.py`.
"""

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from nanobrag_torch.io.geometry import read_geometry
from nanobrag_torch.io.smv import HeaderText
from nanobrag_torch.io.smv_geometry import experiment_of_smv
from nanobrag_torch.records.frames import incident

WINDOW = 3  # pixels around a spot that its centroid is taken of


@pytest.fixture
def drawn(data, tmp_path):
    """Image and header geometry of a reference case, and the crystal of a matrix file or of a right-angled cell."""

    def load(name, matrix=None, cell=None, misset_deg=(0, 0, 0)):
        with np.load(data / "reference" / f"{name}.npz") as case:
            experiment = experiment_of_smv(HeaderText(str(case["int_header"])), name)
            image = case["float"].reshape(experiment.detector.shape).astype(np.float64)
        path = data / "inputs" / matrix if matrix else tmp_path / "made.mat"
        if cell:  # section 6.1 and 6.3: a*, b*, c* along x, y, z, then turned about x, y, z
            turn = Rotation.from_euler("xyz", misset_deg, degrees=True).as_matrix()
            np.savetxt(path, turn @ np.diag(1 / np.array(cell)), fmt="%.17g")
        return image, experiment, read_geometry(path, wavelength_A=1.0).crystal

    return load


def predict(experiment, crystal, angle_deg, cells, excitation):
    """Positions [n, 2] (slow, fast; pixels) of reflections that nearly touch the Ewald sphere."""
    index = np.arange(-40, 41)
    hkl = np.stack(np.meshgrid(index, index, index, indexing="ij"), -1).reshape(-1, 3)
    q = hkl[np.any(hkl != 0, axis=1)] @ (experiment.goniometer.rotation(angle_deg) @ crystal.A).T
    s1 = incident(experiment.beam) / experiment.beam.wavelength_A + q
    width = 1 / (cells * np.linalg.norm(crystal.real_space, axis=1).max())  # of a reciprocal lattice point
    s1 = s1[np.abs(np.linalg.norm(s1, axis=1) - 1 / experiment.beam.wavelength_A) < excitation * width]
    panel = experiment.detector.panels[0]
    scale = (panel.origin_mm @ panel.normal) / (s1 @ panel.normal)
    there = (s1 * scale[:, None] - panel.origin_mm)[scale > 0]
    place = np.stack((there @ panel.slow, there @ panel.fast), axis=1) / panel.pixel_size_mm[::-1]
    inside = np.all((place > WINDOW) & (place < np.array(panel.shape) - WINDOW - 1), axis=1)
    return place[inside]


def offsets(image, places):
    """Centroid less prediction [n, 2] (pixels)."""
    corners = places.astype(int) - WINDOW
    steps = np.arange(2 * WINDOW + 1)
    rows, columns = corners[:, :1] + steps, corners[:, 1:] + steps
    parts = image[rows[:, :, None], columns[:, None, :]]
    total = parts.sum(axis=(1, 2))
    slow = (parts * (rows + 0.5)[:, :, None]).sum(axis=(1, 2)) / total
    fast = (parts * (columns + 0.5)[:, None, :]).sum(axis=(1, 2)) / total
    return np.stack((slow, fast), axis=1) - places


def brightness(image, places):
    """Mean of the image at the predicted pixels over its mean."""
    slow, fast = places.astype(int).T
    return image[slow, fast].mean() / image.mean()


def test_centroids_lie_within_a_twentieth_of_a_pixel(drawn):
    image, experiment, crystal = drawn("cubic_256_offset_beam", cell=(73, 73, 73), misset_deg=(11, 22, 33))
    places = predict(experiment, crystal, 0.0, cells=6, excitation=0.3)
    assert len(places) >= 20 and brightness(image, places) > 100
    assert np.abs(offsets(image, places)).max() < 0.05


def test_a_triclinic_matrix_puts_its_spots_where_they_are(drawn):
    image, experiment, crystal = drawn("mat_file", matrix="tri.mat")
    places = predict(experiment, crystal, 0.0, cells=4, excitation=0.15)
    assert len(places) >= 20 and np.median(np.abs(offsets(image, places))) < 0.25
    assert brightness(image, places) > 20 > 5 * brightness(image[::-1], places) > 5 * brightness(image[:, ::-1], places)


def test_the_spindle_turns_the_right_way(drawn):
    image, experiment, crystal = drawn("phi_nonzero_start", cell=(60, 75, 90))
    middle = experiment.scan.start_deg(0) + 1.5 * 3 / 8  # four steps from the start of the oscillation
    assert experiment.scan.start_deg(0) == 12 and experiment.scan.oscillation_width_deg == 1.5
    right, wrong = (predict(experiment, crystal, angle, cells=4, excitation=0.15) for angle in (middle, -middle))
    assert brightness(image, right) > 15 > 2 * brightness(image, wrong)
