"""The value of pixels: the loops over layers, sub-pixels, sources and lattices of the compiled CPU kernel."""

from __future__ import annotations

from nanobrag_torch.kernels.cpu_blocks import next_block
from nanobrag_torch.kernels.cpu_cubic import interpolate
from nanobrag_torch.kernels.cpu_geometry import (
    aim,
    captures,
    factors,
    look_once,
    offsets,
    polarizations,
    reach,
    scatter,
    solid_angles,
)
from nanobrag_torch.kernels.cpu_lattice import NOTHING, reflections, survey
from nanobrag_torch.kernels.cpu_layout import (
    BATCH,
    BOUND,
    CAPTURE,
    CHUNK,
    CUBIC,
    DEFAULT_F,
    DMIN,
    EACH_CAPTURE,
    EACH_OMEGA,
    EACH_POLAR,
    FACTOR,
    GROUP,
    GROUPED,
    HAS_TABLE,
    KNOWN,
    LAST_CAPTURE,
    LATTICE_WEIGHT,
    LAYER_STEP,
    LAYERS,
    NARROW_BOUND,
    OFFSET,
    OMEGA,
    OVERSAMPLE,
    PHASED,
    POINT_PIXEL,
    POLAR,
    PROFILE,
    RUN,
    SEEN,
    SIMPLE,
    SUM,
    TOTAL,
    Array,
    Packed,
    Scratch,
)
from nanobrag_torch.kernels.cpu_math import FAST, entry, stage, vector_code
from nanobrag_torch.kernels.cpu_near import look_at_anchors, look_near, near_enough
from nanobrag_torch.kernels.cpu_profiles import add_values


