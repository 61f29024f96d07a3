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


@compiled()
def lit_pixels(photons: Array, shape: Array, pixels: Array, places: Array) -> int:
    """Fill `pixels` with those above FLOOR and `places` [n, 3] with their panel, slow and fast index; how many."""
    count = pixel = 0
    for panel in range(photons.size // (shape[0] * shape[1])):
        for slow in range(shape[0]):
            for fast in range(shape[1]):
                if photons[pixel] > FLOOR:
                    pixels[count] = pixel
                    places[count, 0], places[count, 1], places[count, 2] = panel, slow, fast
                    count += 1
                pixel += 1
    return count


@compiled()
def nearest_codes(places: Array, panels: Array, sizes: Array, incident: Array, wavelength: float, rows: Array) -> Array:
    """Packed h, k, l [n] of the reflection that each pixel belongs to.

    places [n, 3] as of `lit_pixels`, panels [P, 4, 3] and sizes [P, 2] in m, rows [3, 3] of a, b, c in m.
    """
    codes = np.empty(len(places), np.int64)
    for i in range(len(places)):
        p = places[i, 0]
        fast, slow = (places[i, 2] + 0.5) * sizes[p, 0], (places[i, 1] + 0.5) * sizes[p, 1]
        x = panels[p, 0, 0] + fast * panels[p, 1, 0] + slow * panels[p, 2, 0]
        y = panels[p, 0, 1] + fast * panels[p, 1, 1] + slow * panels[p, 2, 1]
        z = panels[p, 0, 2] + fast * panels[p, 1, 2] + slow * panels[p, 2, 2]
        length = np.sqrt(x * x + y * y + z * z)
        x, y, z = x / length - incident[0], y / length - incident[1], z / length - incident[2]
        code = 0
        for axis in range(3):
            index = (rows[axis, 0] * x + rows[axis, 1] * y + rows[axis, 2] * z) / wavelength
            code = code * (2 * HALF_RANGE) + int(np.ceil(index - 0.5)) + HALF_RANGE
        codes[i] = code
    return codes


def unpacked(codes: Array) -> Array:
    """h, k, l [n, 3] of packed ones."""
    width = 2 * HALF_RANGE
    parts = (codes // (width * width), codes // width % width, codes % width)
    return np.stack(parts, axis=1).astype(np.int32) - HALF_RANGE


@compiled()
def measured(
    photons: Array, pixels: Array, places: Array, owners: Array, count: int, shape: Array
) -> tuple[Array, Array]:
    """Sums [count, 5] over each reflection's own pixels and boxes [count, 5] around its bright ones.

    owners [n]: the reflection of each of the pixels [n] at places [n, 3], or -1. Boxes end before FAST1 and SLOW1.
    """
    sums, boxes = np.zeros((count, 5)), np.zeros((count, 5), np.int32)
    boxes[:, PANEL] = -1
    for i in range(pixels.size):
        if owners[i] >= 0:
            value = photons[pixels[i]]
            sums[owners[i], TOTAL] += value
            sums[owners[i], PEAK] = max(sums[owners[i], PEAK], value)
    for i in range(pixels.size):
        own = owners[i]
        if own >= 0 and photons[pixels[i]] >= BORDER * sums[own, PEAK]:
            _widen(boxes[own], places[i], shape)
    for i in range(pixels.size):
        own = owners[i]
        if own >= 0:
            _add_inside(sums[own], boxes[own], photons[pixels[i]], places[i])
    return sums, boxes


@compiled()
def _widen(box: Array, place: Array, shape: Array) -> None:
    """Make a box hold a pixel and its neighbours on the panel; a reflection on two panels keeps the first."""
    panel, slow, fast = place[0], place[1], place[2]
    if box[PANEL] < 0:
        box[PANEL] = panel
        box[FAST0], box[SLOW0] = shape[1], shape[0]
    if box[PANEL] != panel:
        return
    box[FAST0], box[FAST1] = min(box[FAST0], max(fast - 1, 0)), max(box[FAST1], min(fast + 2, shape[1]))
    box[SLOW0], box[SLOW1] = min(box[SLOW0], max(slow - 1, 0)), max(box[SLOW1], min(slow + 2, shape[0]))


@compiled()
def _add_inside(sums: Array, box: Array, value: float, place: Array) -> None:
    panel, slow, fast = place[0], place[1], place[2]
    inside = box[FAST0] <= fast < box[FAST1] and box[SLOW0] <= slow < box[SLOW1] and panel == box[PANEL]
    if inside:
        sums[INSIDE] += value
        sums[FAST_MOMENT] += value * (fast + 0.5)
        sums[SLOW_MOMENT] += value * (slow + 0.5)


@compiled()
def box_sums(image: Array, boxes: Array, shape: Array, limit: float) -> tuple[Array, Array]:
    """Sum [n] over boxes of an image, and how many of their pixels reach the limit [n]."""
    sums, reached = np.zeros(boxes.shape[0]), np.zeros(boxes.shape[0], np.int32)
    for i in range(boxes.shape[0]):
        start = boxes[i, PANEL] * shape[0] * shape[1]
        for slow in range(boxes[i, SLOW0], boxes[i, SLOW1]):
            for fast in range(boxes[i, FAST0], boxes[i, FAST1]):
                value = image[start + slow * shape[1] + fast]
                sums[i] += value
                reached[i] += value >= limit
    return sums, reached


@compiled()
def classify(
    photons: Array, pixels: Array, owners: Array, floors: Array, first: int, classes: Array, spots: Array, best: Array
) -> None:
    """Add one lattice's spots to the classes and the numbers of spots of an image.

    floors [spots]: photons from which a pixel counts as the spot's. A pixel shows the spot that gives it most.
    """
    for i in range(pixels.size):
        own, place = owners[i], pixels[i]
        if own >= 0 and photons[place] >= floors[own]:
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
