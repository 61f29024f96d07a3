"""One registry: a format that is added there is known to every verb and writer, and to nothing else before."""

import numpy as np
import pytest

from nanobrag_torch.cli.nb.app import main
from nanobrag_torch.datasets.series import open_series
from nanobrag_torch.io import formats
from nanobrag_torch.io.atomic import open_output, read_input
from nanobrag_torch.io.expt_write import write_expt
from nanobrag_torch.io.fileformat import FileFormat
from nanobrag_torch.io.images import read_image, write_image
from nanobrag_torch.records.contents import HEADER
from nanobrag_torch.records.experiment import (
    BeamData,
    CrystalData,
    DetectorData,
    ExperimentData,
    GoniometerData,
    PanelData,
    ScanData,
)
from nanobrag_torch.records.images import ImageData, as_counts

MAGIC = b"toy image\n"
DATA = ExperimentData(
    beam=BeamData(wavelength_A=1.0),
    detector=DetectorData(panels=(PanelData(
        origin_mm=[-0.8, 0.6, -60.0], fast=[1, 0, 0], slow=[0, -1, 0], pixel_size_mm=(0.1, 0.1), image_size=(16, 12),
    ),)),
    goniometer=GoniometerData(rotation_axis=[1, 0, 0]),
    scan=ScanData(image_range=(1, 2), oscillation_start_deg=0, oscillation_width_deg=0.5),
    crystal=CrystalData(real_space=np.diag([40.0, 50.0, 60.0])),
)  # fmt: skip


def _read(path, frame):
    pixels = np.frombuffer(read_input(path, "toy", "a toy"), np.int16, offset=len(MAGIC)).reshape(12, 16)
    return ImageData(pixels, DATA, "toy")


def _write(path, pixels, data, options):
    with open_output(path) as file:
        file.write(MAGIC + as_counts(pixels, "i2", options.allow_loss).tobytes())


TOY = FileFormat(
    name="toy",
    title="toy image",
    recognises=lambda file: file.start.startswith(MAGIC),
    suffixes=(".toy",),
    read_experiments=lambda path, given: [DATA],
    holds=HEADER,
    read_image=_read,
    write_image=_write,
    pixel_types=("i2",),
)


@pytest.fixture
def toy(monkeypatch, tmp_path):
    monkeypatch.setattr(formats, "FORMATS", [TOY, *formats.FORMATS])
    monkeypatch.chdir(tmp_path)
    write_expt("a.expt", DATA)
    return tmp_path


def test_without_the_registry_nobody_knows_the_format(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write_expt("a.expt", DATA)
    assert main(["simulate", "a.expt", "-o", "out.toy", "--oversample", "1"]) == 2
    assert ".img" in capsys.readouterr().err


def test_every_verb_and_writer_asks_the_registry(toy, capsys):
    words = ["simulate", "a.expt", "--oversample", "1", "--fluence", "1e32"]
    assert main([*words, "-o", "s_##.toy"]) == 0
    first = read_image("s_01.toy")
    assert first.pixels.dtype == np.int16 and 0 < first.pixels.max() <= 32767  # counts to what the format counts to
    assert main([*words, "-o", "whole.nxs", "--frames", "1"]) == 0
    wide = read_image("whole.nxs").pixels
    np.testing.assert_array_equal(first.pixels, np.clip(wide, 0, 32767))

    assert main(["show", "s_01.toy"]) == 0
    shown = capsys.readouterr().out
    assert "toy image" in shown and "16 x 12" in shown and "40.0000  50.0000  60.0000" in shown
    assert main(["convert", "s_01.toy", "back.cbf"]) == 0
    assert main(["convert", "back.cbf", "again.toy"]) == 0
    np.testing.assert_array_equal(read_image("again.toy").pixels, first.pixels)
    assert main(["convert", "s_01.toy", "geometry.expt"]) == 0
    assert main(["view", "s_01.toy", "-o", "a.png"]) == 0
    assert main(["compare", "s_01.toy", "back.cbf"]) == 0
    assert main(["simulate", "--geometry", "s_01.toy", "-o", "c.npy", "--oversample", "1", "--frames", "1"]) == 0
    with open_series("t_##.toy", DATA, 2, dtype=np.int16) as series:
        for index in series.missing():
            series.write(index, first.pixels)
    np.testing.assert_array_equal(read_image("t_02.toy").pixels, first.pixels)


@pytest.mark.parametrize("suffix", [".cbf", ".img", ".nxs", ".npy"])
def test_compare_reads_what_simulate_writes(toy, capsys, suffix):
    words = ["simulate", "a.expt", "--frames", "1", "--oversample", "1", "-o"]
    assert main([*words, f"a{suffix}"]) == 0 and main([*words, f"b{suffix}"]) == 0
    capsys.readouterr()
    assert main(["compare", f"a{suffix}", f"b{suffix}"]) == 0
    assert "correlation" in capsys.readouterr().out


def test_compare_takes_one_frame_of_several_and_says_which(toy, capsys):
    assert main(["simulate", "a.expt", "--oversample", "1", "-o", "s.nxs"]) == 0
    assert main(["convert", "s.nxs", "second.cbf", "--frame", "1"]) == 0
    capsys.readouterr()
    assert main(["compare", "s.nxs", "second.cbf", "--frame", "1"]) == 0
    said = capsys.readouterr()
    assert "image 1 of 2" in said.err and "correlation" in said.out


def test_a_picture_is_not_taken_for_pixels(toy, capsys):
    write_image("a.png", np.ones((12, 16)), None)
    assert main(["show", "a.png"]) == 2
    assert "PNG picture" in capsys.readouterr().err
