"""Pictures of several panels, SVG, animations, and what notebooks and scripts show."""

import io
import re
import shutil
import subprocess
import xml.etree.ElementTree

import numpy as np
import pytest
from made_shot import write_shot
from PIL import Image

from nanobrag_torch import BeamConfig, CrystalConfig, DetectorConfig, Simulator
from nanobrag_torch.cli.nb.app import main
from nanobrag_torch.errors import InputError
from nanobrag_torch.io.images import write_image
from nanobrag_torch.io.movie import write_movie
from nanobrag_torch.io.plane import laboratory_plane
from nanobrag_torch.io.png_image import write_png
from nanobrag_torch.models.crystal import Crystal
from nanobrag_torch.models.detector import Detector
from nanobrag_torch.records.experiment import BeamData, DetectorData, ExperimentData, PanelData
from nanobrag_torch.report import opening
from nanobrag_torch.report.charts import Chart, Series, histogram, log_ticks, write_charts
from nanobrag_torch.report.image import write_image_page
from nanobrag_torch.report.shoeboxes import montage_blocks
from nanobrag_torch.report.shot_charts import shot_charts
from nanobrag_torch.report.shot_data import read_shot_folder
from nanobrag_torch.report.shot_pictures import write_montage
from nanobrag_torch.tracing.showing import geometry_data

BEAM = BeamData(wavelength_A=1.0)


def panel(origin, fast=(1, 0, 0), slow=(0, -1, 0), size=(200, 100)):
    return PanelData(
        origin_mm=np.array(origin, float), fast=np.array(fast, float), slow=np.array(slow, float),
        pixel_size_mm=(0.1, 0.1), image_size=size,
    )  # fmt: skip


def data_of(*panels):
    return ExperimentData(beam=BEAM, detector=DetectorData(panels=tuple(panels)))


def test_panels_stand_where_they_are_in_the_picture(tmp_path):
    """Two panels side by side, a bright pixel on each: both at one height, the second to the right of the first."""
    data = data_of(panel((-25, 5, -100)), panel((5, 5, -100)))
    image = np.full((2, 100, 200), 1.0, np.float32)
    image[:, 30:34, 50:54] = 9000
    write_png(tmp_path / "p.png", image, data, title="")
    pixels = np.asarray(Image.open(tmp_path / "p.png").convert("L")).astype(int)
    assert pixels.shape[1] > 2.5 * pixels.shape[0], "wide and flat"
    black = np.argwhere(pixels[60:-60, 80:-130] < 20)
    blocks = [black[black[:, 1] < 200], black[black[:, 1] > 200]]
    assert all(len(block) >= 4 for block in blocks)
    assert abs(blocks[0][:, 0].mean() - blocks[1][:, 0].mean()) <= 1
    rgb = np.asarray(Image.open(tmp_path / "p.png").convert("RGB")).astype(int)
    between = rgb[60:-50, 80:-130][10, 230:270]
    assert (between[:, 2] > between[:, 0] + 5).all(), "nothing is measured between panels"


def test_a_panel_seen_from_its_side_is_a_line_and_no_fault(tmp_path):
    data = data_of(panel((-10, 5, -100)), panel((20, 5, -100), fast=(0, 0, -1)))
    plane = laboratory_plane(data.detector, BEAM)
    assert plane.is_edge_on(1) and not plane.is_edge_on(0) and plane.pixel == pytest.approx(0.1)
    image = np.ones((2, 100, 200), np.float32)
    image[1, 50, 60] = 777
    raster = plane.raster(list(image), 1)
    row, column = np.unravel_index(np.nanargmax(raster.values), raster.values.shape)
    assert raster.low[0] + (column + 0.5) * 0.1 == pytest.approx(20, abs=0.11)
    write_png(tmp_path / "p.png", image, data)
    write_image_page(tmp_path / "p.html", image, data)
    assert (tmp_path / "p.png").stat().st_size > 1000 and (tmp_path / "p.html").stat().st_size > 1000


