"""Image files: pixel for pixel and geometry to 1e-9 through every writer and reader, and other programs' readers."""

import datetime
from dataclasses import replace
from pathlib import Path

import fabio
import h5py
import numpy as np
import nxmx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from geometry_scenes import assert_same_crystal, assert_same_detector, experiments, rotation
from nanobrag_torch.datasets.series import numbered, open_series
from nanobrag_torch.errors import InputError
from nanobrag_torch.io.cbf import experiment_of_cbf, open_cbf, read_cbf, write_cbf
from nanobrag_torch.io.geometry import read_geometry
from nanobrag_torch.io.images import read_image, write_image
from nanobrag_torch.io.nxmx_write import write_nxmx
from nanobrag_torch.io.smv import HeaderText
from nanobrag_torch.records.contents import contents
from nanobrag_torch.records.experiment import (
    BeamData,
    CrystalData,
    DetectorData,
    ExperimentData,
    GoniometerData,
    PanelData,
    ScanData,
)
from nanobrag_torch.records.images import as_counts

CLOSE = 1e-9
ROUND_TRIP = settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
MCSTAS_TO_IMGCIF = np.diag([-1.0, 1.0, -1.0])


def plain(frames=3, size=(20, 12), **panel):
    """One panel square to the beam, a scan about x."""
    return ExperimentData(
        beam=BeamData(wavelength_A=0.9768, polarization_fraction=0.99, polarization_normal=[0, 1, 0], flux=1e12),
        detector=DetectorData(panels=(PanelData(**{
            "origin_mm": [-1.1, 0.7, -250.5], "fast": [1, 0, 0], "slow": [0, -1, 0], "pixel_size_mm": (0.1, 0.1),
            "image_size": size, "thickness_mm": 0.32, "material": "Si", "mu_per_mm": 3.9, "trusted_range": (-1, 60000),
            **panel,
        }),)),
        goniometer=GoniometerData(rotation_axis=[1, 0, 0]),
        scan=ScanData(image_range=(7, 6 + frames), oscillation_start_deg=10, oscillation_width_deg=0.1,
                      exposure_times_s=np.full(frames, 0.5)),
        crystal=CrystalData(real_space=np.diag([40.0, 50, 60]), space_group_hall="P 2ac 2ab", mosaicity_deg=0.1),
        source="simulation",
    )  # fmt: skip


def noise(shape, high=60000, dtype=np.uint16, seed=0):
    return np.random.default_rng(seed).integers(0, high, shape, dtype=dtype)


# Round trips


@given(experiments(panels=1), st.integers(0, 2**32 - 1))
@ROUND_TRIP
def test_smv_and_cbf_round_trip(tmp_path, data, seed):
    for name, dtype in (("a.img", np.uint16), ("b.img", np.uint32), ("c.cbf", np.int32)):
        index, high = data.scan.frames - 1, np.iinfo(dtype).max
        pixels = noise(data.detector.shape, high, dtype, seed)
        write_image(tmp_path / name, pixels, data, index=index)
        found = read_image(tmp_path / name)
        np.testing.assert_array_equal(found.pixels, pixels)
        np.testing.assert_array_equal(fabio.open(tmp_path / name).data, pixels)
        one = replace(data, scan=replace(
            data.scan, image_range=(3 + index, 3 + index), oscillation_start_deg=data.scan.start_deg(index),
            exposure_times_s=np.array([0.25]),
        ))  # fmt: skip
        assert_same_detector(found.experiment.detector, data.detector, CLOSE)
        assert_same_crystal(found.experiment, one, CLOSE)
        assert found.experiment.scan.image_range == one.scan.image_range
        assert sorted(contents(found.experiment)) == sorted(contents(one))


