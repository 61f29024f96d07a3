"""Every row of the table of defects that both modes fix, held against formulae, other readers and stored images."""

from __future__ import annotations

import math
import time

import fabio
import mpmath
import numpy as np
import pytest
import torch

from compat_scenes import (
    BOX,
    CASES,
    DATA,
    FLAT,
    MODES,
    SMALL,
    SPOTS,
    Plane,
    assert_same,
    assert_stored,
    commands,
)
from nanobrag_torch.cli.nanobragg import prepare as preparing
from nanobrag_torch.compat import ROWS
from nanobrag_torch.config import BeamConfig, CrystalConfig, DetectorConfig
from nanobrag_torch.models.crystal import Crystal
from nanobrag_torch.models.detector import Detector
from nanobrag_torch.physics.lattice_factor import sphere
from nanobrag_torch.simulator import Simulator


@pytest.fixture
def command(tmp_path):
    yield from commands(tmp_path)


@pytest.mark.parametrize("mode", MODES)
def test_D8_a_long_header_grows(command, mode):
    ran = command(f"{next(row.example for row in ROWS if row.id == 'D8')} -detpixels 16 -pixel 0.4 -oversample 1", mode)
    for name in ("intimage.img", "noiseimage.img"):
        raw = (ran.folder / name).read_bytes()
        assert raw.index(b"\f") >= 512 and raw.startswith(b"{\nHEADER_BYTES=1024;\n")
        assert len(raw) == 1024 + 2 * 256
        read_by_fabio = fabio.open(str(ran.folder / name))
        assert np.array_equal(read_by_fabio.data, ran.counts[name])
        assert float(read_by_fabio.header["TWOTHETA"]) == 11.2345
    scaled = ran.image * ran.numbers("intfile_scale = ")[0] + 40
    assert np.abs(ran.counts["intimage.img"] - scaled).max() <= 1


@pytest.mark.parametrize("mode", MODES)
def test_D14_a_curved_detector_is_curved_by_the_last_word_too(command, mode):
    line = f"{FLAT} -nopolar {SMALL} -distance 20"
    last, first, flat = (command(words, mode).image for words in (f"{line} -curved_det", f"-curved_det {line}", line))
    assert_same(last, np.full((16, 16), 2500 * (0.4 / 20) ** 2), 1e-5)  # every pixel at 20 mm; its tilt is left alone
    assert np.array_equal(last, first) and np.ptp(flat) > 0.05 * flat.max()


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("flag", ["-detector_abs", "-detector_thick", "-detector_thicksteps", "-thicksteps"])
def test_D15_a_sensor_flag_without_its_value_is_a_usage_error(command, flag, mode):
    ran = command(f"{SPOTS} {SMALL} {flag}", mode)
    assert ran.code == 2 and ran.complaint.startswith(f"nanoBragg: error: {flag}: ") and ran.complaint.count("\n") == 1
    assert all(path.is_symlink() for path in ran.folder.iterdir())


@pytest.mark.parametrize("mode", MODES)
def test_D16_a_random_orientation_comes_from_the_seed(command, mode, monkeypatch):
    line = CASES["misset_random_seeded"]
    assert "-seed 12 -misset_seed 987" in line
    images = []
    for now in (1.7e9, 1.8e9):
        monkeypatch.setattr(time, "time", lambda now=now: now)
        images.append(command(line.replace("-seed 12 -misset_seed 987", "-seed 987"), mode))
        assert_stored(images[-1], "misset_random_seeded")
    assert images[0].numbers("random orientation misset angles: ") == images[1].numbers(
        "random orientation misset angles: "
    )
    assert not np.array_equal(command(line.replace(" -misset_seed 987", ""), mode).image, images[0].image)


@pytest.mark.parametrize("mode", MODES)
def test_D25_byte_order_is_honoured(command, mode):
    line = f"{FLAT} -oversample 1 -mask"
    wanted = fabio.open(str(DATA / "inputs" / "mask64_big_endian.img")).data != 0
    swapped, plain = (command(f"{line} {name}.img", mode) for name in ("mask64_big_endian", "mask64"))
    assert 0 < wanted.sum() < wanted.size
    assert np.array_equal(swapped.image != 0, wanted) and np.array_equal(swapped.image, plain.image)


@pytest.mark.parametrize("mode", MODES)
def test_D26_data_that_look_like_blanks_are_read(command, mode):
    raw = (DATA / "inputs" / "blank_byte_dump.bin").read_bytes()
    text, data = raw.split(b"\n\f", 1)
    first = int(text.split()[0])
    assert text == b"%d %d %d %d %d %d" % ((first, first + 4) * 3) and data[:1].isspace()
    grid = np.frombuffer(data, "<f8").reshape(6, 6, 6)[:5, :5, :5]  # a plane of zeros above each axis
    line = f"{BOX} -dump blank_byte_dump.bin -N 1 -nointerpolate -detpixels 16 -pixel 0.4 -distance 300 -oversample 1"
    plane = Plane(16, 16, 0.4, 300)
    nearest = np.ceil(plane.hkl(np.diag([60.0, 75, 90]), 1.0) - 0.5).astype(int)[:, :, 0] - first
    listed = ((nearest >= 0) & (nearest < 5)).all(-1)
    amplitude = np.where(listed, grid[tuple(np.clip(nearest, 0, 4).transpose(2, 0, 1))], 0.0)
    assert len(np.unique(amplitude)) > 3
    assert_same(command(line, mode).image, amplitude**2 * (plane.omega() * plane.polar())[..., 0])


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("flags", ["-osc 0 -phistep 0.1", "-divsteps 1", "-hdivsteps 1 -vdivsteps 1"])
def test_D31_nothing_to_sum_over_is_an_error(command, flags, mode):
    ran = command(f"{SPOTS} {SMALL} {flags}", mode)
    assert ran.code == 2 and ran.complaint.count("\n") == 1 and flags.split()[0].strip("-") in ran.complaint
    assert all(path.is_symlink() for path in ran.folder.iterdir())


