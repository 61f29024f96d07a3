"""A bundle of files that shows what a run computed, so that someone else can audit it.

The bundle is put together in a folder beside its final name and appears whole. Everything in it is text.
"""

from __future__ import annotations

import json
import math
import shlex
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nanobrag_torch.errors import InputError
from nanobrag_torch.tracing.log import Trace, log_lines, number_text, trace_json
from nanobrag_torch.validation import checksums, environment, tracediff
from nanobrag_torch.validation.diff import read_json
from nanobrag_torch.validation.pages import write_evidence_page

if TYPE_CHECKING:
    from nanobrag_torch.simulator import Simulator

KEY_VALUES = (
    "I_pixel_final", "I_before_scaling", "F_latt", "F_cell", "hkl_frac", "polar", "omega_pixel", "capture_fraction",
    "R_distance_meters", "scattering_vec_A_inv",
)  # fmt: skip
SEARCHED = 4096
"""Pixels looked at to find one worth tracing when none is given."""
SEARCHED_STEPS = 20_000_000


@dataclass(frozen=True)
class Check:
    """One sign-off criterion: what is asked, and whether it holds; None where it was not looked at."""

    asked: str
    holds: bool | None

    def __str__(self) -> str:
        verdict = {True: "holds", False: "FAILS", None: "not checked"}[self.holds]
        return f"{self.asked}: {verdict}"


@dataclass(frozen=True)
class Evidence:
    """What a bundle is made of."""

    command: Sequence[str]  # the words that asked for the bundle
    trace_command: Sequence[str]  # the words that give the trace alone
    pixel: tuple[int, int]
    trace: Trace
    device: str
    seconds: float
    reference: str | None = None  # name of the trace it was held against
    comparison: tracediff.Comparison | None = None
    baseline: Mapping[str, Any] | None = None  # metrics of an earlier bundle
    tests: str | None = None  # pytest selector
    inputs: Mapping[str, str] = field(default_factory=dict)  # file -> SHA-256
    tests_passed: bool | None = None


