"""The compiled part of the labels: which reflection each lit pixel belongs to, sums over boxes, classes of pixels.

A pixel belongs to the reflection that is nearest to its centre in the space of h, k and l, for the mean orientation and
the mean wavelength of an image.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from nanobrag_torch.compilation import compiled
from nanobrag_torch.physics.lattice_factor import TOPHAT_LIMIT, Profile

Array = np.ndarray[Any, Any]

FLOOR = 1e-6
"""Photons below which a pixel belongs to no reflection: a megapixel of them is one photon."""
BORDER = 0.01
"""The box of a spot holds every pixel of its above this share of its brightest one, and one pixel more all around."""
HALF_RANGE = 1 << 10
"""Indices h, k, l are packed into one number that leaves each this range."""
BACKGROUND, SPOT, OVERLAP, MASKED, SATURATED = range(5)
"""Classes of pixels; a pixel has the last that is true of it."""
# columns of the table of boxes
FAST0, FAST1, SLOW0, SLOW1, PANEL = range(5)
# columns of the table of sums over a reflection's own pixels
TOTAL, PEAK, INSIDE, FAST_MOMENT, SLOW_MOMENT = range(5)

# columns of the table of sums over steps; the first three are the direction of the ray
EXCITED, ANGLE = 3, 4
GRATING, SPHERE, GAUSS = int(Profile.GRATING), int(Profile.SPHERE), int(Profile.GAUSS)
DARK = 100.0
"""Exponent from which a Gaussian is nothing, long before it is a number that processors are slow with."""


# columns of the table of runs
START, LENGTH = range(2)


@compiled()
def runs_of(
    photons: Array,
    shape: Array,
    panels: Array,
    sizes: Array,
    incident: Array,
    wavelength: float,
    rows: Array,
    codes: Array,
    runs: Array,
) -> int:
    """Runs of lit neighbours along a row of pixels that belong to one reflection, in the order of pixels; how many.

    photons [panel x slow x fast] of shape [2]; panels [P, 4, 3] and sizes [P, 2] in m, rows [3, 3] of a, b, c in m.
    codes [n] takes h, k, l of each run, packed, runs [n, 2] its first pixel and its length. Whole numbers of a code are
    kept as real ones, which processors round and multiply side by side.
    """
    count, along = 0, np.empty(shape[1])
    scaled = rows / wavelength
    for line in range(photons.size // shape[1]):
        values = photons[line * shape[1] : (line + 1) * shape[1]]
        panel, slow = line // shape[0], line % shape[0]
        if not _is_lit(values):
            continue
        _codes_of_row(panels[panel], (slow + 0.5) * sizes[panel, 1], sizes[panel, 0], incident, scaled, along)
        open_run = False
        for fast in range(shape[1]):
            lit = values[fast] > FLOOR
            if lit and open_run and along[fast] == codes[count - 1]:
                runs[count - 1, LENGTH] += 1
            elif lit:
                codes[count], runs[count, START], runs[count, LENGTH] = along[fast], line * shape[1] + fast, 1
                count += 1
            open_run = lit
    return count


@compiled()
def _is_lit(values: Array) -> bool:
    brightest = np.float32(0)
    for i in range(values.size):
        brightest = max(brightest, values[i])
    return bool(brightest > FLOOR)


@compiled()
def _codes_of_row(panel: Array, slow: float, size: float, incident: Array, scaled: Array, codes: Array) -> None:
    """Codes of the reflections nearest to the pixels of a row that is `slow` metres down a panel [4, 3]."""
    for i in range(codes.size):
        fast = (i + 0.5) * size
        x = panel[0, 0] + fast * panel[1, 0] + slow * panel[2, 0]
        y = panel[0, 1] + fast * panel[1, 1] + slow * panel[2, 1]
        z = panel[0, 2] + fast * panel[1, 2] + slow * panel[2, 2]
        inverse = 1 / np.sqrt(x * x + y * y + z * z)
        x, y, z = x * inverse - incident[0], y * inverse - incident[1], z * inverse - incident[2]
        h = np.ceil(scaled[0, 0] * x + scaled[0, 1] * y + scaled[0, 2] * z - 0.5) + HALF_RANGE
        k = np.ceil(scaled[1, 0] * x + scaled[1, 1] * y + scaled[1, 2] * z - 0.5) + HALF_RANGE
        l = np.ceil(scaled[2, 0] * x + scaled[2, 1] * y + scaled[2, 2] * z - 0.5) + HALF_RANGE
        codes[i] = (h * (2 * HALF_RANGE) + k) * (2 * HALF_RANGE) + l


def unpacked(codes: Array) -> Array:
    """h, k, l [n, 3] of packed ones."""
    width, whole = 2 * HALF_RANGE, codes.astype(np.int64)
    parts = (whole // (width * width), whole // width % width, whole % width)
    return np.stack(parts, axis=1).astype(np.int32) - HALF_RANGE


@compiled()
def measured(photons: Array, runs: Array, owners: Array, count: int, shape: Array) -> tuple[Array, Array]:
    """Sums [count, 5] over each reflection's own pixels and boxes [count, 5] around its bright ones.

    owners [n]: the reflection of each of the runs [n, 2]. Boxes end before FAST1 and SLOW1; a reflection on two panels
    keeps the first.
    """
    sums, boxes = np.zeros((count, 5)), np.zeros((count, 5), np.int32)
    boxes[:, PANEL] = -1
    for i in range(owners.size):
        own, total, peak = owners[i], 0.0, np.float32(0)
        for pixel in range(runs[i, START], runs[i, START] + runs[i, LENGTH]):
            total += photons[pixel]
            peak = max(peak, photons[pixel])
        sums[own, TOTAL] += total
        sums[own, PEAK] = max(sums[own, PEAK], peak)
    for i in range(owners.size):
        first, last = runs[i, START], runs[i, START] + runs[i, LENGTH] - 1
        floor = BORDER * sums[owners[i], PEAK]
        while first <= last and photons[first] < floor:
            first += 1
        while first <= last and photons[last] < floor:
            last -= 1
        if first <= last:
            _widen(boxes[owners[i]], first, last, shape)
    for i in range(owners.size):
        _add_inside(sums[owners[i]], boxes[owners[i]], photons, runs[i], shape)
    return sums, boxes


@compiled()
def _widen(box: Array, first: int, last: int, shape: Array) -> None:
    """Make a box hold the pixels of a row from the first to the last, and their neighbours on the panel."""
    line, start = first // shape[1], first // shape[1] * shape[1]
    panel, slow = line // shape[0], line % shape[0]
    if box[PANEL] < 0:
        box[PANEL] = panel
        box[FAST0], box[SLOW0] = shape[1], shape[0]
    if box[PANEL] != panel:
        return
    box[FAST0], box[FAST1] = (
        min(box[FAST0], max(first - start - 1, 0)),
        max(box[FAST1], min(last - start + 2, shape[1])),
    )
    box[SLOW0], box[SLOW1] = min(box[SLOW0], max(slow - 1, 0)), max(box[SLOW1], min(slow + 2, shape[0]))


@compiled()
def _add_inside(sums: Array, box: Array, photons: Array, run: Array, shape: Array) -> None:
    """Add a run's pixels in the box of its reflection to the sums."""
    line, start = run[START] // shape[1], run[START] // shape[1] * shape[1]
    slow = line % shape[0]
    if line // shape[0] != box[PANEL] or slow < box[SLOW0] or slow >= box[SLOW1]:
        return
    for pixel in range(max(run[START], start + box[FAST0]), min(run[START] + run[LENGTH], start + box[FAST1])):
        value = photons[pixel]
        sums[INSIDE] += value
        sums[FAST_MOMENT] += value * (pixel - start + 0.5)
        sums[SLOW_MOMENT] += value * (slow + 0.5)