@given(experiments(), st.integers(0, 2**32 - 1))
@ROUND_TRIP
def test_nxmx_round_trip(tmp_path, data, seed):
    pixels = noise((data.scan.frames, *data.detector.shape), seed=seed)
    if len(data.detector.panels) > 1:
        for index, panel in enumerate(data.detector.panels):
            pixels[:, index, panel.shape[0] :], pixels[:, index, :, panel.shape[1] :] = 0, 0
    write_nxmx(tmp_path / "a.nxs", pixels, data)
    again = read_geometry(tmp_path / "a.nxs")
    assert_same_detector(again.detector, data.detector, CLOSE)
    np.testing.assert_allclose(again.goniometer.rotation(50), data.goniometer.rotation(50), atol=1e-12)
    np.testing.assert_allclose(again.crystal.real_space, data.crystal.real_space, rtol=0, atol=CLOSE)
    np.testing.assert_allclose(again.beam.direction, data.beam.direction, atol=1e-14)
    assert again.scan.image_range == data.scan.image_range
    assert again.scan.oscillation_width_deg == pytest.approx(data.scan.oscillation_width_deg, abs=1e-9)
    for index in {0, len(pixels) - 1}:
        np.testing.assert_array_equal(read_image(tmp_path / "a.nxs", index).pixels, pixels[index])
    hidden = {"mask"} if len({p.shape[1] for p in data.detector.panels}) > 1 else set()
    assert set(contents(again)) - hidden == set(contents(data))


@given(experiments())
@ROUND_TRIP
def test_the_nxmx_package_finds_the_same_geometry(tmp_path, data):
    """Positions by others' code, in the McStas frame; lengths and angles between beam, axis and panels are compared."""
    write_nxmx(tmp_path / "a.nxs", noise((data.scan.frames, *data.detector.shape)), data)
    with h5py.File(tmp_path / "a.nxs") as file:
        entry = nxmx.NXmx(file).entries[0]
        detector = entry.instruments[0].detectors[0]
        axis = nxmx.get_rotation_axes(nxmx.get_dependency_chain(entry.samples[0].depends_on))
        found = []
        for module in detector.modules:
            chain = nxmx.get_dependency_chain(module.fast_pixel_direction.depends_on)
            turn = nxmx.get_cumulative_transformation(list(chain))[0, :3, :3]
            place = nxmx.get_cumulative_transformation(nxmx.get_dependency_chain(module.module_offset))[0, :3, 3]
            fast, slow = (turn @ d.vector for d in (module.fast_pixel_direction, module.slow_pixel_direction))
            found.append(MCSTAS_TO_IMGCIF @ np.stack((place, fast, slow), axis=1))
        wavelength = entry.instruments[0].beams[0].incident_wavelength.to("angstrom").magnitude
        pixel = detector.modules[0].fast_pixel_direction[()].to("mm").magnitude[0]
    expected = [np.stack((p.origin_mm, p.fast, p.slow), axis=1) for p in data.detector.panels]
    first, _, _, _ = axis
    scanned = MCSTAS_TO_IMGCIF @ first[list(axis.names).index("omega")]
    ours = [data.beam.direction, data.goniometer.rotation_axis]
    theirs = [np.array([0.0, 0, 1]), scanned]
    for mine, other in zip(expected, found, strict=True):
        np.testing.assert_allclose(other.T @ other, mine.T @ mine, atol=1e-8)
        np.testing.assert_allclose(np.stack(theirs) @ other, np.stack(ours) @ mine, atol=1e-8)
        np.testing.assert_allclose(np.linalg.det(other), np.linalg.det(mine), atol=1e-7)
    assert wavelength == pytest.approx(data.beam.wavelength_A) and len(found) == len(expected)
    assert pixel == pytest.approx(data.detector.panels[0].pixel_size_mm[0])


def test_nxmx_says_what_others_look_for(tmp_path):
    data = plain()
    write_nxmx(tmp_path / "a.nxs", noise((3, 12, 20)), data)
    with h5py.File(tmp_path / "a.nxs") as file:
        entry = nxmx.NXmx(file).entries[0]
        detector = entry.instruments[0].detectors[0]
        assert (detector.saturation_value, detector.underload_value, detector.sensor_material) == (60000, -1, "Si")
        assert detector.sensor_thickness.to("mm").magnitude == pytest.approx(0.32)
        assert detector.count_time.to("s").magnitude == 0.5 and detector.bit_depth_image == 16
        assert detector.beam_center_x.magnitude == pytest.approx(11)
        assert detector.beam_center_y.magnitude == pytest.approx(7)
        assert detector.distance.to("mm").magnitude == pytest.approx(250.5)
        omega = entry.samples[0].depends_on
        assert omega[()].to("deg").magnitude == pytest.approx([10, 10.1, 10.2])
        assert omega.end[()].to("deg").magnitude == pytest.approx([10.1, 10.2, 10.3])
        assert omega.increment_set.magnitude == pytest.approx(0.1) and omega.vector.tolist() == [-1, 0, 0]
        assert entry.source.name == "simulation" and entry.instruments[0].name == "simulation"
        assert entry.instruments[0].beams[0].total_flux.magnitude == 1e12
        dataset = file["entry/data/data"]
        assert dataset.chunks == (1, 12, 20) and "32008" in str(dataset._filters)  # bitshuffle
        assert "pixel_mask" not in file["entry/instrument/detector"] and "start_time" not in file["entry"]