def brightest_pixel(simulator: Simulator) -> tuple[int, int]:
    """Slow and fast index of the brightest among evenly spaced pixels of the image."""
    import torch

    from nanobrag_torch.kernels import operation

    pixels = simulator.wanted_pixels()
    lattices = simulator.steps * simulator.geometry.layers
    count = max(1, min(SEARCHED, SEARCHED_STEPS // max(lattices, 1), pixels.numel()))
    some = pixels[torch.linspace(0, pixels.numel() - 1, count, dtype=torch.float64).long().to(pixels.device)]
    with torch.no_grad():  # by the reference kernel, which needs no compilation
        values = operation.intensity(some, simulator.scene(), simulator.options(), kernel="reference")
    best = int(some[values.argmax()])
    fast_count = simulator.detector.image_shape[1]
    return best // fast_count, best % fast_count


def read_baseline(folder: Path) -> dict[str, Any]:
    """The metrics of an earlier bundle. Raises InputError for a folder that is none."""
    metrics = read_json(folder / "metrics.json", "--baseline")
    if not isinstance(metrics, dict):
        raise InputError("--baseline", str(folder), "a bundle with metrics.json")
    return metrics


def check_outdir(outdir: Path) -> None:
    """Raise InputError unless a bundle can be made there."""
    if outdir.exists() and (not outdir.is_dir() or any(outdir.iterdir())):
        raise InputError("--outdir", str(outdir), "a folder that is new or empty")
    try:
        outdir.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError("--outdir", str(outdir), f"a folder that can be made ({error.strerror})") from error


def write_bundle(outdir: Path, evidence: Evidence) -> list[Check]:
    """Write every file of the bundle; the sign-off criteria and how they came out.

    Raises InputError when outdir is not new or empty, or cannot be written.
    """
    import shutil
    import tempfile

    check_outdir(outdir)
    try:
        folder = Path(tempfile.mkdtemp(prefix=f".{outdir.name}.", dir=outdir.parent))
    except OSError as error:
        raise InputError("--outdir", str(outdir), f"a folder that can be written ({error.strerror})") from error
    try:
        if evidence.tests is not None:
            evidence = replace(evidence, tests_passed=_run_tests(folder, evidence.tests))
        checks = _write_files(folder, evidence)
        checksums.write_checksums(folder)
        folder.chmod(0o755)
        folder.replace(outdir)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return checks


def _write_files(folder: Path, evidence: Evidence) -> list[Check]:
    sha, changes, top = environment.commit()
    checks = _checks(evidence, changes)
    metrics = metrics_of(evidence)
    files = {
        "trace.log": log_lines(evidence.trace),
        "trace_per_phi.log": log_lines(replace(evidence.trace, values={})),
        "git_sha.txt": [sha],
        "git_status.txt": _status_lines(changes),
        "commands.txt": _command_lines(evidence),
        "summary.md": summary_lines(evidence, metrics),
        "README.md": _readme_lines(evidence, metrics, checks, sha),
    }
    for name, lines in files.items():
        (folder / name).write_text("\n".join(lines) + "\n")
    where = environment.environment(evidence.device) | {"git_folder": str(top), "inputs": dict(evidence.inputs)}
    for name, plain in (("trace.json", trace_json(evidence.trace)), ("metrics.json", metrics), ("env.json", where)):
        (folder / name).write_text(json.dumps(plain, indent=1) + "\n")
    if evidence.comparison is not None:
        page = tracediff.summary_markdown(evidence.comparison, "trace.log", str(evidence.reference))
        (folder / "comparison.md").write_text(page)
    write_evidence_page(folder / "report.html", evidence, metrics, checks, sha)
    return checks


def metrics_of(evidence: Evidence) -> dict[str, Any]:
    """The numbers of a bundle, as plain data for JSON."""
    plain = trace_json(evidence.trace)
    metrics: dict[str, Any] = {
        "pixel_slow_fast": list(evidence.pixel),
        "phi_steps": len(evidence.trace.phi_steps),
        "seconds": round(evidence.seconds, 3),
        "values": {name: plain[name] for name in KEY_VALUES if name in plain},
    }
    if evidence.comparison is not None:
        metrics["comparison"] = {"reference": evidence.reference, **evidence.comparison.metrics()}
    if evidence.tests is not None:
        metrics["tests"] = {"selector": evidence.tests, "passed": evidence.tests_passed}
    return metrics


def summary_lines(evidence: Evidence, metrics: Mapping[str, Any]) -> Iterator[str]:
    """The page summary.md: the numbers, held against the baseline where there is one."""
    yield "# Summary"
    yield ""
    yield f"Pixel slow {evidence.pixel[0]}, fast {evidence.pixel[1]}; {metrics['phi_steps']} phi steps."
    yield ""
    if evidence.comparison is not None:
        yield f"Held against `{evidence.reference}`:"
        yield ""
        yield from (f"* {line.strip()}" for line in tracediff.verdict_lines(evidence.comparison))
        yield ""
    after = dict(_numbers(_without_pairs(metrics)))
    if evidence.baseline is None:
        yield "| value | |"
        yield "|---|---|"
        yield from (f"| {name} | {number_text(value)} |" for name, value in after.items())
        return
    before = dict(_numbers(_without_pairs(evidence.baseline)))
    yield "| value | before | after | change | relative |"
    yield "|---|---|---|---|---|"
    for name in [*after, *(name for name in before if name not in after)]:
        yield _change_row(name, before.get(name), after.get(name))


def _change_row(name: str, before: float | None, after: float | None) -> str:
    if before is None or after is None:
        texts = ["none" if value is None else number_text(value) for value in (before, after)]
        return f"| {name} | {texts[0]} | {texts[1]} | | |"
    change = after - before
    relative = f"{change / abs(before):.3g}" if before else ("0" if change == 0 else "")
    return f"| {name} | {number_text(before)} | {number_text(after)} | {change:.6g} | {relative} |"


def _without_pairs(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """The metrics without the long list of every pair of values."""
    plain = dict(metrics)
    if isinstance(plain.get("comparison"), dict):
        plain["comparison"] = {key: plain["comparison"].get(key) for key in ("paired", "departing", "largest_relative")}
    return plain


def _numbers(plain: Any, name: str = "") -> Iterator[tuple[str, float]]:
    """Every number of a document by its path."""
    if isinstance(plain, dict):
        for key, value in plain.items():
            yield from _numbers(value, f"{name}.{key}" if name else key)
    elif isinstance(plain, list):
        for i, value in enumerate(plain):
            yield from _numbers(value, f"{name}[{i}]")
    elif isinstance(plain, int | float) and math.isfinite(plain):
        yield name, float(plain)


def _checks(evidence: Evidence, changes: list[str] | None) -> list[Check]:
    final = evidence.trace.values.get("I_pixel_final", (math.nan,))[0]
    agrees = None if evidence.comparison is None else not evidence.comparison.departures
    clean = None if changes is None else not changes
    return [
        Check("the pixel is finite and not negative", math.isfinite(final) and final >= 0),
        Check("every value of the trace is within tolerance of the reference trace (--c)", agrees),
        Check("the tests pass (--pytest)", evidence.tests_passed),
        Check("the source is a commit without changes (git_status.txt is clean)", clean),
    ]


def _status_lines(changes: list[str] | None) -> list[str]:
    if changes is None:
        return ["unknown: no git checkout"]
    return ["dirty", *changes] if changes else ["clean"]


def _command_lines(evidence: Evidence) -> Iterator[str]:
    yield "# working folder"
    yield f"cd {shlex.quote(str(Path.cwd()))}"
    yield "# environment variables"
    yield from (f"export {name}={shlex.quote(value)}" for name, value in environment.variables().items())
    yield "# the bundle"
    yield shlex.join(evidence.command)
    yield "# its steps, each by hand"
    yield shlex.join(evidence.trace_command)
    if evidence.reference is not None:
        yield shlex.join(["nb", "compare-traces", "--py", "trace.log", "--c", evidence.reference])
    if evidence.tests is not None:
        yield shlex.join(_pytest(evidence.tests))
    yield "git rev-parse HEAD && git status --porcelain"
    yield "sha256sum -c sha256.txt"


def _pytest(selector: str) -> list[str]:
    return [sys.executable, "-m", "pytest", *shlex.split(selector)]


def _run_tests(folder: Path, selector: str) -> bool:
    done = subprocess.run(_pytest(selector), capture_output=True, text=True, errors="replace", check=False)
    (folder / "pytest.log").write_text(f"$ {shlex.join(_pytest(selector))}\n{done.stdout}{done.stderr}")
    return done.returncode == 0


def _readme_lines(evidence: Evidence, metrics: Mapping[str, Any], checks: list[Check], sha: str) -> Iterator[str]:
    yield "# Evidence of a run of nanobrag_torch"
    yield ""
    yield f"Commit {sha}, device {evidence.device}, pixel slow {evidence.pixel[0]}, fast {evidence.pixel[1]}."
    yield ""
    yield "## Key metrics"
    yield ""
    yield from (f"* {name}: {number_text(value)}" for name, value in _numbers(metrics["values"]))
    yield ""
    yield "## Sign-off criteria"
    yield ""
    yield from (f"* {check}" for check in checks)
    yield "* the files are those that were written: `nb evidence --verify .` or `sha256sum -c sha256.txt`"
    yield ""
    yield "## Files"
    yield ""
    yield from _FILES.splitlines()


_FILES = """\
* `report.html`: a page of all this, to look at
* `trace.log`, `trace.json`: every intermediate value of the pixel; `trace_per_phi.log`: its phi steps alone
* `comparison.md`: the trace paired with a reference trace, when one was given
* `metrics.json`, `summary.md`: the numbers, with those of a baseline when one was given
* `pytest.log`: the tests that were run, when any were
* `commands.txt`: working folder, environment variables and every step
* `env.json`, `git_sha.txt`, `git_status.txt`: program versions, platform, device, input files, commit
* `sha256.txt`: checksums of all of it"""
