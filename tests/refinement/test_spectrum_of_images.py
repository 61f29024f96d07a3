"""Spectra that stay with the images: DIALS keeps none in its experiment lists."""

from dataclasses import replace

import h5py
import numpy as np
import pytest

from nanobrag_torch.errors import InputError
from nanobrag_torch.io.expt_write import write_expt
from nanobrag_torch.io.images import write_image
from nanobrag_torch.io.nxmx_read import read_nxmx, read_nxmx_geometry
from nanobrag_torch.io.nxmx_write import SPECTRUM, write_nxmx
from nanobrag_torch.records.tables import ShoeboxData
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


def test_rows_of_weights_are_those_of_the_frames(files):
    """Of three rows for one frame none is taken, and no weight is infinite."""
    folder, _, _, _ = files
    for wrong in (np.stack((WEIGHTS,) * 3), np.where(WEIGHTS == 5, np.inf, WEIGHTS)):
        with h5py.File(folder / "shot.nxs", "r+") as file:
            del file[f"{BEAM}/{SPECTRUM}_weights"]
            file[f"{BEAM}/{SPECTRUM}_weights"] = wrong
        with pytest.raises(InputError, match="weights"):
            read_nxmx_geometry(folder / "shot.nxs")


def test_a_file_that_is_both_image_and_geometry_has_the_spectrum_of_the_frame(files):
    folder, data, exposure, truth = files
    pink = read_nxmx_geometry(folder / "shot.nxs").beam
    whole = replace(data, beam=pink, crystal=truth.experiments[0].crystal)
    counts = exposure.counts.clip(0, 65535).astype("u2")
    write_nxmx(folder / "both.nxs", np.stack((counts, counts)), whole)
    rows = np.stack((WEIGHTS, np.roll(WEIGHTS, 2)))
    with h5py.File(folder / "both.nxs", "r+") as file:
        del file[f"{BEAM}/{SPECTRUM}_weights"]
        file[f"{BEAM}/{SPECTRUM}_weights"] = rows
    for frame, row in enumerate(rows):
        shot = read_shot(folder / "both.nxs", exposure.table, folder / "both.nxs", truth.factors, frame=frame)
        assert shot.experiments[0].beam.spectrum_weights.tolist() == row.tolist()


def test_a_spectrum_that_is_moved_says_by_how_much(files):
    folder, data, exposure, truth = files
    near = replace(data, beam=replace(data.beam, wavelength_A=data.beam.wavelength_A * 1.001), images=("shot.nxs",))
    write_expt(folder / "near.expt", near)
    notes = read_shot(folder / "near.expt", exposure.table, None, truth.factors).notes
    assert any("moved by -12.6 eV" in note for note in notes), notes


def test_shoeboxes_need_no_image_that_can_be_read(files):
    """A file that is there, but no NXmx: the pixels are those of the table, and there is no spectrum."""
    folder, data, exposure, truth = files
    with h5py.File(folder / "shot.nxs", "w") as file:
        file["other"] = 1
    box = ShoeboxData(0, np.array([10, 13, 20, 24, 0, 1]), np.ones((1, 4, 3), "f4"), np.full((1, 4, 3), 5, "i4"), None)
    boxed = replace(exposure.table, shoeboxes=(box,) * exposure.table.rows)
    shot = read_shot(folder / "shot.expt", boxed, None, truth.factors)
    assert shot.experiments[0].beam.spectrum_energies_eV is None and any("shoeboxes" in note for note in shot.notes)


def test_stills_of_one_file_are_each_their_own_image(files):
    """By --images too: by the number of the experiment, and a note says which."""
    folder, data, exposure, truth = files
    counts = exposure.counts.clip(0, 65535).astype("u2")
    both = np.stack((counts // 2, counts // 3))
    write_nxmx(folder / "two.nxs", both, replace(data, crystal=None))
    for number in (0, 1):
        still = replace(data, images=("elsewhere.nxs",), image_numbers=(number,))
        write_expt(folder / "still.expt", still)
        shot = read_shot(folder / "still.expt", exposure.table, folder / "two.nxs", truth.factors)
        assert np.array_equal(shot.counts, both[number])
        assert shot.experiments[0].image_numbers == (number,)
        assert f"image {number} of the 2 in two.nxs, counted from 0" in shot.notes