def test_what_is_not_known_is_left_out_of_headers(tmp_path):
    data = ExperimentData(beam=BeamData(wavelength_A=1.0), detector=plain(
        thickness_mm=None, material=None, mu_per_mm=None, trusted_range=None).detector)  # fmt: skip
    write_nxmx(tmp_path / "a.nxs", noise((1, 12, 20)), data)
    with h5py.File(tmp_path / "a.nxs") as file:
        names = set(file["entry/instrument/detector"]) | set(file["entry/instrument"]) | set(file["entry"])
        detector = nxmx.NXmx(file).entries[0].instruments[0].detectors[0]
        # DIALS 3.12 asks for both, and for a thickness above zero
        assert detector.sensor_material == "Si" and 0 < detector.sensor_thickness.to("m").magnitude <= 1e-9
    assert not names & {"saturation_value", "count_time", "name", "source", "start_time"}
    again = read_geometry(tmp_path / "a.nxs").detector.panels[0]
    assert (again.material, again.thickness_mm, again.mu_per_mm) == (None, None, None)
    write_image(tmp_path / "a.cbf", noise((12, 20)), data)
    text = open_cbf(tmp_path / "a.cbf").text
    assert not any(word in text for word in ("Silicon", "Polarization", "Flux", "S/N", "Threshold", "nil"))
    assert read_image(tmp_path / "a.cbf").experiment.detector.panels[0].trusted_range is None


def test_headers_of_a_still_have_the_numbers_that_dials_asks_for(tmp_path):
    """Exposure, cut-off and angles of mini-CBF and of SMV, 0 or the highest count where nobody knows them."""
    data = replace(plain(trusted_range=None), scan=None, goniometer=None)
    write_image(tmp_path / "a.cbf", noise((12, 20)), data, allow_loss=True)
    text = open_cbf(tmp_path / "a.cbf").text
    for record in ("Exposure_period 0.0 s", "Start_angle 0.0 deg.", "Angle_increment 0.0 deg.",
                   "Count_cutoff 2147483647 counts"):  # fmt: skip
        assert f"# {record}" in text
    write_image(tmp_path / "a.img", noise((12, 20)), data, allow_loss=True)
    header = HeaderText((tmp_path / "a.img").read_bytes()[:4096].split(b"\f")[0].decode())
    assert [header.exact_real(key) for key in ("OSC_START", "OSC_RANGE")] == [0.0, 0.0]
    # DIALS counts from the outer corner, along slow and fast
    assert [header.exact_real(f"BEAM_CENTER_{axis}") for axis in "XY"] == pytest.approx([0.7, 1.1])


def test_nxmx_mask_spectrum_and_wavelength_of_each_frame(tmp_path):
    mask = np.ones((12, 20), bool)
    mask[3, 4:9] = False
    data = plain(mask=mask, untrusted=((0, 0, 2, 2),))
    beam = replace(data.beam, spectrum_energies_eV=[12000.0, 12010.0, 12020.0], spectrum_weights=[1.0, 2.0, 1.0])
    write_nxmx(tmp_path / "a.nxs", noise((3, 12, 20)), replace(data, beam=beam))
    again = read_geometry(tmp_path / "a.nxs")
    np.testing.assert_array_equal(again.detector.panels[0].good_pixels(), data.detector.panels[0].good_pixels())
    np.testing.assert_allclose(again.beam.spectrum_energies_eV, beam.spectrum_energies_eV)
    assert again.beam.spectrum_weights.tolist() == [1, 2, 1] and again.beam.wavelength_A == beam.wavelength_A
    each = replace(data.beam, frame_wavelengths_A=[1.0, 1.1, 1.2])
    write_nxmx(tmp_path / "b.nxs", noise((3, 12, 20)), replace(data, beam=each))
    assert read_geometry(tmp_path / "b.nxs").beam.frame_wavelengths_A == pytest.approx([1, 1.1, 1.2])


