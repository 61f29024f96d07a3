"""Pages of refinements: in a browser, and the numbers that they show."""

import json

import numpy as np
import pytest
from looking import everything_written, is_drawn, model_state, under_the_pointer
from made_shot import BAD, record, write_shot

from nanobrag_torch.cli.nb.app import main
from nanobrag_torch.errors import InputError
from nanobrag_torch.report import shots
from nanobrag_torch.report.shoeboxes import extremes
from nanobrag_torch.report.shot import write_shot_page
from nanobrag_torch.report.shot_charts import shot_charts
from nanobrag_torch.report.shot_data import read_shot_folder
from nanobrag_torch.report.shots import write_pages


@pytest.fixture(scope="module")
def shot(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shot")
    return folder, write_shot(folder)


def test_a_stranger_reads_what_was_fitted_and_how_well(browser, shot):
    folder, arrays = shot
    assert write_shot_page(folder) == (folder / "report.html").stat().st_size < 8e6
    browser.open(folder / "report.html")
    browser.settle()
    said = everything_written(browser)
    z = (arrays["data"] - arrays["model"]) / np.sqrt(arrays["variance"])
    beyond = f"{100 * (np.abs(z) > 3).mean():.2g}% of the pixels are beyond 3 sigma"
    for words in ("Good: the fit converged", "40 boxes", "turned by 0.5 degrees", "changed by +1%", beyond, "a <note>"):
        assert words in said
    assert "1 of 40 boxes have a sigma-Z above 1.5" in said
    assert "a ended 3.3 standard deviations from what was expected" in said
    assert is_drawn(browser)


def test_zoom_of_one_view_is_that_of_all_and_the_slider_visits_boxes(browser, shot):
    folder, arrays = shot
    browser.open(folder / "report.html")
    browser.settle()
    ends = [model_state(browser, "Figure", i, "m.x_range.end - m.x_range.start") for i in range(12)]
    assert 1000 not in ends, "the views begin at the worst box"
    model_state(browser, "Slider", 0, "void (m.value = 0)")
    browser.settle()
    whole = [model_state(browser, "Figure", i, "m.x_range.end - m.x_range.start") for i in range(12)]
    views = [i for i, width in enumerate(whole) if width == 1000]
    assert len(views) == 3
    browser.value("window.scrollTo(0, document.documentElement.scrollHeight * 0.55)")
    model_state(browser, "Slider", 0, "void (m.value = 2)")
    second = np.argsort(-arrays["sigma_z"])[1]
    browser.settle()
    for view in views:
        ends = model_state(browser, "Figure", view, "[m.x_range.start, m.x_range.end, m.y_range.end, m.y_range.start]")
        assert np.allclose([np.mean(ends[:2]), np.mean(ends[2:])], arrays["centre"][second])
        assert ends[1] - ends[0] < 40 and ends[2] < ends[3], "one box fills the view; slow goes down"
    assert " ".join(map(str, arrays["hkl"][second])) in everything_written(browser)
    assert is_drawn(browser)


def test_the_pointer_reads_photons_of_a_box(browser, shot):
    folder, arrays = shot
    browser.open(folder / "report.html")
    for place in (2, 1):
        model_state(browser, "Slider", 0, f"void (m.value = {place})")
    browser.settle()
    box = browser.value("""(() => {
        const view = Object.values(Bokeh.index)[0] ?? Bokeh.index.roots[0];
        const found = [];
        const walk = v => { if (v.model.type == "Figure") found.push(v); (v.child_views ?? []).forEach(walk); };
        walk(view);
        const wanted = found.filter(v => v.model.title && v.model.title.text == "data")[0];
        wanted.el.scrollIntoView({block: "center"});
        const r = wanted.el.getBoundingClientRect(), f = wanted.frame.bbox;
        return [r.left + f.left + f.width / 2, r.top + f.top + f.height / 2];
    })()""")
    browser.settle()
    said = under_the_pointer(browser, *box)
    row, column = np.floor(arrays["centre"][BAD]).astype(int)[::-1]
    size = int(arrays["image_shape"][1])
    data = arrays["data"][arrays["pixel"] == row * size + column]
    assert said.endswith(f"data: {data[0]:g} sigma-Z of the box: {arrays['sigma_z'][BAD]:.2f}")


def test_numbers_of_the_charts_are_those_of_brute_force(shot):
    folder, arrays = shot
    found = read_shot_folder(folder)
    charts = {chart.title: chart for chart in shot_charts(found)}
    z = (arrays["data"] - arrays["model"]) / np.sqrt(arrays["variance"])
    bars = charts["Residuals: do they look like noise?"].series[0]
    assert np.sum(bars.y) == len(z) and bars.y[30] == ((z >= 0) & (z < 0.2)).sum()
    rms = charts["Residuals by resolution"].series[0]
    d = np.asarray(found.table.columns["d"])
    order = np.argsort(1 / d**2)
    first = list(order[: len(order) // 10])
    worst = np.sqrt(np.mean([np.mean(z[arrays["box"] == i] ** 2) for i in first]))
    assert np.asarray(rms.y)[0] == pytest.approx(worst, rel=0.05)
    mean = charts["Mean spot"].series
    assert np.allclose(np.asarray(mean[0].y)[:4], np.asarray(mean[1].y)[:4], rtol=0.1)
    data, model, residual = found.boxes.pictures(7)
    mine = arrays["box"] == 7
    assert data.sum() == arrays["data"][mine].sum() and model.max() == arrays["model"][mine].max()
    assert np.allclose(np.sort(residual.ravel()), np.sort(z[mine]), atol=1e-4)


def test_the_largest_page_is_small_and_opens_soon(browser, tmp_path):
    """400 boxes of 31 x 31 pixels on 64 panels."""
    write_shot(tmp_path, count=400, half=15, size=500, panel_count=64)
    assert write_shot_page(tmp_path) < 8e6
    before = browser.busy_s()
    browser.open(tmp_path / "report.html")
    assert browser.busy_s() - before < 3, "seconds of processors, which are more than those of the clock"
    browser.settle()
    assert is_drawn(browser) and "Residuals by panel" in (tmp_path / "report.html").read_text()


def test_a_fit_without_a_model_says_why(browser, tmp_path):
    (tmp_path / "parameters.json").write_text(json.dumps({**record("failed", None, 0, "shot_7"), "history": []}))
    write_shot_page(tmp_path)
    browser.open(tmp_path / "report.html")
    said = everything_written(browser)
    assert "Failed: no signal <at all>" in said and "Refinement of shot_7" in said and "rot_x" in said


def test_many_shots_have_one_page_that_leads_to_the_bad_ones(browser, tmp_path, monkeypatch):
    monkeypatch.setattr(shots, "MOST_PAGES", 4)
    rows = []
    for number in range(6):
        status = "failed" if number == 5 else "converged"
        name = f"shot_{number:05d}"
        write_shot(tmp_path / name, count=4, size=200, status=status, name=name)
        row = {"name": name, "status": status, "reason": "no signal" if status == "failed" else "", "steps": 3}
        rows.append({**row, "sigma_z": 1 + number / 100, "reflections": 4, "seconds_in_all": 0.5, "a": 80 + number})
    (tmp_path / "summary.json").write_text(json.dumps(rows))
    assert "4 shots" in write_pages(tmp_path)
    with_pages = sorted(path.parent.name for path in tmp_path.glob("shot_*/report.html"))
    assert with_pages == [f"shot_{number:05d}" for number in (2, 3, 4, 5)], "the best have none"
    browser.open(tmp_path / "report.html")
    said = everything_written(browser)
    assert "5 of 6 shots converged" in said and "Why not: no signal (1 shot)" in said
    links = browser.value("""(() => {
        const found = [];
        const walk = n => { if (n.tagName == "A") found.push(n.href);
            for (const c of [...(n.shadowRoot ? n.shadowRoot.childNodes : []), ...n.childNodes]) walk(c); };
        walk(document.body);
        return found;
    })()""")
    pages = [link for link in links if link.endswith("shot_00005/report.html")]
    assert len(pages) == 1 and (tmp_path / "shot_00005" / "report.html").exists()
    assert is_drawn(browser)


@pytest.mark.filterwarnings("error")
def test_a_box_that_was_left_out_is_neither_shown_nor_counted(tmp_path):
    arrays = write_shot(tmp_path, count=12, size=400)
    of_pixels = "pixel", "box", "data", "model", "spot", "variance"
    pixels = {name: arrays[name][arrays["box"] != BAD] for name in of_pixels}
    sigma_z = np.where(np.arange(12) == BAD, np.nan, arrays["sigma_z"])
    np.savez_compressed(tmp_path / "boxes.npz", **{**arrays, **pixels, "sigma_z": sigma_z})
    boxes = read_shot_folder(tmp_path).boxes
    assert sorted(boxes.worst_first) == [i for i in range(12) if i != BAD]
    assert all(BAD not in chosen for chosen in extremes(boxes).values())
    write_shot_page(tmp_path)
    assert "Fitted: 11 boxes" in (tmp_path / "report.html").read_text()


@pytest.mark.parametrize("spoil", ["parameters.json", "boxes.npz", "refined.refl"])
def test_a_damaged_folder_is_a_line(tmp_path, capsys, spoil):
    write_shot(tmp_path, count=4, size=200)
    (tmp_path / spoil).write_bytes((tmp_path / spoil).read_bytes()[:100])
    with pytest.raises(InputError):
        write_shot_page(tmp_path)
    assert main(["view", str(tmp_path)]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1 and not (tmp_path / "report.html").exists()


def test_view_makes_the_page_of_a_folder(shot, tmp_path, capsys):
    folder, _ = shot
    assert main(["view", str(folder), "--html", str(tmp_path / "page.html")]) == 0
    assert (tmp_path / "page.html").stat().st_size > 1e6 and "page.html" in capsys.readouterr().out
    assert main(["view", str(folder), "-o", str(tmp_path / "fit.svg")]) == 0
    drawn = (tmp_path / "fit.svg").read_text()
    assert drawn.count('<g id="axes_') >= 8 and main(["view", str(tmp_path), "-o", str(tmp_path / "no.png")]) == 2
    assert main(["view", str(tmp_path)]) == 2, "a folder of nothing"
