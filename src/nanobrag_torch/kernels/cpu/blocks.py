"""Which pixels share a block: lanes of one panel, in groups of neighbours (stages of the compiled CPU kernel)."""

from __future__ import annotations

from nanobrag_torch.kernels.cpu import layout as at
from nanobrag_torch.kernels.cpu.bounds import EDGE, fill_tile, thin
from nanobrag_torch.kernels.cpu.intrinsics import stage
from nanobrag_torch.kernels.cpu.layout import Array, Packed, Scratch

NEAR_SLOW, NEAR_FAST = 8, 16
"""Pixels further from the first of a group than this begin a new group."""


@stage(inline="always")
def next_block(scratch: Scratch, scene: Packed, first: int, last: int) -> tuple[int, int, int]:
    """Fill lanes with pixels from place `first` of the list, of its chunk: pixels used, lanes, panel.

    Lanes are none where no lattice can add anything.
    """
    used, lanes, panel = _some_lanes(scratch, scene, first, min(last, (first // at.CHUNK + 1) * at.CHUNK))
    return used, thin(scratch, scene, lanes, panel), panel


@stage()
def _some_lanes(scratch: Scratch, scene: Packed, start: int, stop: int) -> tuple[int, int, int]:
    """Pixels used, lanes, panel.

    `place` takes the position in the list, or -1 in lanes that only fill up a group; `box` whether groups are of
    neighbours, which lists of far-flung pixels are not worth.
    """
    if at.COMPLETE and scene.whole[at.SPARSE]:
        if scene.pixels.size == 0:
            fill_tile(scratch, scene, start // at.LANES)
            return at.LANES, at.LANES, int(scratch.box[at.LEFT])
        used, lanes, panel = _fill_box(scratch, scene, start, stop)
        if used:
            return used, lanes, panel
    grouped, used, lanes, panel = start >= 0, 0, 1, 0
    while 5 * used < 4 * lanes:
        grouped = used == 0
        used, lanes, panel = _fill(scene.pixels, start, stop, scene.whole, scratch.v, scratch.place, grouped)
        if not grouped:
            break
    scratch.box[at.GROUPED], scratch.box[at.SQUARED] = 1.0 if grouped else 0.0, 0.0
    return used, lanes, panel


@stage()
def _fill_box(scratch: Scratch, scene: Packed, start: int, stop: int) -> tuple[int, int, int]:
    """Pixels used, lanes, panel, where the list goes on with a rectangle of pixels, row by row, as shoeboxes are.

    Groups are EDGE x EDGE pixels then. Nothing is used where that would leave too many lanes empty.
    """
    pixels, v, place = scene.pixels, scratch.v, scratch.place
    fast_count, slow_count = scene.whole[at.FAST_COUNT], scene.whole[at.SLOW_COUNT]
    row, fast = pixels[start] // fast_count, pixels[start] % fast_count
    panel, slow = row // slow_count, row % slow_count
    width = run_length(pixels, start, min(stop - start, fast_count - fast, at.LANES // EDGE))
    across, height = (width + EDGE - 1) // EDGE, at.FIRST + 1
    most = min(at.GROUPS // across * EDGE, slow_count - slow, (stop - start) // width)
    while height < most and _goes_on(pixels, start, height * width, height * fast_count, width):
        height += 1
    groups = across * ((height + EDGE - 1) // EDGE)
    if 5 * width * height < 2 * groups * at.GROUP:
        return at.FIRST, at.FIRST, at.FIRST
    for g in range(groups):
        for t in range(at.GROUP):
            s, f, lane = g // across * EDGE + t // EDGE, g % across * EDGE + t % EDGE, g * at.GROUP + t
            place[lane] = start + s * width + f if s < height and f < width else -1
            v[at.SLOW_INDEX + lane] = slow + min(s, height - 1)
            v[at.FAST_INDEX + lane] = fast + min(f, width - 1)
    scratch.box[at.GROUPED] = scratch.box[at.SQUARED] = 1.0
    return width * height, groups * at.GROUP, panel


@stage()
def _goes_on(pixels: Array, start: int, ahead: int, below: int, width: int) -> bool:
    """Whether the list has a row of pixels so far below those at `start`, so far ahead."""
    return bool(pixels[start + ahead] == pixels[start] + below and run_length(pixels, start + ahead, width) == width)


@stage()
def _fill(
    pixels: Array, start: int, stop: int, whole: Array, v: Array, place: Array, grouped: bool
) -> tuple[int, int, int]:
    fast_count, slow_count = whole[at.FAST_COUNT], whole[at.SLOW_COUNT]
    lanes = first_slow = first_fast = at.FIRST
    panel = at.FIRST - 1
    i = start
    while i < stop and lanes < at.LANES:
        pixel = pixels[i] if pixels.size else i
        row = pixel // fast_count
        fast = pixel - row * fast_count
        of_panel = row // slow_count
        slow = row - of_panel * slow_count
        if panel >= 0 and of_panel != panel:
            break
        panel = of_panel
        far = abs(slow - first_slow) > NEAR_SLOW or abs(fast - first_fast) > NEAR_FAST
        if grouped and far and lanes % at.GROUP:
            lanes = _pad(lanes, v, place)
            continue
        run = run_length(pixels, i, min(stop - i, fast_count - fast, at.LANES - lanes))
        _place_run(v, place, lanes, run, float(slow), float(fast), i)
        if lanes % at.GROUP == 0 or lanes // at.GROUP != (lanes + run - 1) // at.GROUP:
            first_slow, first_fast = slow, fast + ((lanes + run - 1) // at.GROUP) * at.GROUP - lanes
        lanes += run
        i += run
    return i - start, _pad(lanes, v, place), panel


@stage()
def _place_run(v: Array, place: Array, lane: int, run: int, slow: float, fast: float, i: int) -> None:
    """Lanes of a run of pixels; indices come from a ramp, since integers do not become float64 in vector code."""
    fasts, slows, places = v[at.FAST_INDEX + lane : at.RAMP], v[at.SLOW_INDEX + lane : at.RAMP], place[lane:]
    for t in range(run):
        fasts[t] = fast + v[at.RAMP + t]
        slows[t] = slow
        places[t] = i + t


@stage()
def run_length(pixels: Array, i: int, limit: int) -> int:
    """Length of the run of consecutive pixels at place i of the list."""
    if pixels.size == 0:
        return limit
    run = 1
    while run < limit and pixels[i + run] == pixels[i] + run:
        run += 1
    return run


@stage()
def _pad(lanes: int, v: Array, place: Array) -> int:
    """Repeat the last pixel up to the end of its group."""
    end = (lanes + at.GROUP - 1) // at.GROUP * at.GROUP
    for j in range(lanes, end):
        v[at.FAST_INDEX + j] = v[at.FAST_INDEX + lanes - 1]
        v[at.SLOW_INDEX + j] = v[at.SLOW_INDEX + lanes - 1]
        place[j] = -1
    return end
