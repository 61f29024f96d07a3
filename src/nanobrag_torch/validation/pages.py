"""Pages of a comparison of images and of a bundle of evidence: the verdict first, then what it rests on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np

from nanobrag_torch.io.atomic import Target
from nanobrag_torch.report.beside import beside
from nanobrag_torch.report.charts import GREEN, GREY, ORANGE, RED, Chart, Series, chart_model, histogram
from nanobrag_torch.report.page import banner, grid, heading, table, words, write_page
from nanobrag_torch.tracing.log import Trace, number_text
from nanobrag_torch.validation.images import Image
from nanobrag_torch.validation.peaks import Match

if TYPE_CHECKING:
    from nanobrag_torch.validation.compare import Metrics
    from nanobrag_torch.validation.evidence import Check, Evidence

DIFFERENCES = (
    "Differences on a logarithmic scale: red where b is higher, blue where it is lower, white below a thousandth of "
    "the largest."
)
MOST_POINTS = 3000
FAINTEST = 1e-6  # of the highest pixel, of pixels held against each other


def write_comparison(
    target: Target, a: Image, b: Image, names: tuple[str, str], metrics: Metrics, more: Mapping[str, Any]
) -> None:
    """Write the page of two images of one shape. more: threshold, passed, and speed_ratio where both were rendered."""
    from bokeh.layouts import row

    good = bool(more["passed"])
    line = f"The images {'agree' if good else 'do not agree'}: correlation {metrics.correlation:.9g}"
    parts = [
        banner(GREEN if good else RED, line, list(_comparison_words(names, metrics, more))),
        heading("The images and their difference (one zoom for all)"),
        row(*beside(a.astype(np.float32), b.astype(np.float32), (f"a: {names[0]}", f"b: {names[1]}"))),
        words(DIFFERENCES),
        heading("Pixel by pixel"),
        grid([chart_model(chart) for chart in _comparison_charts(a, b, metrics.peaks)]),
    ]  # fmt: skip
    write_page(target, f"{names[0]} and {names[1]}", parts, flag="--outdir")


def _comparison_words(names: tuple[str, str], metrics: Metrics, more: Mapping[str, Any]) -> Iterator[str]:
    yield f"Compared: a is {names[0]}, b is {names[1]}, {metrics.pixels} pixels each."
    yield f"Asked for: a correlation of at least {more['threshold']:g}."
    slow, fast = metrics.largest_difference_at
    of_max = metrics.largest_difference_of_max
    share = "" if of_max is None else f", {of_max:.2g} of the highest pixel of a"
    yield f"The largest difference is {metrics.largest_difference:.3g}{share}, at slow {slow}, fast {fast}."
    yield (
        f"{100 * metrics.share_beyond_tolerance:.3g}% of the pixels differ by more than {metrics.tolerance:g} of the "
        f"highest pixel; the sums are {metrics.sum_a:.7g} and {metrics.sum_b:.7g}."
    )
    peaks = metrics.peaks.plain()
    error = "" if peaks["largest_error_px"] is None else f", at most {peaks['largest_error_px']:.3g} pixels apart"
    yield f"Of {peaks['in_a']} and {peaks['in_b']} peaks {peaks['matched']} are in both{error}."
    if more.get("speed_ratio"):
        yield f"b was made {more['speed_ratio']:.3g} times faster than a."


def _comparison_charts(a: Image, b: Image, peaks: Match) -> Iterator[Chart]:
    difference = (b - a).ravel()
    yield Chart("Differences", "b - a", "pixels", [histogram(difference, 81, colour=GREY)], y_log=True)
    bright = np.flatnonzero((a > FAINTEST * a.max()) & (b > FAINTEST * a.max()))
    order = bright[np.argsort(-a.ravel()[bright])]
    some = order[np.unique(np.linspace(0, max(len(order) - 1, 0), MOST_POINTS).astype(np.int64))[: len(order)]]
    x, y = a.ravel()[some], b.ravel()[some]
    series = [Series(x, y)]
    if len(some):
        ends = np.array([x.min(), x.max()])
        series.append(Series(ends, ends, "line", "equal", RED))
    yield Chart("b against a, the brighter pixels", "a", "b", series, x_log=True, y_log=True)
    if len(peaks.pairs):
        shift = Series(peaks.shifts[:, 1], peaks.shifts[:, 0])
        yield Chart("Peaks: b - a", "fast (pixels)", "slow (pixels)", [shift], equal=True)


MEANINGS = {
    "I_pixel_final": "photons of the pixel",
    "I_before_scaling": "sum over all steps of F² times the lattice factor squared",
    "F_latt": "lattice factor of the last step: interference of the unit cells",
    "F_cell": "structure factor of the nearest reflection",
    "hkl_frac": "h, k, l at the pixel, of the last step",
    "polar": "polarization factor",
    "omega_pixel": "solid angle of the pixel (sr)",
    "capture_fraction": "share of the photons that the sensor absorbs",
    "R_distance_meters": "from the sample to the pixel (m)",
    "scattering_vec_A_inv": "scattering vector (1/m, whatever the C program calls it)",
}
"""What the values of a trace are, under the names that the C program has for them."""


def write_evidence_page(
    target: Target, evidence: Evidence, metrics: Mapping[str, Any], checks: Sequence[Check], sha: str
) -> None:
    """Write the page of a bundle: which criteria hold, the numbers, the phi steps, and how to make it again."""
    failed = [check for check in checks[:-1] if check.holds is False]
    unclean = checks[-1].holds is False
    colour = RED if failed else ORANGE if unclean else GREEN
    line = f"{len(failed)} criteria fail" if failed else "Every criterion that was checked holds"
    line += ", but the source has changes that are in no commit" if unclean and not failed else ""
    slow, fast = evidence.pixel
    said = [
        f"Traced: pixel slow {slow}, fast {fast}, {metrics['phi_steps']} phi steps, on {evidence.device}, commit {sha}."
    ]
    parts = [banner(colour, line, [*said, *map(_sentence, checks)]), heading("Key values of the pixel")]
    parts.append(table(("name", "what it is", "value"), list(_values(metrics["values"])), left=2))
    charts = list(_step_charts(evidence.trace))
    if charts:
        turning = "How the indices and the lattice factor of the pixel change while the crystal turns."
        parts += [heading("Phi steps"), words(turning), grid([chart_model(chart) for chart in charts])]
    if evidence.comparison is not None:
        pairs = evidence.comparison.pairs
        rows = [(p.label, f"{p.relative:.3g}", "within" if p.within else "DEPARTS") for p in pairs]
        parts += [heading(f"Against {evidence.reference}"), table(("value", "relative difference", "tolerance"), rows)]
    command = escape(" ".join(evidence.command))
    parts.append(words(f"Made by <code>{command}</code>. Everything in files beside this page; README.md lists them."))
    write_page(target, "Evidence of a run of nanobrag_torch", parts, flag="--outdir")


def _sentence(check: Check) -> str:
    return f"{str(check)[:1].upper()}{str(check)[1:]}."


def _values(values: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    for name, value in values.items():
        numbers = value if isinstance(value, list | tuple) else [value]
        yield name, MEANINGS.get(name, ""), " ".join(number_text(number) for number in numbers)


def _step_charts(trace: Trace) -> Iterator[Chart]:
    steps = list(trace.phi_steps)
    if len(steps) < 2:
        return
    phi = [step.get("phi_deg", place) for place, step in enumerate(steps)]
    for name in [n for n in steps[0] if n.startswith("F_latt") or n.endswith("_frac")]:
        values = [step.get(name, np.nan) for step in steps]
        if len(set(values)) > 1:
            yield Chart(name, "phi (degrees)", name, [Series(phi, values, "line"), Series(phi, values)])