@pytest.mark.parametrize(
    ("stokes", "fraction", "normal"),
    [
        ([1.0, 0.98, 0.0, 0.0], 0.99, [0, 1, 0]),  # the electric vector lies along x
        ([2.0, -2.0, 0.0, 0.0], 1.0, [-1, 0, 0]),  # along y
        ([1.0, 0.0, 0.6, 0.8], 0.8, [-(0.5**0.5), 0.5**0.5, 0]),  # between the two, and partly circular
        ([1.0, 0.0, 0.0, 1.0], 0.5, None),  # circular: as good as none
    ],
)
def test_nxmx_polarization_by_stokes_parameters(tmp_path, stokes, fraction, normal):
    data = plain()
    bare = replace(data.beam, polarization_fraction=None, polarization_normal=None)
    write_nxmx(tmp_path / "a.nxs", noise((3, 12, 20)), replace(data, beam=bare))
    with h5py.File(tmp_path / "a.nxs", "a") as file:
        file["entry/instrument/beam/incident_polarisation_stokes"] = np.array([stokes] * 3)
    beam = read_geometry(tmp_path / "a.nxs").beam
    assert beam.polarization_fraction == pytest.approx(fraction)
    if normal is not None:  # in the laboratory of imgCIF, where x of McStas runs the other way
        assert abs(beam.polarization_normal @ (MCSTAS_TO_IMGCIF @ normal)) == pytest.approx(1)


@pytest.mark.parametrize("stokes", [[1.0, 1.0, 1.0, 0.0], [0.0, 0.0, 0.0, 0.0], [1.0, 0.5, 0.0]])
def test_nxmx_polarization_that_cannot_be_is_refused(tmp_path, stokes):
    data = plain()
    bare = replace(data.beam, polarization_fraction=None, polarization_normal=None)
    write_nxmx(tmp_path / "a.nxs", noise((3, 12, 20)), replace(data, beam=bare))
    with h5py.File(tmp_path / "a.nxs", "a") as file:
        file["entry/instrument/beam/incident_polarisation_stokes"] = np.array(stokes)
    with pytest.raises(InputError, match="stokes.*Stokes"):
        read_geometry(tmp_path / "a.nxs")


def test_nxmx_kappa_goniometer(tmp_path):
    data = plain()
    axes, angles = [[1, 0, 0], [0.6, 0.8, 0], [1, 0, 0]], [30.0, 40.0, 0.0]
    gonio = GoniometerData.from_axes(axes, angles, ("phi", "kappa", "omega"), 2)
    write_nxmx(tmp_path / "a.nxs", noise((3, 12, 20)), replace(data, goniometer=gonio))
    again = read_geometry(tmp_path / "a.nxs").goniometer
    expected = rotation([1, 0, 0], 5) @ rotation([0.6, 0.8, 0], 40) @ rotation([1, 0, 0], 30)
    assert again.names == ("phi", "kappa", "omega") and again.scan_axis == 2
    np.testing.assert_allclose(again.rotation(5), expected, atol=1e-14)


# Headers for other programs


def test_cbf_header_is_what_dials_reads(tmp_path):
    """The records that dxtbx's FormatCBFMini splits at blanks, read here as it does."""
    data = plain()
    moment = datetime.datetime(2026, 1, 2, 3, 4, 5, 678000)
    write_cbf(tmp_path / "a.cbf", noise((12, 20)).astype(np.int32), data, index=1, created=moment)
    text = open_cbf(tmp_path / "a.cbf").text
    assert '_array_data.header_convention "GENERIC_MINI"' in text and "# 2026-01-02T03:04:05.678" in text
    records = {}
    for line in text.splitlines():
        words = line.replace("=", "").replace(":", "").split()[1:] if line.startswith("# ") else []
        if words:
            records[words[0]] = " ".join(words[1:])
    assert float(records["Detector_distance"].split()[0]) == pytest.approx(0.2505)
    centre = records["Beam_xy"].replace("(", "").replace(")", "").replace(",", "").split()[:2]
    assert [float(x) for x in centre] == pytest.approx([11, 7])
    pixel = records["Pixel_size"].replace("m", "").replace("x", "").split()
    assert [float(x) for x in pixel] == pytest.approx([1e-4, 1e-4])
    assert float(records["Silicon"].split()[2]) == pytest.approx(0.00032)
    assert float(records["Wavelength"].split()[0]) == 0.9768 and int(records["Count_cutoff"].split()[0]) == 60000
    assert float(records["Start_angle"].split()[0]) == pytest.approx(10.1)
    assert float(records["Angle_increment"].split()[0]) == 0.1 and float(records["Exposure_time"].split()[0]) == 0.5


