"""From a loss back through what kernels.cpu.keep kept of pixels: stages of the compiled CPU kernel."""

from __future__ import annotations

from nanobrag_torch.kernels.cpu import layout as at
from nanobrag_torch.kernels.cpu.adjoint import end_layer, end_pixel, end_sample, pull_source
from nanobrag_torch.kernels.cpu.blocks import next_block
from nanobrag_torch.kernels.cpu.intrinsics import FAST, entry, stage, vector_code
from nanobrag_torch.kernels.cpu.keep import SLOPE, rows_kept, rows_of_a_source
from nanobrag_torch.kernels.cpu.layout import Array, Packed, Scratch, Sums
from nanobrag_torch.kernels.cpu.pull import clear_kept, clear_pull
from nanobrag_torch.kernels.cpu.value import begin, sample, see_source
from nanobrag_torch.kernels.cpu.waves import MATRIX, Waves


@entry(title="the kernel of gradients from kept slopes")
def pull_kept(
    upstream: Array,
    kept: Array,
    scale: float,
    first: int,
    last: int,
    scene: Packed,
    scratch: Scratch,
    wants: Array,
    sums: Sums,
    waves: Waves,
    of_waves: Array,
) -> None:
    """Add the gradients of sum(upstream * value) over the pixels at places first .. last of the list, from what `keep`
    kept; by lattices as the matrix that they are all multiplied by, in the place of the first one.

    scale: that of `keep`. of_waves [waves, 2]: by the weights of the wavelengths and by their r_s.
    """
    count = rows_kept(scene, waves)
    while first < last:
        used, lanes, panel = next_block(scratch, scene, first, last)
        if lanes:
            mine, flow = kept[first * count :], scratch.v[at.UPSTREAM :]
            _see_flow(upstream, scratch, lanes)
            if wants[at.WANT_LATTICE]:
                for i in range(MATRIX):
                    sums.lattice[0, i] += _flow(mine[i * used :], flow, scratch.place, lanes, first) / scale
            if wants[at.WANT_SCATTERING] or wants[at.WANT_FACTORS]:
                _pull_block(mine, first, used, scale, scratch, scene, lanes, panel, wants, sums, waves, of_waves)
        first += used


@stage()
def _see_flow(upstream: Array, scratch: Scratch, lanes: int) -> None:
    """UPSTREAM, none in lanes that only fill up a group."""
    for j in range(lanes):
        place = scratch.place[j]
        scratch.v[at.UPSTREAM + j] = upstream[place] if place >= 0 else 0.0


@stage(fastmath=FAST)
def _flow(kept: Array, flow: Array, place: Array, lanes: int, first: int) -> float:
    """What flows through a row."""
    vector_code()
    total = 0.0
    if place[lanes - 1] == first + lanes - 1:
        for j in range(lanes):
            total += flow[j] * kept[j]
        return total
    for j in range(lanes):
        total += flow[j] * kept[max(place[j] - first, 0)]
    return total


@stage(inline="always")
def _pull_block(
    kept: Array,
    first: int,
    used: int,
    scale: float,
    scratch: Scratch,
    scene: Packed,
    lanes: int,
    p: int,
    wants: Array,
    sums: Sums,
    waves: Waves,
    of_waves: Array,
) -> None:
    """Gradients of one block of so many pixels from place `first` on."""
    v, whole, row = scratch.v, scene.whole, at.FIRST + MATRIX
    begin(v, lanes, scene.panels[p], scene)
    clear_kept(v, lanes)
    for layer in range(whole[at.LAYERS]):
        for sub in range(whole[at.SUBS]):
            sample(v, lanes, scene.panels[p], layer, sub, scene)
            clear_pull(v, lanes)
            for s in range(scene.sources.shape[0]):
                if see_source(scratch, scene, lanes, layer, sub, s):
                    mine = kept[row * used :]
                    _take(mine, used, scale, v, scratch.place, lanes, first)
                    _take_waves(mine[SLOPE * used :], used, scale, scratch, lanes, first, whole, waves, of_waves)
                    pull_source(v, lanes, scene.sources[s], sums.sources[s], whole, wants)
                row += rows_of_a_source(waves.numbers.shape[0])
            end_sample(v, lanes, p, layer, sub, scene, wants, sums)
        end_layer(v, lanes, p, layer, scene, wants, sums)
    end_pixel(v, lanes, p, scene, wants, sums)


@stage(fastmath=FAST)
def _take(kept: Array, used: int, scale: float, v: Array, place: Array, lanes: int, first: int) -> None:
    """SLOPE of one source, times UPSTREAM."""
    vector_code()
    inverse = 1 / scale
    xs, ys, zs = kept, kept[used:], kept[2 * used :]
    if place[lanes - 1] == first + lanes - 1:
        for j in range(lanes):
            flow = v[at.UPSTREAM + j] * inverse
            v[at.SLOPE_X + j], v[at.SLOPE_Y + j], v[at.SLOPE_Z + j] = flow * xs[j], flow * ys[j], flow * zs[j]
        return
    for j in range(lanes):
        i = max(place[j] - first, 0)
        flow = v[at.UPSTREAM + j] * inverse
        v[at.SLOPE_X + j], v[at.SLOPE_Y + j], v[at.SLOPE_Z + j] = flow * xs[i], flow * ys[i], flow * zs[i]


@stage()
def _take_waves(
    kept: Array,
    used: int,
    scale: float,
    scratch: Scratch,
    lanes: int,
    first: int,
    whole: Array,
    waves: Waves,
    of_waves: Array,
) -> None:
    """STEP_SUM of all wavelengths, times their weights, and the gradients by each."""
    v, place = scratch.v, scratch.place
    _share_factors(v, lanes, 1.0 / whole[at.SUBS])
    for j in range(lanes):
        v[at.STEP_SUM + j] = 0.0
    for wave in range(waves.numbers.shape[0]):
        sums, slopes = kept[2 * wave * used :], kept[(2 * wave + 1) * used :]
        _add_times(v[at.STEP_SUM :], sums, waves.numbers[wave, 1], place, lanes, first)
        of_waves[wave, 0] += _flow(sums, v[at.STEP_FLOW :], place, lanes, first)
        if waves.numbers.shape[0] > 1:
            of_waves[wave, 1] += _flow(slopes, v[at.UPSTREAM :], place, lanes, first) / scale


@stage(fastmath=FAST)
def _add_times(total: Array, kept: Array, weight: float, place: Array, lanes: int, first: int) -> None:
    """Add a row, times a weight."""
    vector_code()
    if place[lanes - 1] == first + lanes - 1:
        for j in range(lanes):
            total[j] += weight * kept[j]
        return
    for j in range(lanes):
        total[j] += weight * kept[max(place[j] - first, 0)]


@stage(fastmath=FAST)
def _share_factors(v: Array, lanes: int, share: float) -> None:
    """STEP_FLOW: what flows into the sum over lattices of a source whose weight is one."""
    vector_code()
    for j in range(lanes):
        v[at.STEP_FLOW + j] = share * v[at.UPSTREAM + j] * v[at.OMEGA + j] * v[at.CAPTURE + j] * v[at.POLAR + j]
