"""Pages of what many shots share: merged intensities by shell, and where panels stand."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from nanobrag_torch.io.atomic import Target
from nanobrag_torch.report.charts import BLUE, GREEN, GREY, ORANGE, RED, Chart, Series, chart_model, histogram
from nanobrag_torch.report.page import banner, counted, grid, heading, table, words, write_page

Rows = Sequence[Mapping[str, Any]]
GOOD = ("converged", "merged")
FAILED = "failed"
COMPLETE, AGREEING = 0.9, 0.9
"""Completeness and CC1/2 from which on intensities count as good."""
TERMS = (
    "Completeness is the share of the possible intensities that some shot shows, multiplicity how many show each. "
    "CC1/2 (1 is perfect) and R split (0 is perfect) say how well two halves of the shots agree."
)
_HEADS = {
    "d_max": "from (Å)", "d_min": "to (Å)", "possible": "possible", "seen": "seen", "completeness": "completeness",
    "multiplicity": "multiplicity", "mean_I_over_sigma": "I / sigma", "cc_half": "CC1/2", "cc_ano": "CCano",
    "r_split": "R split",
}  # fmt: skip


def write_intensities_page(target: Target, found: Mapping[str, Any], shots: Rows) -> int:
    """Write the page of intensities that shots share; the number of its bytes.

    found: status, reason, steps and shells, the last of them all together, as statistics.json has them.
    """
    shells, every = found["shells"][:-1], found["shells"][-1]
    parts = [banner(*_verdict(found, *_few(every)), list(_intensity_words(every, shots)))]
    parts += [heading("By resolution"), words(TERMS), grid([chart_model(chart) for chart in _shell_charts(shells)])]
    parts.append(table(list(_HEADS.values()), [[_said(row[name]) for name in _HEADS] for row in found["shells"]]))
    parts += _shot_parts(shots)
    return write_page(target, "Intensities of many shots", parts, flag="-o")


def write_geometry_page(target: Target, found: Mapping[str, Any], panels: Rows, shots: Rows) -> int:
    """Write the page of panels that shots moved; the number of its bytes.

    found: status, reason, steps and groups, as moves.json has them; panels: a row each, residuals before and after.
    """
    moved = list(found["groups"])
    parts = [banner(*_verdict(found), list(_geometry_words(panels, moved, shots)))]
    parts += [heading("Residuals of the spots"), grid([chart_model(chart) for chart in _panel_charts(panels)])]
    if moved:
        names = [name for name in moved[0] if name != "name" and not name.endswith("_sigma")]
        heads = ["group", *(f"{name} +- sigma" for name in names)]
        rows = [[g["name"], *(f"{g[n]:+.4f} +- {g[f'{n}_sigma']:.4f}" for n in names)] for g in moved]
        parts += [heading("Moves (mm and degrees)"), table(heads, rows)]
    parts += _shot_parts(shots)
    return write_page(target, "Geometry from many shots", parts, flag="-o")


def _verdict(found: Mapping[str, Any], *complaints: str) -> tuple[str, str]:
    why = f": {found['reason']}" if found["reason"] else ""
    status, steps = str(found["status"]), len(found["steps"])
    colour = RED if status == FAILED else ORANGE if complaints or status not in GOOD else GREEN
    after = f", after {counted(steps, 'step')}" if steps else ""
    return colour, "; ".join([f"{status.capitalize()}{why}{after}", *complaints])


def _few(every: Mapping[str, Any]) -> Iterator[str]:
    """What keeps intensities that were found from being good."""
    if _known(every["completeness"]) and every["completeness"] < COMPLETE:
        yield f"but the shots show only {100 * every['completeness']:.0f}% of the possible intensities"
    if _known(every["cc_half"]) and every["cc_half"] < AGREEING:
        yield f"and halves of them agree by a CC1/2 of only {every['cc_half']:.2f}: more shots are needed"


def _intensity_words(every: Mapping[str, Any], shots: Rows) -> Iterator[str]:
    yield from _shots_said(shots)
    yield (
        f"Found: {every['seen']} of {every['possible']} possible intensities to {every['d_min']:.2f} Å, each seen "
        f"{_said(every['multiplicity'])} times, I / sigma {_said(every['mean_I_over_sigma'])} on average."
    )
    half = every["cc_half"]
    if not _known(half):
        yield "How good: too few intensities are in both halves of the shots to compare them."
    else:
        yield f"How good: those of either half of the shots correlate by {half:.3f} (CC1/2; 1 is perfect)."


def _geometry_words(panels: Rows, moved: Rows, shots: Rows) -> Iterator[str]:
    yield from _shots_said(shots)
    seen = [row for row in panels if _known(row["rms_before"]) and _known(row["rms_after"])]
    dark = len(panels) - len(seen)
    without = f"{dark} of them without spots" if dark else "all with spots"
    yield f"Moved: {counted(len(moved), 'group')} of {counted(len(panels), 'panel')}, {without}."
    if seen:
        before, after = (float(np.median([row[f"rms_{word}"] for row in seen])) for word in ("before", "after"))
        verb = "less" if after < before else "not less"
        yield (
            f"How good: the distance of spots from their predictions, rms of the middle panel, was {before:.3f} pixels "
            f"and is {after:.3f}: {verb} than before."
        )


def _shots_said(shots: Rows) -> Iterator[str]:
    out = [row for row in shots if not row.get("weight", 1)]
    left = f", {len(out)} of them left out because they disagree with the others" if out else ""
    yield f"From: {counted(len(shots), 'shot')}{left}."


def _shell_charts(shells: Rows) -> Iterator[Chart]:
    d = [row["d_min"] for row in shells]
    ends = (max(d) * 1.05, min(d) * 0.95)
    for name in ("completeness", "multiplicity", "mean_I_over_sigma", "cc_half", "r_split"):
        known = [(x, row[name]) for x, row in zip(d, shells, strict=True) if _known(row[name])]
        if known:
            x, y = zip(*known, strict=True)
            yield Chart(
                _HEADS[name], "d (Å)", _HEADS[name], [Series(x, y, "line"), Series(x, y)], x_log=True, x_range=ends
            )


def _panel_charts(panels: Rows) -> Iterator[Chart]:
    series = []
    for word, colour in (("before", GREY), ("after", BLUE)):
        known = [(row["panel"], row[f"rms_{word}"]) for row in panels if _known(row[f"rms_{word}"])]
        x, y = zip(*known, strict=True) if known else ((), ())
        series.append(Series(x, y, name=word, colour=colour))
    yield Chart("Distance from predictions", "panel", "rms (pixels)", series, y_log=True)
    for word in ("before", "after"):
        lit = [row for row in panels if _known(row[f"fast_{word}"])]
        off = [[row[f"{axis}_{word}"] for row in lit] for axis in ("fast", "slow")]
        mean = [Series(off[0], off[1], says=[f"panel {row['panel']}" for row in lit])]
        yield Chart(f"Mean of every panel, {word}", "fast (pixels)", "slow (pixels)", mean, equal=True)


def _shot_parts(shots: Rows) -> list[Any]:
    out = [row for row in shots if not row.get("weight", 1)]
    weights = [float(row["weight"]) for row in shots if row.get("weight") is not None]
    parts: list[Any] = []
    if len(set(weights)) > 1:
        chart = Chart("Weights of the shots", "weight", "shots", [histogram(weights, 20, colour=GREY)])
        parts += [heading("Shots"), grid([chart_model(chart)])]
    if out:
        rows = [(str(row["name"]), str(row.get("reason", ""))) for row in out[:100]]
        parts += [heading("Left out"), table(("shot", "why"), rows, left=2)]
    return parts


def _known(value: float | None) -> bool:
    return value is not None and bool(np.isfinite(value))


def _said(value: Any) -> str:
    """A number of a table; empty where there is none."""
    if value is None or (isinstance(value, float) and np.isnan(value)):
        return ""
    return f"{value:.3g}" if isinstance(value, float) else str(value)