def test_svg_and_png_come_from_the_same_code(tmp_path):
    image = np.random.default_rng(1).poisson(9, (60, 80)).astype(np.float32)
    for name in ("p.svg", "p.png"):
        write_png(tmp_path / name, image, data_of(panel((-4, 3, -100), size=(80, 60))), title="a < b")
    tree = xml.etree.ElementTree.parse(tmp_path / "p.svg")
    assert tree.getroot().tag.endswith("svg") and (tmp_path / "p.png").read_bytes().startswith(b"\x89PNG")
    chart = Chart("t", "x", "y", [Series([1, 2], [3, 4], "line", "n"), histogram([1.0, 2.0, np.nan], 4)])
    write_charts(tmp_path / "c.svg", [chart])
    assert "svg" in (tmp_path / "c.svg").read_text()[:400]


def test_charts_of_a_shot_are_drawn_by_matplotlib_too(tmp_path):
    write_shot(tmp_path, count=12, size=300)
    write_charts(tmp_path / "fit.png", list(shot_charts(read_shot_folder(tmp_path))))
    with Image.open(tmp_path / "fit.png") as picture:
        assert picture.size == (1140, 900) and len(np.unique(np.asarray(picture.convert("L")))) > 50


def test_frames_become_an_animation(tmp_path, capsys):
    images = np.random.default_rng(2).poisson(5, (4, 50, 60)).astype("u2")
    write_movie(tmp_path / "m.gif", list(images), ["a", "b", "c", "d"])
    with Image.open(tmp_path / "m.gif") as movie:
        assert getattr(movie, "n_frames", 0) == 4 and movie.info["duration"] == 200
    write_image(tmp_path / "one.npy", images[0].astype("f4"), None)
    words = ["view", str(tmp_path / "one.npy"), "--frames", "all"]
    assert main([*words, "-o", str(tmp_path / "n.gif")]) == 0 and (tmp_path / "n.gif").exists()
    for wrong in (["-o", str(tmp_path / "n.txt")], [], ["-o", str(tmp_path / "n.gif"), "--rate", "0"]):
        assert main([*words, *wrong]) == 2
    with pytest.raises(InputError, match="size of the first"):
        write_movie(tmp_path / "x.gif", [images[0], images[0][:10]], ["a", "b"])
    with pytest.raises(InputError, match="at least one"):
        write_movie(tmp_path / "x.gif", [], [])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m.gif", "n.gif", "one.npy"]


@pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="no program ffmpeg: apt-get install ffmpeg")
def test_frames_become_a_film(tmp_path):
    """Read again by ffmpeg itself: as many frames, of the size of the picture, bright where the last image is."""
    images = np.ones((6, 50, 60), "u2")
    images[-1, :, :30] = 900
    write_movie(tmp_path / "m.mp4", list(images), list("abcdef"), rate=3)
    words = ["ffmpeg", "-v", "error", "-i", str(tmp_path / "m.mp4"), "-f", "rawvideo", "-pix_fmt", "gray", "-"]
    raw = np.frombuffer(subprocess.run(words, check=True, capture_output=True).stdout, np.uint8)
    found = subprocess.run(["ffmpeg", "-i", str(tmp_path / "m.mp4")], capture_output=True, text=True).stderr
    width, height = map(int, re.search(r" (\d+)x(\d+)[ ,]", found).groups())
    frames = raw.reshape(-1, height, width)
    assert len(frames) == 6 and " 3 fps" in found
    assert frames[-1].mean() < frames[0].mean() - 10, "half of the last image is dark"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m.mp4"]


