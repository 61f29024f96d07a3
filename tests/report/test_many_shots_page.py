"""Pages of what many shots share, in a browser."""

import math

from looking import everything_written, is_drawn

from nanobrag_torch.report.many_shots import write_geometry_page, write_intensities_page

SHOTS = [
    {"name": f"shot_{i:05d}", "weight": 0.0 if i == 3 else 1 - 0.1 * (i % 2), "reason": "far off"} for i in range(8)
]


def shell(d_max, d_min, half):
    return {
        "d_max": d_max, "d_min": d_min, "possible": 100, "seen": 90, "completeness": 0.9, "multiplicity": 7.5,
        "mean_I_over_sigma": 12.0, "cc_half": half, "cc_ano": None, "r_split": 0.1,
    }  # fmt: skip


def test_intensities(browser, tmp_path):
    shells = [shell(20, 4, 0.99), shell(4, 3, 0.98), shell(3, 2.5, None), shell(20, 2.5, 0.985)]
    found = {"status": "converged", "reason": "", "steps": [{}] * 4, "shells": shells}
    assert write_intensities_page(tmp_path / "i.html", found, SHOTS) < 8e6
    browser.open(tmp_path / "i.html")
    browser.settle()
    said = everything_written(browser)
    for words in (
        "Converged, after 4 steps",
        "8 shots, 1 of them left out",
        "correlate by 0.985",
        "shot_00003",
        "far off",
    ):
        assert words in said
    assert is_drawn(browser)


def test_geometry(browser, tmp_path):
    panels = [
        {"panel": i, "group": f"g{i}", "spots_before": 9, "fast_before": 0.3 * i, "slow_before": 0.1, "rms_before": 0.5,
         "spots_after": 9, "fast_after": 0.01 * i, "slow_after": 0.0, "rms_after": 0.2}
        for i in range(6)
    ]  # fmt: skip
    blank = {key: math.nan for key in panels[0] if key.startswith(("fast", "slow", "rms"))}
    panels.append({**panels[0], **blank, "panel": 6})
    groups = [{"name": f"g{i}", "shift_fast": 0.01 * i, "shift_fast_sigma": 0.001} for i in range(6)]
    found = {"status": "stalled", "reason": "no step helps", "steps": [1, 2], "groups": groups}
    write_geometry_page(tmp_path / "g.html", found, panels, SHOTS)
    browser.open(tmp_path / "g.html")
    browser.settle()
    said = everything_written(browser)
    assert "Stalled: no step helps, after 2 steps" in said and "was 0.500 pixels and is 0.200: less than before" in said
    assert "6 groups of 7 panels, 1 of them without spots" in said and "+0.0500 +- 0.0010" in said
    assert is_drawn(browser)