def test_a_pilatus_header_is_read(tmp_path):
    write_image(tmp_path / "a.cbf", noise((12, 20)), plain())
    whole = (tmp_path / "a.cbf").read_bytes()
    start, end = whole.index(b"# 20"), whole.index(b";\r\n\r\n_array_data.data")
    header = (
        "# Detector: PILATUS 6M, S/N 60-0001\r\n# 2011-05-05T11:39:54.251\r\n# Pixel_size 172e-6 m x 172e-6 m\r\n"
        "# Silicon sensor, thickness 0.000320 m\r\n# Exposure_time 0.2 s\r\n# Count_cutoff 1048500 counts\r\n"
        "# Wavelength 0.9795 A\r\n# Detector_distance 0.19099 m\r\n# Beam_xy (1234.10, 1262.70) pixels\r\n"
        "# Polarization 0.990\r\n# Detector_2theta 0.0000 deg.\r\n"
        "# Start_angle 12.0 deg.\r\n# Angle_increment 0.15 deg.\r\n"
    )
    (tmp_path / "p.cbf").write_bytes(whole[:start] + header.encode() + whole[end:])
    found = read_geometry(tmp_path / "p.cbf")
    panel = found.detector.panels[0]
    np.testing.assert_allclose(panel.origin_mm, [-1234.1 * 0.172, 1262.7 * 0.172, -190.99])
    assert panel.thickness_mm == pytest.approx(0.32) and panel.material == "Si" and panel.trusted_range == (0, 1048500)
    assert found.scan.oscillation_start_deg == 12 and found.scan.oscillation_width_deg == 0.15
    assert found.beam.wavelength_A == 0.9795 and found.scan.exposure_times_s.tolist() == [0.2]
    tilted = header.replace("2theta 0.0000", "2theta 12.0").encode()
    (tmp_path / "t.cbf").write_bytes(whole[:start] + tilted + whole[end:])
    assert "Detector_2theta" in read_image(tmp_path / "t.cbf").no_geometry
    with pytest.raises(InputError, match="t.cbf: Detector_2theta: got .12.0"):
        read_geometry(tmp_path / "t.cbf")


def test_smv_header_reads_in_the_c_programs_way(tmp_path):
    """The last substring decides there (section 2), so no entry of ours may hide what the C program looks for."""
    write_image(tmp_path / "a.img", noise((12, 20)), plain(), index=1)
    header = HeaderText((tmp_path / "a.img").read_bytes()[:4096].split(b"\f")[0].decode())
    expected = {
        "SIZE1": 20, "SIZE2": 12, "PIXEL_SIZE": 0.1, "CLOSE_DISTANCE": 250.5, "WAVELENGTH": 0.9768, "PHI": 10.1,
        "BEAM_CENTER_X": 0.65, "BEAM_CENTER_Y": 1.05, "OSC_RANGE": 0.1, "ORGX": 11.5, "ORGY": 7.5, "DISTANCE": 250.5,
    }  # fmt: skip
    assert {key: header.real(key) for key in expected} == pytest.approx(expected)
    assert header.entry("BEAMLINE") == "simulated" and header.entry("TYPE") == "unsigned_short"
    assert [float(x) for x in header.entry("DIALS_ORIGIN").split(",")] == pytest.approx([-1.1, 0.7, -250.5])
    assert not any(word in header.text for word in ("DETECTOR_SN", "TWOTHETA"))


def test_what_fabio_reads_is_read(tmp_path):
    pixels = noise((12, 20))
    for name, kind in (("a.edf", fabio.edfimage.EdfImage), ("a.tif", fabio.tifimage.TifImage)):
        kind(data=pixels).write(str(tmp_path / name))
        found = read_image(tmp_path / name)
        np.testing.assert_array_equal(found.pixels, pixels)
        assert found.experiment is None and found.format == name[2:]


