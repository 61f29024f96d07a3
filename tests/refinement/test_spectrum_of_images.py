"""Spectra that stay with the images: DIALS keeps none in its experiment lists."""

from dataclasses import replace

import h5py
import numpy as np
import pytest

from nanobrag_torch.errors import InputError
from nanobrag_torch.io.expt_write import write_expt
from nanobrag_torch.io.images import write_image
from nanobrag_torch.io.nxmx_read import read_nxmx, read_nxmx_geometry
from nanobrag_torch.io.nxmx_write import SPECTRUM
from nanobrag_torch.refinement.inputs import read_shot
from nanobrag_torch.units import EV_ANGSTROM

OFFSETS, WEIGHTS = np.linspace(-30, 30, 7), np.array([1.0, 2.0, 4.0, 5.0, 4.0, 2.0, 1.0])
BEAM = "entry/instrument/beam"


@pytest.fixture
def files(still, tmp_path):
    """An image with a spectrum, and an experiment list that names it and knows a wavelength alone."""
    truth, exposure = still
    data = truth.experiments[0]
    energy = EV_ANGSTROM / data.beam.wavelength_A
    pink = replace(data.beam, spectrum_energies_eV=energy + OFFSETS, spectrum_weights=WEIGHTS)
    counts = exposure.counts.clip(0, 65535).astype("u2")
    write_image(tmp_path / "shot.nxs", counts, replace(data, beam=pink))
    write_expt(tmp_path / "shot.expt", replace(data, images=("shot.nxs",)))
    return tmp_path, data, exposure, truth


def test_the_spectrum_is_that_of_the_image(files):
    """About the wavelength of the experiment; a note says so."""
    folder, data, exposure, truth = files
    for image in (None, folder / "shot.nxs"):
        shot = read_shot(folder / "shot.expt", exposure.table, image, truth.factors)
        beam = shot.experiments[0].beam
        mean = np.average(EV_ANGSTROM / beam.spectrum_energies_eV, weights=beam.spectrum_weights)
        assert beam.wavelength_A == data.beam.wavelength_A and mean == pytest.approx(beam.wavelength_A, rel=1e-12)
        np.testing.assert_allclose(np.diff(np.asarray(beam.spectrum_energies_eV)), np.diff(OFFSETS), rtol=1e-5)
        assert beam.spectrum_weights.tolist() == WEIGHTS.tolist()
        assert "the spectrum of 7 channels is that of shot.nxs" in shot.notes
    by_array = read_shot(folder / "shot.expt", exposure.table, exposure.counts, truth.factors)
    assert by_array.experiments[0].beam.spectrum_energies_eV is None


def test_a_spectrum_that_is_given_comes_first(files):
    folder, _, exposure, truth = files
    (folder / "beam.lam").write_text("0.97 1\n0.98 1\n")
    shot = read_shot(folder / "shot.expt", exposure.table, None, truth.factors, spectrum=folder / "beam.lam")
    assert len(shot.experiments[0].beam.spectrum_weights) == 2 and not any("shot.nxs" in note for note in shot.notes)


def test_the_spectrum_of_another_beam_is_refused(files):
    folder, data, exposure, truth = files
    other = replace(data, beam=replace(data.beam, wavelength_A=1.2), images=("shot.nxs",))
    write_expt(folder / "other.expt", other)
    with pytest.raises(InputError, match="--spectrum"):
        read_shot(folder / "other.expt", exposure.table, None, truth.factors)


def test_every_frame_may_have_its_own_spectrum(files):
    """A row of weights for each: they were taken as one long row, or those of the first frame for all."""
    folder, data, _, _ = files
    rows = np.stack((WEIGHTS, np.roll(WEIGHTS, 2)))
    with h5py.File(folder / "shot.nxs", "r+") as file:
        frames = file["entry/data/data"][()]
        del file["entry/data/data"], file[f"{BEAM}/{SPECTRUM}_weights"]
        file["entry/data/data"] = np.concatenate((frames, frames))
        file[f"{BEAM}/{SPECTRUM}_weights"] = rows
    for frame, row in enumerate(rows):
        assert read_nxmx(folder / "shot.nxs", frame)[1].beam.spectrum_weights.tolist() == row.tolist()
        assert read_nxmx_geometry(folder / "shot.nxs", frame).beam.spectrum_weights.tolist() == row.tolist()
    with h5py.File(folder / "shot.nxs", "r+") as file:
        del file[f"{BEAM}/{SPECTRUM}_weights"]
        file[f"{BEAM}/{SPECTRUM}_weights"] = WEIGHTS[:-1]
    with pytest.raises(InputError, match="7 weights"):
        read_nxmx_geometry(folder / "shot.nxs")
