"""What a sample of a pixel weighs: solid angle, capture, polarization, and the way back; all in float64."""

from __future__ import annotations

from typing import Any, NamedTuple

import triton.language as tl

from nanobrag_torch.kernels.cuda.geometry import aim, curve_back, in_plane, sphere_back
from nanobrag_torch.kernels.cuda.jit import jit
from nanobrag_torch.kernels.cuda.math import axpy, dot, scaled
from nanobrag_torch.kernels.cuda.records import (
    Given,
    Panel,
    Pixel,
    Sample,
    Sink,
    Source,
    load_source,
)
from nanobrag_torch.kernels.cuda.sinks import give


class Kept(NamedTuple):
    """Factors of the first sample, which all others share unless each has its own; where the polarization is from."""

    omega: tl.tensor
    polar: tl.tensor
    sample: Sample
    source: tl.tensor  # -1: no source is within the resolution limit


class Sight(NamedTuple):
    """A sample as the crystal sees it."""

    direction: tl.tensor
    omega: tl.tensor
    capture: tl.tensor


class Ray(NamedTuple):
    """A sample and a source: q (1/m), whether it is within the resolution limit (1.0 or 0.0), and its polarization."""

    q: tl.tensor
    seen: tl.tensor
    polar: tl.tensor


@jit
def plane_distance(layer: tl.tensor, panel: Panel, way: tl.constexpr) -> Any:
    """Distance (m) of a layer's plane, or of the front where it stands for all."""
    close = dot(panel.origin, panel.normal)
    if way.layer_omega:
        close += layer.to(tl.float64) * panel.step
    return close


@jit
def solid_angle(radius: tl.tensor, layer: tl.tensor, panel: Panel, way: tl.constexpr) -> Any:
    """Solid angle (sr) of a pixel at a distance (m)."""
    if way.point:
        omega = 1.0 / (radius * radius)
    else:
        close = plane_distance(layer, panel, way)
        omega = panel.size_fast * panel.size_slow / (radius * radius) * close / radius
    return omega


@jit
def solid_angle_back(radius: tl.tensor, layer: tl.tensor, by_omega: tl.tensor, panel: Panel, way: tl.constexpr) -> Any:
    """Gradients by the distance, the pixel's area and the distance of its plane."""
    cube = 1.0 / (radius * radius * radius)
    if way.point:
        by_radius, by_area, by_close = -2.0 * cube * by_omega, 0.0 * by_omega, 0.0 * by_omega
    else:
        area, close = panel.size_fast * panel.size_slow, plane_distance(layer, panel, way)
        by_radius = -3.0 * area * close * cube / radius * by_omega
        by_area, by_close = close * cube * by_omega, area * cube * by_omega
    return by_radius, by_area, by_close


@jit
def captured(direction: tl.tensor, layer: tl.tensor, panel: Panel, way: tl.constexpr) -> Any:
    """Share that a layer of the sensor absorbs; one where the sensor has no thickness."""
    cosine = dot(direction, panel.normal)
    if way.upright:
        cosine = cosine * 0.0 + 1.0
    depth = panel.step * panel.attenuation / cosine
    t = layer.to(tl.float64)
    share = tl.exp(-t * depth) - tl.exp(-(t + 1.0) * depth)
    return tl.where(panel.step > 0.0, share, 1.0)


@jit
def captured_back(
    direction: tl.tensor, layer: tl.tensor, by_capture: tl.tensor, panel: Panel, way: tl.constexpr
) -> Any:
    """Gradients by the cosine to the normal, the step of layers and the attenuation."""
    cosine, t = dot(direction, panel.normal), layer.to(tl.float64)
    if way.upright:
        cosine = cosine * 0.0 + 1.0
    depth = panel.step * panel.attenuation / cosine
    by_depth = by_capture * ((t + 1.0) * tl.exp(-(t + 1.0) * depth) - t * tl.exp(-t * depth))
    by_depth = tl.where(panel.step > 0.0, by_depth, 0.0)
    by_cosine = -by_depth * depth / cosine
    if way.upright:
        by_cosine = by_cosine * 0.0
    return by_cosine, by_depth * panel.attenuation / cosine, by_depth * panel.step / cosine


