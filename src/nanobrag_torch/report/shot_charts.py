"""What a fit left over, as charts: residuals against the normal curve, by resolution, by panel, and profiles."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from nanobrag_torch.report.charts import BLUE, GREY, ORANGE, RED, Chart, Series
from nanobrag_torch.report.shot_data import DRAWS, Boxes, Shot

Z_EDGES = np.linspace(-6, 6, 61)
SHELLS = 10
LEAST_PIXELS = 50  # of a bin that is shown
RMS = "root mean square Z"
Real = NDArray[np.float64]


def shot_charts(shot: Shot) -> Iterator[Chart]:
    """The charts of a shot that has boxes, in the order of the page."""
    boxes, table = shot.boxes, shot.table
    assert boxes is not None and table is not None
    d, found = np.asarray(table.columns["d"]), table.columns
    yield _residuals(boxes)
    yield _convergence(shot)
    yield _by_resolution(boxes, d)
    yield _by_panel(boxes) if boxes.image_shape[0] > 1 else _by_strength(boxes, found["intensity.prf.value"])
    yield _profile(boxes, np.asarray(found["xyzcal.px"])[:, :2])
    yield _background(boxes, d, np.asarray(found["background.mean"]))
    yield _centroids(boxes, np.asarray(found["xyzcal.px"])[:, :2])
    yield _intensities(boxes, np.asarray(found["nb.intensity"]), np.asarray(found["nb.scale"]))


def _residuals(boxes: Boxes) -> Chart:
    """Histogram of Z against the normal curve and the model's own counting noise; beyond 6 is counted at the ends."""
    counts, alone = (np.histogram(np.clip(z, -5.999, 5.999), Z_EDGES)[0] for z in (boxes.z, boxes.expected_z))
    width = Z_EDGES[1] - Z_EDGES[0]
    middle, x = (Z_EDGES[1:] + Z_EDGES[:-1]) / 2, np.linspace(-6, 6, 121)
    normal = len(boxes.z) * width * np.exp(-x * x / 2) / np.sqrt(2 * np.pi)
    series = (
        Series(Z_EDGES, counts, "bars", "pixels", GREY),
        Series(x, normal, "line", "normal curve", RED),
        Series(middle, alone / DRAWS, "line", "counting noise", BLUE),
    )
    top = 4 * max(float(counts.max()), float(normal.max()))
    title = "Residuals: do they look like noise?"
    return Chart(title, "Z = (data - model) / sigma", "pixels", series, y_log=True, y_range=(0.3, top))


def _convergence(shot: Shot) -> Chart:
    """Sigma-Z after every accepted step."""
    history = shot.record.get("history", [])
    z, steps = [h["sigma_z"] for h in history], np.arange(1, len(history) + 1)
    says = [f"largest move {h['largest_move']:.3g} sigma, damping {h['damping']:.0e}" for h in history]
    series = (Series(steps, z, "line"), Series(steps, z, says=says))
    return Chart("Convergence", "step", "sigma-Z", series, y_log=True, marks=(1.0,))


def _by_resolution(boxes: Boxes, d: Real) -> Chart:
    edges = np.quantile(1 / d**2, np.linspace(0, 1, min(SHELLS, max(len(d) // 4, 1)) + 1))
    shell = np.clip(np.searchsorted(edges, 1 / d**2, "right") - 1, 0, len(edges) - 2)[boxes.box]
    rms, mean, count = _by(shell, boxes.z, len(edges) - 1)
    at, shown = 1 / np.sqrt((edges[1:] + edges[:-1]) / 2), count > LEAST_PIXELS
    series = [
        Series(at[shown], rms[shown], "line", RMS),
        Series(at[shown], mean[shown], "line", "mean Z", ORANGE),
    ]
    return Chart(
        "Residuals by resolution", "d (Å)", "Z", series, x_log=True, marks=(0.0, 1.0),
        x_range=(float(d.max()), float(d.min())),
    )  # fmt: skip


def _by_panel(boxes: Boxes) -> Chart:
    panels = int(boxes.image_shape[0])
    rms, _, count = _by(boxes.panel[boxes.box], boxes.z, panels)
    bars = Series(np.arange(panels + 1) - 0.5, np.where(count > LEAST_PIXELS, rms, 0), "bars", colour=GREY)
    return Chart("Residuals by panel", "panel", RMS, [bars], marks=(1.0,))


def _by_strength(boxes: Boxes, photons: Real) -> Chart:
    seen = (photons > 0) & np.isfinite(boxes.sigma_z)
    says = [_index(hkl) for hkl in boxes.hkl[seen]]
    points = Series(photons[seen], boxes.sigma_z[seen], says=says)
    return Chart("Residuals by strength", "photons of the spot", "sigma-Z of its box", [points], True, marks=(1.0,))


def _profile(boxes: Boxes, predicted: Real) -> Chart:
    """Mean photons above the background by the distance from the predicted centre."""
    slow, fast = boxes.place
    away = np.hypot(fast + 0.5 - predicted[boxes.box, 0], slow + 0.5 - predicted[boxes.box, 1])
    ring = np.floor(away * 2).astype(np.int64)
    count = np.bincount(ring)
    background = boxes.model - boxes.spot
    shown = count >= LEAST_PIXELS
    r = (np.arange(len(count)) + 0.5) / 2
    data, model = (np.bincount(ring, v) / np.maximum(count, 1) for v in (boxes.data - background, boxes.spot))
    series = [
        Series(r[shown], data[shown], "points", "data", RED),
        Series(r[shown], model[shown], "line", "model"),
    ]
    return Chart("Mean spot", "from the predicted centre (pixels)", "photons a pixel, background off", series)


def _background(boxes: Boxes, d: Real, level: Real) -> Chart:
    says = [_index(hkl) for hkl in boxes.hkl]
    ends = (float(d.max()), float(d.min()))
    return Chart(
        "Background by resolution", "d (Å)", "photons a pixel", [Series(d, level, says=says)], x_log=True, x_range=ends
    )


def _centroids(boxes: Boxes, predicted: Real) -> Chart:
    off = boxes.centre - predicted
    says = [_index(hkl) for hkl in boxes.hkl]
    return Chart(
        "Centres: observed - predicted", "fast (pixels)", "slow (pixels)", [Series(off[:, 0], off[:, 1], says=says)],
        equal=True,
    )  # fmt: skip


def _intensities(boxes: Boxes, intensity: Real, scale: Real) -> Chart:
    given = intensity / np.where(scale == 0, np.nan, scale)
    seen = (intensity > 0) & (given > 0)
    says = [_index(hkl) for hkl in boxes.hkl[seen]]
    series = [Series(given[seen], intensity[seen], says=says)]
    if seen.any():
        ends = np.array([given[seen].min(), given[seen].max()])
        series.append(Series(ends, ends, "line", "as given", RED))
    return Chart("Intensities", "F² given", "F² found", series, x_log=True, y_log=True)


def _by(group: NDArray[np.int64], z: Real, size: int) -> tuple[Real, Real, NDArray[np.int64]]:
    """Root mean square, mean and number of Z of every group."""
    count = np.bincount(group, minlength=size)
    square, total = (np.bincount(group, v, minlength=size) for v in (z * z, z))
    some = np.maximum(count, 1)
    return np.sqrt(square / some), total / some, count


def _index(hkl: NDArray[np.int64]) -> str:
    return " ".join(map(str, hkl))
