"""Value and gradients of pixels in one pass: the loops of cpu_value with what flows back through every stage."""

from __future__ import annotations

from nanobrag_torch.kernels.cpu.blocks import next_block
from nanobrag_torch.kernels.cpu.geometry import aim, scatter
from nanobrag_torch.kernels.cpu.intrinsics import entry, stage
from nanobrag_torch.kernels.cpu.layout import (
    CAPTURE,
    CHUNK,
    DMIN,
    EACH_CAPTURE,
    EACH_OMEGA,
    EACH_POLAR,
    KEPT_CAPTURE,
    KEPT_OMEGA,
    KEPT_POLAR,
    KNOWN,
    LAST_CAPTURE,
    LAYERS,
    OFFSET,
    OFFSET_SUM,
    OMEGA,
    OVERSAMPLE,
    POLAR,
    PULL_CAPTURE,
    PULL_OMEGA,
    PULL_POLAR,
    PULL_X,
    PULL_Y,
    PULL_Z,
    SEEN,
    TOTAL,
    UPSTREAM,
    WANT_FACTORS,
    WANT_OFFSET,
    WANT_SCATTERING,
    Array,
    Packed,
    Scratch,
    Sums,
)
from nanobrag_torch.kernels.cpu.pull import pull_factors, pull_polarization, pull_sample, pull_scattering
from nanobrag_torch.kernels.cpu.slopes import add_lattices_and_slopes, begin_source
from nanobrag_torch.kernels.cpu.value import begin, look_at_source, once, sample, store


