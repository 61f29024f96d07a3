"""Geometry and image files near those of the field: units, axes, switches and forms that other programs write."""

import bz2
import gzip
import json

import h5py
import numpy as np
import pytest

from nanobrag_torch.cli.nb.app import main
from nanobrag_torch.errors import InputError
from nanobrag_torch.experiment import Experiment
from nanobrag_torch.io.cbf import START, open_cbf, write_cbf
from nanobrag_torch.io.expt_write import write_expt
from nanobrag_torch.io.geometry import read_experiments, read_geometry
from nanobrag_torch.io.images import read_image, write_image
from nanobrag_torch.io.nxmx_write import write_nxmx
from nanobrag_torch.io.unit_words import LENGTHS_MM, quantities
from nanobrag_torch.io.xparm import write_xparm
from nanobrag_torch.records.experiment import (
    BeamData,
    CrystalData,
    DetectorData,
    ExperimentData,
    GoniometerData,
    PanelData,
    ScanData,
    rotation_matrix,
)

PIXELS = np.arange(12 * 20, dtype=np.int32).reshape(12, 20)


def plain(**more):
    panel = PanelData(origin_mm=[-1.1, 0.7, -250.5], fast=[1, 0, 0], slow=[0, -1, 0], pixel_size_mm=(0.1, 0.1),
                      image_size=(20, 12))  # fmt: skip
    parts = {"beam": BeamData(wavelength_A=0.9768), "detector": DetectorData(panels=(panel,)),
             "goniometer": GoniometerData(rotation_axis=[1, 0, 0]),
             "scan": ScanData(image_range=(1, 2), oscillation_start_deg=10, oscillation_width_deg=0.1),
             "crystal": CrystalData(real_space=np.diag([40.0, 50, 60]), space_group_hall="P 2ac 2ab")}  # fmt: skip
    return ExperimentData(**{**parts, **more})


# CrystFEL

GEOM = """photon_energy = 12398.419843 eV
res = 10000
clen = 0.1
p0/min_fs = 0
p0/max_fs = 63
p0/min_ss = 0
p0/max_ss = 31
p0/corner_x = -32
p0/corner_y = -32
p0/fs = x
p0/ss = y
"""


def geom(tmp_path, *lines, text=GEOM):
    path = tmp_path / "a.geom"
    path.write_text(text + "\n".join(lines) + "\n")
    return path


def test_no_index_and_edges_mask_pixels(tmp_path):
    panel = read_geometry(geom(tmp_path, "p0/mask_edge_pixels = 2")).detector.panels[0]
    assert panel.mask.sum() == 60 * 28 and not panel.mask[1, 30] and panel.mask[2, 2] and not panel.mask[2, 62]
    assert not read_geometry(geom(tmp_path, "p0/no_index = true")).detector.panels[0].mask.any()
    assert read_geometry(geom(tmp_path, "p0/no_index = 0")).detector.panels[0].mask is None
    both = read_geometry(geom(tmp_path, "p0/no_index = 1", text="mask_edge_pixels = 1\n" + GEOM)).detector.panels[0]
    assert not both.mask.any()


@pytest.mark.parametrize(
    ("line", "unit", "value", "number"),
    [
        ("clen = /LCLS/z", "", 250.0, -250.0),  # in mm without a unit, as CrystFEL reads locations
        ("clen = /LCLS/z m", "", 0.25, -250.0),
        ("clen = /LCLS/z mm", "", 250.0, -250.0),
    ],
)
def test_a_camera_length_in_the_data(tmp_path, line, unit, value, number):
    path = geom(tmp_path, text=GEOM.replace("clen = 0.1", line))
    with pytest.raises(InputError, match=r"line 3, p0/clen: got '/LCLS/z.*--data-file"):
        read_geometry(path)
    with h5py.File(tmp_path / "d.h5", "w") as file:
        file["/LCLS/z"] = [value, value]
    assert read_geometry(path, data_file=tmp_path / "d.h5").detector.panels[0].origin_mm[2] == pytest.approx(number)


@pytest.mark.parametrize("line", ["photon_energy = /LCLS/energy", "wavelength = /LCLS/wave A"])
def test_an_energy_in_the_data_is_refused_by_name(tmp_path, line):
    with pytest.raises(InputError, match=line.split()[0]):
        read_geometry(geom(tmp_path, text=GEOM.replace("photon_energy = 12398.419843 eV", line)))