@jit
def polarized(direction: tl.tensor, m: tl.tensor) -> Any:
    """(1 + d^T M d) / 2."""
    x, y, z = direction[0], direction[1], direction[2]
    along_x = x * (m[0] * x + m[1] * y + m[2] * z)
    along_y = y * (m[3] * x + m[4] * y + m[5] * z)
    return (1.0 + along_x + along_y + z * (m[6] * x + m[7] * y + m[8] * z)) * 0.5


@jit
def polarized_back(direction: tl.tensor, m: tl.tensor) -> Any:
    """Its gradient by the direction."""
    x, y, z = direction[0] * 0.5, direction[1] * 0.5, direction[2] * 0.5
    by_x = 2.0 * m[0] * x + (m[1] + m[3]) * y + (m[2] + m[6]) * z
    by_y = (m[1] + m[3]) * x + 2.0 * m[4] * y + (m[5] + m[7]) * z
    return by_x, by_y, (m[2] + m[6]) * x + (m[5] + m[7]) * y + 2.0 * m[8] * z


@jit
def scattering(direction: tl.tensor, source: Source, given: Given, way: tl.constexpr) -> Any:
    """q (1/m), and 1.0 where the source is within the resolution limit, else 0.0."""
    incident, inverse = source.incident, 1.0 / source.wavelength
    q = (
        (direction[0] - incident[0]) * inverse,
        (direction[1] - incident[1]) * inverse,
        (direction[2] - incident[2]) * inverse,
    )
    if way.limit:
        seen = tl.where(tl.sqrt(dot(q, q)) * tl.load(given.dmin) > 1.0, 0.0, 1.0).to(tl.float64)
    else:
        seen = tl.full(q[0].shape, 1.0, tl.float64)
    return q, seen


