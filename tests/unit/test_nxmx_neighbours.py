"""NXmx as other writers leave it: offsets on any axis, unit words, sizes, masks, angles of an encoder, beam centres."""

import logging

import h5py
import numpy as np
import nxmx
import pytest

from nanobrag_torch.cli.nb.app import main
from nanobrag_torch.errors import InputError
from nanobrag_torch.io.geometry import read_geometry
from nanobrag_torch.io.images import read_image
from nanobrag_torch.io.nxmx_write import write_nxmx
from nanobrag_torch.io.unit_words import ANGLES_DEG, LENGTHS_MM, TIMES_S, WAVELENGTHS_A
from nanobrag_torch.records.experiment import rotation_matrix

SHAPE = (40, 30)
DETECTOR = "entry/instrument/detector"


def axis(group, name, value, depends, *, kind="translation", vector=(0, 0, 1.0), units="mm", offset=None, own=None):
    group[name] = value
    group[name].attrs.update({"transformation_type": kind, "vector": vector, "units": units, "depends_on": depends})
    if offset is not None:
        group[name].attrs["offset"] = offset
    if own is not None:
        group[name].attrs["offset_units"] = own


def base(path, frames=3, *, angles=(0.0, 0.1, 0.2), module_offset=(-0.5, 0.25, 0.0), shape=SHAPE):
    """A file as small as NXmx allows: one module, one axis of the sample; returned open for changes."""
    file = h5py.File(path, "w")
    groups = {"entry": "NXentry", "entry/data": "NXdata", "entry/instrument": "NXinstrument", DETECTOR: "NXdetector",
              "entry/instrument/beam": "NXbeam", f"{DETECTOR}/module": "NXdetector_module", "entry/sample": "NXsample",
              f"{DETECTOR}/transformations": "NXtransformations",
              "entry/sample/transformations": "NXtransformations"}  # fmt: skip
    for name, kind in groups.items():
        file.create_group(name).attrs["NX_class"] = kind
    file["entry/definition"] = "NXmx"
    file["entry/data"].attrs["signal"] = "data"
    file["entry/data/data"] = np.arange(frames * np.prod(shape), dtype=np.uint32).reshape(frames, *shape)
    file["entry/instrument/beam/incident_wavelength"] = 1.0
    file["entry/instrument/beam/incident_wavelength"].attrs["units"] = "angstrom"
    axis(file[f"{DETECTOR}/transformations"], "det_z", [100.0], ".")
    module = file[f"{DETECTOR}/module"]
    module["data_origin"], module["data_size"] = np.zeros(2, int), np.array(shape)
    z = f"/{DETECTOR}/transformations/det_z"
    axis(module, "module_offset", 0.0, z, vector=(1.0, 0, 0), offset=module_offset, own="mm")
    for name, vector in (("fast", (-1.0, 0, 0)), ("slow", (0, -1.0, 0))):
        axis(module, f"{name}_pixel_direction", 0.1, f"/{DETECTOR}/module/module_offset", vector=vector)
    if angles is not None:
        file["entry/sample/depends_on"] = "/entry/sample/transformations/omega"
        turns = file["entry/sample/transformations"]
        axis(turns, "omega", np.array(angles), ".", kind="rotation", vector=(-1.0, 0, 0), units="deg")
    return file


def origin(path):
    return read_geometry(path).detector.panels[0].origin_mm


def test_an_offset_of_the_pixel_direction_has_its_own_unit_and_is_turned_with_the_chain(tmp_path):
    path = tmp_path / "a.nxs"
    with base(path) as file:
        turn = file[f"{DETECTOR}/transformations"]
        axis(turn, "twotheta", 30.0, ".", kind="rotation", vector=(1.0, 0, 0), units="deg")
        file[f"{DETECTOR}/transformations/det_z"].attrs["depends_on"] = f"/{DETECTOR}/transformations/twotheta"
        for name in ("fast", "slow"):
            attributes = file[f"{DETECTOR}/module/{name}_pixel_direction"].attrs
            attributes["offset"], attributes["offset_units"] = [0.0, 0.1, 0.2], "cm"
    place = rotation_matrix([1, 0, 0], 30) @ np.array([-0.5, 0.25 + 1, 102.0])
    np.testing.assert_allclose(origin(path), [-place[0], place[1], -place[2]], atol=1e-12)
    with h5py.File(path) as file:  # the chain by others' code
        module = nxmx.NXmx(file).entries[0].instruments[0].detectors[0].modules[0]
        chain = nxmx.get_cumulative_transformation(nxmx.get_dependency_chain(module.fast_pixel_direction.depends_on))
        point = chain[0] @ np.array([0, 1.0, 2.0, 1.0])
    np.testing.assert_allclose(place, point[:3], atol=1e-9)