def test_a_mask_in_the_data(tmp_path, caplog):
    path = geom(tmp_path, "", text="mask0_data = /mask\nmask0_goodbits = 0x01\nmask0_badbits = 0x06\n" + GEOM)
    assert read_geometry(path).detector.panels[0].mask is None and "/mask" in caplog.text
    mask = np.ones((32, 64), np.uint8)
    mask[3, 4], mask[5, 6] = 0, 3
    with h5py.File(tmp_path / "d.h5", "w") as file:
        file["/mask"] = mask
    found = read_geometry(path, data_file=tmp_path / "d.h5").detector.panels[0].mask
    assert np.argwhere(~found).tolist() == [[3, 4], [5, 6]]


def test_groups_of_either_kind(tmp_path):
    second = GEOM[GEOM.index("p0/") :].replace("p0/", "p1/").replace("min_ss = 0", "min_ss = 32").replace("31", "63")
    found = read_geometry(geom(tmp_path, second, "group_a = p0", "group_b = p1", "group_all = a, b"))
    assert [group.name for group in found.detector.root.groups()] == ["all", "a", "b"]
    shared = read_geometry(geom(tmp_path, second, "rigid_group_a = p0, p1", "rigid_group_b = p1",
                                "rigid_group_collection_x = a, b"))  # fmt: skip
    assert shared.detector.root is None
    with pytest.raises(InputError, match="group_b"):
        read_geometry(geom(tmp_path, second, "group_a = b", "group_b = a", "group_all = a"))
    partial = read_geometry(geom(tmp_path, second, "rigid_group_a = p0", "rigid_group_collection_x = a"))
    assert partial.detector.root.panel_indices() == [0, 1]


def test_counts_an_electronvolt_and_electrons(tmp_path):
    assert read_geometry(geom(tmp_path, "p0/adu_per_eV = 0.001")).detector.panels[0].gain == pytest.approx(12.398419843)
    volts = GEOM.replace("photon_energy = 12398.419843 eV", "electron_voltage = 200 kV")
    beam = read_geometry(geom(tmp_path, text=volts)).beam
    assert beam.probe == "electron" and beam.wavelength_A == pytest.approx(0.0250793, abs=1e-6)  # the textbook's 200 kV


def test_a_unit_that_is_none_is_refused(tmp_path):
    with pytest.raises(InputError, match="detector_shift_x"):
        read_geometry(geom(tmp_path, "detector_shift_x = 2 furlong"))


# mini-CBF and SMV

MINI = """# Pixel_size {pixel} x {pixel}
# Wavelength {wave}
# Detector_distance {distance}
# Beam_xy {beam}
# Start_angle {angle}
# Angle_increment 0.1 deg.
# Exposure_time {time}
# Silicon sensor, thickness {thick}
"""
USUAL = {"pixel": "172e-6 m", "wave": "1.0 A", "distance": "0.15 m", "beam": "(14.50, 21.25) pixels", "time": "0.1 s",
         "angle": "10.0 deg.", "thick": "0.00045 m"}  # fmt: skip


def mini(tmp_path, name="a.cbf", **changed):
    write_cbf(tmp_path / "base.cbf", PIXELS, plain())
    content = (tmp_path / "base.cbf").read_bytes()
    begin, end = content.index(b"# Pixel_size"), content.index(b";", content.index(b"PANEL_ORIGIN_MM"))
    text = MINI.format(**{**USUAL, **changed}).replace("\n", "\r\n").encode()
    (tmp_path / name).write_bytes(content[:begin] + text + content[end:])
    return tmp_path / name


