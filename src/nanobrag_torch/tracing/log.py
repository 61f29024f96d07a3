"""Traces as files: lines `TRACE_PY: name value...` and `TRACE_PY_PHI: key=value...`, or the same as JSON.

The C program's `TRACE_C` lines are read by the same rules, so that either can be held against the other.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from nanobrag_torch.errors import InputError
from nanobrag_torch.io.atomic import read_input

Values = tuple[float, ...]

ACCEPTED = "a log with TRACE_PY or TRACE_C lines, or a trace as JSON"
AFTER_STEPS = "rot_a_angstroms"
"""Main values from this name on are those of the last phi step; the phi steps are printed before it."""

_LINE = re.compile(r"\s*TRACE_(?:PY|C)(_PHI)?\b\s*:?\s*(.*)")
_PAIR = re.compile(r"(\w+)\s*=\s*(\S+)")


@dataclass(frozen=True)
class Trace:
    """What was computed for one pixel: values by name, in the order of the computation, and one table a phi step."""

    values: Mapping[str, Values] = field(default_factory=dict)
    phi_steps: Sequence[Mapping[str, float]] = ()

    def __getitem__(self, name: str) -> Values:
        """All numbers of a value."""
        return self.values[name]

    def scalar(self, name: str) -> float:
        """A value of one number. Raises KeyError if there is none of that name."""
        (number,) = self.values[name]
        return number


def number_text(value: float) -> str:
    """15 significant digits, as the C program prints its traces."""
    return f"{value:.15g}"


def log_lines(trace: Trace, prefix: str = "TRACE_PY") -> Iterator[str]:
    """The lines of a trace, phi steps where they belong in the order of the computation."""
    steps = [
        f"{prefix}_PHI: " + " ".join(f"{key}={number_text(value)}" for key, value in step.items())
        for step in trace.phi_steps
    ]
    for name, numbers in trace.values.items():
        if name == AFTER_STEPS:
            yield from steps
            steps = []
        yield f"{prefix}: {name} {' '.join(map(number_text, numbers))}"
    yield from steps


def trace_json(trace: Trace) -> dict[str, Any]:
    """The trace as plain data: a number, or a list of numbers, by name; `phi_steps` a list of tables."""
    plain = {name: numbers[0] if len(numbers) == 1 else list(numbers) for name, numbers in trace.values.items()}
    return {**plain, "phi_steps": [dict(step) for step in trace.phi_steps]}


def read_trace(path: str | os.PathLike[str], flag: str) -> Trace:
    """A trace from a log or from JSON; where a log has several lines of a name, the last one counts.

    Raises InputError when the file cannot be read or holds no trace.
    """
    text = read_input(path, flag, ACCEPTED).decode("utf-8", "replace")
    trace = _from_json(text) if text.lstrip().startswith("{") else _from_lines(text)
    if trace is None or not (trace.values or trace.phi_steps):
        raise InputError(flag, str(path), ACCEPTED)
    return trace


def _from_lines(text: str) -> Trace:
    values: dict[str, Values] = {}
    steps: dict[float, dict[str, float]] = {}
    for line in text.splitlines():
        match = _LINE.match(line)
        if match is None:
            continue
        if match[1]:
            step = {key: number for key, word in _PAIR.findall(match[2]) if (number := _number(word)) is not None}
            steps[step.get("phi_tic", float(len(steps)))] = step
            continue
        name, *words = match[2].replace("=", " ").split() or [""]
        numbers = [_number(word) for word in words]
        if numbers and None not in numbers:
            values[name] = tuple(number for number in numbers if number is not None)
    return Trace(values, list(steps.values()))


def _from_json(text: str) -> Trace | None:
    try:
        plain = json.loads(text)
        steps = [{key: float(value) for key, value in step.items()} for step in plain.pop("phi_steps", [])]
        values = {
            name: tuple(float(number) for number in (value if isinstance(value, list) else [value]))
            for name, value in plain.items()
        }
    except (ValueError, TypeError, AttributeError):
        return None
    return Trace(values, steps)


def _number(word: str) -> float | None:
    try:
        return float(word.rstrip(",;"))
    except ValueError:
        return None
