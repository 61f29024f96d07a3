"""Invented amplitudes: the moments that Wilson's statistics have, the B factor that was asked for, the scale."""

from __future__ import annotations

import time

import numpy as np
import pytest

from nanobrag_torch.crystallography.completeness import inverse_square_spacing
from nanobrag_torch.crystallography.symmetry import expand_to_p1
from nanobrag_torch.crystallography.wilson import content_intensity, wilson_amplitudes, wilson_box, wilson_reflections
from nanobrag_torch.errors import InputError
from nanobrag_torch.records.reflections import Reflections

CELL = (78.0, 90.0, 104.0, 90.0, 90.0, 90.0)


def test_moments_of_acentric_and_centric_intensities():
    """<I^2>/<I>^2 is 2 and 3, the part below a tenth of the mean 9.5 and 24.8 percent: Howells et al. (1950)."""
    hkl, amplitude = wilson_reflections(CELL, "P 21 21 21", 2.0, b_iso=0.0, seed=1)
    expected = content_intensity(inverse_square_spacing(hkl, CELL) / 4, 78 * 90 * 104)
    power = amplitude**2 / expected
    axial = (hkl == 0).sum(1) == 2
    centric = (hkl == 0).any(1) & ~axial
    acentric = ~centric & ~axial
    for kind, second, weak, rel in ((acentric, 2, 0.0952, 0.03), (centric, 3, 0.2482, 0.12)):
        assert power[kind].mean() == pytest.approx(1, rel=rel)
        assert (power[kind] ** 2).mean() / power[kind].mean() ** 2 == pytest.approx(second, rel=rel)
        assert (power[kind] < 0.1).mean() == pytest.approx(weak, rel=rel)


def test_reflections_on_axes_and_of_centred_cells_are_stronger():
    """epsilon 4 along a fourfold axis; 2 for every reflection of an I lattice (Stewart & Karle (1976))."""
    l = np.arange(1, 200, dtype=np.int32)
    axis = np.stack([0 * l, 0 * l, 4 * l], -1).astype(np.int32)
    general = np.stack([1 + 0 * l, 2 + 0 * l, 4 * l], -1).astype(np.int32)
    cell = (60.0, 60.0, 70.0, 90.0, 90.0, 90.0)

    def ratio(hkl, group):
        draws = [wilson_amplitudes(hkl, cell, group, b_iso=0.0, seed=s) ** 2 for s in range(40)]
        return np.mean(np.array(draws) / content_intensity(inverse_square_spacing(hkl, cell) / 4, 60 * 60 * 70))

    assert ratio(axis, "P 4") == pytest.approx(4, rel=0.05)
    assert ratio(general, "P 4") == pytest.approx(1, rel=0.05)
    assert ratio(general + np.array([1, 0, 0], np.int32), "I 4") == pytest.approx(2, rel=0.05)


def test_wilson_plot_gives_back_the_b_factor():
    hkl, amplitude = wilson_reflections(CELL, "P 1 21 1", 1.8, b_iso=27.0, seed=3)
    stol2 = inverse_square_spacing(hkl, CELL) / 4
    edges = np.quantile(stol2, np.linspace(0, 1, 21))
    shell = np.clip(np.searchsorted(edges, stol2, side="right") - 1, 0, 19)
    count = np.bincount(shell)
    ratio = np.bincount(shell, amplitude**2) / np.bincount(shell, content_intensity(stol2, 78 * 90 * 104))
    slope = np.polyfit(np.bincount(shell, stol2) / count, np.log(ratio), 1)[0]
    assert -slope / 2 == pytest.approx(27.0, abs=0.5)


def test_scale_is_that_of_a_protein():
    """At rest and at s = 0, sum of f^2 is sum of Z^2: 112 Da a residue, 5 C, 1.35 N, 1.5 O, 0.03 S, 8 H."""
    volume, solvent = 1e6, 0.5
    residues = volume * (1 - solvent) * 1.35 * 0.602214 / 112
    squares = 5 * 36 + 1.35 * 49 + 1.5 * 64 + 0.03 * 256 + 8
    assert content_intensity(np.zeros(1), volume, solvent)[0] == pytest.approx(residues * squares, rel=0.01)


def test_symmetry_holds_and_nothing_extinct_is_made():
    hkl, amplitude = wilson_reflections((40, 40, 60, 90, 90, 120), "P 31 2 1", 3.0)
    reflections = Reflections(hkl=hkl, amplitude=amplitude, space_group="P 31 2 1")
    expansion = expand_to_p1(reflections)
    assert expansion.absent == 0 and not (hkl == 0).all(1).any()
    assert not ((hkl[:, 0] == 0) & (hkl[:, 1] == 0) & (hkl[:, 2] % 3 != 0)).any()


def test_the_seed_decides():
    first = wilson_reflections(CELL, "P 1", 4.0, seed=5)[1]
    assert (first == wilson_reflections(CELL, "P 1", 4.0, seed=5)[1]).all()
    assert (first != wilson_reflections(CELL, "P 1", 4.0, seed=6)[1]).mean() > 0.99


def test_box_for_the_demonstration():
    cell = (26.65, 31.14, 33.88, 88.7, 71.5, 68.1)
    begun = time.process_time()
    grid, metadata = wilson_box(cell, (24, 28, 31), b_iso=20.0, seed=1)
    assert time.process_time() - begun < 0.3
    assert grid.shape == (49, 57, 63) and (metadata["k_min"], metadata["l_max"]) == (-28, 31)
    assert (grid == grid[::-1, ::-1, ::-1]).all() and grid[24, 28, 31] == 0
    hkl = np.argwhere(grid > 0) - np.array([24, 28, 31])
    stol2 = inverse_square_spacing(hkl.astype(np.int32), cell) / 4
    expected = content_intensity(stol2, float(np.linalg.det(lattice(cell)))) * np.exp(-40 * stol2)
    assert (grid[grid > 0] ** 2 / expected).mean() == pytest.approx(1, rel=0.02)


def lattice(cell):
    """Rows a, b, c of a cell."""
    a, b, c = cell[:3]
    ca, cb, cg = np.cos(np.radians(cell[3:]))
    sg = np.sin(np.radians(cell[5]))
    x, y = cb, (ca - cb * cg) / sg
    return np.array([[a, 0, 0], [b * cg, b * sg, 0], [c * x, c * y, c * np.sqrt(1 - x * x - y * y)]])


def test_bad_requests_are_refused():
    for bad in ((0, 0, 0), (-1, 2, 3), (2000, 1, 1)):
        with pytest.raises(InputError, match="limits"):
            wilson_box(CELL, bad)
    with pytest.raises(InputError, match="solvent_content"):
        wilson_reflections(CELL, "P 1", 4.0, solvent_content=1.0)
    with pytest.raises(InputError, match="b_iso"):
        wilson_reflections(CELL, "P 1", 4.0, b_iso=float("nan"))
    with pytest.raises(InputError, match="seed"):
        wilson_reflections(CELL, "P 1", 4.0, seed=-1)
    with pytest.raises(InputError, match="dmin"):
        wilson_reflections(CELL, "P 1", 500.0)