@pytest.mark.parametrize(
    "changed",
    [
        {}, {"distance": "150 mm"}, {"distance": "15 cm"}, {"wave": "0.1 nm"}, {"pixel": "0.172 mm"},
        {"pixel": "172 um"}, {"beam": "(2.494, 3.655) mm"}, {"angle": "0.17453292519943295 rad"}, {"time": "100 ms"},
        {"thick": "450 micron"}, {"distance": "0.15"}, {"beam": "(14.50, 21.25)"}, {"wave": "1.0"},
    ],
)  # fmt: skip
def test_records_are_read_by_their_units(tmp_path, changed):
    found = read_geometry(mini(tmp_path, **changed))
    panel = found.detector.panels[0]
    np.testing.assert_allclose(panel.origin_mm, [-14.5 * 0.172, 21.25 * 0.172, -150], rtol=1e-12)
    assert panel.pixel_size_mm == pytest.approx((0.172, 0.172)) and panel.thickness_mm == pytest.approx(0.45)
    assert found.beam.wavelength_A == pytest.approx(1.0) and found.scan.oscillation_start_deg == pytest.approx(10)
    assert found.scan.exposure_times_s[0] == pytest.approx(0.1)


@pytest.mark.parametrize("key", ["pixel", "distance", "wave", "beam", "angle", "time", "thick"])
def test_a_word_that_is_no_unit_is_refused(tmp_path, key):
    with pytest.raises(InputError, match="furlong"):
        read_geometry(mini(tmp_path, **{key: "(1, 2) furlong" if key == "beam" else "1 furlong"}))


def test_quantities_of_text():
    assert quantities("172e-6 m x 172e-6 m", LENGTHS_MM, "m", "x", 2) == pytest.approx([0.172, 0.172])
    assert quantities("0.1 x 0.2 mm", LENGTHS_MM, "m", "x", 2) == [0.1, 0.2]
    assert quantities("-3.5e-1 cm", LENGTHS_MM, "m", "x") == [-3.5]
    with pytest.raises(InputError, match="x: got 'nothing'"):
        quantities("nothing", LENGTHS_MM, "m", "x")


def smv(tmp_path, **changed):
    entries = {
        "HEADER_BYTES": "512", "DIM": "2", "BYTE_ORDER": "little_endian", "TYPE": "unsigned_short", "SIZE1": "20",
        "SIZE2": "12", "PIXEL_SIZE": "0.1", "DISTANCE": "200", "WAVELENGTH": "1.0", "BEAM_CENTER_X": "0.65",
        "BEAM_CENTER_Y": "1.05", "OSC_START": "5", "OSC_RANGE": "1", "TIME": "2", **changed,
    }  # fmt: skip
    text = "{\n" + "".join(f"{key}={value};\n" for key, value in entries.items()) + "}\f"
    path = tmp_path / "a.img"
    path.write_bytes(text.encode().ljust(512) + PIXELS.astype("<u2").tobytes())
    return path


@pytest.mark.parametrize(
    "changed", [{}, {"DISTANCE": "0.2 m"}, {"PIXEL_SIZE": "100 um"}, {"WAVELENGTH": "0.1 nm"}, {"TIME": "2000 ms"}]
)
def test_entries_of_smv_are_read_by_their_units(tmp_path, changed):
    found = read_geometry(smv(tmp_path, **changed))
    np.testing.assert_allclose(found.detector.panels[0].origin_mm, [-1.1, 0.7, -200], rtol=1e-12)
    assert found.beam.wavelength_A == pytest.approx(1.0) and found.scan.exposure_times_s[0] == pytest.approx(2)
    with pytest.raises(InputError, match="furlong"):
        read_geometry(smv(tmp_path, DISTANCE="1 furlong"))


@pytest.mark.parametrize("kind", ["unsigned short int", "unsigned_short"])
def test_type_mad_stands_beside_the_data_type(tmp_path, kind):
    path = smv(tmp_path, TYPE="mad", Data_type=kind)
    np.testing.assert_array_equal(read_image(path).pixels, PIXELS)
    assert read_image(path).experiment is not None


@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress])
def test_every_kind_of_file_may_be_packed(tmp_path, pack):
    one = plain(scan=ScanData(image_range=(1, 1), oscillation_start_deg=0, oscillation_width_deg=0.1))
    for name in ("a.img", "a.cbf", "a.nxs", "a.npy"):
        write_image(tmp_path / name, PIXELS, one, allow_loss=True)
        (tmp_path / "packed").write_bytes(pack((tmp_path / name).read_bytes()))
        np.testing.assert_array_equal(read_image(tmp_path / "packed").pixels, PIXELS)
    write_expt(tmp_path / "a.expt", one)
    write_xparm(tmp_path / "XPARM.XDS", one)
    for name in ("a.expt", "XPARM.XDS"):
        (tmp_path / "packed").write_bytes(pack((tmp_path / name).read_bytes()))
        assert read_geometry(tmp_path / "packed").beam.wavelength_A == pytest.approx(0.9768)
    (tmp_path / "packed").write_bytes(pack((tmp_path / "a.cbf").read_bytes())[:-20])
    with pytest.raises(InputError, match="packed"):
        read_image(tmp_path / "packed")


