"""From gradients by q and by factors back to panels, sources and polarization: float64 stages of the adjoint."""

from __future__ import annotations

from nanobrag_torch.kernels.cpu import layout as at
from nanobrag_torch.kernels.cpu.curved import unbend
from nanobrag_torch.kernels.cpu.geometry import decay
from nanobrag_torch.kernels.cpu.intrinsics import FAST, stage, vector_code
from nanobrag_torch.kernels.cpu.layout import Array, Packed, Sums


@stage(fastmath=FAST)
def pull_factors(v: Array, lanes: int, source: Array, of_source: Array, whole: Array) -> None:
    """Gradients by the source's weight and by the three factors: kept where a factor is computed once a pixel."""
    vector_code()
    weight = source[at.SOURCE_WEIGHT]
    share = 1.0 / (whole[at.OVERSAMPLE] * whole[at.OVERSAMPLE])
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
    sxx = sxy = sxz = syy = syz = szz = 0.0
    for j in range(lanes):
        x, y, z, g = v[at.AIM_X + j], v[at.AIM_Y + j], v[at.AIM_Z + j], v[at.PULL_POLAR + j]
        v[at.PULL_X + j] += g * (xx * x + xy * y + xz * z)
        v[at.PULL_Y + j] += g * (xy * x + yy * y + yz * z)
        v[at.PULL_Z + j] += g * (xz * x + yz * y + zz * z)
        sxx += g * x * x
        sxy += g * x * y
        sxz += g * x * z
        syy += g * y * y
        syz += g * y * z
        szz += g * z * z
    sums = (sxx, sxy, sxz, sxy, syy, syz, sxz, syz, szz)
    for i in range(9):
        of_source[at.POLARIZATION + i] += sums[i] / 2


@stage()
def pull_sample(v: Array, lanes: int, p: int, layer: int, sub: int, scene: Packed, sums: Sums) -> None:
    """Gradients by unit vectors, solid angle and capture of the sample that `aim` was called for, back to panel p."""
    whole, panel, of_panel = scene.whole, scene.panels[p], sums.panels[p]
    oversample = whole[at.OVERSAMPLE]
    slow, fast = (sub // oversample + 0.5) / oversample, (sub % oversample + 0.5) / oversample
    _pull_capture(v, lanes, panel, of_panel, layer)
    _pull_omega(v, lanes, panel, of_panel, whole[at.POINT_PIXEL])
    if whole[at.CURVED]:
        unbend(v, lanes, panel, scene.numbers, of_panel, sums.single)
    _pull_positions(v, lanes, panel, of_panel, layer, slow, fast)


@stage(fastmath=FAST)
def _pull_capture(v: Array, lanes: int, panel: Array, of_panel: Array, layer: int) -> None:
    """capture = exp(-t D) - exp(-(t + 1) D), D = step attenuation / cos: PULL_CAPTURE to unit vectors and sensor."""
    vector_code()
    step, attenuation = panel[at.LAYER_STEP], panel[at.ATTENUATION]
    if step <= 0:
        return
    nx, ny, nz = panel[at.NORMAL], panel[at.NORMAL + 1], panel[at.NORMAL + 2]
    sx = sy = sz = total = 0.0
    for j in range(lanes):
        x, y, z = v[at.AIM_X + j], v[at.AIM_Y + j], v[at.AIM_Z + j]
        secant = 1 / (x * nx + y * ny + z * nz)
        depth = step * attenuation * secant
        slope = (layer + 1) * decay((layer + 1) * depth) - layer * decay(layer * depth)
        by_depth = v[at.PULL_CAPTURE + j] * slope * secant
        by_cosine = -by_depth * depth
        v[at.PULL_X + j] += by_cosine * nx
        v[at.PULL_Y + j] += by_cosine * ny
        v[at.PULL_Z + j] += by_cosine * nz
        sx += by_cosine * x
        sy += by_cosine * y
        sz += by_cosine * z
        total += by_depth
    of_panel[at.NORMAL] += sx
    of_panel[at.NORMAL + 1] += sy
    of_panel[at.NORMAL + 2] += sz
    of_panel[at.LAYER_STEP] += total * attenuation
    of_panel[at.ATTENUATION] += total * step


@stage(fastmath=FAST)
def _pull_omega(v: Array, lanes: int, panel: Array, of_panel: Array, point_pixel: int) -> None:
    """PULL: from unit vectors and PULL_OMEGA to positions; area and close distance of the solid angle."""
    vector_code()
    scale, power = (1.0, 2.0) if point_pixel else (panel[at.AREA] * panel[at.CLOSE], 3.0)
    total = 0.0
    for j in range(lanes):
        inverse = v[at.INVERSE + j]
        x, y, z = v[at.AIM_X + j], v[at.AIM_Y + j], v[at.AIM_Z + j]
        gx, gy, gz = v[at.PULL_X + j], v[at.PULL_Y + j], v[at.PULL_Z + j]
        bare = v[at.PULL_OMEGA + j] * inverse * inverse * (1.0 if point_pixel else inverse)
        along = x * gx + y * gy + z * gz + power * scale * bare
        v[at.PULL_X + j] = (gx - along * x) * inverse
        v[at.PULL_Y + j] = (gy - along * y) * inverse
        v[at.PULL_Z + j] = (gz - along * z) * inverse
        total += bare
    if not point_pixel:
        of_panel[at.AREA] += total * panel[at.CLOSE]
        of_panel[at.CLOSE] += total * panel[at.AREA]


@stage(fastmath=FAST)
def _pull_positions(v: Array, lanes: int, panel: Array, of_panel: Array, layer: int, slow: float, fast: float) -> None:
    """PULL, by positions, to origin, axes, pixel size and layer step."""
    vector_code()
    x = y = z = fx = fy = fz = sx = sy = sz = 0.0
    for j in range(lanes):
        gx, gy, gz = v[at.PULL_X + j], v[at.PULL_Y + j], v[at.PULL_Z + j]
        along_fast, along_slow = v[at.FAST_INDEX + j] + fast, v[at.SLOW_INDEX + j] + slow
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
        of_panel[at.ORIGIN + i] += plain[i]
        of_panel[at.FAST_AXIS + i] += fast[i] * panel[at.FAST_SIZE]
        of_panel[at.SLOW_AXIS + i] += slow[i] * panel[at.SLOW_SIZE]
        of_panel[at.NORMAL + i] += plain[i] * layer * panel[at.LAYER_STEP]
        of_panel[at.FAST_SIZE] += fast[i] * panel[at.FAST_AXIS + i]
        of_panel[at.SLOW_SIZE] += slow[i] * panel[at.SLOW_AXIS + i]
        of_panel[at.LAYER_STEP] += plain[i] * layer * panel[at.NORMAL + i]
