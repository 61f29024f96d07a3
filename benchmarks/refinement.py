"""How well refinements find a made-up truth: `make bench ARGS=refinement`, or `python -m benchmarks refinement`.

Every row of the table in docs/refinement.md adds up cases that are kept in benchmarks/results/refinement, a file a row
and a line a case, written as they come. Cases that are kept are not run again, so that the command alone writes the
table anew; --again forgets those of the rows that are named. --count: how many cases of a row, its own number if not
given; --from: the first seed, for several processes side by side.
"""

from __future__ import annotations

import argparse
import json
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from benchmarks import refinement_cases as cases
from benchmarks.refinement_cases import Case
from benchmarks.refinement_pulls import pulls
from benchmarks.refinement_worker import files, memory
from benchmarks.rows import ROOT, between_marks

RESULTS, PAGE = ROOT / "benchmarks" / "results" / "refinement", ROOT / "docs" / "refinement.md"
BAR = 0.0005, 0.002
"""Degrees and percent of the cell: what a fit at 1500 photons a spot has to reach."""
Judged = tuple[str, bool]


@dataclass(frozen=True)
class Row:
    """A claim: its title, its bar, how many cases it takes, what one case is and what all of them say."""

    title: str
    bar: str
    count: int
    case: Callable[[int], Case]
    judge: Callable[[list[Case]], Judged]


def values(found: list[Case], name: str) -> np.ndarray[Any, np.dtype[np.float64]]:
    """A number of every case; NaN where there is none."""
    return np.array([np.nan if case.get(name) is None else case[name] for case in found], np.float64)


def of_dbex(found: list[Case]) -> Judged:
    """sigma-Z and steps of every case."""
    z, steps = values(found, "sigma_z"), values(found, "steps")
    good = (z <= 1.02) & (steps <= 12) & np.array([case["status"] == "converged" for case in found])
    return f"{good.sum()} of {len(found)}: at most {z.max():.3f}, {steps.max():.0f} steps", bool(good.all())


def back(rotation: float, cell: float, share: float) -> Callable[[list[Case]], Judged]:
    """How many cases are within a rotation (degrees) and a cell (percent), and the worst of these."""

    def judge(found: list[Case]) -> Judged:
        turn, edge = values(found, "rotation_deg"), values(found, "cell_percent")
        good = (turn <= rotation) & (edge <= cell)
        said = f"{good.sum()} of {len(found)}; median {np.median(turn):.5f} degrees, {np.median(edge):.4f}%"
        return said, good.mean() >= share

    return judge


def medians(rotation: float, cell: float, *, whole: bool) -> Callable[[list[Case]], Judged]:
    """Medians over seeds of the errors; whole: distance 3 um, N 1% and spread 2% count too."""

    def judge(found: list[Case]) -> Judged:
        names = ("rotation_deg", "cell_percent", "distance_um", "N_a_percent", "N_c_percent", "spread_percent")
        turn, edge, far, a, c, spread = (float(np.median(values(found, name))) for name in names)
        met = turn <= rotation and edge <= cell
        met &= not whole or (far <= 3 and max(a, c) <= 1 and spread <= 2)
        return f"{turn:.5f} degrees, {edge:.4f}%, {far:.1f} um, N {max(a, c):.2f}%, spread {spread:.2f}%", met

    return judge


def named(found: list[Case]) -> Judged:
    """Failed, or back at the truth within the bar of accuracy."""
    failed = np.array([case["status"] == "failed" for case in found])
    well = (values(found, "rotation_deg") <= BAR[0]) & (values(found, "cell_percent") <= BAR[1])
    silent = ~failed & ~well
    return f"{failed.sum()} failed, {(well & ~failed).sum()} at the truth, {silent.sum()} silent", not silent.any()


def alarms(found: list[Case]) -> Judged:
    """Good starts that are called anything but converged."""
    wrong = sum(case["status"] != "converged" for case in found)
    return f"{wrong} of {len(found)}", wrong <= max(1, len(found) / 500)


def of_pulls(found: list[Case]) -> Judged:
    """rms of the pulls about the truth of each parameter, and of all intensities pooled."""
    there = [case for case in found if "pulls" in case and case["status"] == "converged"]
    names = sorted({name for case in there for name in case["pulls"]})
    rms = {n: float(np.sqrt(np.mean([c["pulls"][n] ** 2 for c in there if n in c["pulls"]]))) for n in names}
    count = values(there, "spots").sum()
    pooled = [float(np.sqrt(values(there, name).sum() / count)) for name in ("intensities", "photons")]
    said = ", ".join(f"{name} {value:.2f}" for name, value in rms.items())
    said += f"; F^2 {pooled[0]:.2f}, photons {pooled[1]:.2f} of {count:.0f}; {len(found) - len(there)} not converged"
    return said, all(0.83 <= r <= 1.17 for r in rms.values()) and all(0.9 <= p <= 1.1 for p in pooled)