def test_a_film_without_ffmpeg_is_a_line(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(InputError, match="no program ffmpeg"):
        write_movie(tmp_path / "m.mp4", [np.ones((5, 6))], ["a"])


def small_simulator():
    crystal = Crystal(CrystalConfig(cell_a=60.0, cell_b=70.0, cell_c=80.0, N_cells=(6, 6, 6), default_F=100.0))
    detector = Detector(DetectorConfig(distance_mm=80.0, pixel_size_mm=0.5, spixels=60, fpixels=64))
    return Simulator(crystal, detector, beam_config=BeamConfig(wavelength_A=1.0), kernel="reference")


def test_a_simulator_is_shown(tmp_path, monkeypatch):
    simulator = small_simulator()
    with Image.open(io.BytesIO(simulator._repr_png_())) as thumbnail:
        assert thumbnail.format == "PNG" and max(thumbnail.size) < 700
    page = simulator.show(tmp_path / "page.html")
    assert page == tmp_path / "page.html" and "64 x 60 pixels" in page.read_text()
    (only,) = geometry_data(simulator).detector.panels
    at = only.origin_mm + only.fast * only.pixel_size_mm[0] * 10 + only.slow * only.pixel_size_mm[1] * 20
    panels, size = simulator.geometry.panels[0].numpy(), simulator.geometry.pixel_size[0].numpy()
    assert np.allclose(at, 1e3 * (panels[0] + 10 * size[0] * panels[1] + 20 * size[1] * panels[2]))
    monkeypatch.setattr("nanobrag_torch.tracing.showing.MOST_STEPS", 10)
    assert simulator._repr_png_() is None


def test_pages_open_on_a_desktop_only(tmp_path, monkeypatch):
    opened = []
    monkeypatch.setattr("webbrowser.open", opened.append)
    assert not opening.open_file(tmp_path / "a.html"), "no terminal"
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    monkeypatch.setenv("DISPLAY", ":0")
    opening.open_file(tmp_path / "a.html")
    assert opened == [(tmp_path / "a.html").as_uri()]
    monkeypatch.setenv("NB_NO_OPEN", "1")
    assert not opening.open_file(tmp_path / "a.html")


@pytest.mark.parametrize(
    ("ends", "named", "between"),
    [
        ((0.97, 1.42), [1.0, 1.1, 1.2, 1.3, 1.4], 0),
        ((1.9, 21.0), [2.0, 5.0, 10.0, 20.0], 6),
        ((0.3, 4000.0), [1.0, 10.0, 100.0, 1000.0], 34),
        ((2e-6, 3e7), [1e-5, 1e-1, 1e3, 1e7], 115),
    ],
)
def test_a_logarithmic_axis_has_a_few_numbers(ends, named, between):
    """Worked out by hand: round numbers within, never so many that they run into each other."""
    found, ticks = log_ticks(*ends)
    np.testing.assert_allclose(found, named)
    assert len(ticks) == between and not set(ticks) & set(found)
    assert ((ticks >= ends[0]) & (ticks <= ends[1])).all()


def test_the_montage_shows_every_box_where_its_name_is(tmp_path):
    """The pixels of a box are those of its picture, greys and residuals, each as large as the others."""
    write_shot(tmp_path, count=12, size=300)
    boxes = read_shot_folder(tmp_path).boxes
    write_montage(tmp_path / "m.png", boxes)
    with Image.open(tmp_path / "m.png") as picture:
        drawn = np.asarray(picture.convert("RGB")).astype(int)
    assert drawn.shape == (837, 1017, 3)
    name, chosen, top = montage_blocks(boxes)[1]
    worst = chosen[0]
    data, _, residual = boxes.pictures(worst)
    for kind, values in ((0, data), (2, residual)):
        down, left = round((top + 0.92 * kind + 0.3) * 90), round(1.3 * 90)
        rows, columns = (((np.arange(n) + 0.5) * 77 / n).astype(int) for n in values.shape)
        seen = drawn[down + rows[:, None], left + columns]
        red, blue = seen[..., 0], seen[..., 2]
        shown = -red if kind == 0 else red - blue  # dark is bright; red where the model has too little
        order = np.corrcoef(shown.ravel(), np.clip(values, None if kind == 0 else -5, 5 if kind else None).ravel())
        assert order[0, 1] > 0.8, (name, kind)
