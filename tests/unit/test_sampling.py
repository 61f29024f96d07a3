"""The automatic choices against the tables of reference-behaviour section 3, written out row by row."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nanobrag_torch.sampling import (
    ONE_STEP,
    Steps,
    cells_along,
    clipped,
    detector_axis,
    fluence,
    grid_steps,
    interpolates,
    mosaic_steps,
    phi_steps,
    roi,
)


@pytest.mark.parametrize(
    ("count", "width", "step", "expected"),
    [
        (None, None, None, Steps(1, 0.0, 0.0)),
        (None, None, 0.3, Steps(2, 0.3, 0.3)),
        (None, 1.5, None, Steps(2, 1.5, 0.75)),
        (None, 1.0, 0.3, Steps(4, 1.0, 0.3)),
        (None, 0.0, None, Steps(2, 0.0, 0.0)),
        (None, 0.0, 0.3, Steps(0, 0.0, 0.3)),
        (4, None, None, Steps(4, 1.0, 0.25)),
        (0, None, None, Steps(1, 1.0, 1.0)),
        (7, None, 0.2, Steps(2, 0.2, 0.2)),
        (4, 2.0, None, Steps(4, 2.0, 0.5)),
        (4, 2.0, -1.0, Steps(4, 2.0, 0.5)),
        (4, 2.0, 0.1, Steps(4, 2.0, 0.1)),
        (4, 2.0, 0.0, Steps(4, 2.0, 0.0)),
        (-1, -1.0, -1.0, Steps(1, 0.0, 0.0)),
    ],
)
def test_phi_table(count, width, step, expected):
    assert phi_steps(count, width, step) == expected


@pytest.mark.parametrize(
    ("count", "width", "step", "expected"),
    [
        (None, None, None, ONE_STEP),
        (None, None, 0.002, Steps(2, 0.002, 0.002)),
        (None, 0.004, None, Steps(2, 0.004, 0.004)),
        (None, 0.005, 0.0009, Steps(6, 0.005, 0.0009)),
        (5, None, None, Steps(5, 1.0, 0.2)),
        (1, None, None, Steps(1, 1.0, 1.0)),
        (5, None, 0.001, Steps(2, 0.001, 0.001)),
        (1, 0.004, None, Steps(2, 0.004, 0.004)),
        (5, 0.008, None, Steps(5, 0.008, 0.002)),
        (5, 0.008, 0.001, Steps(5, 0.008, 0.001)),
        (5, 0.0, None, ONE_STEP),
        (0, 0.008, 0.0, Steps(2, 0.008, 0.008)),
    ],
)
def test_divergence_table(count, width, step, expected):
    assert grid_steps(count, width, step) == expected


def test_dispersion_alone_is_two_wavelengths_and_steps_alone_are_one():
    assert grid_steps(None, 0.02, None) == Steps(2, 0.02, 0.02)
    assert grid_steps(3, 0.0, None) == ONE_STEP


@pytest.mark.parametrize(
    ("domains", "spread", "expected"),
    [
        (None, None, (1, 0.0)),
        (None, 0.0, (1, 0.0)),
        (None, 0.5, (10, 0.5)),
        (7, None, (1, 0.0)),
        (7, 0.0, (1, 0.0)),
        (7, 0.5, (7, 0.5)),
        (0, 0.5, (10, 0.5)),
    ],
)
def test_mosaic_table(domains, spread, expected):
    assert mosaic_steps(domains, spread) == expected


def test_detector_sizes_round_half_down_and_are_not_rounded_themselves():
    assert detector_axis(0, 0.0257, 0.00037) == (69, 0.0257)
    assert detector_axis(0, 0.00125, 0.0005) == (2, 0.00125)
    assert detector_axis(64, 0.1, 0.0004) == (64, 64 * 0.0004)


def test_flux_replaces_the_fluence_only_when_there_is_one():
    assert fluence(5.0, 0.0, 1.0, 1e-4) == 5.0
    assert fluence(5.0, 1e12, 0.1, 1e-4) == pytest.approx(1e19)
    assert fluence(5.0, 1e12, 0.0, 1e-4) == 5.0


def test_region_of_interest_is_inclusive_and_ends_with_the_detector():
    assert roi(-1, -1, 64) == (0, 63)
    assert roi(10, 40, 64) == (10, 40)
    assert roi(10, 400, 64) == (10, 63)


@pytest.mark.parametrize(
    ("cells", "forced", "reflections", "expected"),
    [
        ((3, 3, 3), None, 5, False),
        ((3, 2, 3), None, 5, True),
        ((1, 1, 1), None, 0, False),
        ((9, 9, 9), True, 5, True),
        ((1, 1, 1), False, 5, False),
        ((9, 9, 9), True, 0, False),
    ],
)
def test_interpolation_rule(cells, forced, reflections, expected):
    assert interpolates(cells, forced, reflections) is expected


def test_clipping_and_cells():
    assert clipped(4e-8, 3.2e-8) == 3.2e-8
    assert clipped(4e-8, -1.0) == 4e-8
    assert cells_along(2.1e-8, 1, 1e-8) == 3
    assert cells_along(0.0, 7, 1e-8) == 7
    assert cells_along(0.0, 0, 1e-8) == 1


@given(st.floats(1e-6, 10.0), st.floats(1e-6, 1.0))
def test_a_counted_scan_ends_at_most_one_step_short_of_its_range(width, step):
    scan = grid_steps(None, width, step)
    whole = round(width / step)  # a range that is a whole number of steps, but for rounding, has that number
    assert scan.count == (whole if abs(width / step - whole) <= 1e-9 * whole else math.ceil(width / step))
    assert step * (scan.count - 1) < width * (1 + 1e-9)


@given(st.integers(2, 1000), st.floats(1e-6, 10.0))
def test_given_count_and_range_span_the_range(count, width):
    scan = grid_steps(count, width, None)
    assert scan.step * (scan.count - 1) == pytest.approx(width, rel=1e-12)