@jit
def sample_of(number: tl.tensor, given: Given, way: tl.constexpr) -> Any:
    """A sample by its number: layers outermost."""
    zero, subs = tl.full([way.group, way.lanes], 0, tl.int32), given.oversample * given.oversample
    return Sample(zero + number // subs, zero + number % subs)


@jit
def kept_factors(pixel: Pixel, panel: Panel, given: Given, way: tl.constexpr) -> Any:
    """Solid angle of the first sample, polarization of the first sample and source within the resolution limit."""
    first = sample_of(0, given, way)
    direction, radius = aim(pixel, first, panel, given, way)
    omega = solid_angle(radius, first.layer, panel, way)
    layer, sub, place = first.layer, first.sub, first.layer
    polar = polarized(direction, load_source(given, 0).polarization)
    if way.limit and not way.each_polar:
        polar = tl.full([way.group, way.lanes], 0.0, tl.float64)
        known, place = polar > 0.0, place - 1
        for number in range(given.layers * given.oversample * given.oversample):
            sample = sample_of(number, given, way)
            direction, _radius = aim(pixel, sample, panel, given, way)
            for s in range(given.source_count):
                source = load_source(given, s)
                _q, seen = scattering(direction, source, given, way)
                new = (seen > 0.0) & (known == 0)
                polar = tl.where(new, polarized(direction, source.polarization), polar)
                layer, sub = tl.where(new, sample.layer, layer), tl.where(new, sample.sub, sub)
                place = tl.where(new, s, place)
                known = known | new
    return Kept(omega, polar, Sample(layer, sub), place)


@jit
def sight_of(pixel: Pixel, sample: Sample, panel: Panel, kept: Kept, given: Given, way: tl.constexpr) -> Any:
    """Direction, solid angle and capture of a sample: its own, or those of the sample that it shares them with."""
    direction, radius = aim(pixel, sample, panel, given, way)
    omega, layer, through = kept.omega, sample.layer, direction
    if way.each_omega:
        omega = solid_angle(radius, sample.layer, panel, way)
    elif way.layer_omega:
        front = sample_of(0, given, way)
        _direction, near = aim(pixel, Sample(sample.layer, front.sub), panel, given, way)
        omega = solid_angle(near, sample.layer, panel, way)
    if not way.each_capture:
        first = sample_of(0, given, way)
        if way.last_capture:
            layer = first.layer + (given.layers - 1)
        through, _radius = aim(pixel, Sample(layer, first.sub), panel, given, way)
    return Sight(direction, omega, captured(through, layer, panel, way))


@jit
def ray_of(sight: Sight, source: Source, kept: Kept, given: Given, way: tl.constexpr) -> Any:
    """What a source adds to a sample."""
    q, seen = scattering(sight.direction, source, given, way)
    polar = kept.polar
    if way.each_polar:
        polar = polarized(sight.direction, source.polarization)
    return Ray(q, seen, polar)


@jit
def once_a_pixel(pixel: Pixel, panel: Panel, kept: Kept, given: Given, way: tl.constexpr) -> Any:
    """Capture of what is added once a pixel: that of the last layer's first sub-pixel."""
    first = sample_of(0, given, way)
    last = Sample(first.layer + (given.layers - 1), first.sub)
    direction, _radius = aim(pixel, last, panel, given, way)
    return captured(direction, last.layer, panel, way)


@jit
def pull_back(
    along: tl.tensor,
    pixel: Pixel,
    sample: Sample,
    pull: tl.tensor,
    by_omega: tl.tensor,
    by_capture: tl.tensor,
    panel: Panel,
    given: Given,
    sink: Sink,
    way: tl.constexpr,
) -> Any:
    """Give on gradients by the panel and the curvature, from those by a sample's direction, solid angle and capture."""
    direction, radius = aim(pixel, sample, panel, given, way)
    by_cosine, by_step, by_attenuation = captured_back(direction, sample.layer, by_capture, panel, way)
    pull = axpy(by_cosine, panel.normal, pull)
    by_radius, by_area, by_close = solid_angle_back(radius, sample.layer, by_omega, panel, way)
    if way.layer_omega:
        by_step += by_close * sample.layer.to(tl.float64)
    by_normal = scaled(by_cosine, direction)
    inward = axpy(-dot(direction, pull), direction, pull)
    by_place = axpy(by_radius, direction, scaled(1.0 / radius, inward))
    f, s = scaled(0.0, direction), scaled(0.0, direction)
    depth = sample.layer.to(tl.float64)
    if way.sphere:
        by_place, f, s, to_normal, by_curve = sphere_back(pixel, sample, by_place, panel, given)
        by_normal, by_close, depth = axpy(1.0, to_normal, by_normal), by_close + by_curve, depth * 0.0
    elif way.curved:
        by_place, f, s, along = curve_back(along, pixel, sample, by_place, panel, given, sink.scene, way)
    by_normal = axpy(by_close, panel.origin, by_normal)
    along_fast, along_slow = in_plane(pixel, sample, given)
    f, s = axpy(along_fast * panel.size_fast, by_place, f), axpy(along_slow * panel.size_slow, by_place, s)
    n, o = axpy(depth * panel.step, by_place, by_normal), axpy(by_close, panel.normal, by_place)
    size_fast = dot(by_place, panel.fast) * along_fast + by_area * panel.size_slow
    size_slow = dot(by_place, panel.slow) * along_slow + by_area * panel.size_fast
    by_step += dot(by_place, panel.normal) * depth
    by_vectors = o[0], o[1], o[2], f[0], f[1], f[2], s[0], s[1], s[2], n[0], n[1], n[2]
    return give(along, sink.panel, 0, by_vectors + (size_fast, size_slow, by_step, by_attenuation), 16, way)
