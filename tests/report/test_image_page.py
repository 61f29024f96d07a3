"""The page of an image: in a browser, and the pixels that it carries."""

import re

import numpy as np
import pytest
from looking import everything_written, under_the_pointer, window

from nanobrag_torch.cli.nb.app import main
from nanobrag_torch.io.images import write_image
from nanobrag_torch.io.plane import laboratory_plane
from nanobrag_torch.records.experiment import BeamData, DetectorData, ExperimentData, PanelData
from nanobrag_torch.report.image import write_image_page
from nanobrag_torch.report.pyramid import levels

BEAM = BeamData(wavelength_A=1.0)


def panel(origin, fast=(1, 0, 0), slow=(0, -1, 0), size=(1300, 1200), pixel=0.1):
    return PanelData(
        origin_mm=np.array(origin, float),
        fast=np.array(fast, float),
        slow=np.array(slow, float),
        pixel_size_mm=(pixel, pixel),
        image_size=size,
    )


def detector_of(*panels):
    return ExperimentData(beam=BEAM, detector=DetectorData(panels=tuple(panels)))


@pytest.fixture
def spotted():
    """Noise, one bright pixel far from the beam, and its geometry."""
    image = np.random.default_rng(1).poisson(20, (1200, 1300)).astype("u2")
    image[333, 777] = 9000
    return image, detector_of(panel((-65, 60, -150)))


def test_a_browser_shows_the_page_and_its_single_bright_pixel(browser, spotted, tmp_path):
    image, data = spotted
    page = tmp_path / "page.html"
    size = write_image_page(page, image, data, title="a <b> & c")
    assert size == page.stat().st_size < 8e6
    browser.open(page)
    browser.settle()
    shown = window(browser).max(2)
    assert shown.shape == (800, 1280) and len(np.unique(shown)) > 20
    black = np.argwhere(shown[160:680, 90:640] < 0.1)
    assert len(black) >= 1 and np.ptp(black, axis=0).max() <= 3, "one pixel in 1.6 million is seen, and no other"
    said = everything_written(browser)
    assert "a <b> & c" in said and "1300 x 1200 pixels" in said and "from 2 to 9000" in said


def test_the_pointer_reads_the_highest_of_its_cell_and_the_resolution(browser, spotted, tmp_path):
    image, data = spotted
    write_image_page(tmp_path / "page.html", image, data)
    browser.open(tmp_path / "page.html")
    browser.settle()
    far = re.search(
        r"fast (\d+) slow (\d+) ([\d.]+) Å.*highest of 3 x 3 pixels: *(\d+)", under_the_pointer(browser, 400, 300)
    )
    assert far is not None
    fast, slow = int(far[1]) // 3 * 3, int(far[2]) // 3 * 3
    assert int(far[4]) == image[slow : slow + 3, fast : fast + 3].max()
    position = np.array([-65 + (int(far[1]) + 0.5) * 0.1, 60 - (int(far[2]) + 0.5) * 0.1, -150.0])
    inverse_d = np.linalg.norm(position / np.linalg.norm(position) - (0, 0, -1))
    assert float(far[3]) == pytest.approx(1 / inverse_d, rel=0.02)


def test_panels_stand_where_they_are_and_lose_no_bright_pixel():
    """Two panels, one turned by 30 degrees: every bright pixel is at the place of its position, at every level."""
    turned = np.deg2rad(30)
    fast, slow = (np.cos(turned), np.sin(turned), 0), (np.sin(turned), -np.cos(turned), 0)
    data = detector_of(
        panel((-100, 40, -150), size=(800, 700)), panel((10, 20, -150), fast=fast, slow=slow, size=(800, 700))
    )
    random = np.random.default_rng(3)
    image = random.poisson(5, (2, 700, 800)).astype(np.float32)
    where = [(n, random.integers(700), random.integers(800)) for n in (0, 1) for _ in range(30)]
    for number, at in enumerate(where):
        image[at] = 1000 + number
    assert data.detector is not None
    plane = laboratory_plane(data.detector, BEAM)
    found = levels(plane, list(image))
    assert len(found) > 1 and found[0].block > 1
    (overview,) = found[0].rasters
    cell = overview.size[0] / overview.values.shape[1]
    for number, (which, y, x) in enumerate(where):
        position = data.detector.panels[which].positions_mm(x + 0.5, y + 0.5)
        row, column = np.floor((position[1::-1] - overview.low[::-1]) / cell).astype(int)
        assert overview.values[row, column] >= 1000 + number
    assert np.nanmax(overview.values) == 1000 + len(where) - 1
    inside = data.detector.panels[1].positions_mm(*np.meshgrid(np.linspace(20, 780, 50), np.linspace(20, 680, 50)))
    rows, columns = (np.floor((inside[..., i] - overview.low[i]) / cell).astype(int) for i in (1, 0))
    assert np.isfinite(overview.values[rows, columns]).all(), "a turned panel has no holes"


def test_a_page_of_several_panels_opens(browser, tmp_path):
    data = detector_of(panel((-100, 40, -150), size=(300, 200)), panel((20, 20, -150), size=(300, 200)))
    image = np.random.default_rng(4).poisson(3, (2, 200, 300)).astype(np.float32)
    image[1, :, 100:110] = np.nan
    write_image_page(tmp_path / "page.html", image, data)
    browser.open(tmp_path / "page.html")
    browser.settle()
    assert "2 panels of 300 x 200 pixels" in (said := everything_written(browser)) and "2000 without" in said


def test_the_command_writes_page_and_picture_or_neither(spotted, tmp_path, capsys):
    image, data = spotted
    write_image(tmp_path / "a.img", image, data)
    words = ["view", str(tmp_path / "a.img")]
    assert main([*words, "--html", str(tmp_path / "p.html"), "-o", str(tmp_path / "p.png")]) == 0
    assert (tmp_path / "p.png").stat().st_size > 1000 and "MB" in capsys.readouterr().out
    assert "src=" not in re.sub(r"<script[^>]*>.*?</script>", "", (tmp_path / "p.html").read_text(), flags=re.DOTALL)
    assert main(words) == 2 and "--html" in capsys.readouterr().err
    assert main([*words, "--html", str(tmp_path / "p.txt")]) == 2 and not (tmp_path / "p.txt").exists()
    assert main([*words, "--full", "-o", str(tmp_path / "q.png")]) == 2 and not (tmp_path / "q.png").exists()


def test_a_page_too_large_is_refused_without_full(spotted, tmp_path, monkeypatch):
    from nanobrag_torch.errors import InputError
    from nanobrag_torch.report import page

    monkeypatch.setattr(page, "MOST_BYTES", 1_000_000)
    with pytest.raises(InputError, match="--full"):
        write_image_page(tmp_path / "p.html", *spotted)
    assert list(tmp_path.iterdir()) == []
    assert write_image_page(tmp_path / "p.html", *spotted, full=True) > 3e6
