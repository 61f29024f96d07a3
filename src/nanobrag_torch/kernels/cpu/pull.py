"""From gradients by q and by factors back to panels, sources and polarization: float64 stages of the adjoint."""

from __future__ import annotations

from nanobrag_torch.kernels.cpu.curved import unbend
from nanobrag_torch.kernels.cpu.geometry import decay
from nanobrag_torch.kernels.cpu.intrinsics import FAST, stage, vector_code
from nanobrag_torch.kernels.cpu.layout import (
    AIM_X,
    AIM_Y,
    AIM_Z,
    AREA,
    ATTENUATION,
    CAPTURE,
    CLOSE,
    CURVED,
    EACH_CAPTURE,
    EACH_OMEGA,
    FAST_AXIS,
    FAST_INDEX,
    FAST_SIZE,
    INCIDENT,
    INVERSE,
    INVERSE_LAMBDA,
    KEPT_CAPTURE,
    KEPT_OMEGA,
    LAYER_STEP,
    NORMAL,
    OMEGA,
    ORIGIN,
    OVERSAMPLE,
    POINT_PIXEL,
    POLAR,
    POLARIZATION,
    PULL_CAPTURE,
    PULL_OMEGA,
    PULL_POLAR,
    PULL_X,
    PULL_Y,
    PULL_Z,
    SEEN,
    SLOPE_X,
    SLOPE_Y,
    SLOPE_Z,
    SLOW_AXIS,
    SLOW_INDEX,
    SLOW_SIZE,
    SOURCE_WEIGHT,
    STEP_SUM,
    UPSTREAM,
    Array,
    Packed,
    Sums,
    X,
    Y,
    Z,
)


@stage(fastmath=FAST)
def pull_factors(v: Array, lanes: int, source: Array, of_source: Array, whole: Array) -> None:
    """Gradients by the source's weight and by the three factors: kept where a factor is computed once a pixel."""
    vector_code()
    weight = source[SOURCE_WEIGHT]
    share = 1.0 / (whole[OVERSAMPLE] * whole[OVERSAMPLE])
    omegas = PULL_OMEGA if whole[EACH_OMEGA] else KEPT_OMEGA
    captures = PULL_CAPTURE if whole[EACH_CAPTURE] else KEPT_CAPTURE
    by_weight = 0.0
    for j in range(lanes):
        flow = share * v[UPSTREAM + j] * v[STEP_SUM + j] * v[SEEN + j]
        omega, capture, polar = v[OMEGA + j], v[CAPTURE + j], v[POLAR + j]
        by_weight += flow * omega * capture * polar
        v[omegas + j] += weight * flow * capture * polar
        v[captures + j] += weight * flow * omega * polar
        v[PULL_POLAR + j] = weight * flow * omega * capture
    of_source[SOURCE_WEIGHT] += by_weight


@stage(fastmath=FAST)
def pull_scattering(v: Array, lanes: int, source: Array, of_source: Array) -> None:
    """q = (d - s) / lambda: SLOPE back to the unit vectors, the source's direction and one over its wavelength."""
    vector_code()
    inverse = source[INVERSE_LAMBDA]
    x = y = z = by_inverse = 0.0
    for j in range(lanes):
        gx, gy, gz = v[SLOPE_X + j], v[SLOPE_Y + j], v[SLOPE_Z + j]
        v[PULL_X + j] += gx * inverse
        v[PULL_Y + j] += gy * inverse
        v[PULL_Z + j] += gz * inverse
        x += gx
        y += gy
        z += gz
        by_inverse += gx * v[X + j] + gy * v[Y + j] + gz * v[Z + j]
    of_source[INCIDENT] -= x * inverse
    of_source[INCIDENT + 1] -= y * inverse
    of_source[INCIDENT + 2] -= z * inverse
    of_source[INVERSE_LAMBDA] += by_inverse / inverse


@stage(fastmath=FAST)
def pull_polarization(v: Array, lanes: int, source: Array, of_source: Array) -> None:
    """P = (1 + d M d) / 2: PULL_POLAR back to the unit vectors and to M, symmetric."""
    vector_code()
    xx, yy, zz = source[POLARIZATION], source[POLARIZATION + 4], source[POLARIZATION + 8]
    xy = (source[POLARIZATION + 1] + source[POLARIZATION + 3]) / 2
    xz = (source[POLARIZATION + 2] + source[POLARIZATION + 6]) / 2
    yz = (source[POLARIZATION + 5] + source[POLARIZATION + 7]) / 2
    sxx = sxy = sxz = syy = syz = szz = 0.0
    for j in range(lanes):
        x, y, z, g = v[AIM_X + j], v[AIM_Y + j], v[AIM_Z + j], v[PULL_POLAR + j]
        v[PULL_X + j] += g * (xx * x + xy * y + xz * z)
        v[PULL_Y + j] += g * (xy * x + yy * y + yz * z)
        v[PULL_Z + j] += g * (xz * x + yz * y + zz * z)
        sxx += g * x * x
        sxy += g * x * y
        sxz += g * x * z
        syy += g * y * y
        syz += g * y * z
        szz += g * z * z
    sums = (sxx, sxy, sxz, sxy, syy, syz, sxz, syz, szz)
    for i in range(9):
        of_source[POLARIZATION + i] += sums[i] / 2


