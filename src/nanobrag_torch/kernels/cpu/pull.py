"""From gradients by q and by factors back to panels, sources and polarization: float64 stages of the derivatives.

The adjoint sums over lanes, the tangents keep them apart; both go through the same formulas of one lane.
"""

from __future__ import annotations

from typing import Any

from nanobrag_torch.kernels.cpu import layout as at
from nanobrag_torch.kernels.cpu.curved import unbend, unbend_by_lab_axes
from nanobrag_torch.kernels.cpu.geometry import aim, decay, depth_index, plane_distance, scatter
from nanobrag_torch.kernels.cpu.intrinsics import FAST, stage, vector_code
from nanobrag_torch.kernels.cpu.layout import Array, Packed, Sums
from nanobrag_torch.kernels.cpu.products import add_six, plus, square, symmetric, times


@stage(fastmath=FAST)
def pull_factors(v: Array, lanes: int, source: Array, of_source: Array, whole: Array) -> None:
    """Gradients by the source's weight and by the three factors: kept where a factor is computed once a pixel."""
    vector_code()
    weight = source[at.SOURCE_WEIGHT]
    share = 1.0 / whole[at.SUBS]
    omegas = at.PULL_OMEGA if whole[at.EACH_OMEGA] else at.KEPT_OMEGA
    captures = at.PULL_CAPTURE if whole[at.EACH_CAPTURE] else at.KEPT_CAPTURE
    by_weight = 0.0
    for j in range(lanes):
        flow = share * v[at.UPSTREAM + j] * v[at.STEP_SUM + j] * v[at.SEEN + j]
        omega, capture, polar = v[at.OMEGA + j], v[at.CAPTURE + j], v[at.POLAR + j]
        by_weight += flow * omega * capture * polar
        v[omegas + j] += weight * flow * capture * polar
        v[captures + j] += weight * flow * omega * polar
        v[at.PULL_POLAR + j] = weight * flow * omega * capture
    of_source[at.SOURCE_WEIGHT] += by_weight


@stage(fastmath=FAST)
def pull_scattering(v: Array, lanes: int, source: Array, of_source: Array) -> None:
    """q = (d - s) / lambda: SLOPE back to the unit vectors, the source's direction and one over its wavelength."""
    vector_code()
    inverse = source[at.INVERSE_LAMBDA]
    x = y = z = by_inverse = 0.0
    for j in range(lanes):
        gx, gy, gz = v[at.SLOPE_X + j], v[at.SLOPE_Y + j], v[at.SLOPE_Z + j]
        v[at.PULL_X + j] += gx * inverse
        v[at.PULL_Y + j] += gy * inverse
        v[at.PULL_Z + j] += gz * inverse
        x += gx
        y += gy
        z += gz
        by_inverse += gx * v[at.X + j] + gy * v[at.Y + j] + gz * v[at.Z + j]
    of_source[at.INCIDENT] -= x * inverse
    of_source[at.INCIDENT + 1] -= y * inverse
    of_source[at.INCIDENT + 2] -= z * inverse
    of_source[at.INVERSE_LAMBDA] += by_inverse / inverse


@stage(fastmath=FAST)
def pull_polarization(v: Array, lanes: int, source: Array, of_source: Array) -> None:
    """P = (1 + d M d) / 2: PULL_POLAR back to the unit vectors and to M, symmetric."""
    vector_code()
    xx, yy, zz = source[at.POLARIZATION], source[at.POLARIZATION + 4], source[at.POLARIZATION + 8]
    xy = (source[at.POLARIZATION + 1] + source[at.POLARIZATION + 3]) / 2
    xz = (source[at.POLARIZATION + 2] + source[at.POLARIZATION + 6]) / 2
    yz = (source[at.POLARIZATION + 5] + source[at.POLARIZATION + 7]) / 2
    m, sums = symmetric((xx, xy, xz, yy, yz, zz)), (0.0, 0.0, 0.0, 0.0, 0.0, 0.0)
    for j in range(lanes):
        x, y, z = times(m, v[at.AIM_X + j], v[at.AIM_Y + j], v[at.AIM_Z + j])
        v[at.PULL_X + j] += v[at.PULL_POLAR + j] * x
        v[at.PULL_Y + j] += v[at.PULL_POLAR + j] * y
        v[at.PULL_Z + j] += v[at.PULL_POLAR + j] * z
        sums = add_six(sums, by_polarization(v, j))
    matrix = symmetric(sums)
    for i in range(9):
        of_source[at.POLARIZATION + i] += matrix[i] / 2


