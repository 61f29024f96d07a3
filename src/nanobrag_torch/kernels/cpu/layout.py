"""Where the compiled CPU kernel keeps what: rows of its scratch arrays and columns of its tables.

A block is up to LANES pixels of one panel, worked on together so that all scratch stays in the L1 cache. Its lanes come
in groups of GROUP neighbouring pixels that share one float64 anchor. Scratch is one array per type, addressed as
`array[ROW + lane]` with constant rows: so LLVM sees that rows do not overlap and needs no checks before vector code.

Inside, lengths are metres but for q and the lattice: q is in units of SCALE / m and the lattice in m / SCALE, a power
of two near 1e10, so that products of gradients stay within float32.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

Array = np.ndarray[Any, Any]

LANES = 256
ROW = LANES + 16  # apart by no power of two, or rows would compete for the same lines of the cache
GROUP = 16
GROUPS = LANES // GROUP
CHUNK = 2048  # pixels; blocks never cross from one chunk to the next, so that work can be dealt out by chunks
BATCH = 64  # lattices whose float32 sums are then added up in float64
SCALE = 2.0**33
# Passed to stages, these are to be an int64 and a bool: a constant is a type of its own to numba, for which what it is
# passed to would compile once more.
FIRST, NO = 0, False
LOOKED_UP = "FIRST", "NO", "KEPT_OMEGA", "KEPT_CAPTURE", "PULL_OMEGA", "PULL_CAPTURE"

# float64 scratch: rows of LANES, ROW apart
X, Y, Z = 0, ROW, 2 * ROW  # q
AIM_X, AIM_Y, AIM_Z = 3 * ROW, 4 * ROW, 5 * ROW  # position, then unit vector to the sub-pixel
INVERSE = 6 * ROW  # one over the distance to it
OMEGA, CAPTURE, POLAR = 7 * ROW, 8 * ROW, 9 * ROW
SEEN = 10 * ROW  # 1 where the source is within the resolution limit
KNOWN = 11 * ROW  # 1 where a source has been seen before, so that POLAR is set
FACTOR = 12 * ROW  # what the sum over lattices is multiplied by
TOTAL = 13 * ROW  # the pixel's value
FAST_INDEX, SLOW_INDEX = 14 * ROW, 15 * ROW
UPSTREAM = 16 * ROW  # gradient that flows in
PULL_X, PULL_Y, PULL_Z = 17 * ROW, 18 * ROW, 19 * ROW  # gradient by the unit vector, then by the position
PULL_OMEGA, PULL_CAPTURE = 20 * ROW, 21 * ROW
KEPT_OMEGA, KEPT_CAPTURE, KEPT_POLAR = 22 * ROW, 23 * ROW, 24 * ROW  # gradients by factors computed once
SLOPE_X, SLOPE_Y, SLOPE_Z = 25 * ROW, 26 * ROW, 27 * ROW  # gradient by q
STEP_SUM = 28 * ROW  # sum over lattices for one source
PULL_POLAR = STEP_FLOW = 29 * ROW
FLAT_X, FLAT_Y, FLAT_Z = 30 * ROW, 31 * ROW, 32 * ROW  # position before a detector is bent
ANCHOR_X, ANCHOR_Y, ANCHOR_Z = 33 * ROW, 33 * ROW + GROUPS, 33 * ROW + 2 * GROUPS
RAMP = 34 * ROW  # 0, 1, 2 ...
FAR_H, FAR_K, FAR_L = 35 * ROW, 36 * ROW, 37 * ROW  # distance to the nearest integers
ALONG_1, ALONG_2, ALONG_3 = 38 * ROW, 39 * ROW, 40 * ROW  # unit vector less that of the middle, in the frame
# of the groups of a block, GROUPS numbers each: the middle of their unit vectors, half of what they span in the frame
# of the block, and how far off any reflection they stay (kernels.cpu.bounds)
MIDDLE_X, MIDDLE_Y, MIDDLE_Z = 41 * ROW, 41 * ROW + GROUPS, 41 * ROW + 2 * GROUPS
SPAN_1, SPAN_2, SPAN_3 = 41 * ROW + 3 * GROUPS, 41 * ROW + 4 * GROUPS, 41 * ROW + 5 * GROUPS
OFF = 41 * ROW + 6 * GROUPS
# of the groups, for one lattice: hkl of the middles, and the most that it changes from there
HERE_H, HERE_K, HERE_L, WIDTH_H, WIDTH_K, WIDTH_L = (41 * ROW + n * GROUPS for n in range(7, 13))
STRONG = 42 * ROW  # F^2 of the strongest reflection that it may have something of
MATRIX = 43 * ROW  # nine rows: slopes by hkl times hkl, summed over all steps
WIDE_SIZE = 52 * ROW

# scratch of the image's type: rows of LANES, ROW apart
DX, DY, DZ = 0, ROW, 2 * ROW  # q less the anchor of the group
DH, DK, DL = 3 * ROW, 4 * ROW, 5 * ROW  # distance to the nearest integers, then slopes by hkl
AMPLITUDE = 6 * ROW  # F
SUM = 7 * ROW  # weighted F^2 L^2 over lattices
SQUARE = 8 * ROW  # L^2
FLOW = 9 * ROW  # gradient that flows into SUM
QX, QY, QZ = 10 * ROW, 11 * ROW, 12 * ROW  # q
GX, GY, GZ = 13 * ROW, 14 * ROW, 15 * ROW  # gradient by q
FH, FK, FL = 16 * ROW, 17 * ROW, 18 * ROW  # slopes of an interpolated F by hkl
BEND = 19 * ROW  # slope of L^2 by the quadratic form
REST_H, REST_K, REST_L = 20 * ROW, 20 * ROW + GROUPS, 20 * ROW + 2 * GROUPS  # of the anchors' hkl
PHASE_H, PHASE_K, PHASE_L = 21 * ROW, 22 * ROW, 23 * ROW  # N d less the nearest integers, from float64
BY_A, BY_B, BY_C = 24 * ROW, 25 * ROW, 26 * ROW  # gradients by the numbers of cells
ONE_H, ONE_K, ONE_L = FH, FK, FL  # slopes by hkl of one lattice, and of the next one, where nothing else is there
OTHER_H, OTHER_K, OTHER_L = BY_A, BY_B, BY_C
HKL, OTHER_HKL = 30 * ROW, 33 * ROW  # three rows each: of these lattices, where no pairs are
STEPS = 27 * ROW  # pixels from the anchor of a group, for GROUP lanes
# of the anchors of a run of pixels, GROUPS numbers each: unit vector a and the step e to the next pixel, both over the
# wavelength; 2 a e and e e; a M a, 2 a M e and e M e of the polarization; what weight and solid angle are at the anchor
UNIT_X, UNIT_Y, UNIT_Z = 28 * ROW, 28 * ROW + GROUPS, 28 * ROW + 2 * GROUPS
STEP_X, STEP_Y, STEP_Z = 28 * ROW + 3 * GROUPS, 28 * ROW + 4 * GROUPS, 28 * ROW + 5 * GROUPS
BOW_1, BOW_2 = 28 * ROW + 6 * GROUPS, 28 * ROW + 7 * GROUPS
POLAR_0, POLAR_1, POLAR_2 = 28 * ROW + 8 * GROUPS, 28 * ROW + 9 * GROUPS, 28 * ROW + 10 * GROUPS
COMMON = 28 * ROW + 11 * GROUPS
# the same of the groups of a tile along the slow axis, and along both; steps of a group's lanes from its middle
DOWN_X, DOWN_Y, DOWN_Z = 29 * ROW, 29 * ROW + GROUPS, 29 * ROW + 2 * GROUPS
DOWN_BOW_1, DOWN_BOW_2, CROSS_BOW = 29 * ROW + 3 * GROUPS, 29 * ROW + 4 * GROUPS, 29 * ROW + 5 * GROUPS
DOWN_POLAR_1, DOWN_POLAR_2, CROSS_POLAR = 29 * ROW + 6 * GROUPS, 29 * ROW + 7 * GROUPS, 29 * ROW + 8 * GROUPS
ACROSS, DOWNWARDS = 29 * ROW + 9 * GROUPS, 29 * ROW + 10 * GROUPS
# of pairs of a group and a lattice, LANES numbers each: the rest of hkl at the anchor, N times it less the nearest
# integers, where the nearest reflection is in the table, and weight F^2 of pairs for which there is but one
PAIR_H, PAIR_K, PAIR_L = 30 * ROW, 31 * ROW, 32 * ROW
PAIR_PHASE_H, PAIR_PHASE_K, PAIR_PHASE_L = 33 * ROW, 34 * ROW, 35 * ROW
PAIR_LOW_H, PAIR_LOW_K, PAIR_LOW_L = 36 * ROW, 37 * ROW, 38 * ROW
STRENGTH = 39 * ROW
NARROW_MATRIX = 40 * ROW  # nine rows: MATRIX of a batch of lattices
NARROW_SIZE = 49 * ROW

# int32 scratch
BASE = LANES  # table index of the anchors, behind that of the lanes
PAIR_GROUP, PAIR_LATTICE, PAIR_BASE = LANES + GROUPS, 2 * LANES + GROUPS, 3 * LANES + GROUPS
INDEX_SIZE = 4 * LANES + GROUPS

# columns of the table of panels
ORIGIN, FAST_AXIS, SLOW_AXIS, NORMAL = 0, 3, 6, 9
FAST_SIZE, SLOW_SIZE, AREA, CLOSE, LAYER_STEP, ATTENUATION = 12, 13, 14, 15, 16, 17
PANEL_COLUMNS = 18
# columns of the table of sources
INCIDENT, INVERSE_LAMBDA, SOURCE_WEIGHT, POLARIZATION = 0, 3, 4, 5
SOURCE_COLUMNS = 14
# columns of the table of lattices: nine elements of the matrix and the weight
LATTICE_WEIGHT = 9
LATTICE_COLUMNS = 10
# sums that belong to no table: shape, default_F, offset, curvature
SHAPE_SUM, DEFAULT_SUM, OFFSET_SUM, CURVATURE_SUM = 0, 9, 10, 11
SINGLE_COLUMNS = 15

# place in the shape array, behind nine elements of the shape matrix: what keeps divisions finite at d = 0
BIAS = 9
# the grid array (float64): first hkl, then the size on each axis
# places in the box array: centre and half extent of the anchors' q, largest offset from an anchor; 1 if groups are of
# neighbours; the bound for float32 differences that holds for the block
CENTRE, HALF, REACH, GROUPED, BOUND = 0, 3, 6, 9, 10
# and of the bounds: a frame of three unit vectors, the middle of the block's unit vectors, half of what they span in it
FRAME, MIDDLE, SPAN = 11, 20, 23
LEFT = 26  # what a stage answers that may be left out
SQUARED = 27  # 1 if groups are of EDGE x EDGE pixels
# of the sources that lattices are held against together: direction and one over the wavelength of their middle; by how
# much that differs, as a share; by how much the direction does, over the wavelength
TOGETHER, SHARE, APART = 28, 32, 33
BOX_SIZE = 36
# places in the array of whole numbers
SLOW_COUNT, FAST_COUNT, OVERSAMPLE, LAYERS, PROFILE, CUBIC, POINT_PIXEL, CURVED = 0, 1, 2, 3, 4, 5, 6, 7
EACH_OMEGA, EACH_POLAR, EACH_CAPTURE, LAST_CAPTURE, HAS_TABLE, SIMPLE = 8, 9, 10, 11, 12, 13
LAYER_OMEGA, UPRIGHT = 14, 15  # layers differ in their solid angle; every ray meets the sensor at a right angle
# how a detector is curved, in CURVED: as a sphere about the sample, or as the C program has it
SPHERE, BY_LAB_AXES = 1, 2
# whether lattices are held against tiles first; places of lanes, those of filled-up tiles too; whether pixels that no
# spot touches count all the same
SPARSE, PLACES, EVERYWHERE = 16, 17, 18
COMPLETE = True  # whether a kernel has the code for rare parts at all; those without are compiled with False
FADES = 19  # whether the shape never vanishes, so that what is left out is counted
SUBS = 20  # sub-pixels that are taken of a pixel: OVERSAMPLE squared, or the first where all are alike
INTEGERS = 21
# places in the array of real numbers: effective number of cells on each axis, the bound for float32 differences, 1 if
# float32 distances would be too coarse for N d, and the bound where N d is formed about anchors too
CELLS, NARROW_BOUND, DEFAULT_F, OFFSET, DMIN, CURVATURE, PHASED, PAIRS_BOUND = 0, 3, 4, 5, 6, 7, 11, 12
NUMBERS = 13
# places in the array of limits: what a squared distance along each axis counts at least, and the sum that is too far
NEAREST, FARTHEST = 0, 3
# and of shapes that fade: one over the number of cells on each axis, photons that a pixel may lose, the largest F^2
FLOOR, BUDGET, STRONGEST = 4, 7, 8
WITHIN = 9  # distance along each axis from which a reflection can add anything, where it is the nearest
LIMITS = 12
# places in the array of what is wanted
WANT_LATTICE, WANT_SCATTERING, WANT_WEIGHTS, WANT_SHAPE, WANT_TABLE, WANT_FACTORS, WANT_OFFSET = 0, 1, 2, 3, 4, 5, 6
WANTS = 7


class Packed(NamedTuple):
    """A scene for the compiled stages."""

    pixels: Array  # flat indices, or none for all pixels in order
    whole: Array
    numbers: Array
    panels: Array
    sources: Array
    lattice: Array
    narrow: Array  # the same in the image's type
    shape: Array
    grid: Array
    table: Array
    envelope: Array  # [3, columns of lattice] middle and half range of the lattices, zeros
    columns: Array  # [columns of lattice, K] the lattices once more; nothing unless SPARSE
    limits: Array
    ceiling: Array  # kernels.cpu.limits.ceilings, flat


class Scratch(NamedTuple):
    """What one thread works with."""

    v: Array  # float64 rows
    w: Array  # rows of the image's type
    places: Array  # table index of the lanes and of the anchors
    place: Array  # [LANES] position of the lane's pixel in the list, or -1
    box: Array
    where: Array  # [K] how a block is to be treated for each lattice; before, which groups cannot do without it
    off: Array  # [K] how far off any reflection a block stays, or where the strongest one near it is found
    first: Array  # [layers, sources, 2] flat: where the following begin and end
    found: Array  # lattices that may add to a block
    groups: Array  # to which of its groups, as bits
    reach: Array  # and up to which of its lanes
    until: Array  # [K] the same of the lattices of one layer and source
    loss: Array  # [K] what a group would lose without each lattice
    slots: Array  # [2, GROUPS] flat: groups, and lattices, that are worked on together


class Terms(NamedTuple):
    """Of a scene, what a sum over lattices is made of: records of a few arrays are passed in fewer words."""

    whole: Array
    numbers: Array
    lattice: Array
    narrow: Array
    shape: Array
    grid: Array
    table: Array
    envelope: Array


class Rows(NamedTuple):
    """Of what a thread works with, that of a sum over lattices."""

    v: Array
    w: Array
    places: Array
    box: Array
    where: Array
    first: Array
    found: Array
    reach: Array
    until: Array


class Sums(NamedTuple):
    """Gradients of a part of the pixels, float64, with the columns of the tables that they are by."""

    lattice: Array
    sources: Array
    panels: Array
    single: Array
    table: Array