def test_an_offset_without_a_unit_of_its_own_has_that_of_the_axis(tmp_path):
    with base(tmp_path / "a.nxs") as file:
        attributes = file[f"{DETECTOR}/module/module_offset"].attrs
        del attributes["offset_units"]
        attributes["units"] = "um"
    np.testing.assert_allclose(origin(tmp_path / "a.nxs"), [0.0005, 0.00025, -100.0], atol=1e-12)


def test_pixel_directions_that_disagree_are_refused(tmp_path):
    with base(tmp_path / "a.nxs") as file:
        for name, offset in (("fast", [1.0, 0, 0]), ("slow", [0, 1.0, 0])):
            file[f"{DETECTOR}/module/{name}_pixel_direction"].attrs["offset"] = offset
    with pytest.raises(InputError, match="slow_pixel_direction@offset"):
        origin(tmp_path / "a.nxs")


def test_modules_hang_in_chains_of_their_own(tmp_path):
    """Two modules, one without module_offset on an arm that is turned, one shifted along its chain."""
    with base(tmp_path / "a.nxs") as file:
        turns, z = file[f"{DETECTOR}/transformations"], f"/{DETECTOR}/transformations/det_z"
        axis(turns, "arm", 90.0, z, kind="rotation", vector=(0, 0, 1.0), units="degrees", offset=[3.0, 0, 0], own="mm")
        file[f"{DETECTOR}/module/data_size"][...] = [20, 30]
        second = file.create_group(f"{DETECTOR}/module2")
        second.attrs["NX_class"] = "NXdetector_module"
        second["data_origin"], second["data_size"] = [20, 0], [20, 30]
        arm = f"/{DETECTOR}/transformations/arm"
        for name, vector in (("fast", (-1.0, 0, 0)), ("slow", (0, -1.0, 0))):
            axis(second, f"{name}_pixel_direction", 0.1, arm, vector=vector, offset=[1.0, 0.0, 0.0], own="mm")
    first, second = read_geometry(tmp_path / "a.nxs").detector.panels
    np.testing.assert_allclose(first.origin_mm, [0.5, 0.25, -100], atol=1e-12)
    np.testing.assert_allclose(second.origin_mm, [-3.0, 1.0, -100], atol=1e-12)  # (3, 0) + the quarter turn of (1, 0)
    np.testing.assert_allclose(second.fast, [0.0, -1.0, 0.0], atol=1e-12)
    np.testing.assert_array_equal(
        read_image(tmp_path / "a.nxs").pixels[1], np.arange(1200, dtype=np.uint32).reshape(SHAPE)[20:]
    )


@pytest.mark.parametrize("units", [(None, (14.5, 21.25)), ("pixels", (14.5, 21.25)), ("mm", (1.45, 2.125))])
@pytest.mark.parametrize("without", ["zero offset", "no module_offset"])
def test_a_beam_centre_places_a_detector_that_no_axis_places(tmp_path, units, without, caplog):
    with base(tmp_path / "a.nxs", module_offset=(0, 0, 0.0)) as file:
        if without == "no module_offset":
            del file[f"{DETECTOR}/module/module_offset"]
            for name in ("fast", "slow"):
                direction = file[f"{DETECTOR}/module/{name}_pixel_direction"]
                direction.attrs["depends_on"] = f"/{DETECTOR}/transformations/det_z"
        for name, value in zip("xy", units[1], strict=True):
            file[f"{DETECTOR}/beam_center_{name}"] = value
            if units[0]:
                file[f"{DETECTOR}/beam_center_{name}"].attrs["units"] = units[0]
    np.testing.assert_allclose(origin(tmp_path / "a.nxs"), [-1.45, 2.125, -100], atol=1e-12)
    assert "beam_center_x = 14.5" in caplog.text