@entry(title="the kernel of gradients")
def adjoint(
    out: Array,
    upstream: Array,
    scale: float,
    first: int,
    last: int,
    scene: Packed,
    scratch: Scratch,
    wants: Array,
    sums: Sums,
) -> None:
    """Add the gradients of sum(scale * upstream * value) over the pixels at places first .. last of the list.

    Their values go into out, unless it is empty.
    """
    while first < last:
        used, lanes, panel = next_block(scratch, scene, first, min(last, (first // CHUNK + 1) * CHUNK))
        for j in range(lanes):
            place = scratch.place[j]
            scratch.v[UPSTREAM + j] = scale * upstream[place] if place >= 0 else 0.0
        _pull_block(scratch, scene, lanes, panel, wants, sums)
        if out.size:
            store(out, scratch, lanes)
        first += used


@stage(inline="always")
def _pull_block(scratch: Scratch, scene: Packed, lanes: int, p: int, wants: Array, sums: Sums) -> None:
    """TOTAL and the gradients of one block on panel p."""
    v, whole, panel = scratch.v, scene.whole, scene.panels[p]
    begin(v, lanes, panel, scene)
    for j in range(lanes):
        v[KEPT_OMEGA + j] = v[KEPT_CAPTURE + j] = v[KEPT_POLAR + j] = 0.0
    for layer in range(whole[LAYERS]):
        for sub in range(whole[OVERSAMPLE] * whole[OVERSAMPLE]):
            sample(v, lanes, panel, layer, sub, scene)
            _clear_pull(v, lanes)
            for s in range(scene.sources.shape[0]):
                if look_at_source(scratch, scene, lanes, s, layer + sub + s == 0):
                    begin_source(v, scratch.w, lanes)
                    add_lattices_and_slopes(scratch, scene, lanes, wants, sums)
                    _pull_source(v, lanes, scene.sources[s], sums.sources[s], whole, wants)
            if wants[WANT_FACTORS] or wants[WANT_SCATTERING]:
                pull_sample(v, lanes, p, layer, sub, scene, sums)
        if wants[WANT_FACTORS] and not whole[EACH_CAPTURE] and not whole[LAST_CAPTURE]:
            _pull_kept_capture(v, lanes, p, layer, scene, sums)
    if wants[WANT_FACTORS]:
        _finish(v, lanes, p, scene, wants, sums)


@stage()
def _clear_pull(v: Array, lanes: int) -> None:
    """No gradient yet by a sample's unit vectors, solid angle and capture."""
    for j in range(lanes):
        v[PULL_X + j] = v[PULL_Y + j] = v[PULL_Z + j] = v[PULL_OMEGA + j] = v[PULL_CAPTURE + j] = 0.0


@stage(inline="always")
def _pull_source(v: Array, lanes: int, source: Array, of_source: Array, whole: Array, wants: Array) -> None:
    """What flows back through the scattering vectors and the factors of one source."""
    if wants[WANT_SCATTERING]:
        pull_scattering(v, lanes, source, of_source)
    if wants[WANT_FACTORS]:
        pull_factors(v, lanes, source, of_source, whole)
        if whole[EACH_POLAR]:
            pull_polarization(v, lanes, source, of_source)
        else:
            for j in range(lanes):
                v[KEPT_POLAR + j] += v[PULL_POLAR + j]


@stage()
def _pull_kept_capture(v: Array, lanes: int, p: int, layer: int, scene: Packed, sums: Sums) -> None:
    """Let the gradient by a layer's capture flow back through the first sub-pixel, and clear it."""
    first = layer * 0
    aim(v, lanes, scene.panels[p], layer, first, scene.whole, scene.numbers)
    _clear_pull(v, lanes)
    for j in range(lanes):
        v[PULL_CAPTURE + j] = v[KEPT_CAPTURE + j]
        v[KEPT_CAPTURE + j] = 0.0
    pull_sample(v, lanes, p, layer, first, scene, sums)


@stage(inline="always")
def _pull_kept_omega(v: Array, lanes: int, p: int, scene: Packed, sums: Sums) -> None:
    """Let the gradient by the solid angle flow back through the first sample."""
    first = scene.whole[LAYERS] * 0
    aim(v, lanes, scene.panels[p], first, first, scene.whole, scene.numbers)
    _clear_pull(v, lanes)
    for j in range(lanes):
        v[PULL_OMEGA + j] = v[KEPT_OMEGA + j]
    pull_sample(v, lanes, p, first, first, scene, sums)


@stage(inline="always")
def _finish(v: Array, lanes: int, p: int, scene: Packed, wants: Array, sums: Sums) -> None:
    """What is added once a pixel, and the gradients by factors that were computed once."""
    has_offset = scene.numbers[OFFSET] != 0
    if has_offset or wants[WANT_OFFSET]:
        _pull_offset(v, lanes, scene.panels[p], scene, sums)
    if has_offset or not scene.whole[EACH_OMEGA]:
        _pull_kept_omega(v, lanes, p, scene, sums)
    if has_offset or scene.whole[LAST_CAPTURE]:
        _pull_kept_capture(v, lanes, p, scene.whole[LAYERS] - 1, scene, sums)
    if has_offset or not scene.whole[EACH_POLAR]:
        _pull_first_polarization(v, lanes, p, scene, sums)


@stage(inline="always")
def _pull_offset(v: Array, lanes: int, panel: Array, scene: Packed, sums: Sums) -> None:
    """TOTAL += offset omega capture P, and its gradients."""
    once(v, lanes, panel, scene)
    offset, total = scene.numbers[OFFSET], 0.0
    for j in range(lanes):
        omega, capture, polar = v[OMEGA + j], v[CAPTURE + j], v[POLAR + j]
        flow = v[UPSTREAM + j] * offset
        v[TOTAL + j] += offset * omega * capture * polar
        total += v[UPSTREAM + j] * omega * capture * polar
        v[KEPT_OMEGA + j] += flow * capture * polar
        v[KEPT_CAPTURE + j] += flow * omega * polar
        v[KEPT_POLAR + j] += flow * omega * capture
    sums.single[OFFSET_SUM] += total


@stage()
def _pull_first_polarization(v: Array, lanes: int, p: int, scene: Packed, sums: Sums) -> None:
    """Let KEPT_POLAR flow back through the first source that each lane sees; through the very first if P is of each."""
    for j in range(lanes):
        v[KNOWN + j] = 0.0
        v[SEEN + j] = 1.0
    left, count = lanes, scene.sources.shape[0]
    for layer in range(scene.whole[LAYERS]):
        for sub in range(scene.whole[OVERSAMPLE] * scene.whole[OVERSAMPLE]):
            aim(v, lanes, scene.panels[p], layer, sub, scene.whole, scene.numbers)
            for s in range(count):
                if left == 0:
                    return
                if not scene.whole[EACH_POLAR]:
                    scatter(v, lanes, scene.sources[s], scene.numbers[DMIN])
                _clear_pull(v, lanes)
                for j in range(lanes):
                    fresh = v[SEEN + j] > v[KNOWN + j]
                    left -= 1 if fresh else 0
                    v[PULL_POLAR + j] = v[KEPT_POLAR + j] if fresh else 0.0
                    v[KNOWN + j] = max(v[KNOWN + j], v[SEEN + j])
                pull_polarization(v, lanes, scene.sources[s], sums.sources[s])
                pull_sample(v, lanes, p, layer, sub, scene, sums)