# Full imgCIF

IMGCIF = """###CBF: VERSION 1.5
data_image_1
_diffrn_radiation_wavelength.wavelength 1.25
_diffrn_radiation.polarizn_source_ratio 0.8
loop_
_axis.id
_axis.type
_axis.equipment
_axis.depends_on
_axis.vector[1]
_axis.vector[2]
_axis.vector[3]
_axis.offset[1]
_axis.offset[2]
_axis.offset[3]
OMEGA rotation goniometer . 1 0 0 . . .
KAPPA rotation goniometer OMEGA 0.6 0 0.8 0 0 0
SOURCE general source . 0 0 1 . . .
GRAVITY general gravity . 0 -1 0 . . .
TWOTHETA rotation detector . 0 1 0 . . .
DET_Z translation detector TWOTHETA 0 0 -1 0 0 0
ELEMENT_X translation detector DET_Z 1 0 0 -10 8 0
ELEMENT_Y translation detector ELEMENT_X 0 -1 0 0 0 0
loop_
_diffrn_scan_axis.axis_id
_diffrn_scan_axis.angle_start
_diffrn_scan_axis.angle_increment
_diffrn_scan_axis.displacement_start
OMEGA 30 0.5 .
KAPPA 20 0 .
TWOTHETA 12 0 .
DET_Z . . 150
_diffrn_scan_frame.frame_number 4
_diffrn_scan_frame.integration_time 0.25
loop_
_diffrn_scan_frame_axis.axis_id
_diffrn_scan_frame_axis.angle
OMEGA 31.5
loop_
_array_structure_list.index
_array_structure_list.dimension
_array_structure_list.precedence
_array_structure_list.direction
_array_structure_list.axis_set_id
1 20 1 increasing ELEMENT_X
2 12 2 increasing ELEMENT_Y
loop_
_array_structure_list_axis.axis_set_id
_array_structure_list_axis.axis_id
_array_structure_list_axis.displacement
_array_structure_list_axis.displacement_increment
ELEMENT_X ELEMENT_X 0.05 0.1
ELEMENT_Y ELEMENT_Y 0.1 0.2
_array_intensities.overload 60000
_array_data.array_id image_1
_array_data.data
;
"""


def imgcif(tmp_path, text=IMGCIF):
    write_cbf(tmp_path / "base.cbf", PIXELS, plain())
    content = (tmp_path / "base.cbf").read_bytes()
    path = tmp_path / "full.cbf"
    path.write_bytes(text.encode() + content[content.index(b"--CIF-BINARY") :])
    return path


def test_a_full_imgcif_header_is_read_by_its_axes(tmp_path):
    found = read_image(imgcif(tmp_path))
    np.testing.assert_array_equal(found.pixels, PIXELS)
    data = found.experiment
    panel, turn = data.detector.panels[0], rotation_matrix([0, 1, 0], 12)
    np.testing.assert_allclose(panel.origin_mm, turn @ [-10, 8, -150], atol=1e-12)
    np.testing.assert_allclose(panel.fast, turn @ [1, 0, 0], atol=1e-12)
    np.testing.assert_allclose(panel.slow, [0, -1, 0], atol=1e-12)
    assert panel.pixel_size_mm == (0.1, 0.2) and panel.image_size == (20, 12) and panel.trusted_range == (0, 60000)
    assert data.beam.wavelength_A == 1.25 and data.beam.polarization_fraction == pytest.approx(0.9)
    assert data.scan.image_range == (4, 4) and data.scan.exposure_times_s[0] == 0.25
    assert (data.scan.oscillation_start_deg, data.scan.oscillation_width_deg) == (31.5, 0.5)
    expected = rotation_matrix([1, 0, 0], 31.5) @ rotation_matrix([0.6, 0, 0.8], 20)
    np.testing.assert_allclose(data.goniometer.rotation(31.5), expected, atol=1e-12)