@stage()
def pull_sample(v: Array, lanes: int, p: int, layer: int, sub: int, scene: Packed, sums: Sums) -> None:
    """Gradients by unit vectors, solid angle and capture of the sample that `aim` was called for, back to panel p."""
    whole, panel, of_panel = scene.whole, scene.panels[p], sums.panels[p]
    oversample = whole[OVERSAMPLE]
    slow, fast = (sub // oversample + 0.5) / oversample, (sub % oversample + 0.5) / oversample
    _pull_capture(v, lanes, panel, of_panel, layer)
    _pull_omega(v, lanes, panel, of_panel, whole[POINT_PIXEL])
    if whole[CURVED]:
        unbend(v, lanes, panel, scene.numbers, of_panel, sums.single)
    _pull_positions(v, lanes, panel, of_panel, layer, slow, fast)


@stage(fastmath=FAST)
def _pull_capture(v: Array, lanes: int, panel: Array, of_panel: Array, layer: int) -> None:
    """capture = exp(-t D) - exp(-(t + 1) D), D = step attenuation / cos: PULL_CAPTURE to unit vectors and sensor."""
    vector_code()
    step, attenuation = panel[LAYER_STEP], panel[ATTENUATION]
    if step <= 0:
        return
    nx, ny, nz = panel[NORMAL], panel[NORMAL + 1], panel[NORMAL + 2]
    sx = sy = sz = total = 0.0
    for j in range(lanes):
        x, y, z = v[AIM_X + j], v[AIM_Y + j], v[AIM_Z + j]
        secant = 1 / (x * nx + y * ny + z * nz)
        depth = step * attenuation * secant
        slope = (layer + 1) * decay((layer + 1) * depth) - layer * decay(layer * depth)
        by_depth = v[PULL_CAPTURE + j] * slope * secant
        by_cosine = -by_depth * depth
        v[PULL_X + j] += by_cosine * nx
        v[PULL_Y + j] += by_cosine * ny
        v[PULL_Z + j] += by_cosine * nz
        sx += by_cosine * x
        sy += by_cosine * y
        sz += by_cosine * z
        total += by_depth
    of_panel[NORMAL] += sx
    of_panel[NORMAL + 1] += sy
    of_panel[NORMAL + 2] += sz
    of_panel[LAYER_STEP] += total * attenuation
    of_panel[ATTENUATION] += total * step


@stage(fastmath=FAST)
def _pull_omega(v: Array, lanes: int, panel: Array, of_panel: Array, point_pixel: int) -> None:
    """PULL: from unit vectors and PULL_OMEGA to positions; area and close distance of the solid angle."""
    vector_code()
    scale, power = (1.0, 2.0) if point_pixel else (panel[AREA] * panel[CLOSE], 3.0)
    total = 0.0
    for j in range(lanes):
        inverse = v[INVERSE + j]
        x, y, z = v[AIM_X + j], v[AIM_Y + j], v[AIM_Z + j]
        gx, gy, gz = v[PULL_X + j], v[PULL_Y + j], v[PULL_Z + j]
        bare = v[PULL_OMEGA + j] * inverse * inverse * (1.0 if point_pixel else inverse)
        along = x * gx + y * gy + z * gz + power * scale * bare
        v[PULL_X + j] = (gx - along * x) * inverse
        v[PULL_Y + j] = (gy - along * y) * inverse
        v[PULL_Z + j] = (gz - along * z) * inverse
        total += bare
    if not point_pixel:
        of_panel[AREA] += total * panel[CLOSE]
        of_panel[CLOSE] += total * panel[AREA]


@stage(fastmath=FAST)
def _pull_positions(v: Array, lanes: int, panel: Array, of_panel: Array, layer: int, slow: float, fast: float) -> None:
    """PULL, by positions, to origin, axes, pixel size and layer step."""
    vector_code()
    x = y = z = fx = fy = fz = sx = sy = sz = 0.0
    for j in range(lanes):
        gx, gy, gz = v[PULL_X + j], v[PULL_Y + j], v[PULL_Z + j]
        along_fast, along_slow = v[FAST_INDEX + j] + fast, v[SLOW_INDEX + j] + slow
        x += gx
        y += gy
        z += gz
        fx += gx * along_fast
        fy += gy * along_fast
        fz += gz * along_fast
        sx += gx * along_slow
        sy += gy * along_slow
        sz += gz * along_slow
    _add_position_sums((x, y, z), (fx, fy, fz), (sx, sy, sz), panel, of_panel, layer)


@stage()
def _add_position_sums(
    plain: tuple[float, float, float],
    fast: tuple[float, float, float],
    slow: tuple[float, float, float],
    panel: Array,
    of_panel: Array,
    layer: int,
) -> None:
    """fast and slow: sums weighted by pixel indices."""
    for i in range(3):
        of_panel[ORIGIN + i] += plain[i]
        of_panel[FAST_AXIS + i] += fast[i] * panel[FAST_SIZE]
        of_panel[SLOW_AXIS + i] += slow[i] * panel[SLOW_SIZE]
        of_panel[NORMAL + i] += plain[i] * layer * panel[LAYER_STEP]
        of_panel[FAST_SIZE] += fast[i] * panel[FAST_AXIS + i]
        of_panel[SLOW_SIZE] += slow[i] * panel[SLOW_AXIS + i]
        of_panel[LAYER_STEP] += plain[i] * layer * panel[NORMAL + i]
