"""The goniometer and the scan of an NXmx file: the rotation axes that the sample hangs in, and the one that turns."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Any

import numpy as np

from nanobrag_torch.errors import InputError
from nanobrag_torch.io.nxmx_axes import (
    Step,
    chain_of,
    first_of,
    quantity,
    text_of,
)
from nanobrag_torch.io.nxmx_write import FIXED, SETTING
from nanobrag_torch.io.unit_words import ANGLES_DEG, TIMES_S
from nanobrag_torch.records.experiment import GoniometerData, ScanData, Vector

_LOG = logging.getLogger(__name__)

JITTER = 0.1  # of a step: angles that an encoder read may differ by so much from even ones
STILL_DEG = 1e-9
WIDTHS = ("{}_increment_set", "{}_range_average", "{}_increment")


def read_goniometer(
    file: Any, sample: Any, frames: int, first: int, path: str
) -> tuple[GoniometerData | None, ScanData | None]:
    """The rotation axes of the sample, and the scan if one of them turns; `frames` is 0 where none is at hand.

    `first` is the number of the first image. Raises InputError where two axes turn, or angles are not those of a scan.
    """
    start = text_of(sample["depends_on"][()]) if "depends_on" in sample else "."
    steps = [step for step in chain_of(file, start, sample, path) if step.kind == "rotation"]
    if not steps:
        return None, None
    names = [step.path.rsplit("/", 1)[-1] for step in steps]
    count = frames or max(len(step.values) for step in steps)
    scanned = _scanned(file, steps, count, path)
    goniometer = _of_axes(steps, names, scanned)
    axis, values = file[steps[scanned].path], steps[scanned].values
    width = _stated_width(axis, sample, names[scanned], path)
    if len(values) != count or (len(values) == 1 and width is None):
        return goniometer, None
    return goniometer, _scan(axis, values, width, first, path)


def _scanned(file: Any, steps: list[Step], frames: int, path: str) -> int:
    """Which axis turns: the one marked, or whose values differ, or the first."""
    marked = [i for i, step in enumerate(steps) if bool(file[step.path].attrs.get("scan_axis", False))]
    spans = [float(np.ptp(step.values)) if len(step.values) == frames > 1 else 0.0 for step in steps]
    moving = [i for i, span in enumerate(spans) if span > max(STILL_DEG, 1e-3 * max(spans))]
    if len(moving) > 1:
        found = ", ".join(steps[i].path for i in moving)
        raise InputError(f"{path}: axes that turn", found, "one axis that turns during the scan")
    return (marked or moving or [0])[0]


def _of_axes(steps: list[Step], names: list[str], scanned: int) -> GoniometerData:
    if set(names) <= {FIXED, SETTING, names[scanned]}:  # one axis, as we write it
        turns = dict(zip(names, (step.turn for step in steps), strict=True))
        others: dict[str, Any] = {name: turns[name] for name in (FIXED, SETTING) if name in turns}
        return GoniometerData(rotation_axis=steps[scanned].direction, **others)
    axes, angles = [step.direction for step in steps], [step.values[0] for step in steps]
    angles[scanned] = 0.0
    return GoniometerData.from_axes(axes, angles, tuple(names), scanned)


def _stated_width(axis: Any, sample: Any, name: str, path: str) -> Vector | None:
    """Degrees an image as the file states them, one or one an image: from the ends of the images, or the increment."""
    homes = [home for home in (axis.parent, sample, first_of(sample, "NXgoniometer")) if home is not None]
    unit = axis.attrs.get("units", "deg")
    for home in homes:
        if home.get(f"{name}_end") is not None:
            ends = quantity(home[f"{name}_end"], ANGLES_DEG, path, unit)
            starts = quantity(axis, ANGLES_DEG, path, "deg")
            if len(ends) == len(starts):
                return ends - starts
    for key in WIDTHS:
        for home in homes:
            if home.get(key.format(name)) is not None:
                return quantity(home[key.format(name)], ANGLES_DEG, path, unit)
    return None


def _scan(axis: Any, values: Vector, stated: Vector | None, first: int, path: str) -> ScanData:
    """The scan of the angles of one axis; the width of an image is what the file states, else the step between two."""
    step = _median_step(values)
    width = step if stated is None else float(np.median(stated))
    spread = 0.0 if stated is None else float(np.abs(stated - width).max())
    if spread > JITTER * abs(width) + STILL_DEG:
        raise InputError(f"{path}: {axis.name}", f"widths {_span(stated)}", "images of one width")
    even = float(np.median(values - step * np.arange(len(values)))) + step * np.arange(len(values))
    off = float(np.abs(values - even).max())
    if off > JITTER * abs(step) + STILL_DEG:
        if stated is None:
            span = f"steps {_span(np.diff(values))}, median {step:g}"
            accepted = f"steps that differ from even ones by less than {JITTER:g} of a step, or the end of each image"
            raise InputError(f"{path}: {axis.name}", span, accepted)
        even = values
    elif off > 1e-6 * max(1.0, abs(step)):
        _LOG.warning("%s: angles of %s as an encoder read them; steps of their median, %g deg", path, axis.name, step)
    drift = abs(step - width) <= max(spread, 1e-6, JITTER * abs(width) / len(values))
    follow = len(values) == 1 or (drift and even is not values)
    return ScanData(
        image_range=(first, first + len(values) - 1),
        oscillation_start_deg=float(even[0]),
        oscillation_width_deg=step if follow and len(values) > 1 else width,
        starts_deg=None if follow else np.asarray(even, np.float64),
    )


def _median_step(values: Vector) -> float:
    """The median of the steps between angles half a scan apart, per image: jitter counts little in it."""
    half = len(values) // 2
    return float(np.median((values[half:] - values[: len(values) - half]) / half)) if half else 0.0


def _span(values: Vector | None) -> str:
    return "none" if values is None else f"from {values.min():g} to {values.max():g} deg"


def with_exposure(scan: ScanData, group: Any, path: str) -> ScanData:
    """The scan with the exposure times of a detector, if it states them."""
    dataset = group.get("count_time", group.get("frame_time"))
    if dataset is None:
        return scan
    times = quantity(dataset, TIMES_S, path, "s")
    if len(times) not in (1, scan.frames):
        return scan
    return replace(scan, exposure_times_s=np.broadcast_to(times, scan.frames).copy())