def of_shape(found: list[Case]) -> Judged:
    """How often a square crystal is called one."""
    good = sum(case["shape"] == "square" for case in found)
    return f"{good} of {len(found)}", good >= 0.95 * len(found)


def of_wrong_shape(found: list[Case]) -> Judged:
    """No stall, and geometry that is little the worse for it."""
    turn, far = values(found, "rotation_deg"), values(found, "distance_um")
    stalled = sum(case["status"] == "stalled" for case in found)
    good = (turn <= 0.003) & (far <= 10)
    said = f"{stalled} stalled; {good.sum()} of {len(found)} within; "
    said += f"median {np.median(turn):.4f} degrees, {np.median(far):.1f} um, worst {turn.max():.4f}, {far.max():.0f}"
    return said, stalled == 0 and good.mean() >= 0.95


def of_seconds(found: list[Case]) -> Judged:
    """The best of every time."""
    fit, whole, checked = (float(values(found, n).min()) for n in ("fit_s", "whole_s", "checked_s"))
    return f"{fit:.2f} s; {whole:.2f} s, with the sampling check {checked:.2f} s", fit <= 0.6 and checked <= 2


def of_channels(found: list[Case]) -> Judged:
    """Wall and CPU seconds with all channels."""
    wall, cpu = float(values(found, "wall_s").min()), float(values(found, "cpu_s").min())
    return f"{wall:.1f} s ({cpu:.1f} CPU s)", wall <= 10


def of_files(found: list[Case]) -> Judged:
    """The best of the first shot of a worker and of the next."""
    first, following = float(values(found, "first_s").min()), float(values(found, "next_s").min())
    return f"{following:.2f} s; the first of a worker {first:.2f} s", following <= 2


def of_memory(found: list[Case]) -> Judged:
    """The most."""
    peak = float(values(found, "peak_gb").max())
    return f"{peak:.2f} GB", peak < 1


def of_weak(found: list[Case]) -> Judged:
    """Spots of all cases together."""
    count, off = values(found, "spots").sum(), values(found, "off").sum()
    error = float(np.sqrt(values(found, "off_squared").sum()))
    ratio, rms = values(found, "ratio").sum() / count, np.sqrt(values(found, "pulls_squared").sum() / count)
    share = 100 * off / values(found, "photons").sum()
    said = f"sigma lower by {ratio:.2f}; bias {off / error:+.1f} standard errors ({share:+.2f}%); pulls {rms:.2f}"
    return f"{said}; {count:.0f} spots", ratio >= 1.2 and abs(off) <= 3 * error and count >= 1e4


