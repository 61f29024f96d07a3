"""Where samples are, and the way back from them: device functions of the Triton kernels, all in float64."""

from __future__ import annotations

from typing import Any

import triton.language as tl

from nanobrag_torch.kernels.cuda.columns import MOVING
from nanobrag_torch.kernels.cuda.jit import jit
from nanobrag_torch.kernels.cuda.math import axpy, cosine_and_sine, cross, dot, scaled
from nanobrag_torch.kernels.cuda.records import Given, Panel, Pixel, Sample, load3
from nanobrag_torch.kernels.cuda.sinks import give

CURVATURE = tl.constexpr(MOVING.first("curvature"))


@jit
def in_plane(pixel: Pixel, sample: Sample, given: Given) -> Any:
    """Coordinates (pixels) of a sub-pixel along fast and slow; slow outermost."""
    across = given.oversample
    along_fast = pixel.fast.to(tl.float64) + ((sample.sub % across).to(tl.float64) + 0.5) / across
    along_slow = pixel.slow.to(tl.float64) + ((sample.sub // across).to(tl.float64) + 0.5) / across
    return along_fast, along_slow


@jit
def flat_position(pixel: Pixel, sample: Sample, panel: Panel, given: Given) -> Any:
    """Place (m) of a sample on the flat panel."""
    along_fast, along_slow = in_plane(pixel, sample, given)
    place = axpy(along_fast * panel.size_fast, panel.fast, panel.origin)
    place = axpy(along_slow * panel.size_slow, panel.slow, place)
    return axpy(sample.layer.to(tl.float64) * panel.step, panel.normal, place)


@jit
def turn(axis: tl.tensor, cosine: tl.tensor, sine: tl.tensor, vector: tl.tensor) -> Any:
    """Rodrigues' rotation about an axis that is used as given."""
    across = cross(axis, vector)
    along = dot(axis, vector) * (1.0 - cosine)
    return axpy(along, axis, axpy(sine, across, scaled(cosine, vector)))


@jit
def turn_back(axis: tl.tensor, cosine: tl.tensor, sine: tl.tensor, vector: tl.tensor, pull: tl.tensor) -> Any:
    """Gradients by the vector, the angle and the axis, from that by the turned vector."""
    along, pulled = dot(axis, vector), dot(axis, pull)
    by_vector = turn(axis, cosine, -sine, pull)
    by_angle = along * pulled * sine - dot(pull, vector) * sine + dot(pull, cross(axis, vector)) * cosine
    by_axis = axpy(pulled * (1.0 - cosine), vector, scaled(sine, cross(vector, pull)))
    return by_vector, by_angle, axpy(along * (1.0 - cosine), pull, by_axis)


@jit
def curved_angles(pixel: Pixel, sample: Sample, panel: Panel, given: Given) -> Any:
    """Angles about slow and fast that carry the end of the beam to a sample: lab y and z over the distance."""
    place = flat_position(pixel, sample, panel, given)
    distance = tl.load(given.curvature + 3)
    return place[1] / distance, place[2] / distance


@jit
def arcs(pixel: Pixel, sample: Sample, panel: Panel, given: Given) -> Any:
    """Place (m) on the flat front, and angles along fast and slow from the foot of the normal, on a sphere; radius."""
    place = flat_position(pixel, Sample(sample.layer * 0, sample.sub), panel, given)
    radius = dot(panel.origin, panel.normal)
    return place, dot(place, panel.fast) / radius, dot(place, panel.slow) / radius, radius


@jit
def position(pixel: Pixel, sample: Sample, panel: Panel, given: Given, way: tl.constexpr) -> Any:
    """Place (m) of a sample."""
    if way.sphere:
        _place, y, z, radius = arcs(pixel, sample, panel, given)
        cos_y, sin_y = cosine_and_sine(y)
        cos_z, sin_z = cosine_and_sine(z)
        upright = axpy(radius * cos_y * sin_z, panel.slow, scaled(radius * cos_y * cos_z, panel.normal))
        place = axpy(radius * sin_y, panel.fast, upright)
    elif way.curved:
        y, z = curved_angles(pixel, sample, panel, given)
        cos_y, sin_y = cosine_and_sine(y)
        cos_z, sin_z = cosine_and_sine(z)
        end = scaled(tl.load(given.curvature + 3), load3(given.curvature))
        place = turn(panel.fast, cos_z, sin_z, turn(panel.slow, cos_y, sin_y, end))
    else:
        place = flat_position(pixel, sample, panel, given)
    return place


@jit
def aim(pixel: Pixel, sample: Sample, panel: Panel, given: Given, way: tl.constexpr) -> Any:
    """Unit vector to a sample and its distance (m)."""
    place = position(pixel, sample, panel, given, way)
    radius = tl.sqrt(dot(place, place))
    return scaled(1.0 / radius, place), radius


@jit
def curve_back(
    along: tl.tensor,
    pixel: Pixel,
    sample: Sample,
    pull: tl.tensor,
    panel: Panel,
    given: Given,
    scene_row: tl.tensor,
    way: tl.constexpr,
) -> Any:
    """Gradients by the flat position and the axes, and `along`; those by beam and distance are given on."""
    beam, distance = load3(given.curvature), tl.load(given.curvature + 3)
    y, z = curved_angles(pixel, sample, panel, given)
    cos_y, sin_y = cosine_and_sine(y)
    cos_z, sin_z = cosine_and_sine(z)
    start = scaled(distance, beam)
    turned = turn(panel.slow, cos_y, sin_y, start)
    pull, by_z, by_fast = turn_back(panel.fast, cos_z, sin_z, turned, pull)
    pull, by_y, by_slow = turn_back(panel.slow, cos_y, sin_y, start, pull)
    by_distance = dot(pull, beam) - (y * by_y + z * by_z) / distance
    sums = pull[0] * distance, pull[1] * distance, pull[2] * distance, by_distance
    along = give(along, scene_row, CURVATURE, sums, 4, way)
    return (0.0 * by_y, by_y / distance, by_z / distance), by_fast, by_slow, along


@jit
def sphere_back(pixel: Pixel, sample: Sample, pull: tl.tensor, panel: Panel, given: Given) -> Any:
    """Gradients by the flat position, fast, slow, normal and radius, from that by the place on a sphere."""
    place, y, z, radius = arcs(pixel, sample, panel, given)
    cos_y, sin_y = cosine_and_sine(y)
    cos_z, sin_z = cosine_and_sine(z)
    by_fast, by_slow, by_normal = dot(pull, panel.fast), dot(pull, panel.slow), dot(pull, panel.normal)
    upright = cos_z * by_normal + sin_z * by_slow
    by_y = cos_y * by_fast - sin_y * upright  # times the radius
    by_z = cos_y * (cos_z * by_slow - sin_z * by_normal)
    fast = axpy(by_y, place, scaled(radius * sin_y, pull))
    slow = axpy(by_z, place, scaled(radius * cos_y * sin_z, pull))
    by_radius = sin_y * by_fast + cos_y * upright - by_y * y - by_z * z
    flat = axpy(by_y, panel.fast, scaled(by_z, panel.slow))
    return flat, fast, slow, scaled(radius * cos_y * cos_z, pull), by_radius