@pytest.mark.parametrize(
    ("old", "new", "named"),
    [
        ("_diffrn_radiation_wavelength.wavelength 1.25\n", "", "_diffrn_radiation_wavelength"),
        ("0.05 0.1\n", "0.05 ?\n", "displacement_increment"),
        ("1 20 1 increasing", "1 20 1 decreasing", "direction"),
        ("DET_Z translation detector TWOTHETA", "DET_Z translation detector NOWHERE", "depends_on"),
        ("KAPPA 20 0 .", "KAPPA 20 0.1 .", "one axis that turns"),
        (
            "ELEMENT_Y translation detector ELEMENT_X 0 -1 0",
            "ELEMENT_Y translation detector DET_Z 0 -1 0",
            "depends_on",
        ),
    ],
)
def test_what_an_imgcif_header_lacks_is_named(tmp_path, old, new, named):
    assert old in IMGCIF
    with pytest.raises(InputError, match=named) as caught:
        read_geometry(imgcif(tmp_path, IMGCIF.replace(old, new)))
    assert "full.cbf" in str(caught.value) and "\n" not in str(caught.value)


def test_headers_whose_lines_end_in_carriage_returns_alone(tmp_path):
    path = mini(tmp_path)
    content = path.read_bytes()
    end = content.index(START)
    path.write_bytes(content[:end].replace(b"\r\n", b"\r").replace(b"\n", b"\r") + content[end:])
    assert open_cbf(path).records()["Wavelength"] == "1.0 A"
    assert read_image(path).experiment.beam.wavelength_A == 1.0


# XDS and MOSFLM

OLDER = """     1   10.0000    0.1000  0.999997 -0.001590 -0.001580
       0.976250       0.001642       0.002180       1.024318
      2463      2527    0.172000    0.172000
     300.000000    1219.870117    1260.910156
       1.000000       0.000000       0.000000
       0.000000       1.000000       0.000000
       0.000000       0.000000       1.000000
    75    57.8100    57.8100   150.0700  90.000  90.000  90.000
      45.000000      30.000000      20.000000
     -25.000000      50.000000       5.000000
     -30.000000      -30.000000    140.000000
"""


def test_the_older_xparm_is_read_as_what_it_is(tmp_path):
    path = tmp_path / "XPARM.XDS"
    path.write_text(OLDER)
    found = read_geometry(path)
    panel = found.detector.panels[0]
    centre = np.array([-(1219.870117 - 0.5) * 0.172, -(1260.910156 - 0.5) * 0.172, 300.0])  # in the frame of XDS
    np.testing.assert_allclose(panel.origin_mm, centre * [1, -1, -1], atol=1e-9)
    assert panel.image_size == (2463, 2527) and panel.pixel_size_mm == (0.172, 0.172)
    assert found.beam.wavelength_A == 0.97625 and found.scan.oscillation_start_deg == 10
    np.testing.assert_allclose(found.crystal.real_space[2], [-30, 30, -140])
    assert found.crystal.space_group_hall == "P 4"


def test_nine_numbers_are_a_matrix_only_in_the_form_of_mosflm(tmp_path, capsys):
    rows = ["0.01 0.0 0.0", "0.0 0.02 0.0", "0.0 0.0 0.03"]
    good = "\n".join(rows) + "\n"
    path = tmp_path / "A.mat"
    for text in (good, good + "0 0 0\n1 0 0\n0 1 0\n0 0 1\n100 50 33.3 90 90 90\n0 0 0\n"):
        path.write_text(text)
        assert read_geometry(path, wavelength_A=1.0).crystal.cell[0] == pytest.approx(100)
    write_expt(tmp_path / "a.expt", plain(crystal=None))
    for text in (" ".join(rows), good + "1 2 3\n", "1 0 0 100\n0 1 0 50\n2 0 0 3\n", "0 0 1 1 1e-10\n" * 3):
        path.write_text(text)
        with pytest.raises(InputError, match=r"A\.mat"):
            read_geometry(path, wavelength_A=1.0)
        code = main(["simulate", str(tmp_path / "a.expt"), "--matrix", str(path), "-o", str(tmp_path / "o.nxs")])
        assert code == 2 and "--matrix" in capsys.readouterr().err and not (tmp_path / "o.nxs").exists()