@entry()
def value(out: Array, first: int, last: int, scene: Packed, scratch: Scratch) -> None:
    """Values of the pixels at places first .. last of the list (of all pixels if it is empty), into out."""
    while first < last:
        used, lanes, panel = next_block(scratch, scene, first, min(last, (first // CHUNK + 1) * CHUNK))
        add_block(scratch, scene, lanes, scene.panels[panel])
        store(out, scratch, lanes)
        first += used


@stage()
def store(out: Array, scratch: Scratch, lanes: int) -> None:
    """TOTAL to its places."""
    first = scratch.place[0]
    if scratch.place[lanes - 1] == first + lanes - 1:
        target = out[first : first + lanes]
        for j in range(lanes):
            target[j] = scratch.v[TOTAL + j]
        return
    for j in range(lanes):
        if scratch.place[j] >= 0:
            out[scratch.place[j]] = scratch.v[TOTAL + j]


@stage(inline="always")
def add_block(scratch: Scratch, scene: Packed, lanes: int, panel: Array) -> None:
    """TOTAL of one block."""
    v, whole = scratch.v, scene.whole
    if whole[SIMPLE] and panel[LAYER_STEP] <= 0:
        if not (near_enough(panel) and _near_will_do(scratch, scene, lanes, panel)):
            look_once(v, lanes, panel, scene.sources[0], whole[POINT_PIXEL])
            _survey(scratch, scene, lanes)
        add_lattices(scratch, scene, lanes)
        return
    begin(v, lanes, panel, scene)
    for layer in range(whole[LAYERS]):
        for sub in range(whole[OVERSAMPLE] * whole[OVERSAMPLE]):
            sample(v, lanes, panel, layer, sub, scene)
            for s in range(scene.sources.shape[0]):
                if look_at_source(scratch, scene, lanes, s, layer + sub + s == 0):
                    add_lattices(scratch, scene, lanes)
    if scene.numbers[OFFSET] != 0:
        once(v, lanes, panel, scene)
        for j in range(lanes):
            v[TOTAL + j] += scene.numbers[OFFSET] * v[OMEGA + j] * v[CAPTURE + j] * v[POLAR + j]


@stage()
def begin(v: Array, lanes: int, panel: Array, scene: Packed) -> None:
    """Clear what a block sums up; capture of the last layer where it stands for all."""
    for j in range(lanes):
        v[TOTAL + j] = 0.0
        v[SEEN + j] = 1.0
    if not scene.whole[EACH_POLAR]:
        for j in range(lanes):
            v[POLAR + j] = v[KNOWN + j] = 0.0
    if scene.whole[LAST_CAPTURE]:
        last, first = scene.whole[LAYERS] - 1, scene.whole[LAYERS] * 0
        aim(v, lanes, panel, last, first, scene.whole, scene.numbers)
        captures(v, lanes, panel, last)


@stage()
def sample(v: Array, lanes: int, panel: Array, layer: int, sub: int, scene: Packed) -> None:
    """Unit vectors of one sub-pixel in one layer, and the factors that are its own."""
    whole = scene.whole
    aim(v, lanes, panel, layer, sub, whole, scene.numbers)
    if whole[EACH_OMEGA] or layer + sub == 0:
        solid_angles(v, lanes, panel, whole[POINT_PIXEL])
    if not whole[LAST_CAPTURE] and (whole[EACH_CAPTURE] or sub == 0):
        captures(v, lanes, panel, layer)


@stage()
def look_at_source(scratch: Scratch, scene: Packed, lanes: int, s: int, very_first: bool) -> bool:
    """Scattering vectors and factors of one source, and how to treat the block; whether any lane sees the source."""
    v, whole, source = scratch.v, scene.whole, scene.sources[s]
    scatter(v, lanes, source, scene.numbers[DMIN])
    if whole[EACH_POLAR] or scene.numbers[DMIN] > 0 or very_first:
        polarizations(v, lanes, source, whole[EACH_POLAR])
    if not factors(v, lanes, source, whole[OVERSAMPLE] * whole[OVERSAMPLE]):
        return False
    _survey(scratch, scene, lanes)
    return True


@stage()
def _survey(scratch: Scratch, scene: Packed, lanes: int) -> None:
    """Differences from the anchors, and how to treat the block."""
    scratch.box[BOUND] = scene.numbers[NARROW_BOUND] if scratch.box[GROUPED] > 0 else -1.0
    offsets(scratch.v, scratch.w, lanes, scratch.box, scene.whole[HAS_TABLE])
    survey(scratch, scene, lanes)


@stage(inline="always")
def _near_will_do(scratch: Scratch, scene: Packed, lanes: int, panel: Array) -> bool:
    """Look at a run from its anchors, if float32 differences will do for all lattices with three times their error."""
    scratch.box[BOUND] = scene.numbers[NARROW_BOUND] / 3
    if scratch.box[RUN] == 0 or scene.numbers[NARROW_BOUND] == 0 or scene.whole[CUBIC]:
        return False
    v, w, source, point_pixel = scratch.v, scratch.w, scene.sources[0], scene.whole[POINT_PIXEL]
    look_at_anchors(v, w, lanes // GROUP, panel, source, point_pixel)
    look_near(v, w, lanes, source, point_pixel)
    reach(v, w, lanes, scratch.box, scene.whole[HAS_TABLE])
    survey(scratch, scene, lanes)
    wide = 0
    for k in range(scratch.where.size):
        wide += scratch.where[k] != NOTHING and not scratch.where[k] & 1
    return wide == 0


@stage()
def add_lattices(scratch: Scratch, scene: Packed, lanes: int) -> None:
    """TOTAL += FACTOR times the sum over lattices, float64 above BATCH lattices."""
    v, w = scratch.v, scratch.w
    default, filled, count = w.dtype.type(scene.numbers[DEFAULT_F]), False, scene.lattice.shape[0]
    slopes = count < 0
    for start in range(0, count, BATCH):
        for j in range(lanes):
            w[SUM + j] = 0
        for k in range(start, min(start + BATCH, count)):
            if scratch.where[k] == NOTHING:
                continue
            filled = reflections(scratch, scene, lanes, k, default, filled)
            if scene.whole[CUBIC]:
                interpolate(v, w, scratch.places, lanes, scene.lattice[k], scene.grid, scene.table, slopes)
            phased = scene.numbers[PHASED] > 0 and scratch.where[k] & 1 == 0
            add_values(w, lanes, scene.shape, scene.whole[PROFILE], scene.narrow[k, LATTICE_WEIGHT], phased)
        _add_batch(v, w, lanes)


@stage(fastmath=FAST)
def _add_batch(v: Array, w: Array, lanes: int) -> None:
    vector_code()
    for j in range(lanes):
        v[TOTAL + j] += v[FACTOR + j] * w[SUM + j]


@stage()
def once(v: Array, lanes: int, panel: Array, scene: Packed) -> None:
    """The factors of what is added once a pixel: the first ones, but of the last layer the capture."""
    whole = scene.whole
    last, first = whole[LAYERS] - 1, whole[LAYERS] * 0
    aim(v, lanes, panel, last, first, whole, scene.numbers)
    captures(v, lanes, panel, last)
    aim(v, lanes, panel, first, first, whole, scene.numbers)
    solid_angles(v, lanes, panel, whole[POINT_PIXEL])
    if whole[EACH_POLAR]:
        polarizations(v, lanes, scene.sources[0], whole[EACH_POLAR])
