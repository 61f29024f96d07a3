"""Merged files read back by gemmi, amplitudes by another integration, statistics by their formulas."""

import json
from dataclasses import replace

import gemmi
import numpy as np
import pyarrow.parquet
import pytest
import torch
from scipy import integrate

from nanobrag_torch.crystallography.french_wilson import amplitudes
from nanobrag_torch.errors import InputError
from nanobrag_torch.records.reflections import Reflections
from nanobrag_torch.refinement.asymmetric import Asymmetric
from nanobrag_torch.refinement.merged import Merged
from nanobrag_torch.refinement.merging import statistics, table, write_merged
from nanobrag_torch.refinement.synthetic import wilson_factors

CELL = (40.0, 40.0, 30.0, 90.0, 90.0, 90.0)


@pytest.mark.parametrize("centric", [False, True])
@pytest.mark.parametrize("intensity", [-3.0, 0.0, 0.5, 5.0, 200.0])
def test_amplitudes_are_the_posterior_means(intensity, centric):
    sigma, expected = 1.5, 4.0

    def density(f):
        prior = np.exp(-(f**2) / (2 * expected)) if centric else 2 * f * np.exp(-(f**2) / expected)
        return prior * np.exp(-((f**2 - intensity) ** 2) / (2 * sigma**2) + max(intensity / expected, 0))

    top = np.sqrt(max(intensity, 0) + 12 * sigma)
    moments = [
        integrate.quad(lambda f, k=k: f**k * density(f), 0, top, points=[np.sqrt(max(intensity, 0))], limit=500)[0]
        for k in range(3)
    ]
    given = [np.array([v]) for v in (intensity, sigma, expected)]
    squared, mean, sd = (float(value[0]) for value in amplitudes(given[0], given[1], given[2], np.array([centric])))
    assert mean == pytest.approx(moments[1] / moments[0], rel=1e-4)
    assert squared == pytest.approx(moments[2] / moments[0], rel=1e-4)
    assert sd == pytest.approx(np.sqrt(moments[2] / moments[0] - mean**2), rel=2e-3)


def test_amplitudes_without_a_sigma_are_refused():
    with pytest.raises(InputError, match="above 0"):
        amplitudes(np.ones(1), np.zeros(1), np.ones(1), np.zeros(1, bool))


@pytest.fixture(scope="module")
def merged():
    """Half sets with noise of a known size about true intensities that differ between mates."""
    shared = Asymmetric.of(wilson_factors(CELL, "P 21 21 21", 2.5, b_iso=20, seed=1), anomalous=True)
    generator = np.random.default_rng(2)
    true = shared.intensity.numpy() * np.exp(generator.normal(0, 0.2, len(shared)))
    sigma = np.full(len(shared), 0.3 * true.mean())
    halves = true + np.sqrt(2) * sigma * generator.normal(size=(2, len(shared)))
    multiplicity = generator.integers(0, 6, len(shared))
    halves[:, multiplicity == 0] = np.nan
    return Merged(shared, halves.mean(0), sigma, multiplicity, halves, shots=({"name": "a", "sigma_z": np.inf},))


def test_merged_files_read_back(merged, tmp_path):
    names = write_merged(merged, tmp_path / "out")
    mtz = gemmi.read_mtz_file(str(tmp_path / "out" / names[0]))
    assert [c.label for c in mtz.columns][:7] == ["H", "K", "L", "I(+)", "I(-)", "SIGI(+)", "SIGI(-)"]
    values = {c.label: np.array(c) for c in mtz.columns}
    group = mtz.spacegroup
    read = {}
    for row, h in enumerate(np.array(mtz.make_miller_array())):
        for side, sign in (("(+)", 1), ("(-)", -1)):
            if np.isfinite(values[f"I{side}"][row]):
                read[orbit(group, sign * h)] = values[f"I{side}"][row]
    wanted = {orbit(group, h): i for h, i in zip(merged.shared.hkl, merged.intensity, strict=True) if np.isfinite(i)}
    assert read.keys() == wanted.keys()
    assert all(read[key] == pytest.approx(wanted[key], rel=1e-5, abs=1e-3) for key in wanted)
    assert names == ["merged.mtz", "statistics.json", "shots.parquet", "report.html"]
    assert "CC1/2" in (tmp_path / "out" / "report.html").read_text()
    assert pyarrow.parquet.read_table(tmp_path / "out" / names[2]).to_pylist() == [{"name": "a", "sigma_z": None}]
    told = json.loads((tmp_path / "out" / names[1]).read_text())
    assert told["status"] == "merged" and len(told["shells"]) == 11
    write_merged(replace(merged, status="failed", reason="why"), tmp_path / "out")
    assert not (tmp_path / "out" / names[0]).exists()


def orbit(group, h):
    """The largest of the indices that rotations alone make of h."""
    turns = [np.array(op.rot) // op.DEN for op in group.operations().sym_ops]
    return max(tuple((np.asarray(h, int) @ turn).tolist()) for turn in turns)


def test_statistics_are_those_of_the_noise(merged):
    rows = statistics(merged, 5)
    seen = merged.seen
    assert sum(row.seen for row in rows[:-1]) == rows[-1].seen == seen.sum()
    signal, noise = merged.intensity[seen].var(), 2 * merged.sigma[0] ** 2
    signal -= merged.sigma[0] ** 2
    assert rows[-1].cc_half == pytest.approx(signal / (signal + noise), abs=0.03)
    assert rows[-1].completeness == pytest.approx(seen.mean())
    assert 0 < rows[-1].cc_ano < rows[-1].cc_half
    assert "CC1/2" in table(rows) and len(table(rows).splitlines()) == 7


def test_a_table_knows_its_own_and_refuses_others():
    shared = Asymmetric.of(wilson_factors(CELL, "P 43 21 2", 3.0, b_iso=20, seed=1))
    assert (shared.places(shared.hkl) == torch.arange(len(shared))).all()
    assert (shared.places(-shared.hkl[:, [1, 0, 2]]) == torch.arange(len(shared))).all()
    with pytest.raises(InputError, match="space group allows"):
        shared.places(np.array([[99, 0, 0]]))
    with pytest.raises(InputError, match="space group"):
        Asymmetric.of(Reflections(hkl=np.ones((1, 3), np.int32), amplitude=np.ones(1)))