TWICE = back(2 * BAR[0], 2 * BAR[1], 1.0)
SAID = f"each within {2 * BAR[0]} degrees, {2 * BAR[1]}%"
NAMED = "failed, or back at the truth"
ROWS: dict[str, Row] = {
    "dbex": Row("triclinic 0.1-degree frame, F wrong by 15%", "sigma-Z 1.02 in 12 steps", 10, cases.dbex, of_dbex),
    "files": Row("the same, files to files, two threads", "2 s", 3, files, of_files),
    "convergence": Row(
        "start 1 degree, 0.3%, 0.3 mm, N and spread a factor 1.5 off", "98% within 0.005 degrees, 0.05%", 200,
        cases.convergence, back(0.005, 0.05, 0.98),
    ),
    "mirrored": Row("mirrored detector", NAMED, 100, cases.mirrored, named),
    "misindexed": Row("wrong index", NAMED, 100, cases.misindexed, named),
    "swollen": Row("cell 3% off", NAMED, 100, cases.swollen, named),
    "blank": Row("nothing but background", NAMED, 100, cases.blank, named),
    "alarms": Row("good starts called failed", "1 of 500", 500, cases.good_start, alarms),
    "accuracy": Row(
        "accuracy at 1500 photons a spot, 4150 x 4150 pixels, medians over seeds",
        "0.0005 degrees, 0.002%, 3 um, N 1%, spread 2%",
        30,
        cases.accuracy(0.0), medians(*BAR, whole=True),
    ),
    "accuracy20": Row(
        "the same, F wrong by 20%", "0.001 degrees, 0.005%", 30, cases.accuracy(0.2), medians(0.001, 0.005, whole=False)
    ),
    "accuracy40": Row(
        "the same, F wrong by 40%", "0.001 degrees, 0.005%", 30, cases.accuracy(0.4), medians(0.001, 0.005, whole=False)
    ),
    "pulls": Row("pulls about the truth, rms", "0.83 to 1.17; intensities 0.9 to 1.1", 200, pulls, of_pulls),
    "shape": Row("square crystals, shape named", "95%", 100, cases.shape_named, of_shape),
    "gaussian": Row(
        "square crystals, Gaussian model, 4150 x 4150 pixels", "no stall; 95% within 0.003 degrees, 10 um", 100,
        cases.shape_wrong, of_wrong_shape,
    ),
    "systems": Row("seven systems, both R settings, 4150 x 4150 pixels", SAID, 16, cases.system, TWICE),
    "two": Row("two crystals on one shot", SAID, 3, cases.two_crystals, TWICE),
    "overlaps": Row("overlapping spots", SAID, 3, cases.overlapping, TWICE),
    "panels": Row("32 panels in four groups that are shifted", SAID, 3, cases.groups, TWICE),
    "pink": Row("100 channels, 4150 x 4150 pixels", SAID, 3, cases.pink, TWICE),
    "channels": Row("all of 100 channels and 25 domains, two cores", "10 s", 2, cases.pink_whole, of_channels),
    "psf": Row("a point spread of one pixel", SAID, 3, cases.psf, TWICE),
    "seconds": Row("CPU time: the fit; all of refine_still", "0.6 s; 2 s", 3, cases.seconds, of_seconds),
    "memory": Row("a worker: 500 boxes, 100 channels, 150 domains, 4150 x 4150 pixels", "1 GB", 1, memory, of_memory),
    "weak": Row(
        "weak spots, against a sum over 99% of the spot", "sigma 1.2 times lower, bias within 3 standard errors", 50,
        cases.weak, of_weak,
    ),
}  # fmt: skip
"""The table's rows in order."""


def kept(name: str) -> list[Case]:
    """The cases of a row that are kept, by seed."""
    path = RESULTS / f"{name}.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    return sorted((json.loads(line) for line in lines), key=lambda case: case["seed"])


def run(name: str, count: int, first: int) -> None:
    """Run the cases of a row that are not kept yet, and keep each."""
    known = {case["seed"] for case in kept(name)}
    RESULTS.mkdir(parents=True, exist_ok=True)
    for seed in range(first, first + count):
        if seed not in known:
            found = {"seed": seed, "code": _code(), **ROWS[name].case(seed)}
            with (RESULTS / f"{name}.jsonl").open("a") as file:
                file.write(json.dumps(found, default=float) + "\n")


def _code() -> str:
    """The commit that a case was run with, -dirty where the code differs from it."""
    git = ["git", "-C", str(ROOT)]
    commit = subprocess.run([*git, "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    edited = subprocess.run([*git, "diff", "--quiet", "HEAD", "--", "src", "benchmarks/*.py"], check=False)
    return commit.stdout.strip() + ("-dirty" if edited.returncode else "")


def main(words: list[str] | None = None) -> None:
    """Run what is not kept of the rows that were asked for, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", nargs="*", metavar="row", help=f"of {', '.join(ROWS)}; default all")
    parser.add_argument("--count", type=int)
    parser.add_argument("--from", type=int, default=0, dest="first")
    parser.add_argument("--again", action="store_true", help="forget what is kept of the rows first")
    given = parser.parse_args(words)
    torch.set_num_threads(1)
    for name in given.rows or ROWS:
        if name not in ROWS:
            parser.error(f"unknown row {name}; known: {', '.join(ROWS)}")
        if given.again and given.rows:
            (RESULTS / f"{name}.jsonl").unlink(missing_ok=True)
        run(name, ROWS[name].count if given.count is None else given.count, given.first)
        if found := kept(name):
            said, met = ROWS[name].judge(found)
            print(f"{name}: {said} ({'met' if met else 'not met'}: {ROWS[name].bar})", flush=True)
    PAGE.write_text(with_table(PAGE.read_text()))


def with_table(page: str) -> str:
    """The page with the table of results between its marks."""
    lines = []
    for name, row in ROWS.items():
        if found := kept(name):
            said, met = row.judge(found)
            count = f"{len(found)}" if len(found) >= row.count else f"{len(found)} of {row.count}"
            verdict = "**no**" if not met else "yes" if len(found) >= row.count else "so far"
            lines.append(f"| {row.title} | {row.bar} | {said} | {verdict} | {count} |")
    return between_marks(page, lines, "cases")


if __name__ == "__main__":
    main()