def ball(x: float) -> float:
    """3 (sin x - x cos x) / x^3 in fifty digits."""
    with mpmath.workdps(50):
        y = mpmath.mpf(x)
        return float(3 * (mpmath.sin(y) - y * mpmath.cos(y)) / y**3)


def test_D32_the_transform_of_a_ball_keeps_its_digits():
    places = np.geomspace(1e-9, 3, 200)
    exact = np.array([ball(x) for x in places])
    assert np.abs(sphere(torch.from_numpy(places**2)).numpy() / exact - 1).max() < 1e-13
    as_in_c = 3 * (np.sin(places) / places - np.cos(places)) / places**2
    assert np.abs(as_in_c / exact - 1).max() > 1e-3


@pytest.mark.parametrize("mode", MODES)
def test_D32_pixels_at_a_peak_are_right(mode):
    detector = DetectorConfig(spixels=8, fpixels=8, pixel_size_mm=0.1, distance_mm=1e7, oversample=1)
    crystal = Crystal(CrystalConfig(cell_a=60, N_cells=(5, 5, 5), default_F=50, shape="round"), dtype=torch.float64)
    beam = BeamConfig(nopolar=True)
    simulator = Simulator(crystal, Detector(detector), beam_config=beam, compat=mode, dtype=torch.float64)
    hkl = Plane(8, 8, 0.1, 1e7).hkl(np.diag([60.0, 60, 60]), 1.0)
    x = math.pi * 5 * np.linalg.norm(hkl, axis=-1)[..., 0]
    assert 1e-7 < x.min() < x.max() < 1e-4
    lattice = 125 * 0.723601254558268 * np.vectorize(ball)(x)
    expected = (50 * lattice) ** 2 * Plane(8, 8, 0.1, 1e7).omega()[..., 0]
    assert np.abs(simulator.run().numpy() / expected - 1).max() < 1e-12


@pytest.mark.parametrize("mode", MODES)
def test_D34_counts_below_zero_are_zero(command, mode):
    line = f"{SPOTS} {SMALL} -noisefile noise.img -fluence 1e31"
    photons = command(f"{line} -adc 0", mode).counts["noise.img"].astype(int)
    recorded = command(f"{line} -adc -100", mode).counts["noise.img"]
    assert photons.min() < 100 < photons.max() < 65535
    assert np.array_equal(recorded, np.clip(photons - 100, 0, None))
    refused = command(f"{line} -fluence 1e300", mode)
    assert refused.code == 2 and "not finite" in refused.complaint


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    ("flags", "steps"),
    [
        ("-oversample 46341", 46341**2),
        ("-oversample 1000 -phisteps 1000 -osc 5 -phi 1 -mosaic 1 -mosaic_domains 300", 3 * 10**11),
        ("-oversample 100000 -dispersion 1 -dispsteps 7", 7 * 10**10),
    ],
)
def test_D41_steps_are_counted_beyond_32_bits(flags, steps, mode):
    prepared = preparing.prepare(f"{SPOTS} -detpixels 1 -water 20 -compat {mode} {flags}".split())
    simulator = preparing.build(prepared)
    assert simulator.steps == steps > 2**31 - 1
    water = 2.57**2 * (20e-6) ** 3 * 1e6 * 6.02214179e23 / 18 / steps  # what the C program adds at its default fluence
    assert float(simulator.scene().offset) == pytest.approx(water if mode == "c" else 0)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("content", [None, "", "1 2 3 4 5 6 7 8", "a b c", "1 0 0 1 0 0 1 0 0", "1 0 0 0 nan 0 0 0 1"])
def test_D42_a_matrix_that_cannot_be_read_is_an_error(command, tmp_path, content, mode):
    if content is not None:
        (tmp_path / "A.mat").write_text(content)
    ran = command(f"-mat A.mat -default_F 50 -N 5 {SMALL}", mode)
    assert ran.code == 2 and "-mat" in ran.complaint and "A.mat" in ran.complaint and ran.complaint.count("\n") == 1
    assert all(path.is_symlink() for path in ran.folder.iterdir())


def test_D44_every_way_to_end_a_line_is_read(command, tmp_path):
    text = (DATA / "inputs" / "sources_full.txt").read_text()
    (tmp_path / "notes.txt").write_text("# X Y Z I lambda\n" + text.replace("2.0 1.01e-10", "2.0 1.01e-10 # bright"))
    (tmp_path / "short.txt").write_text(text.rstrip())
    line = CASES["sourcefile_full"]
    corrected = command(line).image
    for name in ("sources_crlf", "notes", "short"):
        assert_stored(command(line.replace("sources_full", name), "c"), "sourcefile_full")
        assert np.array_equal(command(line.replace("sources_full", name)).image, corrected)