# columns of the table of sums over boxes
ALL, BEHIND, REACHED = range(3)


@compiled()
def box_sums(expected: Array, background: Array, recorded: Array, boxes: Array, shape: Array, limit: float) -> Array:
    """Sums [n, 3] over boxes [n, 5]: of two images, and how many pixels of a third reach the limit."""
    sums = np.zeros((boxes.shape[0], 3))
    for i in range(boxes.shape[0]):
        first = boxes[i, PANEL] * shape[0] * shape[1]
        for slow in range(boxes[i, SLOW0], boxes[i, SLOW1]):
            row = first + slow * shape[1]
            for pixel in range(row + boxes[i, FAST0], row + boxes[i, FAST1]):
                sums[i, ALL] += expected[pixel]
                sums[i, BEHIND] += background[pixel]
                sums[i, REACHED] += recorded[pixel] >= limit
    return sums


@compiled()
def classify(
    photons: Array, runs: Array, owners: Array, floors: Array, first: int, classes: Array, spots: Array, best: Array
) -> None:
    """Add one lattice's spots to the classes and the numbers of spots of an image.

    owners [n]: the spot of each of the runs [n, 2], or -1; floors [spots]: photons from which a pixel counts as the
    spot's. A pixel shows the spot that gives it most.
    """
    for i in range(owners.size):
        own = owners[i]
        if own < 0:
            continue
        for place in range(runs[i, START], runs[i, START] + runs[i, LENGTH]):
            if photons[place] >= floors[own]:
                classes[place] = OVERLAP if spots[place] >= 0 else SPOT
                if photons[place] > best[place]:
                    best[place], spots[place] = photons[place], first + own