# .expt


def test_one_experiment_of_several(tmp_path, capsys):
    first = plain()
    second = plain(crystal=CrystalData(real_space=np.diag([70.0, 50, 60])))
    write_expt(tmp_path / "two.expt", [first, second])
    path = str(tmp_path / "two.expt")
    assert len(read_experiments(path)) == 2
    words = ["simulate", path, "-N", "3", "3", "3", "--oversample", "1", "--frames", "1", "-o"]
    assert main([*words, str(tmp_path / "no.npy")]) == 2
    assert "--experiment 0 to 1" in capsys.readouterr().err
    for index, experiment in enumerate((first, second)):
        out = tmp_path / f"{index}.npy"
        assert main([*words, str(out), "--experiment", str(index)]) == 0
        alone = Experiment(data=experiment, options={"N_cells": (3, 3, 3), "oversample": 1}).simulate(0)
        lost = 1e-6 * float(alone.max())  # the tolerance that is on unless it is asked to be off
        np.testing.assert_allclose(np.load(out), alone.numpy(), rtol=1e-6, atol=lost)
    capsys.readouterr()
    assert main(["show", path, "--experiment", "1"]) == 0
    assert "70.0000" in (shown := capsys.readouterr().out) and "40.0000" not in shown
    assert main(["simulate", path, "--experiment", "2", "-o", "x.npy"]) == 2


@pytest.mark.parametrize("change", ["polychromatic", "neutron"])
def test_beams_that_are_not_rendered_are_kept(tmp_path, capsys, change):
    write_expt(tmp_path / "a.expt", plain())
    tree = json.loads((tmp_path / "a.expt").read_text())
    beam = tree["beam"][0]
    if change == "polychromatic":
        del beam["wavelength"]
        beam |= {"__id__": "polychromatic", "wavelength_range": [0.5, 1.5]}
    else:
        beam["probe"] = "neutron"
    (tmp_path / "a.expt").write_text(json.dumps(tree))
    assert main(["convert", str(tmp_path / "a.expt"), str(tmp_path / "b.expt")]) == 0
    again = json.loads((tmp_path / "b.expt").read_text())["beam"][0]
    assert again["probe"] == beam["probe"] and again.get("wavelength_range") == beam.get("wavelength_range")
    assert main(["simulate", str(tmp_path / "a.expt"), "-o", str(tmp_path / "o.nxs")]) == 2
    assert ("probe" if change == "neutron" else "wavelength_range") in capsys.readouterr().err
    assert not (tmp_path / "o.nxs").exists()


def as_dials_writes_it(tmp_path):
    """A refined scan: a crystal that varies, parallax, cell uncertainties, a profile model, a mask file, epochs."""
    angles = [rotation_matrix([0, 0, 1], 0.02 * i) for i in range(3)]
    stars = np.linalg.inv(np.diag([40.0, 50, 60]))
    panel = PanelData(origin_mm=[-1.1, 0.7, -50.5], fast=[1, 0, 0], slow=[0, -1, 0], pixel_size_mm=(0.1, 0.1),
                      image_size=(20, 12), thickness_mm=0.45, material="Si", mu_per_mm=3.9, parallax=True,
                      trusted_range=(0, 65535))  # fmt: skip
    crystal = CrystalData(real_space=np.diag([40.0, 50, 60]), space_group_hall="P 2ac 2ab", half_mosaicity_deg=0.0,
                          domain_size_A=0.0, A_at_scan_points=np.stack([turn @ stars for turn in angles]))  # fmt: skip
    scan = ScanData(image_range=(1, 2), oscillation_start_deg=0, oscillation_width_deg=0.1, epochs=np.array([1.0, 2.0]))
    write_expt(tmp_path / "refined.expt", plain(detector=DetectorData(panels=(panel,)), crystal=crystal, scan=scan))
    tree = json.loads((tmp_path / "refined.expt").read_text())
    tree["crystal"][0]["B_covariance"] = [0.0] * 81
    tree["profile"] = [{"__id__": "gaussian_rs"}]
    tree["experiment"][0] |= {"profile": 0, "imageset": 0}
    tree["imageset"] = [{"__id__": "ImageSequence", "template": "x_####.cbf", "mask": "pixels.mask"}]
    (tmp_path / "refined.expt").write_text(json.dumps(tree))
    return tmp_path / "refined.expt"


