"""Records that the Triton kernels make, pass on and read by name, and how they are loaded from tables.

A vector is a tuple of three; lanes are arrays [group, lanes], one element a pixel.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import triton.language as tl

from nanobrag_torch.kernels.cuda.columns import WIDTH
from nanobrag_torch.kernels.cuda.jit import jit

ROW = tl.constexpr(WIDTH)
"""Columns of a row of gradients."""


class Grid(NamedTuple):
    """Sizes of the table of structure factors, and its first indices."""

    size_h: tl.tensor
    size_k: tl.tensor
    size_l: tl.tensor
    first_h: tl.tensor
    first_k: tl.tensor
    first_l: tl.tensor


class Given(NamedTuple):
    """What a program reads: the tensors of a scene as pointers, what is made of them, and numbers."""

    panels: tl.tensor
    pixel_size: tl.tensor
    sensor: tl.tensor
    curvature: tl.tensor
    incident: tl.tensor
    wavelengths: tl.tensor
    source_weights: tl.tensor
    polarization: tl.tensor
    lattice: tl.tensor
    narrow: tl.tensor  # the lattices, and next their weights, in the type of the image
    lattice_weights: tl.tensor
    shape: tl.tensor
    table: tl.tensor
    default_F: tl.tensor
    offset: tl.tensor
    longest: tl.tensor  # largest elements of all lattices [3, 3]
    dmin: tl.tensor
    grid: Grid
    source_count: tl.tensor
    oversample: tl.tensor
    layers: tl.tensor
    first: tl.tensor  # of its lattices
    last: tl.tensor


class Pixel(NamedTuple):
    """Lanes of pixels of one panel."""

    fast: tl.tensor
    slow: tl.tensor


class Sample(NamedTuple):
    """Lanes of the place of a sample within a pixel."""

    layer: tl.tensor
    sub: tl.tensor


class Panel(NamedTuple):
    """One panel: vectors, then lengths (m) and the attenuation (1/m)."""

    origin: tl.tensor
    fast: tl.tensor
    slow: tl.tensor
    normal: tl.tensor
    size_fast: tl.tensor
    size_slow: tl.tensor
    step: tl.tensor
    attenuation: tl.tensor


class Source(NamedTuple):
    """One source; polarization is a matrix, row by row."""

    incident: tl.tensor
    wavelength: tl.tensor
    weight: tl.tensor
    polarization: tl.tensor


class Rows(NamedTuple):
    """Rows of gradients, or rows that hold a direction; the next direction's lie `stride` numbers further."""

    start: tl.tensor
    stride: tl.tensor


class Sink(NamedTuple):
    """Where gradients go, or what they are multiplied by."""

    panel: Rows
    sources: Rows
    lattices: Rows
    scene: Rows
    table: Rows  # sums by structure factor, places of records, or the table along directions
    amounts: tl.tensor  # of records


@jit
def load3(pointer: tl.tensor) -> Any:
    """Three numbers in a row of memory."""
    return tl.load(pointer), tl.load(pointer + 1), tl.load(pointer + 2)


@jit
def load9(pointer: tl.tensor) -> Any:
    """Nine numbers in a row of memory."""
    a, b, c = load3(pointer), load3(pointer + 3), load3(pointer + 6)
    return a[0], a[1], a[2], b[0], b[1], b[2], c[0], c[1], c[2]


@jit
def load_panel(given: Given, place: tl.tensor) -> Any:
    """One panel."""
    row, sizes, sensor = given.panels + 12 * place, given.pixel_size + 2 * place, given.sensor + 2 * place
    origin, fast, slow, normal = load3(row), load3(row + 3), load3(row + 6), load3(row + 9)
    return Panel(origin, fast, slow, normal, tl.load(sizes), tl.load(sizes + 1), tl.load(sensor), tl.load(sensor + 1))


@jit
def load_source(given: Given, place: tl.tensor) -> Any:
    """One source."""
    incident, wavelength = load3(given.incident + 3 * place), tl.load(given.wavelengths + place)
    weight, polarization = tl.load(given.source_weights + place), load9(given.polarization + 9 * place)
    return Source(incident, wavelength, weight, polarization)


@jit
def row_of(rows: Rows, place: tl.tensor) -> Any:
    """The rows from a place on."""
    return Rows(rows.start + ROW * place, rows.stride)
