"""The value of pixels: the loops over layers, sub-pixels, sources and lattices of the compiled CPU kernel."""

from __future__ import annotations

from nanobrag_torch.kernels.cpu import layout as at
from nanobrag_torch.kernels.cpu.blocks import next_block
from nanobrag_torch.kernels.cpu.geometry import (
    aim,
    captures,
    factors,
    offsets,
    polarizations,
    scatter,
    solid_angles,
)
from nanobrag_torch.kernels.cpu.intrinsics import entry, stage, take
from nanobrag_torch.kernels.cpu.lattice import rows_of, survey, terms_of
from nanobrag_torch.kernels.cpu.layout import Array, Packed, Scratch
from nanobrag_torch.kernels.cpu.near import add_run
from nanobrag_torch.kernels.cpu.pairs import add_pairs
from nanobrag_torch.kernels.cpu.sum import add_lattices
from nanobrag_torch.kernels.cpu.tiles import add_tile


@entry(title="the kernel of images")
def value(out: Array, taken: Array, most: int, scene: Packed, scratch: Scratch) -> bool:
    """Values of at most so many chunks of pixels that no thread has taken yet, into out; whether some may be left."""
    for _ in range(most):
        first = take(taken) * at.CHUNK
        last = min(first + at.CHUNK, scene.whole[at.PLACES])
        if first >= last:
            return False
        while first < last:
            used = add_run(out, scratch, scene, first, last)
            if used == 0:
                used, lanes, panel = next_block(scratch, scene, first, last)
                if lanes:
                    if not (
                        at.COMPLETE and scene.whole[at.SPARSE] and add_tile(scratch, scene, lanes, scene.panels[panel])
                    ):
                        add_block(scratch, scene, lanes, scene.panels[panel])
                    store(out, scratch, lanes)
            first += used
    return True


@stage()
def store(out: Array, scratch: Scratch, lanes: int) -> None:
    """TOTAL to its places."""
    first = scratch.place[0]
    if scratch.box[at.SQUARED] == 0 and scratch.place[lanes - 1] == first + lanes - 1:
        target = out[first : first + lanes]
        for j in range(lanes):
            target[j] = scratch.v[at.TOTAL + j]
        return
    for j in range(lanes):
        if scratch.place[j] >= 0:
            out[scratch.place[j]] = scratch.v[at.TOTAL + j]


@stage(inline="always")
def add_block(scratch: Scratch, scene: Packed, lanes: int, panel: Array) -> None:
    """TOTAL of one block."""
    v, whole = scratch.v, scene.whole
    begin(v, lanes, panel, scene)
    layers, subs = samples_of(scratch, scene)
    for layer in range(layers):
        for sub in range(subs):
            sample(v, lanes, panel, layer, sub, scene)
            for s in range(scene.sources.shape[0]):
                if at.COMPLETE and whole[at.SPARSE] and not whole[at.CUBIC]:
                    if see_source(scratch, scene, lanes, layer, sub, s):
                        add_pairs(scratch, scene, lanes, layer * scene.sources.shape[0] + s)
                elif look_at_source(scratch, scene, lanes, layer, sub, s):
                    add_lattices(scratch, scene, lanes)
    add_offset(v, lanes, panel, scene)


@stage(inline="always")
def add_offset(v: Array, lanes: int, panel: Array, scene: Packed) -> None:
    """TOTAL += what is added once a pixel."""
    if scene.numbers[at.OFFSET] != 0:
        once(v, lanes, panel, scene)
        for j in range(lanes):
            v[at.TOTAL + j] += scene.numbers[at.OFFSET] * v[at.OMEGA + j] * v[at.CAPTURE + j] * v[at.POLAR + j]


@stage(inline="always")
def samples_of(scratch: Scratch, scene: Packed) -> tuple[int, int]:
    """Layers and sub-pixels to be taken of a block: the first ones alone where no spot is, for what is added once."""
    whole, steps = scene.whole, scene.whole[at.LAYERS] * scene.sources.shape[0]
    if whole[at.SPARSE] and scene.numbers[at.DMIN] <= 0 and scratch.first[2 * steps - 1] == 0:
        return at.FIRST + 1, at.FIRST + 1
    return whole[at.LAYERS], whole[at.SUBS]


