"""Rows and tables of the tangents of the compiled CPU kernel, behind those of cpu.layout.

A pixel is one number, so its slopes along many directions are cheapest by way of its gradient: rows hold, for every
lane, the gradients by what few numbers all directions share, and `contract` multiplies them with the directions. Rows
and the columns of the directions come in fours.
"""

from __future__ import annotations

from typing import NamedTuple

from nanobrag_torch.kernels.cpu import layout as at
from nanobrag_torch.kernels.cpu.layout import Array

# float64 rows. Of a panel: by position, the same times the fast and the slow index, by normal, by pixel area times
# close distance, by depth times attenuation; on a bent detector also by axes and curvature
OF_PANEL, FLAT_FOURS, BENT_FOURS = at.WIDE_SIZE, 4, 7
BY_POSITION, BY_FAST, BY_SLOW, BY_NORMAL, BY_AREA, BY_DEPTH = 0, 3, 6, 9, 12, 13
BENT_FAST, BENT_SLOW, BENT_CURVATURE = 16, 19, 22
# Of a source: by q, by q along q (wavelength), by weight; by the six elements of the polarization matrix
OF_SOURCE, SOURCE_FOURS = OF_PANEL + 4 * BENT_FOURS * at.ROW, 2
BY_Q, BY_LAMBDA, BY_WEIGHT = 0, 3, 4
OF_POLAR, POLAR_FOURS = OF_SOURCE + 4 * SOURCE_FOURS * at.ROW, 2
# Common to all steps: by a matrix on the left of all lattices, shape, default F, offset
COMMON, COMMON_FOURS = OF_POLAR + 4 * POLAR_FOURS * at.ROW, 5
BY_LATTICE, BY_SHAPE, BY_DEFAULT, BY_OFFSET = 0, 9, 15, 16
WIDE_TANGENTS = COMMON + 4 * COMMON_FOURS * at.ROW

# rows of the image's type: what a batch of lattices adds to the first rows of COMMON, then what only single lattices
# or table elements do, a row for each direction that moves them
BATCH_ROWS = 16
IN_BATCH = at.NARROW_SIZE
LOOSE_FLOW = IN_BATCH + BATCH_ROWS * at.ROW
LOOSE = LOOSE_FLOW + at.ROW

# places in the array of what moves
GEOMETRY, SCATTERING, SOURCES, POLARIZATIONS, FACTORS, OFFSETS = 0, 1, 2, 3, 4, 5
LATTICES, SHAPES, DEFAULTS, SLOPES = 6, 7, 8, 9
MOVES = 10


class Ways(NamedTuple):
    """T directions in which a scene moves."""

    moves: Array  # what moves at all
    panels: Array  # [P, L, T, columns]
    sources: Array  # [S, T, columns]
    polarizations: Array  # [S, T, columns]
    common: Array  # [T, columns]
    lattice: Array  # [K, G, 10] of the directions that move lattices or their weights singly, in the image's type
    tables: Array  # [H, elements] of those that move the structure factors
    owner: Array  # [G + H] whose direction a loose row is


class Tally(NamedTuple):
    """Slopes of one block, and room for sums over lanes that nobody needs."""

    slopes: Array  # [T * ROW]
    source: Array
    panel: Array
    single: Array
