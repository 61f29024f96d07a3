"""The radial image in machine code: the values of background.radial, and their adjoint by the table.

Pixels are taken in runs of one panel, so that what belongs to it stands still in every loop; each loop is without
branches and calls, and runs on as many pixels at once as the processor has lanes.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from nanobrag_torch.compilation import compiled
from nanobrag_torch.polynomials import POWER_64

Reals = npt.NDArray[np.float64]
Index = npt.NDArray[np.int64]

BLOCK = 512
LOG2_E = 1.4426950408889634
DEEPEST = 22.0
"""Attenuation lengths beyond which 3e-10 of the photons are left, which count as captured."""
SIXTY_FOURTH = 1.0 / 64.0
_P0, _P1, _P2, _P3, _P4, _P5, _P6, _P7, _P8, _P9, _P10, _P11 = POWER_64


class Sight(NamedTuple):
    """What a background.radial.View has, as arrays, with the pixels to render: none at all for every one in order."""

    panels: Reals
    sizes: Reals
    depths: Reals
    closes: Reals
    incident: Reals
    polarization: Reals
    slow_count: int
    fast_count: int
    oversample: int
    point_pixel: bool
    pixels: Index
    per_step: float  # steps of the table per sin(theta)


F, S, X, Y, Z, OWN, PLACE, WEIGHT, TOTAL = range(9)
"""Rows of a run of pixels: where they are on the panel, unit vectors to them, solid angle times capture; place in the
table and what its value is multiplied by, and their sum."""


@compiled()
def _run(sight: Sight, first: int, most: int, room: Reals) -> Any:
    """Fast and slow pixel of a run that begins at place `first`; its panel and length."""
    f, s, pixels, fast_count = room[F], room[S], sight.pixels, sight.fast_count
    area = sight.slow_count * fast_count
    listed = len(pixels) > 0
    index = pixels[first] if listed else first
    panel = index // area
    if not listed:
        slow = (index - panel * area) // fast_count
        fast = index - panel * area - slow * fast_count
        n = min(most, fast_count - fast)
        for i in range(n):
            f[i] = fast + i
            s[i] = slow
        return panel, n
    n, slow, fast, last = 0, 0, fast_count, 0
    while n < most and panel * area <= pixels[first + n] < (panel + 1) * area:
        index = pixels[first + n]
        if index == last + 1 and fast + 1 < fast_count:  # the next pixel of a row: no division
            fast += 1
        else:
            slow = (index - panel * area) // fast_count
            fast = index - panel * area - slow * fast_count
        f[n], s[n], last = fast, slow, index
        n += 1
    return panel, n


@compiled(error_model="numpy")
def _look(sight: Sight, which: int, sub: int, n: int, room: Reals) -> None:
    """Unit vectors to a run of pixels of a panel, at a sub-pixel, and solid angle times capture."""
    panel, size, depth, close = sight.panels[which], sight.sizes[which], sight.depths[which], sight.closes[which]
    oversample, point_pixel = sight.oversample, sight.point_pixel
    u, v = (sub % oversample + 0.5) / oversample, (sub // oversample + 0.5) / oversample
    f, s, x, y, z, own = room[F, :n], room[S, :n], room[X, :n], room[Y, :n], room[Z, :n], room[OWN, :n]
    ox, oy, oz = panel[0, 0], panel[0, 1], panel[0, 2]
    fx, fy, fz = panel[1, 0] * size[0], panel[1, 1] * size[0], panel[1, 2] * size[0]
    sx, sy, sz = panel[2, 0] * size[1], panel[2, 1] * size[1], panel[2, 2] * size[1]
    nx, ny, nz = panel[3, 0], panel[3, 1], panel[3, 2]
    area = size[0] * size[1] * close
    for i in range(len(f)):
        a, b = f[i] + u, s[i] + v
        px, py, pz = ox + a * fx + b * sx, oy + a * fy + b * sy, oz + a * fz + b * sz
        inverse = 1.0 / math.sqrt(px * px + py * py + pz * pz)
        x[i], y[i], z[i] = px * inverse, py * inverse, pz * inverse
        own[i] = inverse * inverse * (1.0 if point_pixel else area * inverse)
    if depth > 0:
        for i in range(len(f)):
            lengths = min(depth / (x[i] * nx + y[i] * ny + z[i] * nz), DEEPEST)
            t = -lengths * (LOG2_E * SIXTY_FOURTH)
            low = _P7 + t * (_P8 + t * (_P9 + t * (_P10 + t * _P11)))
            left = _P0 + t * (_P1 + t * (_P2 + t * (_P3 + t * (_P4 + t * (_P5 + t * (_P6 + t * low))))))
            left *= left
            left *= left
            left *= left
            left *= left
            left *= left
            own[i] *= 1.0 - left * left


@compiled(error_model="numpy")
def _weigh(sight: Sight, d: int, entries: int, n: int, room: Reals) -> None:
    """Places in the table, whose last two entries lie beyond all, and what its value is multiplied by."""
    incident, m, per_step, top = sight.incident[d], sight.polarization[d], sight.per_step, entries - 1.001
    x, y, z, own, place, weight = (
        room[X, :n],
        room[Y, :n],
        room[Z, :n],
        room[OWN, :n],
        room[PLACE, :n],
        room[WEIGHT, :n],
    )
    ix, iy, iz = incident[0], incident[1], incident[2]
    xx, yy, zz = m[0, 0], m[1, 1], m[2, 2]
    xy, xz, yz = m[0, 1] + m[1, 0], m[0, 2] + m[2, 0], m[1, 2] + m[2, 1]
    for i in range(len(x)):
        a, b, c = x[i], y[i], z[i]
        dx, dy, dz = a - ix, b - iy, c - iz
        place[i] = min(0.5 * per_step * math.sqrt(dx * dx + dy * dy + dz * dz), top)
        weight[i] = 0.5 * own[i] * (1.0 + a * (xx * a + xy * b + xz * c) + b * (yy * b + yz * c) + zz * c * c)


@compiled()
def _add(row: Reals, place: Reals, weight: Reals, total: Reals) -> None:
    for i in range(len(total)):
        low = np.int32(place[i])
        below = row[low]
        total[i] += weight[i] * (below + (place[i] - low) * (row[low + 1] - below))


@compiled(title="the radial background")
def render_rows(table: Reals, sight: Sight, first: int, values: Any) -> None:
    """Values [n] of the pixels from place `first` on."""
    room, start, subs = np.empty((9, BLOCK)), 0, sight.oversample * sight.oversample
    while start < len(values):
        panel, n = _run(sight, first + start, min(BLOCK, len(values) - start), room)
        total = room[TOTAL, :n]
        total[:] = 0.0
        for sub in range(subs):
            _look(sight, panel, sub, n, room)
            for d in range(len(sight.incident)):
                _weigh(sight, d, table.shape[1], n, room)
                _add(table[d], room[PLACE, :n], room[WEIGHT, :n], total)
        for i in range(n):
            values[start + i] = total[i] * (1.0 / subs)
        start += n


@compiled(title="the adjoint of the radial background")
def pull_rows(slopes: Reals, sight: Sight, first: int, given: Reals) -> None:
    """Add to the slopes by the table [D, m] what slopes by the values [n] from place `first` on give."""
    room, start, subs = np.empty((9, BLOCK)), 0, sight.oversample * sight.oversample
    while start < len(given):
        panel, n = _run(sight, first + start, min(BLOCK, len(given) - start), room)
        for sub in range(subs):
            _look(sight, panel, sub, n, room)
            for d in range(len(sight.incident)):
                _weigh(sight, d, slopes.shape[1], n, room)
                _pull(slopes[d], room[PLACE, :n], room[WEIGHT, :n], 1.0 / subs, given[start : start + n])
        start += n


@compiled()
def _pull(row: Reals, place: Reals, weight: Reals, share: float, given: Reals) -> None:
    for i in range(len(given)):
        low = int(place[i])
        slope = given[i] * weight[i] * share
        row[low] += slope * (1.0 - (place[i] - low))
        row[low + 1] += slope * (place[i] - low)
