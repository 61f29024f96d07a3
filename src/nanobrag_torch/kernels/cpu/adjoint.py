"""Value and gradients of pixels in one pass: the loops of value with what flows back through every stage."""

from __future__ import annotations

from nanobrag_torch.kernels.cpu import layout as at
from nanobrag_torch.kernels.cpu.blocks import next_block
from nanobrag_torch.kernels.cpu.intrinsics import entry, stage
from nanobrag_torch.kernels.cpu.lattice import rows_of, terms_of
from nanobrag_torch.kernels.cpu.layout import Array, Packed, Scratch, Sums
from nanobrag_torch.kernels.cpu.near_slopes import add_pairs_and_slopes
from nanobrag_torch.kernels.cpu.pull import (
    clear_kept,
    clear_pull,
    keep_offset,
    pull_factors,
    pull_polarization,
    pull_sample,
    pull_scattering,
    recall,
    recall_polarization,
    step_of,
)
from nanobrag_torch.kernels.cpu.slopes import add_lattices_and_slopes
from nanobrag_torch.kernels.cpu.value import begin, once, sample, samples_of, see_source, store, survey_source


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
        used, lanes, panel = next_block(scratch, scene, first, last)
        first += used
        if lanes == 0:
            continue
        for j in range(lanes):
            place = scratch.place[j]
            scratch.v[at.UPSTREAM + j] = scale * upstream[place] if place >= 0 else 0.0
        _pull_block(scratch, scene, lanes, panel, wants, sums)
        if out.size:
            store(out, scratch, lanes)


@stage(inline="always")
def _pull_block(scratch: Scratch, scene: Packed, lanes: int, p: int, wants: Array, sums: Sums) -> None:
    """TOTAL and the gradients of one block on panel p."""
    v, panel = scratch.v, scene.panels[p]
    begin(v, lanes, panel, scene)
    clear_kept(v, lanes)
    layers, subs = samples_of(scratch, scene)
    for layer in range(layers):
        for sub in range(subs):
            sample(v, lanes, panel, layer, sub, scene)
            clear_pull(v, lanes)
            _pull_sources(scratch, scene, lanes, layer, sub, wants, sums)
            end_sample(v, lanes, p, layer, sub, scene, wants, sums)
        end_layer(v, lanes, p, layer, scene, wants, sums)
    end_pixel(v, lanes, p, scene, wants, sums)


@stage(inline="always")
def end_sample(v: Array, lanes: int, p: int, layer: int, sub: int, scene: Packed, wants: Array, sums: Sums) -> None:
    """What flows back through one sub-pixel of a layer."""
    if wants[at.WANT_FACTORS] or wants[at.WANT_SCATTERING]:
        pull_sample(v, lanes, p, layer, sub, scene, sums)


@stage(inline="always")
def end_layer(v: Array, lanes: int, p: int, layer: int, scene: Packed, wants: Array, sums: Sums) -> None:
    """The gradients by factors that were formed once a layer."""
    whole = scene.whole
    if wants[at.WANT_FACTORS] and not whole[at.EACH_CAPTURE] and not whole[at.LAST_CAPTURE]:
        _pull_kept(v, lanes, p, layer, at.KEPT_CAPTURE, at.PULL_CAPTURE, scene, sums)
    if wants[at.WANT_FACTORS] and whole[at.LAYER_OMEGA] and not whole[at.EACH_OMEGA]:
        _pull_kept(v, lanes, p, layer, at.KEPT_OMEGA, at.PULL_OMEGA, scene, sums)


@stage(inline="always")
def _pull_sources(scratch: Scratch, scene: Packed, lanes: int, layer: int, sub: int, wants: Array, sums: Sums) -> None:
    """All sources of one sample."""
    for s in range(scene.sources.shape[0]):
        if see_source(scratch, scene, lanes, layer, sub, s):
            step = layer * scene.sources.shape[0] + s
            if not (at.COMPLETE and add_pairs_and_slopes(scratch, scene, lanes, step, wants, sums)):
                survey_source(scratch, scene, lanes, step)
                add_lattices_and_slopes(rows_of(scratch), terms_of(scene), lanes, wants, sums)
            pull_source(scratch.v, lanes, scene.sources[s], sums.sources[s], scene.whole, wants)


