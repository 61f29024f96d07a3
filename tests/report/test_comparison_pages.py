"""Pages of comparisons and of evidence in a browser."""

import numpy as np
import pytest
from looking import everything_written, is_drawn, model_state

from nanobrag_torch.cli.nb.app import main
from nanobrag_torch.report.beside import beside, signed_decades


@pytest.fixture
def pair(tmp_path):
    """Two images of 600 x 500 pixels that differ in one of them."""
    a = np.random.default_rng(1).poisson(20, (500, 600)).astype(np.float32)
    a[100, 200] = 4000
    b = a.copy()
    b[333, 444] -= 15
    a.tofile(tmp_path / "a.bin")
    b.tofile(tmp_path / "b.bin")
    return tmp_path, a, b


def test_a_comparison_is_a_page(browser, pair):
    folder, _, _ = pair
    words = [str(folder / "a.bin"), str(folder / "b.bin"), "--shape", "500", "600", "--outdir", str(folder / "out")]
    assert main(["compare", *words]) == 0
    page = folder / "out" / "report.html"
    assert page.stat().st_size < 8e6
    browser.open(page)
    browser.settle()
    said = everything_written(browser)
    assert "The images agree: correlation 0.99999" in said and "at slow 333, fast 444" in said
    assert is_drawn(browser)
    model_state(browser, "Figure", 0, "void m.x_range.setv({start: 430, end: 460})")
    browser.settle()
    assert model_state(browser, "Figure", 2, "[m.x_range.start, m.x_range.end]") == [430, 460], "one zoom for all"
    shown = [model_state(browser, "GlyphRenderer", i, "m.visible") for i in range(2)]
    assert shown == [True, True], "single pixels appear above the overview"
    assert main(["compare", *words[:5], "--threshold", "1.1", "--outdir", str(folder / "out")]) == 1
    assert "The images do not agree" in page.read_text()


def test_the_difference_keeps_its_strongest_pixel_and_its_sign(pair):
    _, a, b = pair
    overview = beside(a, b, ("a", "b"))[2].renderers[0].data_source.data
    assert overview["value"][0].min() == -15 and (overview["value"][0] != 0).sum() == 1
    assert overview["image"][0].min() == -1 and overview["image"][0].max() == 0
    single = beside(a, b, ("a", "b"))[2].renderers[1].data_source.data["value"]
    assert sum((tile == -15).sum() for tile in single) == 1
    assert np.allclose(signed_decades(np.array([0, 1e-9, 0.001, -0.1, 1], "f4"), 1.0), [0, 0, 0, -2 / 3, 1], atol=1e-6)


def test_evidence_is_a_page(browser, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = "-cell 50 60 70 90 90 90 -default_F 10 -N 5 -detpixels 32 -pixel 0.5 -osc 1 -phisteps 3"
    flags = words.split()
    assert main(["evidence", "--outdir", "one", "--pixel", "3", "4", "--", *flags]) == 0
    browser.open(tmp_path / "one" / "report.html")
    browser.settle()
    said = everything_written(browser)
    assert "Every criterion that was checked holds" in said and "pixel slow 3, fast 4, 3 phi steps" in said
    assert "I_pixel_final" in said and is_drawn(browser)
    assert "report.html" in (tmp_path / "one" / "sha256.txt").read_text() and main(["evidence", "--verify", "one"]) == 0


def test_the_same_content_is_the_same_bytes(pair):
    folder, _, _ = pair
    for name in ("one", "two"):
        words = [str(folder / "a.bin"), str(folder / "b.bin"), "--shape", "500", "600", "--outdir", str(folder / name)]
        assert main(["compare", *words]) == 0
    pages = [(folder / name / "report.html").read_bytes() for name in ("one", "two")]
    assert pages[0] == pages[1]