def test_axes_that_place_the_detector_win_over_a_beam_centre(tmp_path, caplog):
    with base(tmp_path / "a.nxs") as file:
        file[f"{DETECTOR}/beam_center_x"], file[f"{DETECTOR}/beam_center_y"] = 14.5, 21.25
    np.testing.assert_allclose(origin(tmp_path / "a.nxs"), [0.5, 0.25, -100], atol=1e-12)
    assert not caplog.text


def scan_of(path, angles, **more):
    with base(path, frames=len(angles), angles=angles) as file:
        for name, value in more.items():
            file[f"entry/sample/transformations/{name}"] = value
            file[f"entry/sample/transformations/{name}"].attrs["units"] = "deg"
    return read_geometry(path).scan


def test_the_width_of_an_image_is_where_it_ends_not_where_the_next_begins(tmp_path):
    scan = scan_of(tmp_path / "a.nxs", [0.0, 90.0], omega_end=[0.5, 90.5])
    assert scan.oscillation_width_deg == pytest.approx(0.5) and [scan.start_deg(i) for i in (0, 1)] == [0, 90]
    scan = scan_of(tmp_path / "b.nxs", [0.0, 45.0, 90.0], omega_increment_set=0.25)
    assert scan.oscillation_width_deg == 0.25 and scan.start_deg(2) == 90
    assert scan_of(tmp_path / "c.nxs", [10.0], omega_increment_set=0.1).oscillation_width_deg == pytest.approx(0.1)
    back = tmp_path / "back.nxs"
    write_nxmx(back, np.zeros((2, *SHAPE), np.uint16), read_geometry(tmp_path / "a.nxs"))
    assert [read_geometry(back).scan.start_deg(i) for i in (0, 1)] == [0, 90]
    assert main(["convert", str(tmp_path / "a.nxs"), str(tmp_path / "a.expt")]) == 2  # .expt has no gaps


def test_jitter_of_an_encoder_is_no_error(tmp_path, caplog):
    noise = np.random.default_rng(1).uniform(-0.002, 0.002, 50)
    scan = scan_of(tmp_path / "a.nxs", 10 + 0.1 * np.arange(50) + noise)
    assert scan.oscillation_width_deg == pytest.approx(0.1, abs=3e-4) and scan.starts_deg is None
    assert scan.oscillation_start_deg == pytest.approx(10, abs=3e-3) and "encoder" in caplog.text
    even = scan_of(tmp_path / "b.nxs", 10 + 0.1 * np.arange(50))
    assert even.oscillation_width_deg == pytest.approx(0.1, abs=1e-12)


@pytest.mark.parametrize(
    ("angles", "more", "reason"),
    [
        ([0, 0.1, 0.26, 0.3], {}, "steps from 0.04 to 0.16 deg, median 0.1"),
        ([0, 0.1, 0.2, 5.0], {}, "steps from"),
        ([0, 0.1, 0.2], {"omega_end": [0.1, 0.25, 0.3]}, "widths from"),
    ],
)
def test_other_uneven_angles_are_refused_with_the_reason(tmp_path, angles, more, reason):
    with pytest.raises(InputError, match=reason):
        scan_of(tmp_path / "a.nxs", angles, **more)


def test_two_axes_that_turn_and_a_detector_that_moves_are_refused(tmp_path):
    with base(tmp_path / "a.nxs") as file:
        turns = file["entry/sample/transformations"]
        axis(turns, "chi", [0.0, 1.0, 2.0], ".", kind="rotation", vector=(0, 1.0, 0), units="deg")
        turns["omega"].attrs["depends_on"] = "chi"
    with pytest.raises(InputError, match="one axis that turns"):
        read_geometry(tmp_path / "a.nxs")
    with base(tmp_path / "b.nxs") as file:
        del file[f"{DETECTOR}/transformations/det_z"]
        axis(file[f"{DETECTOR}/transformations"], "det_z", [100.0, 101.0, 102.0], ".")
    with pytest.raises(InputError, match="stands still"):
        read_geometry(tmp_path / "b.nxs")