def test_npy_and_png(tmp_path):
    pixels = np.random.default_rng(0).random((2, 12, 20))
    write_image(tmp_path / "a.npy", pixels)
    np.testing.assert_array_equal(read_image(tmp_path / "a.npy").pixels, pixels)
    write_image(tmp_path / "a.png", noise((12, 20)), plain())
    with Image.open(tmp_path / "a.png") as picture:
        assert picture.width > 100


# Series


def frame(index, dtype=np.uint16):
    return noise((12, 20), seed=index, dtype=dtype)


@pytest.mark.parametrize(("name", "dtype"), [("a.nxs", np.uint16), ("a_###.cbf", np.int32), ("a_%04d.img", np.uint16)])
def test_a_series_that_was_cut_off_goes_on(tmp_path, name, dtype):
    data, asked = plain(frames=6), []
    with pytest.raises(RuntimeError), open_series(tmp_path / name, data, 6, dtype=dtype) as series:
        for index in series.missing():
            if index == 4:
                raise RuntimeError("the power went")
            series.write(index, frame(index, dtype))
    assert not (tmp_path / "a.nxs").exists()
    with open_series(tmp_path / name, data, 6, dtype=dtype, resume=True) as series:
        for index in series.missing():
            asked.append(index)
            series.write(index, frame(index, dtype))
    assert asked == [4, 5]
    for index in range(6):
        one = (name, index) if name == "a.nxs" else (numbered(name, 7 + index), 0)
        found = read_image(tmp_path / one[0], one[1])
        np.testing.assert_array_equal(found.pixels, frame(index, dtype))
        start = found.experiment.scan.oscillation_start_deg
        assert start == pytest.approx(10 if name == "a.nxs" else 10 + index / 10)
    with open_series(tmp_path / name, data, 6, dtype=dtype, resume=True) as series:
        assert list(series.missing()) == []
    leftovers = [path.name for path in tmp_path.iterdir() if path.name.startswith(".")]
    assert leftovers == [f".{name}.series".replace("%04d", "####")]
    assert len(list(tmp_path.iterdir())) == (2 if name == "a.nxs" else 7)


def test_frames_of_another_series_are_not_taken_for_ours(tmp_path):
    data = plain(frames=2)
    for name in ("a_##.img", "a.nxs"):
        with open_series(tmp_path / name, data, 2) as series:
            for index in series.missing():
                series.write(index, frame(index))
        other = replace(data, beam=replace(data.beam, wavelength_A=1.1))
        before = {path: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}
        with pytest.raises(InputError, match=r"changed: geometry: beam\)$"):
            open_series(tmp_path / name, other, 2, resume=True)
        assert before == {path: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}


@pytest.mark.parametrize("name", ["a.nxs", "a_##.cbf"])
def test_every_ingredient_of_a_series_is_held_against_the_old_ones(tmp_path, name):
    """An option, the content of a file, its length, its pixels: whatever changes is named, and nothing is touched."""
    data, model = plain(frames=2), tmp_path / "model"
    model.write_text("one")
    asked = {"made_of": {"--seed": 1, "model": model}, "dtype": np.int32}
    with pytest.raises(RuntimeError), open_series(tmp_path / name, data, 2, **asked) as series:
        series.write(0, frame(0, np.int32))
        raise RuntimeError("the power went")

    def refuses(named, experiment=data, frames=2, **changed):
        with pytest.raises(InputError) as caught:
            open_series(tmp_path / name, experiment, frames, resume=True, **{**asked, **changed})
        assert named in str(caught.value) and "--resume" in str(caught.value)

    refuses("--seed 1 to 2", made_of={"--seed": 2, "model": model})
    refuses("--noise nothing to true", made_of={"--seed": 1, "model": model, "--noise": True})
    refuses("type of pixel", dtype=np.uint16)
    refuses("frames 2 to 3", experiment=plain(frames=3), frames=3)
    masked = np.ones((12, 20), bool)
    masked[0, 0] = False
    panel = replace(data.detector.panels[0], mask=masked)
    if name == "a.nxs":
        refuses("masks", experiment=replace(data, detector=DetectorData(panels=(panel,))))
    model.write_text("two")
    refuses("changed: model)")
    model.write_text("one")
    with open_series(tmp_path / name, data, 2, resume=True, **asked) as series:
        assert list(series.missing()) == [1]
        series.write(1, frame(1, np.int32))