def test_a_refined_experiment_renders_with_the_command_of_the_readme(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    path = as_dials_writes_it(tmp_path)
    cell = ["40", "50", "60", "90", "90", "90"]
    words = ["wilson", "--cell", *cell, "--spacegroup", "P212121", "--dmin", "5", "-o", "model.mtz"]
    assert main(words) == 0
    capsys.readouterr()
    assert main(["simulate", "refined.expt", "--structure-factors", "model.mtz"]) == 0
    said = capsys.readouterr()
    line = next(line for line in said.out.splitlines() if "leaves out" in line)
    for word in ("parallax", "scan-varying crystal", "epochs", "uncertainties of the cell", "mask file"):
        assert word in line
    assert "mosaic" not in line and "mosaicity" not in line
    assert read_image("simulated.nxs", 1).pixels.shape == (12, 20)
    assert main(["convert", str(path), "again.expt", "--allow-loss"]) == 0
    kept = json.loads((tmp_path / "again.expt").read_text())["crystal"][0]
    assert kept["B_covariance"] == [0.0] * 81 and len(kept["A_at_scan_points"]) == 3


@pytest.mark.parametrize("words", [["-o", "no/such/a.nxs"], ["-o", "a.jpg"], ["--frames", "7"], ["--png", "no/a.png"]])
def test_what_is_refused_is_refused_before_anything_is_read_or_rendered(tmp_path, monkeypatch, capsys, words):
    monkeypatch.chdir(tmp_path)
    as_dials_writes_it(tmp_path)
    before = sorted(tmp_path.iterdir())
    assert main(["simulate", "refined.expt", "--structure-factors", "absent.mtz", *words]) == 2
    said = capsys.readouterr()
    assert "absent.mtz" not in said.err and not said.out and sorted(tmp_path.iterdir()) == before


def test_a_beam_that_varies_is_that_of_each_frame(tmp_path):
    s0 = np.array([[0, 0, -1 / 0.9768], [0.01, 0, -1 / 0.9768], [0.02, 0, -1 / 0.9768]])
    beam = BeamData(wavelength_A=0.9768, s0_at_scan_points=s0)
    write_expt(tmp_path / "a.expt", plain(beam=beam))
    experiment = Experiment.from_file(tmp_path / "a.expt", N_cells=(3, 3, 3), oversample=1)
    mean = (s0[1] + s0[2]) / 2
    np.testing.assert_allclose(
        experiment.detector_config(1).custom_beam_vector, mean / np.linalg.norm(mean), atol=1e-12
    )
    assert experiment.beam_config(1).wavelength_A == pytest.approx(1 / np.linalg.norm(mean))


# Structure factors and models

PDB = """CRYST1   30.000   40.000   50.000  90.00  90.00  90.00 P 21 21 21
ATOM      1  N   ALA A   1      10.000  10.000  10.000  1.00 20.00           N
ATOM      2  CA  ALA A   1      {place}  1.00 20.00           C
END
"""


def test_atoms_reach_the_corner_of_the_detector_unless_told_otherwise(tmp_path, capsys):
    model = tmp_path / "m.pdb"
    model.write_text(PDB.format(place="11.000  10.500  10.300"))
    panel = PanelData(origin_mm=[-20, 20, -60], fast=[1, 0, 0], slow=[0, -1, 0], pixel_size_mm=(2.0, 2.0),
                      image_size=(20, 20))  # fmt: skip
    write_expt(tmp_path / "a.expt", plain(detector=DetectorData(panels=(panel,)), crystal=CrystalData(
        real_space=np.diag([30.0, 40, 50])), scan=None))  # fmt: skip
    corner = 0.9768 / (2 * np.sin(np.arctan(np.hypot(20, 20) / 60) / 2))
    words = ["simulate", str(tmp_path / "a.expt"), "--structure-factors", str(model), "-N", "3", "3", "3",
             "--oversample", "1", "-o"]  # fmt: skip
    assert main([*words, str(tmp_path / "a.npy")]) == 0
    assert f"{corner:.4f} A, the corner of the detector" in capsys.readouterr().out
    assert main([*words, str(tmp_path / "b.npy"), "--dmin", f"{corner:.10f}"]) == 0
    np.testing.assert_array_equal(np.load(tmp_path / "a.npy"), np.load(tmp_path / "b.npy"))
    assert main([*words, str(tmp_path / "c.npy"), "--dmin", "4"]) == 0
    assert np.load(tmp_path / "c.npy").sum() < np.load(tmp_path / "a.npy").sum()


@pytest.mark.parametrize("place", ["   ?       ?       ?   ", "                      ", "****************  1.000"])
def test_pdb_atoms_without_coordinates_are_named(tmp_path, capsys, place):
    (tmp_path / "m.pdb").write_text(PDB.format(place=place.ljust(22)))
    assert main(["show", str(tmp_path / "m.pdb")]) == 0
    said = capsys.readouterr()
    assert "1: N1" in said.out and "line 3" in said.err and "CA" in said.err
    (tmp_path / "m.pdb").write_text(PDB.format(place="11.000  1x.500  10.300"))
    assert main(["show", str(tmp_path / "m.pdb")]) == 2
    assert "line 3" in capsys.readouterr().err


CIF = """data_global
_audit_creation_date 2020-01-01
{blocks}"""
BLOCK = """data_{name}
_cell_length_a {a}
_cell_length_b 8.0
_cell_length_c 6.0
_cell_angle_alpha 90
_cell_angle_beta 90
_cell_angle_gamma 90
_space_group_name_H-M_alt 'P 1'
loop_
_atom_site_label
_atom_site_type_symbol
_atom_site_fract_x
_atom_site_fract_y
_atom_site_fract_z
_atom_site_U_iso_or_equiv
C1 C 0.28 0.31 0.22 {u}
"""


def test_the_data_block_with_atoms_is_taken_and_named_where_several_have_them(tmp_path, capsys):
    path = tmp_path / "m.cif"
    path.write_text(CIF.format(blocks=BLOCK.format(name="one", a=7.0, u=0.03)))
    assert main(["show", str(path)]) == 0
    said = capsys.readouterr()
    assert "7.0000" in said.out and not said.err
    blocks = BLOCK.format(name="one", a=7.0, u="?") + BLOCK.format(name="two", a=9.0, u=0.03)
    path.write_text(CIF.format(blocks=blocks))
    assert main(["show", str(path)]) == 0
    said = capsys.readouterr()
    assert "7.0000" in said.out and "data block one" in said.err and "two" in said.err and "U of C1" in said.err


def test_show_prints_what_files_of_reflections_hold(tmp_path, capsys):
    (tmp_path / "a.hkl").write_text("1 2 3 40\n-1 0 2 60.5\n")
    assert main(["show", str(tmp_path / "a.hkl")]) == 0
    out = capsys.readouterr().out
    assert "2, F(h) and F(-h) apart" in out and "40  60.5  50.25" in out and "-1 to 1" in out
    (tmp_path / "titled.hkl").write_text("Amplitudes of a crystal\n  h  k  l  F\n1 2 3 40\n-1 0 2 60.5\n")
    assert main(["show", str(tmp_path / "titled.hkl")]) == 0
    assert "40  60.5  50.25" in capsys.readouterr().out
    words = ["wilson", "--cell", "40", "50", "60", "90", "90", "90", "--spacegroup", "P212121", "--dmin", "5", "-o"]
    for name in ("a.mtz", "a.bin"):
        assert main([*words, str(tmp_path / name)]) == 0
        capsys.readouterr()
        assert main(["show", str(tmp_path / name)]) == 0
        out = capsys.readouterr().out
        assert ("P 21 21 21" in out and "column F" in out) if name == "a.mtz" else "all of P1" in out


def test_scans_with_gaps_go_through_nxmx(tmp_path):
    gaps = ScanData(
        image_range=(1, 2), oscillation_start_deg=0, oscillation_width_deg=0.5, starts_deg=np.array([0.0, 90])
    )
    write_nxmx(tmp_path / "a.nxs", np.stack([PIXELS, PIXELS]), plain(scan=gaps))
    experiment = Experiment.from_file(tmp_path / "a.nxs")
    assert experiment.crystal_config(1).phi_start_deg == pytest.approx(90 + 0.5 / 10 / 2)