@compiled()
def squared_factor(h: float, k: float, l: float, profile: int, matrix: Array) -> Any:
    """L^2 over that at the centre, at a distance of h, k, l: physics.lattice_factor, a number at a time."""
    if profile == GRATING:
        return (_grating(h, matrix[0, 0]) * _grating(k, matrix[1, 1]) * _grating(l, matrix[2, 2])) ** 2
    x = h * (matrix[0, 0] * h + 2 * matrix[0, 1] * k + 2 * matrix[0, 2] * l)
    x += k * (matrix[1, 1] * k + 2 * matrix[1, 2] * l) + l * matrix[2, 2] * l
    if profile == GAUSS:
        return np.exp(-2 * x) if x < DARK else 0.0
    if profile == SPHERE:
        r = np.pi * np.sqrt(x)
        return (1 - 0.1 * r * r) ** 2 if r < 1e-2 else (3 * (np.sin(r) - r * np.cos(r)) / r**3) ** 2
    return 1.0 if x < TOPHAT_LIMIT else 0.0


@compiled()
def _grating(d: float, cells: float) -> Any:
    """sin(pi N d) / (N sin(pi d))."""
    return np.sin(np.pi * cells * d) / (cells * np.sin(np.pi * d)) if abs(d) > 1e-9 else 1.0


@compiled()
def add_excited(
    sums: Array,
    hkl: Array,
    stack: Array,
    stars: Array,
    beam: Array,
    weights: Array,
    angles: Array,
    profile: int,
    matrix: Array,
) -> None:
    """Add to sums [n, 5] of reflections [n, 3] what each lattice [K, 3, 3] contributes: its ray, weight and angle.

    The nearest point of the Ewald sphere lies along s0 + q, with `beam` [3] = s0 in 1/m and the columns a*, b*, c* of
    `stars` [K, 3, 3]; the weight is that of the lattice times the squared factor there. A point that is nearer to
    another reflection counts for nothing.
    """
    radius = np.sqrt(beam[0] * beam[0] + beam[1] * beam[1] + beam[2] * beam[2])
    for i in range(hkl.shape[0]):
        h, k, l = hkl[i, 0], hkl[i, 1], hkl[i, 2]
        for step in range(weights.size):
            star, rows = stars[step], stack[step]
            x = beam[0] + star[0, 0] * h + star[0, 1] * k + star[0, 2] * l
            y = beam[1] + star[1, 0] * h + star[1, 1] * k + star[1, 2] * l
            z = beam[2] + star[2, 0] * h + star[2, 1] * k + star[2, 2] * l
            length = np.sqrt(x * x + y * y + z * z)
            excess = radius / length - 1
            dh = excess * (rows[0, 0] * x + rows[0, 1] * y + rows[0, 2] * z)
            dk = excess * (rows[1, 0] * x + rows[1, 1] * y + rows[1, 2] * z)
            dl = excess * (rows[2, 0] * x + rows[2, 1] * y + rows[2, 2] * z)
            if max(abs(dh), abs(dk), abs(dl)) < 0.5:
                weight = weights[step] * squared_factor(dh, dk, dl, profile, matrix)
                sums[i, 0] += weight * x / length
                sums[i, 1] += weight * y / length
                sums[i, 2] += weight * z / length
                sums[i, EXCITED] += weight
                sums[i, ANGLE] += weight * angles[step]


@compiled()
def on_panels(rays: Array, panels: Array, panel: Array, depths: Array, sizes: Array) -> Array:
    """Where rays [n, 3] of any length meet their panels [n], in pixels along fast and slow [n, 2].

    panels [P, 4, 3] origin, fast, slow, normal and sizes [P, 2] in m. depths [P, 3]: thickness of a layer (m), its
    attenuation (1/m), number of layers: photons are absorbed at the mean depth of what the layers capture.
    """
    found = np.empty((rays.shape[0], 2))
    for i in range(rays.shape[0]):
        one, x, y, z = panels[panel[i]], rays[i, 0], rays[i, 1], rays[i, 2]
        length = max(np.sqrt(x * x + y * y + z * z), 1e-300)
        x, y, z = x / length, y / length, z / length
        cosine = x * one[3, 0] + y * one[3, 1] + z * one[3, 2]
        close = one[0, 0] * one[3, 0] + one[0, 1] * one[3, 1] + one[0, 2] * one[3, 2]
        reach = (close + _mean_depth(depths[panel[i]], abs(cosine))) / cosine if cosine != 0 else 0.0
        x, y, z = reach * x - one[0, 0], reach * y - one[0, 1], reach * z - one[0, 2]
        for axis in range(2):
            along = x * one[1 + axis, 0] + y * one[1 + axis, 1] + z * one[1 + axis, 2]
            found[i, axis] = along / sizes[panel[i], axis]
    return found


@compiled()
def _mean_depth(layers: Array, cosine: float) -> float:
    if layers[0] <= 0:
        return 0.0
    deep = passed = 0.0
    for layer in range(int(layers[2])):
        share = np.exp(-layer * layers[0] * layers[1] / max(cosine, 1e-6))
        deep, passed = deep + layer * layers[0] * share, passed + share
    return float(deep / passed)