def test_a_frame_that_was_replaced_is_made_again(tmp_path):
    data = plain(frames=2)
    with open_series(tmp_path / "a_##.cbf", data, 2, dtype=np.int32) as series:
        for index in (0, 1):
            series.write(index, frame(index, np.int32))
    write_image(tmp_path / "a_08.cbf", frame(5, np.int32), data, index=1)
    with open_series(tmp_path / "a_##.cbf", data, 2, dtype=np.int32, resume=True) as series:
        assert list(series.missing()) == [1]
        series.write(1, frame(1, np.int32))
    (tmp_path / ".a_##.cbf.series").unlink()
    with pytest.raises(InputError, match="record of what it is made of"):
        open_series(tmp_path / "a_##.cbf", data, 2, dtype=np.int32, resume=True)


def test_a_series_says_what_is_wrong(tmp_path):
    data = plain(frames=2)
    with pytest.raises(InputError, match="a.img.*####"):
        open_series(tmp_path / "a.img", data, 2)
    with pytest.raises(InputError, match="frames: got 3"):
        open_series(tmp_path / "a_##.img", data, 3)
    with pytest.raises(InputError, match="frames: got '1 not written, such as 1'"), \
            open_series(tmp_path / "a_##.img", data, 2) as series:  # fmt: skip
        series.write(0, frame(0))
    with pytest.raises(InputError, match="shape of the detector"), open_series(tmp_path / "a.nxs", data, 2) as series:
        series.write(0, frame(0)[:5])
    with pytest.raises(InputError), open_series(tmp_path / "no" / "a.nxs", data, 2):
        raise AssertionError("never entered")
    assert numbered("a#_%03d.img", 7) == "a7_%03d.img" and numbered("a_%03d.img", 7) == "a_007.img"


# What does not fit, and what is broken


def test_pixels_that_do_not_fit_are_refused():
    assert as_counts(np.array([0.0, 3.0]), "u2").tolist() == [0, 3]
    for wrong, why in (
        (np.array([0.5]), "fractions"), (np.array([-1]), "from -1"), (np.array([70000]), "70000"),
        (np.array([np.nan]), "not finite"),
    ):  # fmt: skip
        with pytest.raises(InputError, match=why):
            as_counts(wrong, "u2")
    assert as_counts(np.array([0.6, -3.0, 7e4]), "u2", allow_loss=True).tolist() == [1, 0, 65535]


def test_what_a_format_has_no_place_for_is_refused(tmp_path):
    data = plain()
    panels = (data.detector.panels[0], replace(data.detector.panels[0], origin_mm=[50, 0, -250.0]))
    two = replace(data, detector=DetectorData(panels=panels))
    for name in ("a.img", "a.cbf"):
        with pytest.raises(InputError, match="several panels"):
            write_image(tmp_path / name, noise((2, 12, 20)), two)
        with pytest.raises(InputError, match="one panel a file"):
            write_image(tmp_path / name, noise((2, 12, 20)), two, allow_loss=True)
        with pytest.raises(InputError, match="experiment: got None"):
            write_image(tmp_path / name, noise((12, 20)))
    with pytest.raises(InputError, match="one value for all panels"):
        uneven = DetectorData(panels=(panels[0], replace(panels[1], thickness_mm=1.0)))
        write_nxmx(tmp_path / "a.nxs", noise((3, 2, 12, 20)), replace(data, detector=uneven))
    with pytest.raises(InputError, match="square pixels"):
        write_image(tmp_path / "b.img", noise((12, 20)), plain(pixel_size_mm=(0.1, 0.2)))
    with pytest.raises(InputError, match="a name that ends in"):
        write_image(tmp_path / "a.tiff", noise((12, 20)), data)
    assert not list(tmp_path.iterdir())