@stage(inline="always")
def pull_source(v: Array, lanes: int, source: Array, of_source: Array, whole: Array, wants: Array) -> None:
    """What flows back through the scattering vectors and the factors of one source."""
    if wants[at.WANT_SCATTERING]:
        pull_scattering(v, lanes, source, of_source)
    if wants[at.WANT_FACTORS]:
        pull_factors(v, lanes, source, of_source, whole)
        if whole[at.EACH_POLAR]:
            pull_polarization(v, lanes, source, of_source)
        else:
            for j in range(lanes):
                v[at.KEPT_POLAR + j] += v[at.PULL_POLAR + j]


@stage()
def _pull_kept(v: Array, lanes: int, p: int, layer: int, kept: int, pull: int, scene: Packed, sums: Sums) -> None:
    """Through a factor that is formed once a layer."""
    recall(v, lanes, scene.panels[p], layer, kept, pull, scene)
    pull_sample(v, lanes, p, layer, at.FIRST, scene, sums)


@stage(inline="always")
def end_pixel(v: Array, lanes: int, p: int, scene: Packed, wants: Array, sums: Sums) -> None:
    """What is added once a pixel, and the gradients by factors that were computed once."""
    if not wants[at.WANT_FACTORS]:
        return
    has_offset = scene.numbers[at.OFFSET] != 0
    if has_offset or wants[at.WANT_OFFSET]:
        _pull_offset(v, lanes, scene.panels[p], scene, sums)
    if has_offset or not scene.whole[at.EACH_OMEGA]:
        _pull_kept(v, lanes, p, at.FIRST, at.KEPT_OMEGA, at.PULL_OMEGA, scene, sums)
    if has_offset or scene.whole[at.LAST_CAPTURE]:
        _pull_kept(v, lanes, p, scene.whole[at.LAYERS] - 1, at.KEPT_CAPTURE, at.PULL_CAPTURE, scene, sums)
    if has_offset or not scene.whole[at.EACH_POLAR]:
        _pull_first_polarization(v, lanes, p, scene, sums)


@stage(inline="always")
def _pull_offset(v: Array, lanes: int, panel: Array, scene: Packed, sums: Sums) -> None:
    """TOTAL += offset omega capture P, and its gradients."""
    once(v, lanes, panel, scene)
    offset, total = scene.numbers[at.OFFSET], 0.0
    keep_offset(v, lanes, offset)
    for j in range(lanes):
        factor = v[at.OMEGA + j] * v[at.CAPTURE + j] * v[at.POLAR + j]
        v[at.TOTAL + j] += offset * factor
        total += v[at.UPSTREAM + j] * factor
    sums.single[at.OFFSET_SUM] += total


@stage()
def _pull_first_polarization(v: Array, lanes: int, p: int, scene: Packed, sums: Sums) -> None:
    """Let KEPT_POLAR flow back through the first source that each lane sees: the very first without a limit."""
    if at.COMPLETE and scene.numbers[at.DMIN] > 0:
        _pull_seen_polarization(v, lanes, p, scene, sums)
    elif scene.sources.shape[0] > 0:
        recall(v, lanes, scene.panels[p], at.FIRST, at.KEPT_POLAR, at.PULL_POLAR, scene)
        pull_polarization(v, lanes, scene.sources[at.FIRST], sums.sources[at.FIRST])
        pull_sample(v, lanes, p, at.FIRST, at.FIRST, scene, sums)


@stage()
def _pull_seen_polarization(v: Array, lanes: int, p: int, scene: Packed, sums: Sums) -> None:
    """The same where lanes may see no source within the resolution limit before a later step."""
    number = recall_polarization(v, lanes, p, at.FIRST, scene)
    while number >= 0:
        layer, sub, s = step_of(number, scene)
        pull_polarization(v, lanes, scene.sources[s], sums.sources[s])
        pull_sample(v, lanes, p, layer, sub, scene, sums)
        number = recall_polarization(v, lanes, p, number + 1, scene)