@stage(forceinline=True, fastmath=FAST)
def by_polarization(v: Array, j: int) -> Any:
    """Twice the gradient of a lane by xx, xy, xz, yy, yz, zz of the matrix."""
    return square(v[at.PULL_POLAR + j], v[at.AIM_X + j], v[at.AIM_Y + j], v[at.AIM_Z + j])


@stage()
def pull_sample(v: Array, lanes: int, p: int, layer: int, sub: int, scene: Packed, sums: Sums) -> None:
    """Gradients by unit vectors, solid angle and capture of the sample that `aim` was called for, back to panel p."""
    whole, panel, of_panel = scene.whole, scene.panels[p], sums.panels[p]
    oversample = whole[at.OVERSAMPLE]
    slow, fast = (sub // oversample + 0.5) / oversample, (sub % oversample + 0.5) / oversample
    _pull_capture(v, lanes, panel, of_panel, layer, whole[at.UPRIGHT])
    _pull_omega(v, lanes, panel, of_panel, layer, whole)
    if at.COMPLETE and whole[at.CURVED] == at.SPHERE:
        unbend(v, lanes, panel, of_panel)
    elif at.COMPLETE and whole[at.CURVED]:
        unbend_by_lab_axes(v, lanes, panel, scene.numbers, of_panel, sums.single)
    _pull_positions(v, lanes, panel, of_panel, depth_index(layer, whole), slow, fast)


@stage(forceinline=True, fastmath=FAST)
def through_capture(v: Array, j: int, panel: Array, layer: int, upright: int) -> Any:
    """capture = exp(-t D) - exp(-(t + 1) D), D = step attenuation / cos: PULL_CAPTURE of a lane to its unit vector.

    What flows on to the cosine, and to step times attenuation. upright: the cosine is one.
    """
    slanted = 1.0 - upright
    nx, ny, nz = slanted * panel[at.NORMAL], slanted * panel[at.NORMAL + 1], slanted * panel[at.NORMAL + 2]
    secant = 1 / (upright + v[at.AIM_X + j] * nx + v[at.AIM_Y + j] * ny + v[at.AIM_Z + j] * nz)
    depth = panel[at.LAYER_STEP] * panel[at.ATTENUATION] * secant
    slope = (layer + 1) * decay((layer + 1) * depth) - layer * decay(layer * depth)
    by_depth = v[at.PULL_CAPTURE + j] * slope * secant
    by_cosine = -by_depth * depth
    v[at.PULL_X + j] += by_cosine * nx
    v[at.PULL_Y + j] += by_cosine * ny
    v[at.PULL_Z + j] += by_cosine * nz
    return by_cosine * slanted, by_depth


@stage(forceinline=True, fastmath=FAST)
def through_omega(v: Array, j: int, scale: float, power: float) -> Any:
    """PULL of a lane: from unit vector and PULL_OMEGA to position. What flows on to area times close distance.

    The solid angle is scale / R^power: 1 / R^2 of a point, area times close distance / R^3 of a pixel.
    """
    inverse = v[at.INVERSE + j]
    x, y, z = v[at.AIM_X + j], v[at.AIM_Y + j], v[at.AIM_Z + j]
    gx, gy, gz = v[at.PULL_X + j], v[at.PULL_Y + j], v[at.PULL_Z + j]
    bare = v[at.PULL_OMEGA + j] * inverse * inverse * (1.0 if power == 2.0 else inverse)
    along = x * gx + y * gy + z * gz + power * scale * bare
    v[at.PULL_X + j] = (gx - along * x) * inverse
    v[at.PULL_Y + j] = (gy - along * y) * inverse
    v[at.PULL_Z + j] = (gz - along * z) * inverse
    return bare


@stage(forceinline=True)
def solid_angle_law(panel: Array, layer: int, whole: Array) -> Any:
    """Scale and power of `through_omega`."""
    if whole[at.POINT_PIXEL]:
        return 1.0, 2.0
    return panel[at.AREA] * plane_distance(panel, layer, whole), 3.0


@stage(fastmath=FAST)
def _pull_capture(v: Array, lanes: int, panel: Array, of_panel: Array, layer: int, upright: int) -> None:
    """PULL_CAPTURE to unit vectors and sensor."""
    vector_code()
    if panel[at.LAYER_STEP] <= 0:
        return
    sx = sy = sz = total = 0.0
    for j in range(lanes):
        by_cosine, by_depth = through_capture(v, j, panel, layer, upright)
        sx += by_cosine * v[at.AIM_X + j]
        sy += by_cosine * v[at.AIM_Y + j]
        sz += by_cosine * v[at.AIM_Z + j]
        total += by_depth
    of_panel[at.NORMAL] += sx
    of_panel[at.NORMAL + 1] += sy
    of_panel[at.NORMAL + 2] += sz
    of_panel[at.LAYER_STEP] += total * panel[at.ATTENUATION]
    of_panel[at.ATTENUATION] += total * panel[at.LAYER_STEP]


@stage(fastmath=FAST)
def _pull_omega(v: Array, lanes: int, panel: Array, of_panel: Array, layer: int, whole: Array) -> None:
    """PULL: from unit vectors and PULL_OMEGA to positions; area and distance of the plane in the solid angle."""
    vector_code()
    scale, power = solid_angle_law(panel, layer, whole)
    total = 0.0
    for j in range(lanes):
        total += through_omega(v, j, scale, power)
    if not whole[at.POINT_PIXEL]:
        of_panel[at.AREA] += total * plane_distance(panel, layer, whole)
        of_panel[at.CLOSE] += total * panel[at.AREA]
        of_panel[at.LAYER_STEP] += total * panel[at.AREA] * layer * whole[at.LAYER_OMEGA]


@stage(fastmath=FAST)
def _pull_positions(v: Array, lanes: int, panel: Array, of_panel: Array, layer: int, slow: float, fast: float) -> None:
    """PULL, by positions, to origin, axes, pixel size and layer step."""
    vector_code()
    x = y = z = 0.0
    by_fast = by_slow = (0.0, 0.0, 0.0)
    for j in range(lanes):
        pull, along_fast, along_slow = by_position(v, j, slow, fast)
        x, y, z = x + pull[0], y + pull[1], z + pull[2]
        by_fast, by_slow = plus(by_fast, along_fast, pull), plus(by_slow, along_slow, pull)
    _add_position_sums((x, y, z), by_fast, by_slow, panel, of_panel, layer)


@stage(forceinline=True, fastmath=FAST)
def by_position(v: Array, j: int, slow: float, fast: float) -> Any:
    """PULL of a lane, and how much of it goes to the fast and to the slow axis: its places along them, in pixels."""
    pull = v[at.PULL_X + j], v[at.PULL_Y + j], v[at.PULL_Z + j]
    return pull, v[at.FAST_INDEX + j] + fast, v[at.SLOW_INDEX + j] + slow


@stage()
def _add_position_sums(plain: Any, fast: Any, slow: Any, panel: Array, of_panel: Array, layer: int) -> None:
    """Gradients by positions, plain and weighted by pixel indices."""
    for i in range(3):
        of_panel[at.ORIGIN + i] += plain[i]
        of_panel[at.FAST_AXIS + i] += fast[i] * panel[at.FAST_SIZE]
        of_panel[at.SLOW_AXIS + i] += slow[i] * panel[at.SLOW_SIZE]
        of_panel[at.NORMAL + i] += plain[i] * layer * panel[at.LAYER_STEP]
        of_panel[at.FAST_SIZE] += fast[i] * panel[at.FAST_AXIS + i]
        of_panel[at.SLOW_SIZE] += slow[i] * panel[at.SLOW_AXIS + i]
        of_panel[at.LAYER_STEP] += plain[i] * layer * panel[at.NORMAL + i]


@stage()
def clear_pull(v: Array, lanes: int) -> None:
    """No gradient yet by a sample's unit vectors, solid angle and capture."""
    for j in range(lanes):
        v[at.PULL_X + j] = v[at.PULL_Y + j] = v[at.PULL_Z + j] = v[at.PULL_OMEGA + j] = v[at.PULL_CAPTURE + j] = 0.0


@stage()
def clear_kept(v: Array, lanes: int) -> None:
    """No gradient yet by factors that are formed once."""
    for j in range(lanes):
        v[at.KEPT_OMEGA + j] = v[at.KEPT_CAPTURE + j] = v[at.KEPT_POLAR + j] = 0.0


@stage()
def recall(v: Array, lanes: int, panel: Array, layer: int, kept: int, pull: int, scene: Packed) -> None:
    """Take the row `kept`, gradient by a factor of a layer, to the row `pull` of the first sub-pixel, and clear it.

    A sample's pull then.
    """
    aim(v, lanes, panel, layer, at.FIRST, scene.whole, scene.numbers)
    clear_pull(v, lanes)
    for j in range(lanes):
        v[pull + j] = v[kept + j]
        v[kept + j] = 0.0


@stage()
def keep_offset(v: Array, lanes: int, offset: float) -> None:
    """What flows through the factors of offset omega capture P, of which UPSTREAM is asked, after `once`."""
    for j in range(lanes):
        omega, capture, polar = v[at.OMEGA + j], v[at.CAPTURE + j], v[at.POLAR + j]
        flow = v[at.UPSTREAM + j] * offset
        v[at.KEPT_OMEGA + j] += flow * capture * polar
        v[at.KEPT_CAPTURE + j] += flow * omega * polar
        v[at.KEPT_POLAR + j] += flow * omega * capture


@stage()
def _nothing_seen(v: Array, lanes: int) -> None:
    """Every lane is yet to see a source."""
    for j in range(lanes):
        v[at.KNOWN + j] = 0.0
        v[at.SEEN + j] = 1.0


@stage(inline="always")
def step_of(number: int, scene: Packed) -> Any:
    """Layer, sub-pixel and source of a step, in the order in which they are taken."""
    sources, subs = scene.sources.shape[0], scene.whole[at.SUBS]
    sample = number // sources
    return sample // subs, sample % subs, number % sources


@stage()
def recall_polarization(v: Array, lanes: int, p: int, number: int, scene: Packed) -> int:
    """Take KEPT_POLAR to the first step from `number` on whose source some lanes see as their first; -1 for none.

    Before step 0 no lane has seen a source. The very first source is that of all lanes if P is formed for each. A
    polarization's pull then, and a sample's.
    """
    if number == 0:
        _nothing_seen(v, lanes)
    count = scene.whole[at.LAYERS] * scene.whole[at.SUBS] * scene.sources.shape[0]
    while number < count and not _all_known(v, lanes):
        layer, sub, s = step_of(number, scene)
        aim(v, lanes, scene.panels[p], layer, sub, scene.whole, scene.numbers)
        if not scene.whole[at.EACH_POLAR]:
            scatter(v, lanes, scene.sources[s], scene.numbers[at.DMIN])
        if _recall_fresh(v, lanes):
            return number
        number += 1
    return at.FIRST - 1


@stage()
def _all_known(v: Array, lanes: int) -> bool:
    """Whether every lane has seen a source."""
    least = 1.0
    for j in range(lanes):
        least = min(least, v[at.KNOWN + j])
    return least > 0


@stage()
def _recall_fresh(v: Array, lanes: int) -> bool:
    """Take KEPT_POLAR to lanes that see a source for the first time; whether any does."""
    clear_pull(v, lanes)
    found = False
    for j in range(lanes):
        fresh = v[at.SEEN + j] > v[at.KNOWN + j]
        found = found or fresh
        v[at.PULL_POLAR + j] = v[at.KEPT_POLAR + j] if fresh else 0.0
        v[at.KNOWN + j] = max(v[at.KNOWN + j], v[at.SEEN + j])
    return found
