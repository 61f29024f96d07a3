"""Two traces of one pixel held against each other: every value paired, and the first that departs named.

"First" is meant in the order of the computation, so that it points at the step that is wrong and not at what follows
from it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from nanobrag_torch.tracing.log import Trace, Values, number_text

RTOL = 1e-9
"""What two double-precision programs keep on the way to one pixel."""

_FACTORS = ("F_latt_a", "F_latt_b", "F_latt_c", "F_latt")
Stages = dict[str, tuple[str, ...]]
"""What is computed, in order, and the values that show it."""

BEFORE: Stages = {
    "detector geometry": ("pix0_vector_meters", "fdet_vec", "sdet_vec", "odet_vec"),
    "position of the pixel and its solid angle": (
        "pixel_pos_meters", "R_distance_meters", "omega_pixel_sr", "close_distance_meters", "obliquity_factor",
    ),
    "source and scattering vector": (
        "diffracted_vec", "incident_vec", "lambda_meters", "lambda_angstroms", "scattering_vec_A_inv",
    ),
    "orientation before any rotation": ("rot_a_star_A_inv", "rot_b_star_A_inv", "rot_c_star_A_inv"),
}  # fmt: skip
PHI_STEP: Stages = {
    "rotation of the lattice by phi": ("phi_deg", *(f"{name}_star_{axis}" for name in "abc" for axis in "xyz")),
    "lattice times scattering vector": ("h_frac", "k_frac", "l_frac"),
    "lattice factor": _FACTORS,
    "structure factor": ("F_cell",),
}
AFTER: Stages = {
    "lattice of the last phi step": ("rot_a_angstroms", "rot_b_angstroms", "rot_c_angstroms"),
    "reflection index of the last step": ("hkl_frac", "hkl_rounded"),
    "lattice factor of the last step": _FACTORS,
    "interpolation between reflections": (
        "interpolated", "tricubic_first_hkl", "tricubic_weights_h", "tricubic_weights_k", "tricubic_weights_l",
        "tricubic_F",
    ),
    "structure factor of the last step": ("F_cell",),
    "sum over all steps": ("I_before_scaling_pre_polar", "I_before_scaling_post_polar", "I_before_scaling"),
    "settings of the run": (
        "r_e_meters", "r_e_sqr", "fluence_photons_per_m2", "steps", "oversample_thick", "oversample_polar",
        "oversample_omega",
    ),
    "factors of the pixel": ("capture_fraction", "polar", "omega_pixel", "cos_2theta", "I_water"),
    "scaling to photons": ("I_pixel_final", "floatimage_accumulated"),
}  # fmt: skip

ATOL = {
    **dict.fromkeys(("phi_deg", "h_frac", "k_frac", "l_frac", "hkl_frac"), 1e-11),
    **dict.fromkeys(("F_latt_a", "F_latt_b", "F_latt_c", "F_latt"), 1e-10),
}
"""Absolute tolerance of values that pass through zero."""
RTOLS = {"floatimage_accumulated": 1.2e-7}
"""Values that are kept in single precision."""


@dataclass(frozen=True)
class Pair:
    """One value in both traces; vectors count as one value, relative to their largest component."""

    name: str
    phi_tic: int | None
    stage: str
    py: Values
    c: Values
    allowed: float

    @property
    def label(self) -> str:
        """The name, with the phi step it belongs to."""
        return self.name if self.phi_tic is None else f"{self.name} at phi_tic {self.phi_tic}"

    @property
    def absolute(self) -> float:
        """Largest difference of a component."""
        if len(self.py) != len(self.c):
            return math.inf
        return max(_distance(a, b) for a, b in zip(self.py, self.c, strict=True))

    @property
    def relative(self) -> float:
        """Largest difference over the largest component of the C value."""
        return _ratio(self.absolute, max(map(abs, self.c)))

    @property
    def within(self) -> bool:
        """Whether the difference is within tolerance."""
        return self.absolute <= self.allowed

    def plain(self) -> dict[str, Any]:
        """As plain data for JSON."""
        return {
            "name": self.name,
            "phi_tic": self.phi_tic,
            "stage": self.stage,
            "py": [_finite(x) for x in self.py],
            "c": [_finite(x) for x in self.c],
            "absolute": _finite(self.absolute),
            "relative": _finite(self.relative),
            "allowed": self.allowed,
            "within": self.within,
        }


@dataclass(frozen=True)
class Comparison:
    """All pairs in the order of the computation, and the names that only one trace has."""

    pairs: list[Pair]
    only_py: list[str] = field(default_factory=list)
    only_c: list[str] = field(default_factory=list)

    @property
    def departures(self) -> list[Pair]:
        """Pairs beyond their tolerance, in the order of the computation."""
        return [pair for pair in self.pairs if not pair.within]

    def metrics(self) -> dict[str, Any]:
        """As plain data for JSON."""
        departures = self.departures
        worst = max(self.pairs, key=lambda pair: pair.relative, default=None)
        return {
            "paired": len(self.pairs),
            "departing": len(departures),
            "first_departure": departures[0].plain() if departures else None,
            "largest_relative": None if worst is None else _finite(worst.relative),
            "largest_relative_of": None if worst is None else worst.label,
            "only_in_py": self.only_py,
            "only_in_c": self.only_c,
            "values": [pair.plain() for pair in self.pairs],
        }


def compare_traces(py: Trace, c: Trace, *, rtol: float | None = None, atol: float | None = None) -> Comparison:
    """Pair every value of two traces. rtol and atol replace the tolerance of each value where they are given."""

    def main(stages: Stages) -> list[Pair]:
        named = [(name, stage) for stage, names in stages.items() for name in names if _both(name, py, c)]
        return [_pair(name, None, stage, py[name], c[name], rtol, atol) for name, stage in named]

    known = {name for stages in (BEFORE, AFTER) for names in stages.values() for name in names}
    others = tuple(name for name in py.values if name not in known)
    pairs = [*main(BEFORE), *_step_pairs(py, c, rtol, atol), *main(AFTER), *main({"other": others})]
    return Comparison(pairs, _unpaired(py, c), _unpaired(c, py))


def scattering(py: Trace, c: Trace) -> dict[str, Any]:
    """The scattering vectors of two traces, their difference and its size relative to each component."""
    name = "scattering_vec_A_inv"
    ours, theirs = py.values.get(name), c.values.get(name)
    if ours is None or theirs is None:
        return {"unit": "1/m", "py": ours, "c": theirs, "difference": None, "relative": None}
    difference = [a - b for a, b in zip(ours, theirs, strict=False)]
    relative = [_ratio(abs(d), abs(b)) for d, b in zip(difference, theirs, strict=False)]
    columns = {"py": ours, "c": theirs, "difference": difference, "relative": relative}
    return {"unit": "1/m", **{name: [_finite(x) for x in column] for name, column in columns.items()}}


def table_rows(comparison: Comparison) -> Iterator[tuple[str, str, str, str, str, str]]:
    """Text of each pair: label, both values, absolute and relative difference, verdict."""
    for pair in comparison.pairs:
        yield (
            pair.label,
            " ".join(map(number_text, pair.py)),
            " ".join(map(number_text, pair.c)),
            f"{pair.absolute:.3g}",
            f"{pair.relative:.3g}",
            "ok" if pair.within else "DEPARTS",
        )


def verdict_lines(comparison: Comparison) -> Iterator[str]:
    """How it ended: pairs, what only one side has, and the first departure with the stage to look at."""
    departures = comparison.departures
    yield f"{len(comparison.pairs)} values paired, {len(departures)} beyond tolerance"
    for side, names in (("py", comparison.only_py), ("c", comparison.only_c)):
        if names:
            yield f"only in {side}: {', '.join(names)}"
    if not departures:
        yield "no value departs"
        return
    first = departures[0]
    yield f"first departure: {first.label} ({first.stage})"
    yield f"  py {' '.join(map(number_text, first.py))}"
    yield f"  c  {' '.join(map(number_text, first.c))}"
    yield f"  difference {first.absolute:.3g}, relative {first.relative:.3g}, allowed {first.allowed:.3g}"


def summary_markdown(comparison: Comparison, py_name: str, c_name: str) -> str:
    """The comparison as a page."""
    lines = ["# Traces compared", "", f"py: `{py_name}`, c: `{c_name}`", ""]
    lines += [f"* {line.strip()}" for line in verdict_lines(comparison)]
    lines += ["", "| value | py | c | absolute | relative | |", "|---|---|---|---|---|---|"]
    lines += ["| " + " | ".join(row) + " |" for row in table_rows(comparison)]
    return "\n".join(lines) + "\n"


def _steps_by_tic(trace: Trace) -> dict[int, Mapping[str, float]]:
    return {int(step.get("phi_tic", i)): step for i, step in enumerate(trace.phi_steps)}


def _step_pairs(py: Trace, c: Trace, rtol: float | None, atol: float | None) -> Iterator[Pair]:
    theirs = _steps_by_tic(c)
    known = {name for names in PHI_STEP.values() for name in names} | {"phi_tic"}
    for tic, ours in _steps_by_tic(py).items():
        other = theirs.get(tic, {})
        stages = {**PHI_STEP, "other": tuple(name for name in ours if name not in known)}
        for stage, names in stages.items():
            for name in names:
                if name in ours and name in other:
                    yield _pair(name, tic, stage, (ours[name],), (other[name],), rtol, atol)


def _pair(
    name: str, tic: int | None, stage: str, py: Values, c: Values, rtol: float | None, atol: float | None
) -> Pair:
    relative = RTOLS.get(name, RTOL) if rtol is None else rtol
    absolute = ATOL.get(name, 0.0) if atol is None else atol
    scale = max((abs(x) for x in c if math.isfinite(x)), default=0.0)
    return Pair(name, tic, stage, py, c, absolute + relative * scale)


def _both(name: str, py: Trace, c: Trace) -> bool:
    return name in py.values and name in c.values


def _unpaired(one: Trace, other: Trace) -> list[str]:
    """Names that only the first trace has; phi steps by their number, or by the keys that the other's steps lack."""
    ours, theirs = _steps_by_tic(one), _steps_by_tic(other)
    names = [name for name in one.values if name not in other.values]
    missing = [tic for tic in ours if tic not in theirs]
    if missing:
        names.append(f"phi steps {', '.join(map(str, missing))}")
    keys = {key for tic, step in ours.items() for key in step if tic in theirs and key not in theirs[tic]}
    return names + sorted(f"{key} of the phi steps" for key in keys)


def _distance(a: float, b: float) -> float:
    if a == b or (math.isnan(a) and math.isnan(b)):
        return 0.0
    return math.inf if math.isnan(a - b) else abs(a - b)


def _ratio(difference: float, scale: float) -> float:
    if difference == 0:
        return 0.0
    return difference / scale if scale > 0 and math.isfinite(scale) else math.inf


def _finite(value: float) -> float | None:
    """JSON has neither infinity nor not-a-number."""
    return value if math.isfinite(value) else None