def broken(tmp_path: Path) -> dict[str, bytes]:
    data = plain()
    write_image(tmp_path / "good.cbf", noise((12, 20)), data)
    write_nxmx(tmp_path / "good.nxs", noise((3, 12, 20)), data)
    cbf, nxs = (tmp_path / "good.cbf").read_bytes(), (tmp_path / "good.nxs").read_bytes()
    flipped = bytearray(cbf)
    flipped[cbf.index(b"\x0c\x1a\x04\xd5") + 20] ^= 1
    return {
        "cut.cbf": cbf[: len(cbf) - 4300],
        "headless.cbf": cbf[:500],
        "flipped.cbf": bytes(flipped),
        "packed.cbf": cbf.replace(b"x-CBF_BYTE_OFFSET", b"x-CBF_PACKED"),
        "type.cbf": cbf.replace(b"signed 32-bit integer", b"signed 32-bit real IEEE"),
        "cut.nxs": nxs[: len(nxs) // 2],
        "other.h5": b"\x89HDF\r\n\x1a\n" + b"nothing",
        "text.img": b"no image at all\n" * 50,
        "cut.npy": b"\x93NUMPY\x01\x00",
        "empty.tif": b"",
        "cut.edf": b"{\nHeaderID = EH:000001:000000:000000 ;\nDim_1 = 5",
    }


def test_broken_files_are_one_line_that_names_the_file(tmp_path):
    for name, content in broken(tmp_path).items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(InputError) as caught:
            read_image(tmp_path / name)
        assert name in str(caught.value) and "\n" not in str(caught.value), name
    with pytest.raises(InputError, match="good.nxs: frame: got 3; accepted: a number from 0 to 2"):
        read_image(tmp_path / "good.nxs", 3)
    with pytest.raises(InputError, match="good.cbf: frame"):
        read_image(tmp_path / "good.cbf", 1)


def test_nxmx_that_lacks_something_is_named(tmp_path):
    for name, spoil in {
        "definition": lambda f: f["entry"].pop("definition"),
        "wavelength": lambda f: f["entry/instrument/beam"].pop("incident_wavelength"),
        "module": lambda f: f["entry/instrument/detector"].pop("module"),
        "chain": lambda f: f["entry/instrument/detector/module/module_offset"].attrs.modify("depends_on", "/no/where"),
        "unit": lambda f: f["entry/instrument/detector/module/module_offset"].attrs.modify("units", "furlong"),
        "stride": lambda f: f["entry/instrument/detector/module"].create_dataset("data_stride", data=[2, 1]),
        "vector": lambda f: f["entry/instrument/detector/module/module_offset"].attrs.pop("vector"),
        "translation unit": lambda f: f["entry/instrument/detector/module/module_offset"].attrs.pop("units"),
    }.items():
        path = tmp_path / f"{name}.nxs"
        write_nxmx(path, noise((3, 12, 20)), plain())
        with h5py.File(path, "r+") as file:
            spoil(file)
        with pytest.raises(InputError, match=f"{name}.nxs") as caught:
            read_image(path)
        assert "\n" not in str(caught.value)


def test_nxmx_without_its_frames_still_has_a_geometry(tmp_path):
    write_nxmx(tmp_path / "master.h5", noise((3, 12, 20)), plain())
    with h5py.File(tmp_path / "master.h5", "r+") as file:
        del file["entry/data/data"]
        file["entry/data/data_000001"] = h5py.ExternalLink("elsewhere.h5", "/data")
    assert read_geometry(tmp_path / "master.h5").scan.frames == 3
    with pytest.raises(InputError, match="master.h5: got 'no frames in NXdata'"):
        read_image(tmp_path / "master.h5")


def test_frames_in_several_datasets_are_one_series(tmp_path):
    """As Dectris writes them: data_000001, data_000002, ..."""
    pixels = noise((3, 12, 20))
    write_nxmx(tmp_path / "a.h5", pixels, plain())
    with h5py.File(tmp_path / "a.h5", "r+") as file:
        del file["entry/data/data"]
        del file["entry/data"].attrs["signal"]
        file["entry/data/data_000001"], file["entry/data/data_000002"] = pixels[:2], pixels[2:]
    for index in range(3):
        found = read_image(tmp_path / "a.h5", index)
        np.testing.assert_array_equal(found.pixels, pixels[index])
    assert found.frames == 3


def test_cbf_pixels_of_every_step_size(tmp_path):
    """Byte offsets have three sizes; jumps of each, and the ends of the range."""
    steps = np.array([0, 127, -1, -128, 128, 32767, -2, 32768, -32769, 2**31 - 1, -(2**31), 5], np.int64)
    pixels = np.concatenate([steps, np.zeros(228, np.int64)]).reshape(12, 20).astype(np.int32)
    write_cbf(tmp_path / "a.cbf", pixels, plain())
    file, found = read_cbf(tmp_path / "a.cbf")
    np.testing.assert_array_equal(found, pixels)
    np.testing.assert_array_equal(fabio.open(tmp_path / "a.cbf").data, pixels)
    assert experiment_of_cbf(file).beam.wavelength_A == 0.9768