@pytest.mark.parametrize("stated", [[30, 40], [50, 30], [39, 29]])
def test_the_frames_decide_the_size_in_every_verb(tmp_path, capsys, stated):
    path = tmp_path / "a.nxs"
    with base(path) as file:
        file[f"{DETECTOR}/module/data_size"][...] = stated
        file[f"{DETECTOR}/pixel_mask"] = np.eye(40, 30, dtype=np.uint32)
    image = read_image(path)
    assert image.pixels.shape == SHAPE and image.experiment.detector.shape == SHAPE
    assert (~image.experiment.detector.panels[0].mask).sum() == 30
    assert main(["show", str(path)]) == 0
    shown = capsys.readouterr()
    assert shown.out.count("30 x 40") == 2 and "they decide" in shown.err
    out = tmp_path / "out.npy"
    words = ["simulate", str(path), "--cell", "79", "79", "38", "90", "90", "90", "--oversample", "1", "--frames", "1"]
    assert main([*words, "-o", str(out)]) == 0 and np.load(out).shape == SHAPE
    assert main(["view", str(path), "-o", str(tmp_path / "a.png")]) == 0
    assert main(["convert", str(path), str(tmp_path / "b.nxs"), "--allow-loss"]) == 0
    np.testing.assert_array_equal(read_image(tmp_path / "b.nxs").pixels, image.pixels)


def test_a_mask_of_the_detector_and_one_of_its_electronics_add(tmp_path):
    with base(tmp_path / "a.nxs") as file:
        mask = np.zeros(SHAPE, np.uint32)
        mask[3, 4] = 8
        file.create_group(f"{DETECTOR}/detectorSpecific")["pixel_mask"] = mask
        mask[3, 4], mask[5, 6] = 0, 1
        file[f"{DETECTOR}/pixel_mask"] = mask
        file[f"{DETECTOR}/other"] = h5py.ExternalLink("gone.h5", "/mask")
    good = read_geometry(tmp_path / "a.nxs").detector.panels[0].mask
    assert np.argwhere(~good).tolist() == [[3, 4], [5, 6]]


def test_a_link_to_a_mask_that_is_gone_is_no_mask(tmp_path):
    with base(tmp_path / "a.nxs") as file:
        file[f"{DETECTOR}/pixel_mask"] = h5py.ExternalLink("gone.h5", "/mask")
    assert read_geometry(tmp_path / "a.nxs").detector.panels[0].mask is None


@pytest.mark.parametrize(
    ("units", "target", "words"),
    [
        (
            LENGTHS_MM,
            "mm",
            "m mm um cm nm meter meters metre millimeter millimetres micrometer microns angstrom",
        ),
        (WAVELENGTHS_A, "angstrom", "angstrom angstroms nm nanometer nanometers m meter pm Å"),
        (ANGLES_DEG, "degree", "deg degree degrees rad radian radians mrad milliradian"),
        (TIMES_S, "second", "s second seconds ms millisecond milliseconds us microsecond min minute"),
    ],
)
def test_unit_words_are_those_of_the_nxmx_package(units, target, words):
    for word in words.split():
        assert units.factor(word) == pytest.approx((1 * nxmx.ureg.Unit(word)).to(target).magnitude, rel=1e-12), word
    for word in ("furlong", "", "mmm", "kilodeg", "meterss", "eV"):
        assert units.factor(word) is None


def test_a_frame_of_each_wavelength(tmp_path):
    with base(tmp_path / "a.nxs") as file:
        del file["entry/instrument/beam/incident_wavelength"]
        file["entry/instrument/beam/incident_wavelength"] = [1.0, 1.1]
        file["entry/instrument/beam/incident_wavelength"].attrs["units"] = "angstrom"
    with pytest.raises(InputError, match="one for each of 3 frames"):
        read_geometry(tmp_path / "a.nxs")


def test_lines_of_a_series_are_said_once(tmp_path, capsys):
    with base(tmp_path / "a.nxs", module_offset=(0, 0, 0.0)) as file:
        file[f"{DETECTOR}/beam_center_x"], file[f"{DETECTOR}/beam_center_y"] = 14.5, 21.25
    logging.getLogger("nanobrag_torch").setLevel(logging.NOTSET)
    for _ in range(2):
        assert main(["convert", str(tmp_path / "a.nxs"), str(tmp_path / "b_##.cbf"), "--allow-loss"]) == 0
        assert capsys.readouterr().err.count("beam_center_x") == 1