@stage()
def begin(v: Array, lanes: int, panel: Array, scene: Packed) -> None:
    """Clear what a block sums up; capture of the last layer where it stands for all."""
    for j in range(lanes):
        v[at.TOTAL + j] = 0.0
        v[at.SEEN + j] = 1.0
    if not scene.whole[at.EACH_POLAR]:
        for j in range(lanes):
            v[at.POLAR + j] = v[at.KNOWN + j] = 0.0
    if scene.whole[at.LAST_CAPTURE]:
        last = scene.whole[at.LAYERS] - 1
        aim(v, lanes, panel, last, at.FIRST, scene.whole, scene.numbers)
        captures(v, lanes, panel, last, scene.whole[at.UPRIGHT])


@stage()
def sample(v: Array, lanes: int, panel: Array, layer: int, sub: int, scene: Packed) -> None:
    """Unit vectors of one sub-pixel in one layer, and the factors that are its own."""
    whole = scene.whole
    aim(v, lanes, panel, layer, sub, whole, scene.numbers)
    if whole[at.EACH_OMEGA] or sub + layer * (1 - whole[at.LAYER_OMEGA]) == 0:
        solid_angles(v, lanes, panel, layer, whole)
    if not whole[at.LAST_CAPTURE] and (whole[at.EACH_CAPTURE] or sub == 0):
        captures(v, lanes, panel, layer, whole[at.UPRIGHT])


@stage()
def look_at_source(scratch: Scratch, scene: Packed, lanes: int, layer: int, sub: int, s: int) -> bool:
    """What `see_source` does, and how to treat the block for each lattice."""
    if not see_source(scratch, scene, lanes, layer, sub, s):
        return False
    survey_source(scratch, scene, lanes, layer * scene.sources.shape[0] + s)
    return True


@stage(inline="always")
def see_source(scratch: Scratch, scene: Packed, lanes: int, layer: int, sub: int, s: int) -> bool:
    """Scattering vectors and factors of one source; whether it can add to any lane."""
    v, whole, source, very_first = scratch.v, scene.whole, scene.sources[s], layer + sub + s == 0
    step = layer * scene.sources.shape[0] + s
    idle = at.COMPLETE and whole[at.SPARSE] and scratch.first[2 * step] == scratch.first[2 * step + 1]
    if idle and not very_first and (whole[at.EACH_POLAR] or scene.numbers[at.DMIN] <= 0):
        return False
    scatter(v, lanes, source, scene.numbers[at.DMIN])
    if whole[at.EACH_POLAR] or (at.COMPLETE and scene.numbers[at.DMIN] > 0) or very_first:
        polarizations(v, lanes, source, whole[at.EACH_POLAR])
    return factors(v, lanes, source, whole[at.SUBS]) and not idle


@stage(inline="always")
def survey_source(scratch: Scratch, scene: Packed, lanes: int, step: int) -> None:
    """Differences from the anchors, and how to treat the block."""
    scratch.box[at.BOUND] = scene.numbers[at.NARROW_BOUND] if scratch.box[at.GROUPED] > 0 else -1.0
    offsets(scratch.v, scratch.w, lanes, scratch.box, scene.whole[at.HAS_TABLE])
    survey(rows_of(scratch), terms_of(scene), lanes, step)


@stage()
def once(v: Array, lanes: int, panel: Array, scene: Packed) -> None:
    """The factors of what is added once a pixel: the first ones, but of the last layer the capture."""
    whole = scene.whole
    last = whole[at.LAYERS] - 1
    aim(v, lanes, panel, last, at.FIRST, whole, scene.numbers)
    captures(v, lanes, panel, last, whole[at.UPRIGHT])
    aim(v, lanes, panel, at.FIRST, at.FIRST, whole, scene.numbers)
    solid_angles(v, lanes, panel, at.FIRST, whole)
    if whole[at.EACH_POLAR]:
        polarizations(v, lanes, scene.sources[0], whole[at.EACH_POLAR])
