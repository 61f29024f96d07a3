"""Where samples are and how a pixel weighs them: device functions of the Triton kernels, all in float64.

A panel is a tuple of 16 numbers (origin, fast, slow, normal, pixel size fast and slow, layer step, attenuation), pixels
are tuples (fast index, slow index) of [group, lanes] arrays, vectors are tuples of three such arrays.
"""

from __future__ import annotations

from typing import Any

import triton.language as tl

from nanobrag_torch.kernels.cuda.jit import jit
from nanobrag_torch.kernels.cuda.math import add_row, axpy, cosine_and_sine, cross, dot, load3, load9, scaled, total


@jit
def load_panel(panels: tl.tensor, place: tl.tensor) -> Any:
    """Origin, fast, slow, normal as vectors, then pixel size fast and slow, layer step and attenuation."""
    row = panels + 16 * place
    sizes = tl.load(row + 12), tl.load(row + 13), tl.load(row + 14), tl.load(row + 15)
    return load3(row), load3(row + 3), load3(row + 6), load3(row + 9), sizes[0], sizes[1], sizes[2], sizes[3]


@jit
def in_plane(pixel: tl.tensor, sub: tl.tensor, oversample: tl.tensor, panel: tl.tensor) -> Any:
    """Coordinates (pixels) of a sub-pixel along fast and slow; slow outermost."""
    along_fast = pixel[0].to(tl.float64) + ((sub % oversample).to(tl.float64) + 0.5) / oversample
    along_slow = pixel[1].to(tl.float64) + ((sub // oversample).to(tl.float64) + 0.5) / oversample
    return along_fast, along_slow


@jit
def flat_position(pixel: tl.tensor, layer: tl.tensor, sub: tl.tensor, oversample: tl.tensor, panel: tl.tensor) -> Any:
    """Place (m) of a sample on the flat panel."""
    origin, fast, slow, normal = panel[0], panel[1], panel[2], panel[3]
    along_fast, along_slow = in_plane(pixel, sub, oversample, panel)
    place = axpy(along_slow * panel[5], slow, axpy(along_fast * panel[4], fast, origin))
    return axpy(layer.to(tl.float64) * panel[6], normal, place)


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
    by_axis = axpy(
        along * (1.0 - cosine), pull, axpy(pulled * (1.0 - cosine), vector, scaled(sine, cross(vector, pull)))
    )
    return by_vector, by_angle, by_axis


@jit
def position(
    pixel: tl.tensor,
    layer: tl.tensor,
    sub: tl.tensor,
    oversample: tl.tensor,
    panel: tl.tensor,
    scene: tl.tensor,
    way: tl.constexpr,
) -> Any:
    """Place (m) of a sample; on a curved detector lab y and z over the distance are angles."""
    place = flat_position(pixel, layer, sub, oversample, panel)
    if way.curved:
        beam, distance = load3(scene), tl.load(scene + 3)
        y, z = place[1] / distance, place[2] / distance
        cos_y, sin_y = cosine_and_sine(y)
        cos_z, sin_z = cosine_and_sine(z)
        place = turn(panel[1], cos_z, sin_z, turn(panel[2], cos_y, sin_y, scaled(distance, beam)))
    return place


@jit
def aim(
    pixel: tl.tensor,
    layer: tl.tensor,
    sub: tl.tensor,
    oversample: tl.tensor,
    panel: tl.tensor,
    scene: tl.tensor,
    way: tl.constexpr,
) -> Any:
    """Unit vector to a sample and its distance (m)."""
    place = position(pixel, layer, sub, oversample, panel, scene, way)
    radius = tl.sqrt(dot(place, place))
    return scaled(1.0 / radius, place), radius


@jit
def solid_angle(radius: tl.tensor, panel: tl.tensor, way: tl.constexpr) -> Any:
    """Solid angle (sr) of a pixel at a distance (m)."""
    if way.point:
        omega = 1.0 / (radius * radius)
    else:
        omega = panel[4] * panel[5] / (radius * radius) * dot(panel[0], panel[3]) / radius
    return omega


@jit
def captured(direction: tl.tensor, layer: tl.tensor, panel: tl.tensor) -> Any:
    """Share that a layer of the sensor absorbs; one where the sensor has no thickness."""
    depth = panel[6] * panel[7] / dot(direction, panel[3])
    t = layer.to(tl.float64)
    share = tl.exp(-t * depth) - tl.exp(-(t + 1.0) * depth)
    return tl.where(panel[6] > 0.0, share, 1.0)


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
def load_source(sources: tl.tensor, s: tl.tensor) -> Any:
    """Incident direction, wavelength, weight, polarization matrix."""
    row = sources + 16 * s
    return load3(row), tl.load(row + 3), tl.load(row + 4), load9(row + 5)


@jit
def scattering(direction: tl.tensor, source: tl.tensor, scene: tl.tensor, way: tl.constexpr) -> Any:
    """q (1/m), and 1.0 where the source is within the resolution limit, else 0.0."""
    incident, inverse = source[0], 1.0 / source[1]
    q = (
        (direction[0] - incident[0]) * inverse,
        (direction[1] - incident[1]) * inverse,
        (direction[2] - incident[2]) * inverse,
    )
    if way.limit:
        seen = tl.where(tl.sqrt(dot(q, q)) * tl.load(scene + 24) > 1.0, 0.0, 1.0).to(tl.float64)
    else:
        seen = tl.full(q[0].shape, 1.0, tl.float64)
    return q, seen


@jit
def first_seen(
    pixel: tl.tensor,
    panel: tl.tensor,
    sources: tl.tensor,
    scene: tl.tensor,
    oversample: tl.tensor,
    layers: tl.tensor,
    count: tl.tensor,
    way: tl.constexpr,
) -> Any:
    """Polarization, layer, sub-pixel and source of the first sample that a pixel sees; if none, 0 and source -1."""
    zero = tl.full([way.group, way.lanes], 0, tl.int32)
    layer, sub, place = zero, zero, zero
    direction, _radius = aim(pixel, layer, sub, oversample, panel, scene, way)
    polar = polarized(direction, load_source(sources, 0)[3])
    if way.limit and not way.each_polar:
        polar = tl.full([way.group, way.lanes], 0.0, tl.float64)
        known, place = polar > 0.0, zero - 1
        for sample in range(layers * oversample * oversample):
            t, j = zero + sample // (oversample * oversample), zero + sample % (oversample * oversample)
            direction, _radius = aim(pixel, t, j, oversample, panel, scene, way)
            for s in range(count):
                source = load_source(sources, s)
                _q, seen = scattering(direction, source, scene, way)
                new = (seen > 0.0) & (known == 0)
                polar = tl.where(new, polarized(direction, source[3]), polar)
                layer, sub, place = tl.where(new, t, layer), tl.where(new, j, sub), tl.where(new, zero + s, place)
                known = known | new
    return polar, layer, sub, place


@jit
def capture_of(
    pixel: tl.tensor,
    direction: tl.tensor,
    layer: tl.tensor,
    layers: tl.tensor,
    oversample: tl.tensor,
    panel: tl.tensor,
    scene: tl.tensor,
    way: tl.constexpr,
) -> Any:
    """Capture of a sample: its own, that of its layer's first sub-pixel, or that of the last layer's."""
    if not way.each_capture:
        zero = tl.full([way.group, way.lanes], 0, tl.int32)
        if way.last_capture:
            layer = zero + (layers - 1)
        direction, _radius = aim(pixel, layer, zero, oversample, panel, scene, way)
    return captured(direction, layer, panel)


@jit
def pull_back(
    pixel: tl.tensor,
    layer: tl.tensor,
    sub: tl.tensor,
    pulls: tl.tensor,
    oversample: tl.tensor,
    panel: tl.tensor,
    scene: tl.tensor,
    panel_row: tl.tensor,
    scene_row: tl.tensor,
    way: tl.constexpr,
) -> None:
    """Add gradients by the panel and the curvature to this program's rows.

    pulls: gradients by the unit vector to a sample, its solid angle and its capture.
    """
    pull, by_omega, by_capture = pulls
    direction, radius = aim(pixel, layer, sub, oversample, panel, scene, way)
    origin, normal = panel[0], panel[3]
    by_cosine, by_step, by_attenuation = capture_back(direction, layer, by_capture, panel)
    pull = axpy(by_cosine, normal, pull)
    by_normal = scaled(by_cosine, direction)
    by_radius, by_area, by_close = solid_angle_back(radius, by_omega, panel, way)
    by_normal = axpy(by_close, origin, by_normal)
    inward = axpy(-dot(direction, pull), direction, pull)
    by_place = axpy(by_radius, direction, scaled(1.0 / radius, inward))
    by_fast, by_slow = scaled(0.0, direction), scaled(0.0, direction)
    if way.curved:
        by_place, by_fast, by_slow = curve_back(pixel, layer, sub, by_place, oversample, panel, scene, scene_row)
    along_fast, along_slow = in_plane(pixel, sub, oversample, panel)
    depth = layer.to(tl.float64)
    by_fast, by_slow = axpy(along_fast * panel[4], by_place, by_fast), axpy(along_slow * panel[5], by_place, by_slow)
    by_normal = axpy(depth * panel[6], by_place, by_normal)
    o = axpy(by_close, normal, by_place)
    f, s, n = by_fast, by_slow, by_normal
    size_fast = dot(by_place, panel[1]) * along_fast + by_area * panel[5]
    size_slow = dot(by_place, panel[2]) * along_slow + by_area * panel[4]
    by_step += dot(by_place, normal) * depth
    a = total(o[0]), total(o[1]), total(o[2]), total(f[0]), total(f[1]), total(f[2])
    b = total(s[0]), total(s[1]), total(s[2]), total(n[0]), total(n[1]), total(n[2])
    c = total(size_fast), total(size_slow), total(by_step), total(by_attenuation)
    sums = a[0], a[1], a[2], a[3], a[4], a[5], b[0], b[1], b[2], b[3], b[4], b[5], c[0], c[1], c[2], c[3]
    add_row(panel_row, sums, 16)


@jit
def capture_back(direction: tl.tensor, layer: tl.tensor, by_capture: tl.tensor, panel: tl.tensor) -> Any:
    """Gradients by the cosine to the normal, the step of layers and the attenuation."""
    cosine, t = dot(direction, panel[3]), layer.to(tl.float64)
    depth = panel[6] * panel[7] / cosine
    by_depth = by_capture * ((t + 1.0) * tl.exp(-(t + 1.0) * depth) - t * tl.exp(-t * depth))
    by_depth = tl.where(panel[6] > 0.0, by_depth, 0.0)
    return -by_depth * depth / cosine, by_depth * panel[7] / cosine, by_depth * panel[6] / cosine


@jit
def solid_angle_back(radius: tl.tensor, by_omega: tl.tensor, panel: tl.tensor, way: tl.constexpr) -> Any:
    """Gradients by the distance, the pixel's area and the distance of its plane."""
    cube = 1.0 / (radius * radius * radius)
    if way.point:
        by_radius, by_area, by_close = -2.0 * cube * by_omega, 0.0 * by_omega, 0.0 * by_omega
    else:
        area, close = panel[4] * panel[5], dot(panel[0], panel[3])
        by_radius = -3.0 * area * close * cube / radius * by_omega
        by_area, by_close = close * cube * by_omega, area * cube * by_omega
    return by_radius, by_area, by_close


@jit
def curve_back(
    pixel: tl.tensor,
    layer: tl.tensor,
    sub: tl.tensor,
    pull: tl.tensor,
    oversample: tl.tensor,
    panel: tl.tensor,
    scene: tl.tensor,
    scene_row: tl.tensor,
) -> Any:
    """Gradients by the flat position and the axes; those by beam and distance go to the row."""
    beam, distance = load3(scene), tl.load(scene + 3)
    place = flat_position(pixel, layer, sub, oversample, panel)
    y, z = place[1] / distance, place[2] / distance
    start = scaled(distance, beam)
    cos_y, sin_y = cosine_and_sine(y)
    cos_z, sin_z = cosine_and_sine(z)
    turned = turn(panel[2], cos_y, sin_y, start)
    pull, by_z, by_fast = turn_back(panel[1], cos_z, sin_z, turned, pull)
    pull, by_y, by_slow = turn_back(panel[2], cos_y, sin_y, start, pull)
    by_distance = dot(pull, beam) - (y * by_y + z * by_z) / distance
    sums = total(pull[0] * distance), total(pull[1] * distance), total(pull[2] * distance), total(by_distance)
    add_row(scene_row, sums, 4)
    return (0.0 * by_y, by_y / distance, by_z / distance), by_fast, by_slow
