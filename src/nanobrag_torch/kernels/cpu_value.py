"""The value of pixels: the loops over layers, sub-pixels, sources and lattices of the compiled CPU kernel."""

from __future__ import annotations

from typing import Any

import numpy as np

from nanobrag_torch.compilation import compiled
from nanobrag_torch.kernels.cpu_blocks import next_block
from nanobrag_torch.kernels.cpu_cubic import interpolate
from nanobrag_torch.kernels.cpu_geometry import aim, captures, factors, offsets, polarizations, scatter, solid_angles
from nanobrag_torch.kernels.cpu_lattice import NOTHING, fill, reflections, survey
from nanobrag_torch.kernels.cpu_layout import (
    BATCH,
    BOX_SIZE,
    CAPTURE,
    CHUNK,
    CUBIC,
    DEFAULT_F,
    DMIN,
    EACH_CAPTURE,
    EACH_OMEGA,
    EACH_POLAR,
    FACTOR,
    GROUPED,
    INDEX_SIZE,
    KNOWN,
    LANES,
    LAST_CAPTURE,
    LATTICE_WEIGHT,
    LAYERS,
    NARROW_SIZE,
    OFFSET,
    OMEGA,
    OVERSAMPLE,
    POINT_PIXEL,
    POLAR,
    PROFILE,
    SEEN,
    SUM,
    TOTAL,
    WIDE_SIZE,
)
from nanobrag_torch.kernels.cpu_math import FAST, stage, wide
from nanobrag_torch.kernels.cpu_profiles import add_values

Array = np.ndarray[Any, Any]


@compiled()
def value(
    out: Array,
    first: int,
    last: int,
    pixels: Array,
    whole: Array,
    numbers: Array,
    panels: Array,
    sources: Array,
    lattice: Array,
    narrow: Array,
    shape: Array,
    grid: Array,
    table: Array,
    envelope: Array,
) -> None:
    """Values of the pixels at places first .. last of the list (of all pixels if it is empty), into out."""
    v, w, index = np.zeros(WIDE_SIZE), np.zeros(NARROW_SIZE, out.dtype), np.zeros(INDEX_SIZE, np.int32)
    place, box = np.empty(LANES, np.int32), np.zeros(BOX_SIZE)
    where = np.empty(lattice.shape[0], np.int8)
    while first < last:
        stop = min(last, (first // CHUNK + 1) * CHUNK)
        used, lanes, panel, box[GROUPED] = next_block(pixels, first, stop, whole, v, place)
        block(v, w, index, lanes, whole, numbers, panels[panel], sources, lattice, narrow, shape, grid, table, envelope, box, where)
        for j in range(lanes):
            if place[j] >= 0:
                out[place[j]] = v[TOTAL + j]
        first += used


@stage()
def block(
    v: Array,
    w: Array,
    index: Array,
    lanes: int,
    whole: Array,
    numbers: Array,
    panel: Array,
    sources: Array,
    lattice: Array,
    narrow: Array,
    shape: Array,
    grid: Array,
    table: Array,
    envelope: Array,
    box: Array,
    where: Array,
) -> None:
    """TOTAL of one block."""
    begin(v, lanes, panel, whole, numbers)
    subs = whole[OVERSAMPLE] * whole[OVERSAMPLE]
    for layer in range(whole[LAYERS]):
        for sub in range(subs):
            sample(v, lanes, panel, layer, sub, whole, numbers)
            for s in range(sources.shape[0]):
                scatter(v, lanes, sources[s], numbers[DMIN])
                if whole[EACH_POLAR] or numbers[DMIN] > 0 or layer + sub + s == 0:
                    polarizations(v, lanes, sources[s], whole[EACH_POLAR])
                if factors(v, lanes, sources[s], subs):
                    offsets(v, w, lanes, box)
                    survey(box, lattice, envelope, whole, numbers, grid, where)
                    add_lattices(v, w, index, lanes, where, whole, numbers, lattice, narrow, shape, grid, table)
    if numbers[OFFSET] != 0:
        add_offset(v, lanes, panel, sources[0], whole, numbers)


@stage()
def begin(v: Array, lanes: int, panel: Array, whole: Array, numbers: Array) -> None:
    """Clear what a block sums up; capture of the last layer where it stands for all."""
    fill(v, TOTAL, lanes, 0.0)
    fill(v, POLAR, lanes, 0.0)
    fill(v, KNOWN, lanes, 0.0)
    fill(v, SEEN, lanes, 1.0)
    if whole[LAST_CAPTURE]:
        aim(v, lanes, panel, whole[LAYERS] - 1, 0, whole, numbers)
        captures(v, lanes, panel, whole[LAYERS] - 1)


@stage()
def sample(v: Array, lanes: int, panel: Array, layer: int, sub: int, whole: Array, numbers: Array) -> None:
    """Unit vectors of one sub-pixel in one layer, and the factors that are its own."""
    aim(v, lanes, panel, layer, sub, whole, numbers)
    if whole[EACH_OMEGA] or layer + sub == 0:
        solid_angles(v, lanes, panel, whole[POINT_PIXEL])
    if not whole[LAST_CAPTURE] and (whole[EACH_CAPTURE] or sub == 0):
        captures(v, lanes, panel, layer)


@stage()
def add_lattices(
    v: Array,
    w: Array,
    index: Array,
    lanes: int,
    where: Array,
    whole: Array,
    numbers: Array,
    lattice: Array,
    narrow: Array,
    shape: Array,
    grid: Array,
    table: Array,
) -> None:
    """TOTAL += FACTOR times the sum over lattices, float64 above BATCH lattices."""
    default, filled = w.dtype.type(numbers[DEFAULT_F]), False
    for start in range(0, lattice.shape[0], BATCH):
        fill(w, SUM, lanes, w.dtype.type(0))
        for k in range(start, min(start + BATCH, lattice.shape[0])):
            if where[k] == NOTHING:
                continue
            filled = reflections(v, w, index, lanes, where[k], filled, lattice[k], narrow[k], grid, table, default)
            if whole[CUBIC]:
                interpolate(v, w, index, lanes, lattice[k], grid, table, 0)
            add_values(w, lanes, shape, whole[PROFILE], narrow[k, LATTICE_WEIGHT])
        _add_batch(v, w, lanes)


@stage(fastmath=FAST)
def _add_batch(v: Array, w: Array, lanes: int) -> None:
    wide()
    for j in range(lanes):
        v[TOTAL + j] += v[FACTOR + j] * w[SUM + j]


@stage()
def add_offset(v: Array, lanes: int, panel: Array, source: Array, whole: Array, numbers: Array) -> None:
    """What is added once a pixel, with the first solid angle and polarization and the last layer's first capture."""
    once(v, lanes, panel, source, whole, numbers)
    for j in range(lanes):
        v[TOTAL + j] += numbers[OFFSET] * v[OMEGA + j] * v[CAPTURE + j] * v[POLAR + j]


@stage()
def once(v: Array, lanes: int, panel: Array, source: Array, whole: Array, numbers: Array) -> None:
    """The factors of what is added once a pixel."""
    aim(v, lanes, panel, whole[LAYERS] - 1, 0, whole, numbers)
    captures(v, lanes, panel, whole[LAYERS] - 1)
    aim(v, lanes, panel, 0, 0, whole, numbers)
    solid_angles(v, lanes, panel, whole[POINT_PIXEL])
    if whole[EACH_POLAR]:
        polarizations(v, lanes, source, 1)
